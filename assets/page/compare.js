// Two races side by side. The value is JSON: heads, notes, groups of rows, answers. Texts go through textContent.
const $ = (selector) => element.querySelector(selector);

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function drawTable(heads, groups) {
  const table = make('table'), head = make('thead'), line = make('tr');
  for (const text of ['', ...heads, 'right ÷ left']) line.append(text ? make('th', text, { scope: 'col' }) : make('td'));
  head.append(line);
  table.append(head);
  for (const group of groups) {
    const body = make('tbody'), first = make('tr');
    first.append(make('th', group.name, { scope: 'rowgroup', colspan: 4 }));
    body.append(first);
    for (const [name, left, right, ratio, better] of group.rows) {
      const row = make('tr');
      const cells = [left, right].map((text, side) => make('td', text, better === side ? { 'data-better': 'true' } : {}));
      row.append(make('th', name, { scope: 'row' }), ...cells, make('td', ratio));
      body.append(row);
    }
    table.append(body);
  }
  $('.compared-table').replaceChildren(table);
}

function drawAnswers(answers, heads) {
  const words = answers.some((answer) => answer.rest === null) ? 'another prompt'
    : answers.every((answer) => !answer.rest) ? 'the same on both sides'
      : 'marked from where they part, after ' + answers[0].same.length + ' characters';
  $('.compared-answers').replaceChildren(...answers.map((answer, side) => {
    const section = make('section'), text = make('pre', '', { tabindex: '0', 'aria-label': 'Answer of ' + heads[side] });
    text.append(answer.same);
    if (answer.rest) text.append(make('mark', answer.rest));
    section.append(make('h4', answer.name + ', ' + (side ? 'right' : 'left') + ': ' + words), text);
    return section;
  }));
}

function draw() {
  const { heads, notes, groups, answers } = JSON.parse(props.value || '{}');
  $('.compared-notes').replaceChildren(...(notes || []).map((text) => make('p', text)));
  $('.compared-table').hidden = $('.compared-answers').hidden = !groups;
  if (!groups) return;
  drawTable(heads, groups);
  drawAnswers(answers, heads);
}

watch('value', draw);
draw();
