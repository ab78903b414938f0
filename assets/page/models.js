// @ts-check
// Rows and lines about models. The value is JSON: columns, rows of texts, lines {kind, words, link}. Names and
// sentences of models go through textContent; a link is followed only to the hub.
import { $, make, onValue, parsed } from './dom.js';
import { tableOf } from './table.js';

const HUB = 'https://huggingface.co/';

/** @param {{ kind: string, words: string, link?: string }} line */
function lineOf({ kind, words, link }) {
  const item = make('li', '', words, { 'data-kind': kind });
  if (link?.startsWith(HUB)) {
    const away = { href: link, target: '_blank', rel: 'noreferrer noopener' };
    item.append(' ', make('a', '', link.slice(HUB.length), away));
  }
  return item;
}

onValue(() => {
  const { columns, rows, lines } = parsed({ columns: [], rows: [], lines: [] });
  const list = $('ul'), place = $('.shelf-table');
  list.replaceChildren(...lines.map(lineOf));
  list.hidden = !lines.length;
  place.hidden = !rows.length;
  place.replaceChildren(...(rows.length ? [tableOf(columns, [{ rows }], { named: true })] : []));
});
