// @ts-check
// A table of texts, as the charts, the comparison and the Models tab show one.
import { make } from './dom.js';

/**
 * A body's rows hold texts, or cells that are made already. Where `named`, a row's first text is its name.
 * @param {readonly string[]} heads  of the columns; an empty one is no head
 * @param {readonly { name?: string, rows: readonly (readonly (string | HTMLTableCellElement)[])[] }[]} bodies
 * @param {{ caption?: string, named?: boolean }} [options]
 */
export function tableOf(heads, bodies, { caption, named = false } = {}) {
  const table = make('table'), head = make('thead'), line = make('tr');
  if (caption !== undefined) table.append(make('caption', '', caption));
  line.append(...heads.map((text) => text ? make('th', '', text, { scope: 'col' }) : make('td')));
  head.append(line);
  table.append(head, ...bodies.map(({ name, rows }) => {
    const body = make('tbody');
    if (name !== undefined) {
      const first = make('tr');
      first.append(make('th', '', name, { scope: 'rowgroup', colspan: String(heads.length) }));
      body.append(first);
    }
    for (const cells of rows) {
      const row = make('tr');
      row.append(...cells.map((cell, k) => typeof cell !== 'string' ? cell
        : named && !k ? make('th', '', cell, { scope: 'row' }) : make('td', '', cell)));
      body.append(row);
    }
    return body;
  }));
  return table;
}
