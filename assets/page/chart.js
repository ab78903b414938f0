// What stands below a chart: its numbers as a table, and the downloads. The value is the table as JSON.
const make = (tag, text) => { const node = document.createElement(tag); if (text !== undefined) node.textContent = text; return node; };
const shown = (value) => value === null ? '–' : typeof value === 'boolean' ? (value ? 'yes' : 'no') : String(value);
const data = () => JSON.parse(props.value || '{"rows": [], "columns": []}');

function save(content, type, name) {
  const link = make('a');
  link.href = content instanceof Blob || typeof content === 'string' && !type ? content : URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  if (type) setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const quoted = (value) => /[",\n]/.test(shown(value)) ? '"' + shown(value).replaceAll('"', '""') + '"' : value === null ? '' : shown(value);

const SAVES = {
  csv() {
    const { name, columns, rows } = data();
    save([columns, ...rows].map((row) => row.map(quoted).join(',')).join('\n') + '\n', 'text/csv', name + '.csv');
  },
  json() {
    const { name, title, columns, rows } = data();
    const named = rows.map((row) => Object.fromEntries(columns.map((column, k) => [column, row[k]])));
    save(JSON.stringify({ title, rows: named }, null, 1), 'application/json', name + '.json');
  },
  // The figure has no background of its own: the saved one takes the page's, with the page's ink.
  async png() {
    const plot = element.closest('.chart').querySelector('.js-plotly-plot');
    if (!plot || !window.Plotly) return;
    const page = getComputedStyle(document.body), ink = page.getPropertyValue('--ink'), card = page.getPropertyValue('--card');
    const { name, title } = data();
    const layout = { ...plot.layout, width: 960, height: 540, paper_bgcolor: card, plot_bgcolor: card,
      font: { ...plot.layout.font, color: ink }, title: { text: title }, margin: { ...plot.layout.margin, t: 90 } };
    save(await window.Plotly.toImage({ data: plot.data, layout }, { format: 'png', width: 960, height: 540, scale: 2 }), '', name + '.png');
  },
};

function draw() {
  const { title, columns, rows } = data(), table = make('table'), head = make('tr'), body = make('tbody');
  table.append(make('caption', title || ''), make('thead'), body);
  for (const column of columns) {
    const cell = make('th', column);
    cell.scope = 'col';
    head.append(cell);
  }
  table.querySelector('thead').append(head);
  for (const row of rows) {
    const line = make('tr');
    line.append(...row.map((value) => make('td', shown(value))));
    body.append(line);
  }
  element.querySelector('.chart-table').replaceChildren(table);
  element.querySelector('.chart-table').setAttribute('aria-label', 'Table: ' + (title || 'the numbers'));
  for (const button of element.querySelectorAll('button')) button.setAttribute('aria-label', button.textContent + ' of ' + (title || 'the chart'));
}

for (const button of element.querySelectorAll('button')) button.addEventListener('click', () => SAVES[button.dataset.save]());
watch('value', draw);
draw();
