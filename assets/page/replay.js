// @ts-check
// The board's replay. A race that is over stands on the board as a whole; the replay shows of every lane what it had
// committed at one moment of own time, the same moment for all lanes, prefill included. Nothing is built anew: what
// came later is hidden.
import { board, drawAllTimes, drawDirty, lanes, panes, show } from './board.js';
import { $, make, recall, remember } from './dom.js';
import { shownRounds } from './figures.js';
import { countUpTo } from './rounds.js';

/** @import {Lane} from './figures.js' */
/**
 * What the replay knows of a lane.
 * @typedef {object} Track
 * @property {number[]} times  of its rounds, the prompt's own token first
 * @property {HTMLElement[]} blocks  of its text
 * @property {HTMLElement?} cut  the block that is shown in part
 * @property {string?} words  those of its note at the end
 * @property {string | undefined} state  at the end
 */

const STILL = matchMedia('(prefers-reduced-motion: reduce)').matches, TICK_MS = STILL ? 500 : 50;
const SPEEDS = [0.05, 0.1, 0.25, 0.5, 1, 2, 4];
const READING_S = 8;  // what plays by itself takes so long, or longer

const result = $('.board-result');
export const bar = make('div', 'replay', undefined, { role: 'group', 'aria-label': 'Replay' });
/**
 * @param {string} name
 * @param {string} label
 * @param {string} sign
 */
const button = (name, label, sign) => make('button', name, sign, { type: 'button', 'aria-label': label, title: label });
const play = button('replay-play', 'Play', '▶'), previous = button('replay-previous', 'Previous round', '◂|');
const next = button('replay-next', 'Next round', '|▸'), slider = make('input', 'replay-at');
const clock = make('output', 'replay-clock');
const pace = make('select', 'replay-speed'), paceLabel = make('label', '', 'Speed ');
slider.type = 'range';
slider.min = '0';
slider.step = 'any';
slider.setAttribute('aria-label', 'Moment of the race');
for (const speed of SPEEDS) pace.append(make('option', '', speed + ' ×', { value: String(speed) }));
/** @param {number} speed */
const setPace = (speed) => { pace.value = String(SPEEDS.includes(speed) ? speed : 1); };
setPace(Number(recall('replay-speed') ?? 1));
paceLabel.append(pace);
const auto = make('input', 'replay-auto'), autoLabel = make('label', '', '', { title: 'Recordings and races that were '
  + 'too quick to be read replay by themselves, once' });
auto.type = 'checkbox';
auto.checked = recall('replay-auto') !== 'off';
autoLabel.append(auto, ' plays by itself');
bar.append(play, previous, next, slider, clock, paceLabel, autoLabel);
bar.hidden = true;
panes.after(bar);

// all: every moment at which a lane committed something, once and in order; alone: it plays by itself
export const replay = { now: 0, length: 0, all: /** @type {number[]} */ ([]), timer: 0, ticked: 0, alone: false };
/** @type {Map<Lane, Track>} */
const tracks = new Map();
/** @param {Lane} lane */
const trackOf = (lane) => /** @type {Track} */ (tracks.get(lane));

board.addEventListener('race-start', () => {
  pause();
  bar.hidden = true;
  result.style.visibility = '';
});

board.addEventListener('race-over', () => {
  const all = new Set();
  tracks.clear();
  for (const lane of lanes) {
    const times = lane.rounds.map((round) => lane.firstToken + round.time);
    /** @type {HTMLElement[]} */
    const blocks = [...lane.text.querySelectorAll('.block')].map((block) => /** @type {HTMLElement} */ (block));
    tracks.set(lane, { times, blocks, cut: null, words: lane.note.textContent, state: lane.pane.dataset.state });
    for (const time of times) all.add(time);
  }
  replay.all = [...all].sort((a, b) => a - b);
  if (!replay.all.length) return;
  replay.now = replay.length = replay.all[replay.all.length - 1];
  slider.max = String(replay.length);
  bar.hidden = false;
  tell();
});

/**
 * Show the race as it stood `moment` seconds after its start.
 * @param {number} moment
 */
export function seek(moment) {
  replay.now = Math.max(0, Math.min(replay.length, moment));
  const end = replay.now >= replay.length;
  for (const lane of lanes) {
    const track = trackOf(lane), count = countUpTo(track.times, replay.now), all = lane.rounds.length;
    if (count !== shownRounds(lane)) cut(lane, track, count);
    if (end) lane.shown = null;
    const over = end || count === all;
    lane.note.textContent = over || !all ? track.words
      : count === 0 ? 'reading the prompt' : 'round ' + (count - 1) + ' of ' + (all - 1);
    lane.pane.dataset.state = over ? track.state : 'running';
  }
  board.dispatchEvent(new CustomEvent('replay-moment', { detail: { now: replay.now, end } }));
  drawDirty();
  drawAllTimes();
  result.style.visibility = end ? '' : 'hidden';
  tell();
}

/**
 * Hide everything of a lane after its first `count` rounds: whole blocks, and rounds of the block in between.
 * @param {Lane} lane
 * @param {Track} track
 * @param {number} count
 */
function cut(lane, track, count) {
  /**
   * @param {Element} node
   * @param {boolean} hidden
   */
  const hide = (node, hidden) => {
    if (node.hasAttribute('hidden') !== hidden) node.toggleAttribute('hidden', hidden);
  };
  /** @param {Element?} node */
  const roundOf = (node) => Number(/** @type {HTMLElement} */ (node).dataset.round);
  let between = null;
  for (const block of track.blocks) {
    hide(block, roundOf(block.firstElementChild) >= count);
    if (!block.hidden) between = block;
  }
  if (track.cut && track.cut !== between) for (const node of track.cut.children) hide(node, false);
  if (between) for (const node of between.children) hide(node, roundOf(node) >= count);
  track.cut = between;
  if (lane.tail) lane.tail.hidden = count < lane.rounds.length;
  const before = shownRounds(lane), last = lane.rounds[count - 1];
  lane.shown = count;
  lane.seconds = last?.time || 0;
  lane.committed = Math.max(0, (last?.to || 0) - 1);
  lane.proposed = last?.proposedSoFar || 0;
  lane.accepted = last?.acceptedSoFar || 0;
  const [from, sign] = count >= before ? [before, 1] : [count, -1];
  for (const round of lane.rounds.slice(Math.max(1, from), Math.max(count, before))) {
    lane.lengths[round.length] = (lane.lengths[round.length] || 0) + sign;
  }
  if (count < 2) for (const dd of Object.values(lane.figure)) dd.textContent = '–';
  lane.dirty = true;
}

function tell() {
  slider.value = String(replay.now);
  const words = replay.now.toFixed(2) + ' of ' + replay.length.toFixed(2) + ' s';
  clock.textContent = words;
  slider.setAttribute('aria-valuetext', words);
  previous.setAttribute('aria-disabled', String(replay.now <= 0));  // not `disabled`, which would lose the focus
  next.setAttribute('aria-disabled', String(replay.now >= replay.length));
}

function tick() {
  const now = performance.now();
  seek(replay.now + (now - replay.ticked) / 1000 * Number(pace.value));
  replay.ticked = now;
  if (replay.now >= replay.length) pause();
}

export function pause() {
  clearInterval(replay.timer);
  replay.timer = 0;
  setPlay('Play', '▶');
  if (replay.alone) setPace(Number(recall('replay-speed') ?? 1));
  replay.alone = false;
}

function playOn() {
  replay.ticked = performance.now();
  replay.timer = setInterval(tick, TICK_MS);
  setPlay('Pause', '❚❚');
}

/** From where there is something to see: no lane has a token before. */
export function rewind() {
  for (const lane of lanes) lane.stick = true;
  seek(replay.all[0]);
}

/**
 * Play the race on the board by itself, at a speed at which it can be read, unless the visitor wants no such thing.
 * @param {number} from  a moment of it
 */
export function playAlone(from) {
  if (STILL || !auto.checked || !replay.all.length || from >= replay.length) return;
  pause();
  const fastest = (replay.length - replay.all[0]) / READING_S;
  rewind();
  if (from > replay.now) seek(from);
  setPace([...SPEEDS].reverse().find((speed) => speed <= fastest) ?? SPEEDS[0]);
  replay.alone = true;
  playOn();
}

/**
 * The moment that another board's replay has come to; its end, if it does not run.
 * @param {Element} other
 */
export function shownMoment(other) {
  const at = /** @type {HTMLInputElement?} */ (other.querySelector('.replay-at'));
  return other.querySelector('.replay-play[aria-label=Pause]') && at ? Number(at.value) : Infinity;
}

/**
 * What the play button would do.
 * @param {string} label
 * @param {string} sign
 */
function setPlay(label, sign) {
  play.textContent = sign;
  play.setAttribute('aria-label', label);
  play.title = label;
}

play.addEventListener('click', () => {
  if (replay.timer) return pause();
  if (replay.now >= replay.length) rewind();
  playOn();
});

/**
 * One moment on or back. What a lane committed there is lit, and the details line tells of it.
 * @param {number} by
 */
function step(by) {
  pause();
  const at = countUpTo(replay.all, replay.now) + by;
  seek(at < 1 ? 0 : replay.all[at - 1]);
  const lane = lanes.find((l) => trackOf(l).times[shownRounds(l) - 1] === replay.now);
  show(lane ? { lane, round: lane.rounds[shownRounds(lane) - 1] } : null);
}

next.addEventListener('click', () => step(1));
previous.addEventListener('click', () => step(-1));
slider.addEventListener('input', () => { pause(); seek(Number(slider.value)); });
pace.addEventListener('change', () => {
  replay.alone = false;
  remember('replay-speed', pace.value);
});
auto.addEventListener('change', () => {
  remember('replay-auto', auto.checked ? null : 'off');
  if (!auto.checked && replay.alone) {
    pause();
    seek(replay.length);
  }
});
