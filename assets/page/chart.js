// @ts-check
// What stands below a chart: its numbers as a table, and the downloads. The value is the table as JSON.
import { $, onValue, parsed, saveText, saveUrl } from './dom.js';
import { csvOf, shown } from './numbers.js';
import { tableOf } from './table.js';

/** @import {Cell} from './numbers.js' */
/** @returns {{ name: string, title: string, columns: string[], rows: Cell[][] }} */
const data = () => parsed({ name: '', title: '', rows: [], columns: [] });

/** @type {Record<string, () => void>} */
const SAVES = {
  csv() {
    const { name, columns, rows } = data();
    saveText(name + '.csv', 'text/csv', csvOf([columns, ...rows]));
  },
  json() {
    const { name, title, columns, rows } = data();
    const named = rows.map((row) => Object.fromEntries(columns.map((column, k) => [column, row[k]])));
    saveText(name + '.json', 'application/json', JSON.stringify({ title, rows: named }, null, 1));
  },
  // The figure has no background of its own: the saved one takes the page's, with the page's ink.
  async png() {
    const plot = /** @type {any} */ (element.closest('.chart')?.querySelector('.js-plotly-plot'));
    if (!plot || !window.Plotly) return;
    const page = getComputedStyle(document.body);
    const ink = page.getPropertyValue('--ink'), card = page.getPropertyValue('--card');
    const { name, title } = data(), text = title.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
    const layout = {
      ...plot.layout, width: 960, height: 540, paper_bgcolor: card, plot_bgcolor: card,
      font: { ...plot.layout.font, color: ink }, title: { text }, margin: { ...plot.layout.margin, t: 90 },
    };
    const size = { format: 'png', width: 960, height: 540, scale: 2 };
    saveUrl(name + '.png', await window.Plotly.toImage({ data: plot.data, layout }, size));
  },
};

// ---- as large as the board's text: a plot is drawn anew at every update, in the size that the server has for it ----

/** @type {Record<string, number>} */
const LETTERS = { normal: 14, large: 17, projector: 22 };

function fit() {
  const plot = /** @type {any} */ (element.closest('.chart')?.querySelector('.js-plotly-plot'));
  const size = LETTERS[document.body.dataset.text ?? ''] ?? LETTERS.normal, font = plot?._fullLayout?.font?.size;
  if (!font || !window.Plotly || font === size) return;
  if (font === LETTERS.normal) plot.dataset.height = plot._fullLayout.height;  // the server's
  const height = Math.round(Number(plot.dataset.height) * (1 + 0.05 * (size - LETTERS.normal)));
  const axes = Object.fromEntries(['xaxis', 'yaxis'].map((axis) => [axis + '.title.font.size', size - 1]));
  window.Plotly.relayout(plot, { 'font.size': size, height, 'margin.r': 24 + 9 * (size - LETTERS.normal), ...axes });
}

const card = element.closest('.chart');
if (card?.querySelector('.gradio-plot, [id^=plot-]')) {
  new MutationObserver(() => requestAnimationFrame(fit)).observe(card, { childList: true, subtree: true });
  new MutationObserver(fit).observe(document.body, { attributeFilter: ['data-text'] });
}

const buttons = [...element.querySelectorAll('button')];
for (const button of buttons) button.addEventListener('click', () => SAVES[button.dataset.save ?? '']());

onValue(() => {
  const { title, columns, rows } = data(), place = $('.chart-table');
  place.replaceChildren(tableOf(columns, [{ rows: rows.map((row) => row.map(shown)) }], { caption: title || '' }));
  place.setAttribute('aria-label', 'Table: ' + (title || 'the numbers'));
  for (const button of buttons) button.setAttribute('aria-label', button.textContent + ' of ' + (title || 'the chart'));
});
