// @ts-check
// What if acceptance, drafting, verification or the batch were other than they are? Everything is worked out and drawn
// here, so that it moves with the slider. The value is JSON: see dspark_core/race/what_if.py.
import { draftMs, passSeconds, prospects, shifted } from './costs.js';
import { $, make, onValue, parsed } from './dom.js';
import { count } from './numbers.js';
import { copyPart, keepSettings, numberOf, onSettings, openPart } from './parts.js';
import { legendItem, linear, plot, redrawn, three, ticksTo } from './plot.js';
import { tableOf } from './table.js';

/** @import {Asked, Line, Prospect, Start} from './costs.js' */
/** @import {Settings} from './parts.js' */
/** @import {Mark, Series} from './plot.js' */

/** @type {{ lines: Line[], starts: Start[] }} */
let data = { lines: [], starts: [] };
let chosen = '';
/** @type {Asked} */
let asked = { accept: null, shift: 0, draft: null, further: null, cap: 0, batch: 1 };

const MOST_SHIFT = 3, MOST_BATCH = 64;
const knob = (/** @type {string} */ name) => /** @type {HTMLInputElement} */ ($('#knob-' + name));
const pick = /** @type {HTMLSelectElement} */ ($('.knob-accept select'));
const start = () => data.starts.find(({ id }) => id === chosen) ?? data.starts[0];
const mostDrafts = () => Math.max(1, ...data.lines.map(({ drafts }) => drafts));
const measured = () => data.lines.some(({ accepted }) => accepted.length);

/** @param {number} x */
const percent = (x) => Math.round(100 * x) + '\u00a0%';  // of which the sign stays on the line

// ---- the address -----------------------------------------------------------------------------------------

/** @param {Settings} settings */
function read(settings) {
  chosen = settings.start ?? '';
  asked = {
    accept: numberOf(settings.accept, 0, 1),
    shift: numberOf(settings.shift, -MOST_SHIFT, MOST_SHIFT) ?? 0,
    draft: numberOf(settings.draft, 0, 1e6),
    further: numberOf(settings.further, 0, 1e6),
    cap: Math.round(numberOf(settings.cap, 1, 1000) ?? 0),
    batch: Math.round(numberOf(settings.batch, 1, MOST_BATCH) ?? 1),
  };
  if (data.starts.length) drawAll();
}

/** @returns {Settings} */
function settings() {
  /** @type {Settings} */
  const out = {};
  if (chosen) out.start = chosen;
  for (const name of /** @type {const} */ (['accept', 'draft', 'further'])) {
    if (asked[name] !== null) out[name] = String(Number(asked[name].toPrecision(4)));
  }
  if (asked.shift) out.shift = String(Number(asked.shift.toFixed(2)));
  if (asked.cap) out.cap = String(asked.cap);
  if (asked.batch > 1) out.batch = String(asked.batch);
  return out;
}

// ---- sliders ---------------------------------------------------------------------------------------------

const cap = () => Math.min(asked.cap || mostDrafts(), mostDrafts());

/**
 * @param {string} name
 * @param {number} value
 * @param {number} most
 * @param {string} words
 * @param {number} [least]
 */
function setKnob(name, value, most, words, least = 0) {
  const input = knob(name);
  if (Number(input.max) !== most) input.max = String(most);
  if (Number(input.min) !== least) input.min = String(least);
  if (document.activeElement !== input || Math.abs(Number(input.value) - value) > 1e-9) input.value = String(value);
  input.setAttribute('aria-valuetext', words);
  if (input.nextElementSibling) input.nextElementSibling.textContent = words;
}

/** The acceptance of every line's first draft, in words; in the order of the lines. */
function shiftWords() {
  const first = data.lines.filter(({ accepted }) => accepted.length)
    .map(({ accepted }) => percent(shifted(accepted[0], asked.shift)));
  const words = !asked.shift ? 'as measured' : asked.shift > 0 ? 'easier' : 'harder';
  return words + '; of first drafts ' + first.join(' / ');
}

function drawKnobs() {
  const from = start(), { accept, further, batch } = asked, plainMs = 1000 * from.plain;
  pick.value = accept === null ? 'shift' : 'accept';
  pick.disabled = !measured();
  knob('accept').step = accept === null ? '0.1' : '0.01';
  if (accept === null) setKnob('accept', asked.shift, MOST_SHIFT, shiftWords(), -MOST_SHIFT);
  else setKnob('accept', accept, 1, percent(accept) + ' of those reached', 0);
  const takes = data.lines.map((_, k) => draftMs(from, k, asked));
  const each = [...new Set(takes.map(three))].join(' / ') + ' ms';
  const unknown = asked.draft === null && from.rounds.some(({ known }) => !known);
  setKnob('draft', takes[0], mostOf(takes[0], draftMs(from, 0, { ...asked, draft: null }), plainMs),
    unknown ? 'not known here, so taken as free' : each);
  const own = 1000 * from.further, cost = further ?? own;
  setKnob('further', cost, mostOf(cost, own, plainMs), three(cost) + ' ms, ' + percent(cost / plainMs) + ' of a step');
  setKnob('cap', cap(), mostDrafts(), String(cap()), 1);
  setKnob('batch', batch, MOST_BATCH, batch === 1 ? '1: alone' : batch + ' at once', 1);
}

/**
 * The end of a slider: what it stands at from the start is a third of it at most, and so is a plain step.
 * @param {number} value
 * @param {number} own
 * @param {number} plain
 */
const mostOf = (value, own, plain) => Math.max(Number((3 * own).toPrecision(2)), Number(plain.toPrecision(2)), value);

// ---- drawings --------------------------------------------------------------------------------------------

/** @param {Asked} of */
const found = (of) => data.lines.map((line, k) => prospects(start(), k, line, of));
const moved = () => (measured() && (asked.shift !== 0 || asked.accept !== null))
  || asked.draft !== null || asked.further !== null || asked.batch > 1;

/**
 * @param {Prospect[]} options
 * @param {number} k  which line
 */
function lineWords(options, k) {
  const { name, drafts: longest } = data.lines[k];
  if (!options.length) return name + ': nothing is known of its acceptance; choose one number.';
  const at = options[Math.min(cap(), options.length - 1)];
  const best = options.reduce((a, b) => b.times > a.times ? b : a);
  const verb = at.times > 1.005 ? 'pays' : at.times < 0.995 ? 'does not pay' : 'makes no difference';
  const known = options.length - 1, more = known < longest ? ' Of more than ' + known + ' nothing is known.' : '';
  const others = 'No other number of drafts' + (more && ' up to ' + known);
  const advice = best.drafts === at.drafts ? others + ' is faster.'
    : best.drafts ? 'Best: ' + count(best.drafts, 'draft') + ', ' + best.times.toFixed(2) + ' × plain.'
      : 'Best: none, which is plain decoding.';
  const all = asked.batch > 1 ? ' for each of ' + asked.batch + ' requests' : '';
  return `${name}, ${at.drafts} sent: ${at.tokens.toFixed(2)} tokens a round expected, ${at.even.toFixed(2)} needed. `
    + `It ${verb}: ${at.times.toFixed(2)} × plain, ${three(at.each)} tok/s instead of ${three(options[0].each)}${all}. `
    + advice + more;
}

/**
 * @param {Prospect[][]} now
 * @param {Prospect[][]} before  with nothing moved
 */
function drawPlots(now, before) {
  const from = start(), widest = from.passes.measured || Infinity, told = allWords(now);
  const places = data.lines.map(({ place }) => place);
  const x = linear('drafts sent a round', Array.from({ length: mostDrafts() + 1 }, (_, n) => n));
  const hollow = now.map((options) => options.map(({ drafts }) => asked.batch * (drafts + 1) > widest));
  const at = (/** @type {Prospect[]} */ options) => options[Math.min(cap(), options.length - 1)];
  const marks = (/** @type {'tokens' | 'times'} */ of) => now.flatMap((options, k) => {
    if (!options.length) return [];
    const { name, measured: ran, place } = data.lines[k], one = at(options), was = at(before[k]);
    const words = (/** @type {number} */ y) => y.toFixed(2) + (of === 'tokens' ? ' tokens a round' : ' × plain');
    /** @type {Mark[]} */
    const out = [{ place, x: one.drafts, y: one[of], kind: 'dot', words: name + ': ' + words(one[of]) }];
    if (moved() && was) {
      const title = name + ', ' + from.title + ': ' + words(was[of]);
      out.unshift({ place, x: was.drafts, y: was[of], kind: 'ring', words: title });
    }
    const y = ran[of === 'tokens' ? 1 : 2];
    if (from.id === 'race' && ran.length) {
      out.unshift({ place, x: ran[0], y, kind: 'diamond', words: name + ', as measured: ' + words(y) });
    }
    return out;
  });
  const highest = (/** @type {Mark[]} */ dots, /** @type {Series[]} */ lines) =>
    Math.max(1, ...dots.map(({ y }) => y), ...lines.flatMap(({ points }) => points.map(([, y]) => y)));
  const lines = (/** @type {'tokens' | 'even' | 'times'} */ of, faint = false) => now.map((options, k) => ({
    name: data.lines[k].name, place: places[k], faint, dots: !faint, hollow: of === 'tokens' ? [] : hollow[k],
    points: options.filter(({ drafts }) => drafts || !faint)
      .map((p) => /** @type {[number, number]} */ ([p.drafts, p[of]])),
  }));
  const tokens = [...lines('even', true), ...lines('tokens')], dots = marks('tokens');
  // A break-even far above all that can be expected would press the lines flat.
  const top = Math.min(highest(dots, tokens), 2.5 * highest(dots, lines('tokens')));
  plot(/** @type {any} */ ($('.plot-tokens')), { title: 'Tokens a round by drafts sent. ' + told, x, here: cap(),
    y: linear('tokens a round', ticksTo(top)), series: tokens, marks: dots });
  const speeds = lines('times'), fast = marks('times');
  plot(/** @type {any} */ ($('.plot-times')), { title: 'Speed against plain by drafts sent. ' + told, x, here: cap(),
    y: linear('× plain', ticksTo(highest(fast, speeds))), series: speeds, marks: fast, rule: 1 });
}

/** @param {Prospect[][]} now */
const allWords = (now) => now.map(lineWords).join(' ');

function drawLegend() {
  const items = data.lines.map(({ name, place }) => legendItem(name, { place }));
  const [{ place }] = data.lines;
  items.push(legendItem('tokens a round needed to be as fast as plain', { place, faint: true }),
    legendItem('your setting', { place, kind: 'dot' }));
  if (moved()) items.push(legendItem(start().title + ', nothing moved', { place, kind: 'ring' }));
  if (start().id === 'race' && data.lines.some(({ measured: ran }) => ran.length)) {
    items.push(legendItem('as measured in the race', { place, kind: 'diamond' }));
  }
  $('.part-legend').replaceChildren(...items);
}

function noteWords() {
  const { passes } = start(), rows = asked.batch * (cap() + 1), out = [];
  const from = data.lines.some(({ raced }) => raced) ? 'of the last race' : 'of the drafters’ own calibration';
  if (asked.accept === null && measured()) out.push('Acceptance is that ' + from + '.');
  if (asked.batch > 1) {
    out.push('In a batch one pass checks ' + rows + ' tokens; drafting for several is taken to grow as the pass does.');
    if (passes.measured && rows > passes.measured) {
      const more = passSeconds(passes, rows) > passSeconds(passes, passes.measured);
      out.push('More than ' + passes.measured + ' tokens in one pass were not measured: hollow points, '
        + (more ? 'continued.' : 'taken to cost no more.'));
    }
  }
  return out.join(' ');
}

/** @param {Prospect[][]} now */
function drawTable(now) {
  const heads = ['drafter', 'drafts', 'tokens a round', 'needed', '× plain', 'tok/s each'];
  if (asked.batch > 1) heads.push('tok/s in all');
  const rows = now.flatMap((options, k) => options.map((p) => [data.lines[k].name, String(p.drafts),
    ...[p.tokens, p.even, p.times].map((x) => x.toFixed(3)), three(p.each), three(p.all)].slice(0, heads.length)));
  $('.chart-table').replaceChildren(tableOf(heads, [{ rows }], { caption: 'What if: ' + start().title }));
}

/** Everything that a slider moves. */
function draw() {
  const accept = measured() ? null : asked.accept;
  const now = found(asked), before = found({ ...asked, accept, shift: 0, draft: null, further: null, batch: 1 });
  drawKnobs();
  $('.part-words').replaceChildren(...now.map((options, k) => make('li', '', lineWords(options, k))));
  $('.part-note').textContent = noteWords();
  $('.part-back').toggleAttribute('disabled', !moved() && !asked.cap);
  drawPlots(now, before);
  if (/** @type {HTMLDetailsElement} */ ($('details')).open) drawTable(now);
  return now;
}

function drawAll() {
  const starts = data.starts.map(({ id, title }) => {
    const button = make('button', '', title, { type: 'button', 'aria-pressed': String(id === start().id) });
    button.dataset.start = id;
    button.addEventListener('click', () => set({ accept: null, shift: 0, draft: null, further: null }, id));
    return button;
  });
  const focused = document.activeElement?.closest('.part-starts') && element.contains(document.activeElement);
  $('.part-starts').replaceChildren(...starts);
  if (focused) starts.find((b) => b.dataset.start === start().id)?.focus();
  $('.part-source').textContent = start().source;
  if (!measured() && asked.accept === null) asked.accept = 0.7;
  draw();
  drawLegend();
}

/**
 * @param {Partial<Asked>} changes
 * @param {string} [to]  another start point
 */
function set(changes, to) {
  const before = moved();
  Object.assign(asked, changes);
  if (to) chosen = to;
  if (to) drawAll();
  else draw();
  if (before !== moved()) drawLegend();
}

/** A slider was let go, or a button pressed. */
function settle() {
  keepSettings('what-if', settings());
  $('[role=status]').textContent = allWords(found(asked));
}

pick.addEventListener('change', () => {
  const first = Math.max(0, ...data.lines.map(({ accepted }) => accepted[0] ?? 0));
  set({ accept: pick.value === 'shift' ? null : first });
  settle();
});
for (const name of /** @type {const} */ (['accept', 'draft', 'further', 'cap', 'batch'])) {
  knob(name).addEventListener('input', () => {
    const value = Number(knob(name).value);
    set(name === 'accept' && asked.accept === null ? { shift: value } : { [name]: value });
  });
  knob(name).addEventListener('change', settle);
}
$('.part-starts').addEventListener('click', settle);
$('.part-back').addEventListener('click', () => {
  set({ accept: null, shift: 0, draft: null, further: null, cap: 0, batch: 1 }, start().id);
  settle();
});
$('.part-link').addEventListener('click', () => copyPart('what-if', settings(), $('.part-link')));
$('.part-users').addEventListener('click', () => openPart('many-users', { users: String(Math.max(8, asked.batch)) }));
$('details').addEventListener('toggle', draw);

let begun = false;
redrawn($('.part-plots'), () => { if (data.starts.length) draw(); });
onValue(() => {
  data = parsed({ lines: [], starts: [] });
  const there = data.lines.length > 0 && data.starts.length > 0;
  $('.part').hidden = !there;
  $('.part-empty').hidden = there;
  if (!there) return;
  if (begun) drawAll();
  else onSettings('what-if', read);  // which draws
  begun = true;
});
