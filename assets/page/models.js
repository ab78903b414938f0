// Rows and lines about models. The value is JSON: columns, rows of texts, lines {kind, words, link}. Names and
// sentences of models go through textContent; a link is followed only to the hub.
const HUB = 'https://huggingface.co/';

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function lineOf({ kind, words, link }) {
  const item = make('li', words, { 'data-kind': kind });
  if (link && link.startsWith(HUB)) {
    item.append(' ', make('a', link.slice(HUB.length), { href: link, target: '_blank', rel: 'noreferrer noopener' }));
  }
  return item;
}

function tableOf(columns, rows) {
  const table = make('table'), head = make('tr'), body = make('tbody');
  for (const text of columns) head.append(text ? make('th', text, { scope: 'col' }) : make('td'));
  for (const cells of rows) {
    const line = make('tr');
    line.append(make('th', cells[0], { scope: 'row' }), ...cells.slice(1).map((text) => make('td', text)));
    body.append(line);
  }
  const top = make('thead');
  top.append(head);
  table.append(top, body);
  return table;
}

function draw() {
  const { columns, rows, lines } = JSON.parse(props.value || '{"rows": [], "lines": []}');
  const list = element.querySelector('ul'), place = element.querySelector('.shelf-table');
  list.replaceChildren(...lines.map(lineOf));
  list.hidden = !lines.length;
  place.hidden = !rows.length;
  place.replaceChildren(...(rows.length ? [tableOf(columns, rows)] : []));
}

watch('value', draw);
draw();
