// @ts-check
// The passes: a timeline under the panes, a row a lane on the lane's own clock, a bar a round. Drafting is a low bar,
// verification a high one, waiting a line: their shapes tell them apart, their colour is the lane's. What a row shows
// is drawn once, in seconds; only the part that is looked at (the drawing's view box) changes with time.
import { board, how, inWords, lanes, pick, show } from './board.js';
import { make, racing, svg } from './dom.js';
import { shownRounds } from './figures.js';
import { duration } from './numbers.js';
import { countUpTo, partWords } from './rounds.js';

/** @import {Found} from './board.js' */
/** @import {Lane} from './figures.js' */
/** @import {Round} from './rounds.js' */
/**
 * What is drawn of a lane.
 * @typedef {object} Row
 * @property {Lane} lane
 * @property {HTMLElement} track
 * @property {SVGElement} drawing
 * @property {SVGElement} bars  groups of at most CHUNK rounds
 * @property {SVGElement} lit
 * @property {SVGElement} ahead  covers what a replay has not come to
 * @property {HTMLElement} sum
 * @property {number[]} ends  of the rounds, in seconds of decoding
 * @property {number} drawn  rounds
 * @property {SVGElement[]} newest  the drawings of the group that is not full yet, by part
 * @property {string[]} shapes  theirs
 */

const CHUNK = 256, LIVE_MS = 250, HIGH = 16;
const DENSE = 2.5, CLOSE = 6;  // pixels of a bar: fewer leave no gap, or a thin one
const DEEPEST = 64, PAGE = 10;
/** How each part is drawn: its name, and where its shape begins from above. @type {[string, string, number][]} */
const SHAPES = [['verify', 'verification', 0], ['draft', 'drafting', 8], ['again', 'decided again', 4],
  ['wait', 'waiting', 13]];

const timeline = make('section', 'passes', undefined, { id: 'passes', 'aria-label': 'The passes' });
const rowsPlace = make('div', 'passes-rows'), explained = make('p', 'passes-how');
const legend = make('ul', 'passes-legend', undefined, { 'aria-label': 'Parts of a pass' });
/**
 * @param {string} sign
 * @param {string} label
 */
const zoomer = (sign, label) => make('button', '', sign, { type: 'button', 'aria-label': label, title: label });
const closer = zoomer('+', 'A shorter stretch of the passes'), wider = zoomer('−', 'A longer stretch of the passes');
const stretch = make('input', 'passes-from', undefined, {
  type: 'range', min: '0', step: 'any', 'aria-label': 'Beginning of the stretch of passes that is shown',
});
/** @type {Row[]} */
let rows = [];
const lens = { zoom: 1, from: 0, right: 1, wide: 1, timer: 0, drawnAt: 0 };

{
  const head = make('div', 'passes-head'), zoom = make('span', 'passes-zoom');
  for (const [part, name] of SHAPES) {
    const entry = make('li', 'part-' + part);
    entry.append(make('i'), name);
    legend.append(entry);
  }
  zoom.append(stretch, wider, closer);
  head.append(make('h3', '', 'Passes'), legend, zoom);
  timeline.append(head, rowsPlace, explained);
  board.append(timeline);
}

// ---- rows ------------------------------------------------------------------------------------------------

/** @param {Lane} lane */
function addRow(lane) {
  const row = make('div', 'passes-row'), sum = make('span', 'passes-sum');
  const drawing = svg('svg', { preserveAspectRatio: 'none', 'aria-hidden': 'true' }), bars = svg('g', {});
  const lit = svg('rect', { class: 'passes-lit', y: 0, height: HIGH, width: 0, 'vector-effect': 'non-scaling-stroke' });
  const ahead = svg('rect', { class: 'passes-ahead', y: 0, height: HIGH, width: 0 });
  const track = make('div', 'passes-track', undefined, {
    role: 'slider', tabindex: '0', 'aria-label': 'Passes of ' + lane.name, 'aria-valuemin': '0', 'aria-valuemax': '0',
    'aria-valuenow': '0', 'aria-valuetext': 'none yet',
  });
  row.dataset.lane = String(lane.i);
  drawing.append(bars, ahead, lit);
  track.append(drawing);
  row.append(make('span', 'passes-name', lane.name), track, sum);
  rowsPlace.append(row);
  rows.push({ lane, track, drawing, bars, lit, ahead, sum, ends: [], drawn: 1, newest: [], shapes: [] });
  hear(rows[rows.length - 1]);
}

/** @param {number} x */
const at = (x) => x.toFixed(5);

/**
 * The shapes of a round, by part; behind them the gap to the next one.
 * @param {Round} round
 */
function shapesOf({ before, time, parts }) {
  const order = [['draft', parts.draft], ['verify', parts.verify], ['again', parts.again], ['wait', parts.wait]];
  /** @type {Record<string, string>} */
  const shape = { gap: 'M' + at(time) + ' 0V' + HIGH };
  let from = before;
  for (const [part, seconds] of order) {
    if (!seconds) continue;
    const top = SHAPES.find(([name]) => name === part)?.[2] ?? 0;
    const wide = at(Number(seconds));
    shape[part] = 'M' + at(from) + ' ' + top + 'h' + wide + 'V' + HIGH + 'h-' + wide + 'z';
    from += Number(seconds);
  }
  return shape;
}

/** @param {Row} row */
function drawBars(row) {
  const { lane, ends } = row, names = [...SHAPES.map(([part]) => part), 'gap'];
  while (row.drawn < lane.rounds.length) {
    if ((row.drawn - 1) % CHUNK === 0) {
      row.newest = names.map((part) => svg('path', {
        class: 'part-' + part, ...part === 'gap' && { 'vector-effect': 'non-scaling-stroke' },
      }));
      row.shapes = names.map(() => '');
      row.bars.append(...row.newest);
    }
    const full = Math.min(lane.rounds.length, 1 + Math.ceil(row.drawn / CHUNK) * CHUNK);
    for (; row.drawn < full; row.drawn += 1) {
      const round = lane.rounds[row.drawn], shape = shapesOf(round);
      names.forEach((part, k) => { row.shapes[k] += shape[part] ?? ''; });
      ends.push(round.time);
    }
    row.newest.forEach((path, k) => path.setAttribute('d', row.shapes[k]));
  }
  const passes = ends.length, clock = ends[passes - 1] ?? 0, told = passes === 1 ? ' pass' : ' passes';
  row.sum.textContent = passes ? passes + told + ', ' + duration(clock) : '';
  row.track.setAttribute('aria-valuemax', String(passes));
}

/**
 * A lane's seconds by part, in words.
 * @param {Lane} lane
 */
function totals(lane) {
  const seconds = SHAPES.map(([part, name]) => [name, lane.rounds.slice(1).reduce((sum, { parts }) => sum
    + Number(parts[/** @type {'draft' | 'verify' | 'again' | 'wait'} */ (part)]), 0)]).filter(([, s]) => Number(s) > 0);
  return seconds.map(([name, s]) => name + ' ' + duration(Number(s))).join(', ');
}

function drawPasses() {
  clearTimeout(lens.timer);
  lens.timer = 0;
  lens.drawnAt = performance.now();
  if (rows.length !== lanes.length || rows.some((row, i) => row.lane !== lanes[i])) {
    rows = [];
    rowsPlace.replaceChildren();
    lanes.forEach(addRow);
  }
  rows.forEach(drawBars);
  lens.right = Math.max(...lanes.map((lane) => lane.rounds.at(-1)?.time ?? 0), 1e-3);
  for (const [part] of SHAPES) {
    const there = rows.some(({ bars }) => bars.querySelector('.part-' + part + ':not([d=""])'));
    legend.querySelector('.part-' + part)?.toggleAttribute('hidden', !there);
  }
  if (racing() && lens.zoom > 1) lens.from = lens.right;  // the newest are followed
  look();
}

/** While a race runs, now and then; it is none of the figures that are drawn at every update. */
function drawSoon() {
  lens.timer ||= setTimeout(drawPasses, Math.max(0, LIVE_MS - (performance.now() - lens.drawnAt)));
}

// ---- what is looked at -----------------------------------------------------------------------------------

/** Seconds from one end of a track to the other. */
const span = () => lens.right / lens.zoom;

/** Show the stretch that is looked at. */
function look() {
  lens.from = Math.max(0, Math.min(lens.right - span(), lens.from));
  for (const row of rows) {
    row.drawing.setAttribute('viewBox', [at(lens.from), 0, at(span()), HIGH].join(' '));
    const bar = lens.wide * (row.ends.at(-1) ?? 1) / Math.max(1, row.ends.length) / span();
    row.drawing.classList.toggle('dense', bar < DENSE);
    row.drawing.classList.toggle('close', bar < CLOSE);
  }
  stretch.hidden = lens.zoom === 1;
  stretch.max = String(lens.right - span());
  stretch.value = String(lens.from);
  stretch.setAttribute('aria-valuetext', 'from ' + duration(lens.from) + ' to ' + duration(lens.from + span()));
  wider.setAttribute('aria-disabled', String(lens.zoom === 1));
  closer.setAttribute('aria-disabled', String(lens.zoom === DEEPEST));
}

/**
 * Move the stretch to where this moment of decoding is in it.
 * @param {number} moment
 */
function bringIntoView(moment) {
  if (moment >= lens.from && moment <= lens.from + span()) return;
  lens.from = moment - span() / 4;
  look();
}

/** @param {number} times */
function zoomBy(times) {
  const middle = lens.from + span() / 2;
  lens.zoom = Math.max(1, Math.min(DEEPEST, lens.zoom * times));
  lens.from = middle - span() / 2;
  look();
}

closer.addEventListener('click', () => zoomBy(2));
wider.addEventListener('click', () => zoomBy(0.5));
stretch.addEventListener('input', () => {
  lens.from = Number(stretch.value);
  look();
});
new ResizeObserver(() => {
  lens.wide = rows[0]?.track.clientWidth || 1;
  look();
}).observe(rowsPlace);

// ---- a pass that is pointed at ---------------------------------------------------------------------------

/**
 * @param {Row} row
 * @param {number} n  the lane's n-th round, from 1; those that a replay hides are none
 * @returns {Found?}
 */
function passOf({ lane }, n) {
  const last = shownRounds(lane) - 1;
  return last < 1 ? null : { lane, round: lane.rounds[Math.max(1, Math.min(last, n))] };
}

/**
 * @param {Row} row
 * @param {number} x  in the window
 */
function passAt(row, x) {
  const { left, width } = row.track.getBoundingClientRect();
  const moment = lens.from + span() * (x - left) / width, n = countUpTo(row.ends, moment) + 1;
  return moment < 0 || n >= shownRounds(row.lane) ? null : passOf(row, n);
}

/**
 * Light a pass in text and timeline, and say what happened in it.
 * @param {Row} row
 * @param {Found?} found
 */
function point(row, found) {
  if (!found) return show(found);
  const { lane, round } = found, words = [inWords(found), partWords(round)].filter(Boolean).join(' ');
  const box = lane.text.getBoundingClientRect(), place = lane.nodes[round.at][0].getBoundingClientRect();
  show(found);
  board.explain(words);
  row.track.setAttribute('aria-valuenow', String(round.at));
  row.track.setAttribute('aria-valuetext', words);
  if (racing() || (place.top >= box.top && place.bottom <= box.bottom)) return;
  lane.stick = false;
  lane.text.scrollTop += place.top - box.top - box.height / 3;
}

/** @type {Record<string, number>} */
const BY_KEY = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: PAGE, PageDown: -PAGE,
  Home: -Infinity, End: Infinity };

/** @param {Row} row */
function hear(row) {
  const { track } = row, now = () => Number(track.getAttribute('aria-valuenow'));
  let over = -1;
  track.addEventListener('pointermove', ({ clientX }) => {
    const found = passAt(row, clientX);
    if ((found?.round.at ?? -1) === over) return;
    over = found?.round.at ?? -1;
    point(row, found);
  });
  track.addEventListener('pointerleave', () => {
    over = -1;
    if (document.activeElement !== track) show(null);
  });
  track.addEventListener('click', ({ clientX }) => {
    const found = passAt(row, clientX);
    point(row, found);
    pick(found, track);
  });
  track.addEventListener('focus', () => { if (over < 0) point(row, passOf(row, now() || Infinity)); });
  track.addEventListener('blur', () => show(null));
  track.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'Enter') pick(passOf(row, now()), track);
    if (!(event.key in BY_KEY)) return;
    event.preventDefault();
    const found = passOf(row, (now() || Infinity) + BY_KEY[event.key]);
    if (found) bringIntoView((found.round.before + found.round.time) / 2);
    point(row, found);
  });
}

/** @param {Found?} found */
function light(found) {
  for (const { lane, lit } of rows) {
    const { from = 0, to = 0, at: place } = found?.round ?? {};
    const those = lane === found?.lane ? [lane.rounds[Number(place)]]
      : lane.rounds.filter((round) => !round.first && round.from < to && round.to > from);
    const [first, last] = [those[0], those[those.length - 1]], none = !first || first.first;
    lit.setAttribute('x', none ? '0' : at(first.before));
    lit.setAttribute('width', none ? '0' : at(last.time - first.before));
    lit.toggleAttribute('data-other', lane !== found?.lane);
  }
}

// ---- the race --------------------------------------------------------------------------------------------

board.addEventListener('race-start', () => {
  rows = [];
  rowsPlace.replaceChildren();
  explained.textContent = '';
  Object.assign(lens, { zoom: 1, from: 0, right: 1 });
  drawSoon();
});
board.addEventListener('lanes-drawn', () => { if (racing()) drawSoon(); });
board.addEventListener('race-over', () => {
  drawPasses();
  explained.textContent = ['A bar is one pass.', how.words, 'The clock begins with the first token.'].join(' ');
  for (const { lane, sum } of rows) {
    sum.title = totals(lane) + '; before that, ' + duration(lane.firstToken) + ' to the first token';
    sum.append(make('span', 'sr-only', ': ' + sum.title));
  }
});
board.addEventListener('round-lit', (event) => light(/** @type {CustomEvent<Found?>} */ (event).detail));
board.addEventListener('replay-moment', (event) => {
  const { now, end } = /** @type {CustomEvent<{ now: number, end: boolean }>} */ (event).detail;
  for (const { lane, ahead } of rows) {
    const local = Math.max(0, now - lane.firstToken);
    ahead.setAttribute('x', at(local));
    ahead.setAttribute('width', end ? '0' : at(lens.right + 1));
  }
  if (!end) bringIntoView(Math.max(0, now - Math.min(...lanes.map((lane) => lane.firstToken))));
});
