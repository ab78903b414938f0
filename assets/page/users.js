// @ts-check
// Many users at once. The value is JSON, the simulation's outcome for every number of users: see
// dspark_core/playground/cost_parts.py. The slider only chooses which of them is told.
import { $, make, onValue, parsed } from './dom.js';
import { count } from './numbers.js';
import { copyPart, keepSettings, numberOf, onSettings } from './parts.js';
import { legendItem, linear, plot, redrawn, three, ticksTo } from './plot.js';
import { tableOf } from './table.js';

/** @import {Settings} from './parts.js' */
/** @import {Mark, Series} from './plot.js' */

/**
 * What so many users come to: tokens a second in all, drafts sent a user and round, tokens in one pass.
 * @typedef {{ tok_s: number, sent: number, rows: number, parked: boolean }} Served
 * By user: plain decoding, every fixed length, the confidence schedule.
 * @typedef {{ users: number, plain: Served, fixed: Served[], schedule: Served }} Point
 * @typedef {{ id: string, title: string, source: string, measured: number }} StartChoice
 * @typedef {{ id: string, title: string, words: string }} Group
 * @typedef {{ starts: StartChoice[], groups: Group[], start: string, group: string, seed: number, lengths: number[],
 *   points: Point[], check: string }} Simulated
 */

/** @type {Simulated} */
const NOTHING = { starts: [], groups: [], start: '', group: '', seed: 0, lengths: [], points: [], check: '' };
let data = NOTHING;
let users = 8;
const MOST_SEED = 999999;
const group = /** @type {HTMLSelectElement} */ ($('.users-group'));
const start = /** @type {HTMLSelectElement} */ ($('.users-start'));
const seed = /** @type {HTMLInputElement} */ ($('.users-seed'));
const slider = /** @type {HTMLInputElement} */ ($('#knob-users'));

/** Every way of decoding, with what it looks like: its name, and which of a point is its own. */
function ways() {
  const look = [[6, 2], [5, 1], [5, 0]], most = data.lengths.length - 1;
  return [
    { name: 'plain decoding', place: 0, dash: 0, of: (/** @type {Point} */ p) => p.plain },
    ...data.lengths.map((n, k) => ({
      name: (k === most ? 'fixed block of ' : 'fixed length of ') + count(n, 'draft'), place: look[k][0],
      dash: look[k][1], of: (/** @type {Point} */ p) => p.fixed[k],
    })),
    { name: 'confidence schedule', place: 4, dash: 0, of: (/** @type {Point} */ p) => p.schedule },
  ];
}

const at = () => data.points.find((p) => p.users === users) ?? data.points[0];
const measured = () => data.starts.find(({ id }) => id === data.start)?.measured || Infinity;

// ---- words -----------------------------------------------------------------------------------------------

/** The paper's point, as far as it is one here. */
function pointWords() {
  const last = data.lengths.length - 1;
  const times = data.points.map((p) => p.fixed[last].tok_s / p.plain.tok_s);
  const hurt = data.points.find((_, k) => times[k] < 0.995);
  const block = 'A fixed block of ' + count(data.lengths[last], 'draft') + ' ';
  const least = Math.min(...data.points.map((p) => p.schedule.tok_s / p.plain.tok_s));
  const help = times[0] > 1.005;
  const alone = times[0].toFixed(2) + ' × plain';
  const many = times[times.length - 1].toFixed(2) + ' × with ' + data.points[times.length - 1].users;
  const first = !hurt ? block + 'hurts no number of users here (' + alone + ' for one, ' + many + ').'
    : help ? block + 'helps one user (' + alone + ') and hurts from ' + hurt.users + ' users on (' + many + ').'
      : block + 'does not even pay for one user here (' + alone + ', ' + many + ').';
  return first + (least > 0.995 ? ' The confidence schedule never falls below plain decoding.'
    : ' The confidence schedule falls to ' + least.toFixed(2) + ' × plain at worst.');
}

/** @param {Point} p */
function lines(p) {
  return ways().map(({ name, of }, k) => {
    const one = of(p), times = one.tok_s / p.plain.tok_s;
    const speed = name + ': ' + three(one.tok_s) + ' tok/s in all, ' + three(one.tok_s / p.users) + ' for each user';
    if (!k) return speed + '.';
    const sends = one.parked ? '; it does not draft, for that would not pay'
      : k === ways().length - 1
        ? '; it sends ' + one.sent.toFixed(1) + ' drafts a user and round' : '';
    return speed + ', ' + times.toFixed(2) + ' × plain' + sends + '.';
  });
}

// ---- drawings --------------------------------------------------------------------------------------------

/**
 * @param {string} place
 * @param {string} label
 * @param {(one: Served, p: Point) => number} value
 * @param {string} title
 * @param {number} [rule]
 */
function drawPlot(place, label, value, title, rule) {
  const all = ways(), most = data.points[data.points.length - 1].users;
  const doublings = data.points.map((p) => p.users).filter((n) => Number.isInteger(Math.log2(n)));
  const x = { label: 'users at once', ticks: doublings,
    at: (/** @type {number} */ n) => Math.log2(n) / Math.log2(most) };
  /** @type {Series[]} */
  const series = all.map(({ name, place: p, dash, of }) => ({ name, place: p, dash, dots: true,
    points: data.points.map((one) => [one.users, value(of(one), one)]),
    hollow: data.points.map((one) => of(one).rows > measured()) }));
  /** @type {Mark[]} */
  const marks = all.map(({ name, place: p, of }) => ({ place: p, x: at().users, y: value(of(at()), at()), kind: 'dot',
    words: name + ': ' + three(value(of(at()), at())) + ' ' + label }));
  const top = Math.max(...series.flatMap(({ points }) => points.map(([, y]) => y)));
  const y = linear(label, ticksTo(top));
  plot(/** @type {any} */ ($(place)), { title, x, y, series, marks, rule, here: at().users });
}

function draw() {
  const p = at(), words = lines(p);
  const k = data.points.indexOf(p);
  slider.max = String(data.points.length - 1);
  if (Number(slider.value) !== k) slider.value = String(k);
  slider.setAttribute('aria-valuetext', count(p.users, 'user'));
  $('.knob output').textContent = count(p.users, 'user');
  $('.part-words').replaceChildren(...words.map((text) => make('li', '', text)));
  const told = 'With ' + count(p.users, 'user') + ': ' + words.join(' ');
  drawPlot('.plot-ratio', '× plain', (one, of) => one.tok_s / of.plain.tok_s, 'Against plain decoding. ' + told, 1);
  drawPlot('.plot-all', 'tok/s in all', (one) => one.tok_s, 'All users together. ' + told);
  drawPlot('.plot-each', 'tok/s each', (one, of) => one.tok_s / of.users, 'Each user. ' + told);
}

function drawTable() {
  const heads = ['users', 'way', 'tok/s in all', 'tok/s each', '× plain', 'drafts sent a user and round',
    'tokens in a pass'];
  const rows = data.points.flatMap((p) => ways().map(({ name, of }) => {
    const one = of(p);
    return [String(p.users), name, three(one.tok_s), three(one.tok_s / p.users), (one.tok_s / p.plain.tok_s).toFixed(3),
      one.sent.toFixed(2), three(one.rows) + (one.rows > measured() ? ', not measured' : '')];
  }));
  const caption = 'Many users, simulated with seed ' + data.seed;
  $('.chart-table').replaceChildren(tableOf(heads, [{ rows }], { caption }));
}

/**
 * @param {HTMLSelectElement} select
 * @param {{ id: string, title: string }[]} choices
 * @param {string} chosen
 */
function fill(select, choices, chosen) {
  select.replaceChildren(...choices.map(({ id, title }) => new Option(title, id)));
  select.value = chosen;
}

function drawAll() {
  fill(group, data.groups, data.group);
  fill(start, data.starts, data.start);
  seed.value = String(data.seed);
  const from = data.starts.find(({ id }) => id === data.start), what = data.groups.find(({ id }) => id === data.group);
  $('.part-source').textContent = [what?.words, from?.source].filter(Boolean).join(' ');
  $('.users-point').textContent = pointWords();
  const beyond = data.points.some((p) => ways().some(({ of }) => of(p).rows > measured()));
  $('.part-note').textContent = [data.check, beyond ? 'Hollow points: more than ' + measured()
    + ' tokens in one pass, not measured: costs go on as steeply as they rose.' : ''].join(' ').trim();
  $('.part-legend').replaceChildren(...ways().map(({ name, place, dash }) => legendItem(name, { place, dash })));
  drawTable();
  draw();
}

// ---- what is asked ---------------------------------------------------------------------------------------

/** @returns {Settings} */
const settings = () => ({ start: start.value, group: group.value, seed: seed.value, users: String(users) });

/** Another simulation, of which the server answers with the value. */
const ask = () => trigger('submit', { start: start.value, group: group.value, seed: Number(seed.value) });

/** @param {Settings} asked */
function read(asked) {
  users = numberOf(asked.users, 1, 64) ?? users;
  users = data.points.filter((p) => p.users <= users).at(-1)?.users ?? users;
  const wanted = { start: asked.start ?? data.start, group: asked.group ?? data.group,
    seed: Math.round(numberOf(asked.seed, 0, MOST_SEED) ?? data.seed) };
  const offered = data.starts.some(({ id }) => id === wanted.start)
    && data.groups.some(({ id }) => id === wanted.group);
  if (offered && (wanted.start !== data.start || wanted.group !== data.group || wanted.seed !== data.seed)) {
    trigger('submit', wanted);
  }
  if (data.points.length) draw();
}

slider.addEventListener('input', () => {
  users = data.points[Number(slider.value)].users;
  draw();
});
slider.addEventListener('change', () => {
  keepSettings('many-users', settings());
  $('[role=status]').textContent = lines(at()).join(' ');
});
for (const control of [group, start, seed]) {
  control.addEventListener('change', () => {
    if (numberOf(seed.value, 0, MOST_SEED) === null) seed.value = String(data.seed);
    seed.value = String(Math.round(Number(seed.value)));
    keepSettings('many-users', settings());
    ask();
  });
}
$('.part-link').addEventListener('click', () => copyPart('many-users', settings(), $('.part-link')));
redrawn($('.part-plots'), () => { if (data.points.length) draw(); });

let begun = false;
onValue(() => {
  data = parsed(NOTHING);
  const there = data.points.length > 0;
  $('.part').hidden = !there;
  $('.part-empty').hidden = there;
  if (!there) return;
  drawAll();
  if (!begun) onSettings('many-users', read);
  begun = true;
});
