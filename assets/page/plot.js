// @ts-check
// Small drawings of lines that follow a slider: an SVG as wide as its place, in the page's own colours and letters.
import { make, svg } from './dom.js';

/**
 * A line; `hollow` says which of its points are no more than reckoned.
 * @typedef {{ name: string, place: number, dash?: number, points: [number, number][], faint?: boolean, dots?: boolean,
 *   hollow?: boolean[] }} Series
 * A single point.
 * @typedef {{ place: number, x: number, y: number, kind: 'dot' | 'ring' | 'diamond', words: string }} Mark
 * @typedef {{ label: string, ticks: number[], at: (x: number) => number }} Axis  `at`: 0 at its beginning, 1 at its end
 * @typedef {{ title: string, x: Axis, y: Axis, series: Series[], marks: Mark[], rule?: number, here?: number }} Drawing
 */

const DASHES = ['', '7 4', '2 3', '8 3 2 3', '12 4', '1 5'];

/**
 * A number to three digits.
 * @param {number} x
 */
export const three = (x) => String(Number(x.toPrecision(3)));

const OTHERS = ['--good', '--teal', '--hint'];  // from place 4 on: what is no lane

/** @param {number} place */
const colour = (place) => 'var(' + (OTHERS[place - 4] ?? '--lane-' + place % 4) + ')';

/**
 * Ticks from 0 to at least `most`, about `wanted` of them, in steps that can be read.
 * @param {number} most
 * @param {number} [wanted]
 */
export function ticksTo(most, wanted = 5) {
  const rough = Math.max(most, 1e-9) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((m) => m * power >= rough) ?? 10);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, k) => Number((k * step).toPrecision(6)));
}

/**
 * An axis from 0 to its last tick.
 * @param {string} label
 * @param {number[]} ticks
 * @returns {Axis}
 */
export const linear = (label, ticks) => ({ label, ticks, at: (x) => x / Math.max(ticks[ticks.length - 1], 1e-9) });

/** @param {{ place: number, dash?: number, faint?: boolean }} look */
const stroke = ({ place, dash = place, faint }) => ({ fill: 'none', stroke: colour(place),
  'stroke-width': faint ? 1.5 : 2.5, 'stroke-dasharray': faint ? '3 4' : DASHES[dash % DASHES.length] });

/**
 * A mark where (x, y) is in pixels.
 * @param {Mark} mark
 * @param {number} x
 * @param {number} y
 */
function shapeOf({ place, kind, words }, x, y) {
  const paint = { stroke: colour(place), 'stroke-width': 2, fill: kind === 'dot' ? colour(place) : 'var(--card)' };
  const shape = kind === 'diamond' ? svg('path', { d: `M${x} ${y - 7}l7 7l-7 7l-7 -7z`, ...paint })
    : svg('circle', { cx: x, cy: y, r: 6, ...paint });
  const title = svg('title', {});
  title.textContent = words;
  shape.append(title);
  return shape;
}

/**
 * Draw anew what stands in `place`, a <svg>.
 * @param {SVGElement} place
 * @param {Drawing} drawing
 */
export function plot(place, { title, x, y, series, marks, rule, here }) {
  const letter = parseFloat(getComputedStyle(place).fontSize) || 14;
  const width = Math.max(240, place.parentElement?.clientWidth ?? 0), height = Math.round(230 + 3 * letter);
  const longest = Math.max(...y.ticks.map((v) => String(v).length));  // beside the axis' label of one letter's width
  const left = (1.6 + 0.6 * longest) * letter + 6, right = width - letter, top = letter, bottom = height - 3 * letter;
  const across = (/** @type {number} */ v) => left + x.at(v) * (right - left);
  const up = (/** @type {number} */ v) => bottom - y.at(v) * (bottom - top);
  const text = (/** @type {string | number} */ words, /** @type {Record<string, string | number>} */ where) => {
    const node = svg('text', where);
    node.textContent = String(words);
    return node;
  };
  const parts = [];
  for (const v of y.ticks) {
    parts.push(svg('line', { class: 'grid', x1: left, x2: right, y1: up(v), y2: up(v) }));
    parts.push(text(v, { x: left - 6, y: up(v) + letter / 3, 'text-anchor': 'end' }));
  }
  const room = Math.max(1, Math.ceil(x.ticks.length * 2.2 * letter / (right - left)));
  x.ticks.forEach((v, k) => {
    if (k % room === 0) parts.push(text(v, { x: across(v), y: bottom + 1.4 * letter, 'text-anchor': 'middle' }));
  });
  parts.push(text(x.label, { x: (left + right) / 2, y: height - letter / 2, 'text-anchor': 'middle' }));
  parts.push(text(y.label, { x: -(top + bottom) / 2, y: letter, 'text-anchor': 'middle', transform: 'rotate(-90)' }));
  if (here !== undefined) {
    parts.push(svg('line', { class: 'here', x1: across(here), x2: across(here), y1: top, y2: bottom }));
  }
  if (rule !== undefined) parts.push(svg('line', { class: 'rule', x1: left, x2: right, y1: up(rule), y2: up(rule) }));
  for (const line of series) {
    const { place: p, points, dots, hollow } = line;
    const d = points.map(([a, b], k) => (k ? 'L' : 'M') + across(a).toFixed(1) + ' ' + up(b).toFixed(1)).join('');
    parts.push(svg('path', { d, ...stroke(line) }));
    if (dots) parts.push(...points.map(([a, b], k) => svg('circle', { cx: across(a), cy: up(b), r: 3.5,
      stroke: colour(p), 'stroke-width': 1.5, fill: hollow?.[k] ? 'var(--card)' : colour(p) })));
  }
  parts.push(...marks.map((mark) => shapeOf(mark, across(mark.x), up(mark.y))));
  place.replaceChildren(...parts);
  place.setAttribute('viewBox', `0 0 ${width} ${height}`);
  place.setAttribute('width', String(width));
  place.setAttribute('height', String(height));
  place.setAttribute('aria-label', title);
}

/**
 * What a line or a mark in the drawings stands for, with a sample of it.
 * @param {string} name
 * @param {{ place: number, dash?: number, faint?: boolean, kind?: Mark['kind'] }} look
 */
export function legendItem(name, look) {
  const { place, kind } = look;
  const item = make('li'), sample = svg('svg', { viewBox: '0 0 34 16', width: 34, height: 16, 'aria-hidden': 'true' });
  sample.append(kind ? shapeOf({ place, kind, x: 0, y: 0, words: name }, 17, 8)
    : svg('path', { d: 'M1 8L33 8', ...stroke(look) }));
  item.append(sample, make('span', '', name));
  return item;
}

/**
 * Call `draw` whenever drawings have to be made anew for another reason than their data: width, letters, theme.
 * @param {HTMLElement} place
 * @param {() => void} draw
 */
export function redrawn(place, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    requestAnimationFrame(draw);
  }).observe(place);
  new MutationObserver(() => requestAnimationFrame(draw)).observe(document.body, { attributeFilter: ['data-text'] });
}
