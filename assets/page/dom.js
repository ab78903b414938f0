// @ts-check
// What the page's scripts share. Each script is the body of a function that gradio calls with `element`, `props`,
// `trigger` and `watch`; `script` in dspark_core/playground/widgets.py puts what it imports in front of it.

// ---- elements ------------------------------------------------------------------------------------------

/**
 * The first element that a selector finds in this script's part of the page; it must be there.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} selector
 * @returns {T}
 */
export const $ = (selector) => /** @type {T} */ (element.querySelector(selector));

/**
 * The first element of the whole page that a selector finds, if there is one.
 * @param {string} selector
 */
export const onPage = (selector) => /** @type {HTMLElement?} */ (document.querySelector(selector));

/**
 * A new element. Its text never becomes markup.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {string} [className]
 * @param {string | number} [text]
 * @param {Record<string, string>} [attributes]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, className, text, attributes) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = String(text);
  if (attributes) for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/**
 * A new element of a drawing.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number>} attributes
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  return node;
}

/**
 * Draw the value now and whenever it has changed.
 * @param {() => void} draw
 */
export function onValue(draw) {
  watch('value', draw);
  draw();
}

/**
 * The value, which is JSON, or `empty` before there is one.
 * @param {object} empty
 * @returns {any}
 */
export const parsed = (empty) => props.value ? JSON.parse(props.value) : empty;

/** Whether a race is running. */
export const racing = () => document.body.dataset.race === 'running';

/** @import {Board} from './rounds.js' */

/** The board of this page, once its script has run. */
export function findBoard() {
  const board = /** @type {Board | null} */ (document.querySelector('.board'));
  return board?.view ? board : null;
}

// ---- text that can be seen -----------------------------------------------------------------------------

// Controls, format characters, separators of lines, and what else fonts draw as nothing.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]/u;
const EACH_INVISIBLE = new RegExp(INVISIBLE, 'gu');
const ONLY_INVISIBLE = new RegExp('^' + INVISIBLE.source + '+$', 'u');
const VARIATION = /^\p{Variation_Selector}$/u;

/**
 * The numbers of a text's characters.
 * @param {string} text
 */
export const code = (text) => [...text]
  .map((c) => 'U+' + (c.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')).join(' ');

/**
 * Whether a text of at least one character leaves no mark on the page, blanks and line ends aside.
 * @param {string} text
 */
export const invisible = (text) => ONLY_INVISIBLE.test(text);

/**
 * A text of which every character can be seen: blanks at its ends are dots, and what would leave no mark is named.
 * @param {string} text
 */
export const visible = (text) => text.replace(/\n/g, '↵').replace(/\t/g, '⇥')
  .replace(EACH_INVISIBLE, (c, at) => VARIATION.test(c) && at > 0 ? c : code(c))  // one may dress what is before it
  .replace(/^\p{Zs}+|\p{Zs}+$/gu, (blanks) => '·'.repeat(blanks.length)) || '∅';

/**
 * The same in quotation marks. Beside them the single blank before a word, which most tokens begin with, shows.
 * @param {string} text
 */
export const quoted = (text) => '“' + (/^ \P{Zs}/u.test(text) ? ' ' + visible(text.slice(1)) : visible(text)) + '”';

// ---- what outlives the page ----------------------------------------------------------------------------

/**
 * Save what stands at a URL as a file.
 * @param {string} name
 * @param {string} url
 */
export function saveUrl(name, url) {
  const link = make('a');
  link.href = url;
  link.download = name;
  link.click();
}

/**
 * Save a text as a file of this media type.
 * @param {string} name
 * @param {string} type
 * @param {string} text
 */
export function saveText(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  saveUrl(name, url);
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/**
 * Keep a value in this browser, or forget it if it is null. In private mode nothing is kept.
 * @param {string} key
 * @param {string | number | null} value
 */
export function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem('dspark-' + key);
    else localStorage.setItem('dspark-' + key, String(value));
  } catch { /* private mode */ }
}

/**
 * What was kept, or null.
 * @param {string} key
 */
export function recall(key) {
  try {
    return localStorage.getItem('dspark-' + key);
  } catch {
    return null;
  }
}
