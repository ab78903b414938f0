// @ts-check
// What somebody pastes into a terminal or a program to talk to the endpoint.

/**
 * A text as one word of a shell.
 * @param {string} text
 */
const word = (text) => '\'' + text.replace(/'/g, '\'\\\'\'') + '\'';

/**
 * [what it is, the text] of everything that can be copied. `key`: what the endpoint asks for; empty for nothing.
 * @param {string} origin
 * @param {string} model
 * @param {string} key
 * @returns {[string, string][]}
 */
export function snippets(origin, model, key) {
  const base = origin + '/v1', name = JSON.stringify(model);
  const body = JSON.stringify({ model, messages: [{ role: 'user', content: 'Say hello.' }], max_tokens: 64 });
  const curl = [
    'curl ' + base + '/chat/completions -H \'Content-Type: application/json\' \\',
    ...(key ? ['  -H \'Authorization: Bearer KEY\' \\'] : []),
    '  -d ' + word(body),
  ];
  const python = [
    'from openai import OpenAI',
    '',
    'client = OpenAI(base_url="' + base + '", api_key="' + (key ? 'KEY' : 'none') + '")',
    'answer = client.chat.completions.create(',
    '    model=' + name + ', messages=[{"role": "user", "content": "Say hello."}], max_tokens=64',
    ')',
    'print(answer.choices[0].message.content)',
  ];
  const llm = [
    'cat >> "$(dirname "$(llm logs path)")/extra-openai-models.yaml" <<\'END\'',
    '- model_id: dspark',
    '  model_name: ' + name,
    '  api_base: ' + JSON.stringify(base),
    ...(key ? ['  api_key_name: dspark'] : []),
    'END',
    ...(key ? ['llm keys set dspark --value KEY'] : []),
    'llm -m dspark \'Say hello.\'',
  ];
  return [
    ['Base URL', base],
    ['Model', model],
    ['curl', curl.join('\n')],
    ['openai (Python)', python.join('\n')],
    ['llm', llm.join('\n')],
  ];
}
