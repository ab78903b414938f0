// @ts-check
// Numbers as texts. Nothing here touches the page.

/** @typedef {string | number | boolean | null} Cell  of a table */
/** @typedef {number | null | undefined} Maybe  a number that may be not known */

/**
 * @param {unknown} x
 * @returns {x is number}
 */
export const known = (x) => typeof x === 'number';

/**
 * @param {number} n
 * @param {string} word
 * @param {string} [many]
 */
export const count = (n, word, many) => n + ' ' + (n === 1 ? word : many || word + 's');

/**
 * A time in seconds, short ones in milliseconds.
 * @param {number} s
 */
export const duration = (s) => s < 1 ? (1000 * s).toFixed(s < 0.01 ? 1 : 0) + ' ms' : s.toFixed(2) + ' s';

/**
 * A probability in a column of them.
 * @param {Maybe} x
 */
export function short(x) {
  if (!known(x)) return '–';
  if (x >= 0.9995) return '1';
  if (x >= 0.995) return x.toFixed(3);
  if (x >= 0.01) return x.toFixed(2);
  return x >= 0.0005 ? x.toFixed(3) : x > 0 ? '<.001' : '0';
}

/**
 * A probability in a sentence.
 * @param {Maybe} x
 */
export function fine(x) {
  if (!known(x)) return 'not known';
  return x >= 0.001 || x === 0 ? String(Number(x.toPrecision(3))) : x.toExponential(1);
}

/**
 * A cell as text.
 * @param {Cell} value
 */
export function shown(value) {
  if (value === null) return '–';
  return typeof value === 'boolean' ? (value ? 'yes' : 'no') : String(value);
}

// What a spreadsheet takes for a formula, at the start of a cell or behind what another language's separates cells by:
// signs of any width, whatever white space is before them.
const FORMULA = '(?=[\\s\\p{Cc}\\p{Cf}]*[-=+@\uFF0B\uFF0D\uFF1D\uFF20])';
const INSIDE = new RegExp('([,;\\t\\r\\n])' + FORMULA, 'gu');
const AT_START = new RegExp('^(?:' + FORMULA + '|(?=[\\t\\r]))', 'u');

/**
 * A cell of a CSV file; null is an empty one. Before what could be a formula stands an apostrophe, the sign of a text.
 * @param {Cell} value
 */
function csvCell(value) {
  const text = value === null ? '' : shown(value);
  const safe = known(value) ? text : text.replace(INSIDE, "$1'").replace(AT_START, "'");
  return safe !== text || /[",;\t\r\n]/.test(text) ? '"' + safe.replaceAll('"', '""') + '"' : text;
}

/**
 * Rows as a CSV file.
 * @param {readonly (readonly Cell[])[]} rows
 */
export const csvOf = (rows) => rows.map((row) => row.map(csvCell).join(',')).join('\n') + '\n';
