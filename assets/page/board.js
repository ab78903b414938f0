// @ts-check
// The race board. Its value is a string of records that only grows (dspark_core/playground/stream.py says
// which); each frame parses the new tail and appends to the panes. Model text goes through textContent only.
import { $, code, invisible, make, onValue, racing, recall, remember } from './dom.js';
import { draw, drawSpeeds, drawTimes, histogramWords, makeDrawings, makeFigures, shownRounds } from './figures.js';
import { describe, moreOf } from './rounds.js';

/** @import {Board, LaneView, Round, Token} from './rounds.js' */
/** @import {Lane} from './figures.js' */
/** @typedef {{ lane: Lane, round: Round }} Found  a round that is pointed at */

const RECORD = '\x1e', FIELD = '\x1f';
const BLOCK_TOKENS = 128;    // a block is cut at the first newline after this many tokens ...
const BLOCK_LONGEST = 1024;  // ... or at the end of a round after this many
const FRAME_MS = 30;         // a frame takes in records for this long; the next one goes on

export const board = /** @type {Board} */ ($('.board')), panes = $('.panes'), verdict = $('.board-verdict');
const outcome = $('.board-outcome');
const details = $('.board-details'), HINT = details.textContent;
/** @type {Lane[]} */
export let lanes = [];
/** @type {string?} */
let run = null;
/** @type {Element[]} */
let lit = [];
let maxTokens = 0, offset = 0, pending = '', frame = 0;
/** How the race decodes, and how the time of its passes is told apart. */
export const how = { temperature: 0, words: '' };
let recorded = '';  // words on the recording that is shown, if one is

// ---- lanes ---------------------------------------------------------------------------------------------

/**
 * @param {number} i
 * @param {string} method
 * @param {string} label
 * @param {string} about  who made the method, and what it does
 */
function addLane(i, method, label, about) {
  const plain = method === 'plain', name = label ? method + ' · ' + label : method;
  const pane = make('section', 'pane' + (plain ? ' plain' : ''), undefined, { 'aria-label': name });
  Object.assign(pane.dataset, { lane: String(i), silent: '' });
  const head = make('header', 'pane-head'), title = make('h3', '', method), copy = make('button', 'copy', 'Copy');
  if (label) title.append(' ', make('small', '', label));
  copy.type = 'button';
  copy.setAttribute('aria-label', 'Copy the answer of ' + name);
  head.append(title, copy);
  const maker = make('p', 'about', about, about ? { title: about } : {});

  const { figures, figure } = makeFigures(), { drawings, histogram, line } = makeDrawings();
  const bar = make('div', 'bar'), fill = make('i');
  bar.append(fill);
  const text = make('div', 'text', undefined, { role: 'log', 'aria-live': 'off', 'aria-label': name + ': the answer' });
  text.tabIndex = 0;
  const note = make('p', 'note', 'waiting');
  pane.append(head, maker, figures, drawings, bar, note, text);
  panes.append(pane);

  /** @type {Lane} */
  const lane = {
    i, name, plain, pane, text, note, figures, figure, histogram, line, fill,
    rounds: [], more: [], nodes: [], tokens: [], answer: '', block: null, blockTokens: 0, tail: null,
    thinking: false, ended: false,
    committed: 0, seconds: 0, rate: 0, proposed: 0, accepted: 0, undrafted: 0, unsent: 0, idle: '', lengths: [],
    bars: [], points: [], speeds: [], firstToken: 0,
    stick: true, dirty: false, over: false,
    shown: null,  // all of `rounds`; replay.js sets it
  };
  lanes[i] = lane;
  listen(lane, copy);
}

/**
 * @param {Lane} lane
 * @param {HTMLButtonElement} copy
 */
function listen(lane, copy) {
  const text = lane.text, target = (/** @type {Event} */ event) => /** @type {Element} */ (event.target);
  text.addEventListener('scroll', () => {
    lane.stick = text.scrollHeight - text.scrollTop - text.clientHeight < 48;
  }, { passive: true });
  text.addEventListener('keydown', (event) => onKey(lane, event));
  text.addEventListener('click', (event) => { if (getSelection()?.isCollapsed) pick(roundAt(target(event))); });
  text.addEventListener('pointerover', (event) => show(roundAt(target(event))));
  text.addEventListener('pointerleave', () => { if (!text.contains(document.activeElement)) show(null); });
  text.addEventListener('focusin', (event) => { if (event.target !== text) show(roundAt(target(event))); });
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(lane.pane.querySelector('.part') ? lane.answer.trim() : lane.answer);
    copy.textContent = 'Copied';
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  });
}

/**
 * A token that leaves no mark on the page is given one, in front of it and outside its text.
 * @param {string} text
 * @param {boolean} gone  it is not part of the answer
 */
function signOf(text, gone) {
  if (/^\s*\n\s*$/.test(text)) return '↵'.repeat(text.split('\n').length - 1);
  if (/^[ \u00a0]+$/.test(text)) return gone ? '␣' : '';  // elsewhere its fill or underline shows
  if (/^\t+$/.test(text)) return '⇥';
  return invisible(text) ? code(text) : '';
}

/** @param {Token} token */
function tokenNode({ kind, text, thought }) {
  const gone = kind === 'r' || kind === 'd';
  const node = make(gone ? 'del' : 'span', 'tok ' + kind + (thought ? ' thought' : ''), text);
  const sign = kind === 'e' ? 'end' : kind === 'd' ? '' : signOf(text, gone);
  if (sign) node.dataset.sign = sign;
  if (gone && text.trim().length === 1) node.classList.add('single');
  return node;
}

/**
 * The place for a round, or for the rest of one.
 * @param {Lane} lane
 * @param {number} at
 * @param {boolean} step  a plain step, which has no seam
 */
function openRound(lane, at, step) {
  if (!lane.block) {
    lane.block = make('div', 'block');
    lane.text.append(lane.block);
    lane.blockTokens = 0;
  }
  const node = make('span', step ? 'round step' : 'round');
  node.dataset.round = String(at);
  node.tabIndex = -1;
  lane.block.append(node);
  lane.nodes[at].push(node);
  return node;
}

/**
 * The lane's next round.
 * @param {Lane} lane
 * @param {Pick<Round, 'index' | 'time' | 'drafted' | 'proposed' | 'accepted' | 'bonus'>} counts
 * @param {string[]} texts  each with its kind before it
 * @param {string} finish  why the lane ended with it, or nothing
 * @returns {Round}
 */
function nextRound(lane, counts, texts, finish) {
  const tokens = texts.map((text) => Object.freeze({
    kind: text[0].toLowerCase(), text: text.slice(1), thought: /[A-Z]/.test(text[0]),
  }));
  const from = lane.tokens.length, to = from + tokens.filter(({ kind }) => kind !== 'r' && kind !== 'd').length;
  const more = moreOf(lane.more, counts.time - lane.seconds);
  lane.more = [];
  return Object.freeze({
    ...counts, ...more, first: counts.index < 0, at: lane.rounds.length, from, to, before: lane.seconds,
    proposedSoFar: lane.proposed + counts.proposed, acceptedSoFar: lane.accepted + counts.accepted,
    length: counts.accepted + (finish === 'stop' && to - from <= counts.accepted ? 0 : 1),
    tokens: Object.freeze(tokens),
  });
}

/**
 * @param {Lane} lane
 * @param {Round} round
 */
function addRound(lane, round) {
  const step = !round.first && !round.drafted;
  lane.nodes[round.at] = [];
  delete lane.pane.dataset.silent;
  let node = openRound(lane, round.at, step);
  for (const token of round.tokens) {
    if (lane.blockTokens >= BLOCK_TOKENS && lane.ended && node.childElementCount) {
      node.classList.add('goes-on');
      lane.block = null;
      node = openRound(lane, round.at, step);
    }
    const { kind, text, thought = false } = token, mark = tokenNode(token);
    if (kind !== 'e' && thought !== lane.thinking) {
      node.append(make('span', 'part', thought ? 'Thought' : 'Answer'));
      lane.thinking = thought;
    }
    node.append(mark);
    lane.blockTokens += 1;
    if (kind === 'r' || kind === 'd') continue;
    lane.tokens.push(mark);
    lane.ended = text.endsWith('\n');
    if (kind !== 'e' && !thought) lane.answer += text;
  }
  if (lane.blockTokens >= BLOCK_LONGEST || (lane.blockTokens >= BLOCK_TOKENS && lane.ended)) {
    lane.block = null;
  }
  lane.rounds.push(round);
  lane.dirty = true;
}

// ---- records -------------------------------------------------------------------------------------------

// Why a lane with a drafter is not speculating.
const UNDRAFTED = 'by the costs measured on this machine, plain steps are expected to be faster';
const UNSENT = 'no draft was confident enough to be worth verifying';
/** @type {Record<string, string>} */
const OVER = { done: 'Finished.', stopped: 'Stopped.' };
/** @type {Record<string, string>} */
const FINISH = { stop: 'the model ended its answer', length: 'token limit reached', context: 'context is full' };

/** @type {Record<string, (...fields: string[]) => void>} */
const HANDLERS = {
  I(...words) {
    words.forEach((text, i) => {
      note(lanes[i], '', 'idle');
      lanes[i].text.append(make('p', 'how', text));
    });
    setState('idle');
  },
  N(max) { maxTokens = Number(max); },
  L(i, method, label, about = '') { addLane(Number(i), method, label, about); },
  M(words) { $('.board-status').textContent = words; },
  W(i) { note(lanes[Number(i)], 'warming up, off the clock', 'busy'); },
  P(i, done, total) {
    const lane = lanes[Number(i)], of = total + ' prompt tokens';
    note(lane, done === '0' ? 'reading the prompt, ' + total + ' tokens' : 'read ' + done + ' of ' + of, 'busy');
    lane.fill.style.width = (100 * Number(done) / Number(total)) + '%';
    lane.fill.classList.add('prefill');
  },
  S(i, seconds, finish, token) {
    const lane = lanes[Number(i)];
    lane.firstToken = Number(seconds);
    lane.fill.classList.remove('prefill');
    const none = { index: -1, time: 0, drafted: 0, proposed: 0, accepted: 0, bonus: false };
    addRound(lane, nextRound(lane, none, [token], finish));
    note(lane, firstTokenWords(lane));
    if (finish) end(lane, finish);
  },
  T(temperature, words) { Object.assign(how, { temperature: Number(temperature), words }); },
  Q(i, ...fields) { lanes[Number(i)].more = fields; },
  D(i, ...fields) {
    const lane = lanes[Number(i)];
    const [index, time, drafted, proposed, accepted] = fields.slice(0, 5).map(Number);
    const [bonus, finish, ...tokens] = fields.slice(5);
    const counts = { index, time, drafted, proposed, accepted, bonus: bonus === '1' };
    const round = nextRound(lane, counts, tokens, finish);
    addRound(lane, round);
    lane.committed += round.to - round.from;
    lane.seconds = round.time;
    lane.proposed = round.proposedSoFar;
    lane.accepted = round.acceptedSoFar;
    lane.lengths[round.length] = (lane.lengths[round.length] || 0) + 1;
    lane.points.push([round.time, lane.committed]);
    if (!lane.plain) noteIdle(lane, round);
    if (finish) end(lane, finish);
  },
  E(i, text) {
    if (!text) return;
    const lane = lanes[Number(i)];
    lane.answer += text;
    lane.tail = make('span', 'tail', text);
    lane.text.append(lane.tail);
  },
  A(i, words) { lanes[Number(i)].note.textContent += ' ' + words; },
  F(i, words) {
    if (i === '-1') {
      $('.board-status').textContent = words;
      setState('failed');
      return;
    }
    const lane = lanes[Number(i)];
    lane.over = true;
    note(lane, words, 'failed');
  },
  V(kind, words) {
    verdict.dataset.kind = kind;
    verdict.textContent = words;
    /** @type {HTMLElement?} */
    const proof = document.querySelector('#prove-button');  // the tab of the proof, where the page has one
    if (kind !== 'sampled' || !proof) return;
    const go = make('button', 'to-proof', 'See the proof');
    go.type = 'button';
    go.addEventListener('click', () => { proof.click(); proof.focus(); });
    verdict.append(' ', go);
  },
  O(paid, idle, words) {
    outcome.textContent = words;
    outcome.dataset.paid = paid;
    Object.assign($('.board-next').dataset, { paid, idle });
  },
  Z(how, words) {
    setState(how);
    if (how !== 'failed') $('.board-status').textContent = OVER[how] || '';  // else it says why
    for (const lane of lanes) {
      if (!lane.over) note(lane, how === 'stopped' ? 'stopped' : 'did not run', 'stopped');
      lane.histogram.setAttribute('aria-label', histogramWords(lane.lengths, lane.rounds.length - 1));
    }
    if (how === 'failed') for (const lane of lanes) if (!lane.rounds.length) lane.note.textContent = 'did not run';
    $('.board-announce').textContent = words;
    board.dispatchEvent(new CustomEvent('race-over'));
  },
};

/** @param {string} state */
function setState(state) {
  board.dataset.state = state;
  document.body.dataset.race = recorded ? 'idle' : state;
  const live = state === 'running';
  for (const button of document.querySelectorAll('#race, #stop')) button.toggleAttribute('data-live', live);
}

/**
 * @param {Lane} lane
 * @param {string} words
 * @param {string} [state]
 */
function note(lane, words, state) {
  lane.note.textContent = words;
  lane.pane.dataset.state = state || 'running';
}

/** @param {Lane} lane */
const firstTokenWords = (lane) => 'first token after ' + lane.firstToken.toFixed(2) + ' s';

/**
 * A lane that drafts or sends nothing says why, while it does so and in the end.
 * @param {Lane} lane
 * @param {Round} round
 */
function noteIdle(lane, round) {
  const idle = !round.drafted ? 'undrafted' : !round.proposed ? 'unsent' : '';
  if (idle) lane[idle] += 1;
  if (idle === lane.idle) return;
  lane.idle = idle;
  const words = { undrafted: 'not drafting: ' + UNDRAFTED, unsent: 'nothing sent: ' + UNSENT, '': '' };
  note(lane, words[idle] || firstTokenWords(lane));
}

/**
 * @param {Lane} lane
 * @param {string} finish
 */
function end(lane, finish) {
  lane.over = true;
  const words = [lane.committed + 1 + ' tokens: ' + (FINISH[finish] || finish) + '.'];
  const of = ' of ' + (lane.rounds.length - 1) + ' rounds: ';
  words.push('First token after ' + lane.firstToken.toFixed(2) + ' s.');
  if (lane.undrafted) words.push('Nothing drafted in ' + lane.undrafted + of + UNDRAFTED + '.');
  if (lane.unsent) words.push('Nothing sent in ' + lane.unsent + of + UNSENT + '.');
  note(lane, words.join(' '), 'done');
}

/** @param {string} id */
function start(id) {
  run = id;
  lanes = [];
  lit = [];
  panes.replaceChildren();
  verdict.textContent = outcome.textContent = '';
  verdict.dataset.kind = '';
  Object.assign($('.board-next').dataset, { paid: '', idle: '' });
  $('.board-announce').textContent = '';
  $('.board-status').textContent = '';
  details.textContent = HINT;
  Object.assign(how, { temperature: 0, words: '' });
  board.toggleAttribute('data-recorded', Boolean(recorded));
  setState(id.startsWith('idle') ? 'idle' : 'running');
  board.dispatchEvent(new CustomEvent('race-start'));
}

// Called at every update, also while the tab is hidden and no frames are drawn: the window may have moved on by
// the next one. Records that were missed all the same come with the whole race at its end.
/**
 * @param {string} value
 * @param {string} [words]  of a recording
 */
function take(value, words = '') {
  const head = value.indexOf(RECORD);
  const [kind, id, base] = value.slice(0, head).split(FIELD);
  if (kind !== 'R') return;
  if (id.startsWith('refused')) {
    HANDLERS.F(...value.slice(head + 1, value.lastIndexOf(RECORD)).split(FIELD).slice(1));
    board.dispatchEvent(new CustomEvent('race-refused'));
    return;
  }
  if (id.startsWith('idle') && run && !run.startsWith('idle')) {
    // Over a recording, once the visitor chooses lanes.
    if (!recorded || !document.querySelector('#settings-head [aria-expanded=true]')) return;
  }
  if (id !== run) {
    recorded = words;
    start(id);
    pending = '';
    offset = 0;
  }
  const from = head + 1 + offset - Number(base), end = value.lastIndexOf(RECORD) + 1;
  if (from <= head || end <= from) return;
  pending += value.slice(from, end);
  offset += end - from;
  frame ||= requestAnimationFrame(flush);
}

function flush() {
  frame = 0;
  const until = performance.now() + FRAME_MS;
  let from = 0;
  while (from < pending.length && performance.now() < until) {
    const end = pending.indexOf(RECORD, from);
    const [kind, ...fields] = pending.slice(from, end).split(FIELD);
    HANDLERS[kind]?.(...fields);
    from = end + 1;
  }
  pending = pending.slice(from);
  drawDirty();
  if (pending) frame ||= requestAnimationFrame(flush);
}

/**
 * Show a recording, all of it at once, until there is a race.
 * @param {string} records  as a value has them
 * @param {string} words  in place of what they say themselves
 */
export function showRecords(records, words) {
  run = null;
  take(records, words);
  while (pending) flush();
  $('.board-status').textContent = words;
}

/** Show the value again, in place of a recording. */
export function showValue() {
  run = null;
  take(props.value || '');
}

/** Draw the lanes that have changed. */
export function drawDirty() {
  const dirty = lanes.filter((lane) => lane.dirty);
  for (const lane of dirty) draw(lane, lanes, maxTokens);
  if (!dirty.length) return;
  drawSpeeds(lanes);
  for (const { stick, text } of dirty) if (stick) text.scrollTop = text.scrollHeight;  // behind all that changes
  board.dispatchEvent(new CustomEvent('lanes-drawn'));
}

/** Draw how many times as fast as plain each lane is. */
export function drawAllTimes() {
  const plain = lanes.find((lane) => lane.plain);
  for (const lane of lanes) drawTimes(lane, plain);
}

// ---- one round, in every pane --------------------------------------------------------------------------

/**
 * The round that an element shows a part of.
 * @param {Element?} node
 * @returns {Found?}
 */
export function roundAt(node) {
  const found = /** @type {HTMLElement?} */ (node?.closest?.('.round') ?? null);
  const pane = /** @type {HTMLElement?} */ (found?.closest('.pane') ?? null);
  const lane = lanes[Number(pane?.dataset.lane)];
  return found && lane ? { lane, round: lane.rounds[Number(found.dataset.round)] } : null;
}

/**
 * A round in words.
 * @param {Found} found
 */
export const inWords = ({ lane, round }) => lane.name + ', ' + describe(lane, round);

/**
 * Light a round, and what the other lanes put in its place; or nothing.
 * @param {Found?} found
 */
export function show(found) {
  for (const node of lit) node.classList.remove('lit');
  lit = [];
  board.dispatchEvent(new CustomEvent('round-lit', { detail: found }));
  if (!found) return;
  const { lane, round } = found;
  for (const other of lanes) {
    lit.push(...(other === lane ? lane.nodes[round.at] : other.tokens.slice(round.from, round.to)));
  }
  for (const node of lit) node.classList.add('lit');
  details.textContent = inWords(found);
}

/**
 * A round that is to be looked at closer: the inspector listens.
 * @param {Found?} found
 * @param {HTMLElement} [from]  where the focus goes back to; else to the round
 */
export function pick(found, from) {
  if (!found?.round || found.round.first) return;
  const { lane, round } = found;
  const detail = { lane: lane.i, at: round.at, from: from ?? lane.nodes[round.at][0] };
  board.dispatchEvent(new CustomEvent('round-picked', { bubbles: true, detail }));
}

/**
 * @param {Lane} lane
 * @returns {Readonly<LaneView>}
 */
function viewOf({ i, name, plain, rounds }) {
  const last = rounds.at(-1);
  return Object.freeze({
    i, name, plain, committed: Math.max(0, (last?.to ?? 0) - 1), seconds: last?.time ?? 0,
    rounds: Object.freeze([...rounds]),
  });
}

board.view = () => Object.freeze({
  state: board.dataset.state ?? '',
  temperature: how.temperature,
  lanes: Object.freeze(lanes.map(viewOf)),
  pane: (i) => lanes[i].pane,
  figures: (i) => lanes[i].figures,
  round: (i, at) => lanes[i].nodes[at][0],
});

board.explain = (words) => { details.textContent = words; };

board.mark = (i, at) => {
  for (const node of board.querySelectorAll('.looked')) node.classList.remove('looked');
  const lane = lanes[i ?? -1], round = lane?.rounds[at ?? -1];
  if (!round) return;
  show({ lane, round });
  for (const node of lane.nodes[round.at]) node.classList.add('looked');
  for (const other of lanes) {
    const same = other.tokens[Math.min(round.from, other.tokens.length - 1)];
    const node = other === lane ? lane.nodes[round.at][0] : same;
    if (!node) continue;
    const box = other.text.getBoundingClientRect(), place = node.getBoundingClientRect();
    other.stick = false;
    if (place.top < box.top || place.bottom > box.bottom) other.text.scrollTop += place.top - box.top - box.height / 3;
  }
};

/** @type {Record<string, number>} */
const MOVES = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };

/**
 * @param {Lane} lane
 * @param {KeyboardEvent} event
 */
function onKey(lane, event) {
  if (event.key === 'Enter' && !event.ctrlKey && !event.metaKey) return pick(roundAt(document.activeElement));
  if (!(event.key in MOVES) || event.ctrlKey || event.metaKey || event.altKey || !lane.rounds.length) return;
  event.preventDefault();
  const here = roundAt(document.activeElement), last = shownRounds(lane) - 1;
  if (last < 0) return;
  let next = (here ? here.round.at : 0) + MOVES[event.key];
  if (!here && Number.isFinite(next)) {  // arriving: where another pane was being read, else at the newest round
    const at = lane.tokens.findIndex((t) => t.classList.contains('lit'));
    next = at < 0 ? last : lane.rounds.findIndex((r) => r.to > at);
  }
  const round = lane.rounds[Math.max(0, Math.min(last, next))];
  const node = lane.nodes[round.at][0];
  node.setAttribute('role', 'group');
  node.setAttribute('aria-label', inWords({ lane, round }));
  lane.stick = false;
  node.focus();
  show({ lane, round });
}

// ---- the board's own controls --------------------------------------------------------------------------

for (const key of ['rejected', 'size']) {
  /** @type {HTMLSelectElement} */
  const choice = $('.pick-' + key), before = recall(key);
  const apply = () => {
    board.dataset[key] = choice.value;
    if (key === 'size') document.body.dataset.text = choice.value;  // charts and proof have it, too
    remember(key, choice.value);
  };
  if (before !== null && [...choice.options].some((option) => option.value === before)) choice.value = before;
  choice.addEventListener('change', apply);
  apply();
}

const theme = $('.pick-theme');

/** @param {boolean} dark */
function setTheme(dark) {
  document.body.classList.toggle('dark', dark);
  theme.textContent = dark ? 'Light' : 'Dark';
  theme.setAttribute('aria-label', 'Switch to the ' + (dark ? 'light' : 'dark') + ' theme');
}
setTheme(recall('theme') ? recall('theme') === 'dark' : document.body.classList.contains('dark'));
theme.addEventListener('click', () => {
  const dark = !document.body.classList.contains('dark');
  setTheme(dark);
  remember('theme', dark ? 'dark' : 'light');
});

/** @param {string} selector */
const press = (selector) => /** @type {HTMLElement?} */ (document.querySelector(selector))?.click();

document.addEventListener('keydown', (event) => {
  if (!element.isConnected) return;
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) press('#race');
  if (event.key === 'Escape' && racing()) press('#stop');
});

onValue(() => take(props.value || ''));
