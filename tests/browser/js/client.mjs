// The openai package for JavaScript, talking to the endpoint: node client.mjs BASE_URL. Prints what came as JSON.
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.argv[2], apiKey: 'none', maxRetries: 0 });
const asked = { model: 'dspark:cap=3', messages: [{ role: 'user', content: 'Say hello.' }], max_tokens: 6 };

const models = (await client.models.list()).data.map((model) => model.id);
const whole = await client.chat.completions.create({ ...asked, temperature: 0 });
const stream = await client.chat.completions.create({
  ...asked, temperature: 0, stream: true, stream_options: { include_usage: true },
});
let text = '', usage = null;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? '';
  usage = chunk.usage ?? usage;
}
const refusal = await client.chat.completions.create({ ...asked, n: 2 }).catch((error) => error);
const left = await client.chat.completions.create({ ...asked, max_tokens: 2000, stream: true });
for await (const chunk of left) if (chunk.choices[0].delta.content) break;  // which closes the connection
console.log(JSON.stringify({
  models, whole: whole.choices[0].message.content, text, usage, refusal: [refusal.status, refusal.param],
}));
process.exit(0);
