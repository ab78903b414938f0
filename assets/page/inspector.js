// @ts-check
// The round inspector: what stands in its value (dspark_core/playground/inspector_panel.py says which JSON) is drawn as
// a row of slots and the chosen slot's distributions. Model text goes through textContent only.
import { $, findBoard, make, racing, visible } from './dom.js';
import { known, short } from './numbers.js';
import { describe } from './rounds.js';
import {
  alternativesOf, biasOf, blockOf, cellsOf, interesting, isOwn, ownStory, recomputedWords, slotStory, written,
} from './slots.js';

/** @import {Candidate, Inspection, OwnToken, Slot} from './slots.js' */
/** @typedef {{ lane: number, at: number }} Place  a round: its lane, and its place among the lane's rounds */

const panel = $('.inspector'), row = $('.slots'), slotPanel = $('.slot-panel'), bias = $('.bias');
const MOST_CANDIDATES = 16;
/** @type {Place?} */
let place = null;
/** @type {Inspection?} */
let round = null;
/** @type {HTMLElement?} */
let opener = null;
let asked = 0, withBias = true, chosen = 0;
let scrolls = false;  // the page scrolls along until the round stands there

/** @type {Record<string, string>} */
const KIND = {
  accepted: 'a', rejected: 'r', discarded: 'd', unsent: 'u', correction: 'c', bonus: 'b', own: 'p', again: 'p',
};
/** @type {Record<string, string>} */
const FATE = {
  accepted: 'accepted', rejected: 'rejected', discarded: 'discarded', unsent: 'not sent',
  correction: 'correction', bonus: 'bonus', own: 'the target’s own',
  again: 'decided again',
};

// ---- what is asked for ----------------------------------------------------------------------------------

const lanes = () => findBoard()?.view().lanes ?? [];

/**
 * Look at a round, if it can be looked at.
 * @param {Place & { quiet?: boolean }} where  quiet: neither focus nor the page's scroll position moves
 * @param {HTMLElement} [from]  where the focus goes back to
 */
function open({ lane, at, quiet }, from) {
  const held = lanes()[lane]?.rounds[at];
  if (!held || held.first) return;
  if (findBoard()?.hasAttribute('data-recorded')) {
    findBoard()?.mark(lane, at);
    if (!quiet) findBoard()?.explain('This is a recording. Press Race: the rounds of your own race can be opened.');
    return;
  }
  if (racing()) {
    findBoard()?.explain('A round can be opened when the race is over. Stop ends it.');
    return;
  }
  const fresh = Boolean(panel.hidden), moves = !quiet && (fresh || Boolean(from));
  if (fresh || from) opener = from || /** @type {HTMLElement?} */ (document.activeElement);
  place = { lane, at };
  round = null;
  asked += 1;
  panel.hidden = false;
  findBoard()?.mark(lane, at);
  drawHead(place);
  say('Looking …');
  if (fresh) {
    $('.inspector-scroll').querySelector('.slot-labels')?.remove();
    row.replaceChildren();
    slotPanel.replaceChildren();
    $('.inspector-bias').hidden = $('.alternatives').hidden = true;
  }
  trigger('select', { n: asked, lane, index: held.index });
  if (moves) panel.focus({ preventScroll: true });
  scrolls = moves;
}

function close() {
  if (panel.hidden) return;
  panel.hidden = true;
  asked += 1;
  trigger('clear', {});
  findBoard()?.mark();
  if (opener?.isConnected) opener.focus({ preventScroll: true });
  place = round = null;
}

/** @param {Place} here */
function drawHead(here) {
  const all = lanes(), lane = all[here.lane], held = lane.rounds[here.at];
  const words = describe(lane, held);
  panel.style.setProperty('--q', 'var(--lane-' + lane.i % 4 + ')');
  $('h2').textContent = lane.name + ', round ' + (held.index + 1);
  $('.inspector-what').textContent = words[0].toUpperCase() + words.slice(1);
  /** @type {HTMLButtonElement} */
  const previous = $('.look-previous'), next = /** @type {HTMLButtonElement} */ ($('.look-next'));
  previous.disabled = here.at <= 1;
  next.disabled = here.at >= lane.rounds.length - 1;
  const elsewhere = $('.look-elsewhere');
  elsewhere.replaceChildren();
  for (const other of all) {
    const at = other.rounds.findIndex((r) => !r.first && r.to > held.from);
    if (other === lane || at < 0) continue;
    const go = make('button', 'look-other', other.name);
    go.type = 'button';
    go.dataset.lane = String(other.i);
    go.addEventListener('click', () => {
      open({ lane: other.i, at });
      panel.focus({ preventScroll: true });
    });
    elsewhere.append(go);
  }
  if (elsewhere.childElementCount) elsewhere.prepend(make('span', '', 'Same place in'));
}

/**
 * @param {string} words
 * @param {string} [state]
 */
function say(words, state) {
  $('.inspector-known').textContent = words;
  panel.dataset.state = state || 'busy';
}

// ---- what came ------------------------------------------------------------------------------------------

function take() {
  if (!props.value || panel.hidden) return;
  const answer = JSON.parse(props.value);
  if (answer.n !== asked) return;  // of a round that is not looked at any more
  const first = !round, failed = answer.state === 'failed' && answer.round;
  round = answer.round;
  const words = answer.words + (failed ? ' Below stands what the race wrote down.' : '');
  say(round && answer.state === 'done' ? recomputedWords(round) : words, answer.state);
  if (!round) return;
  if (first) chosen = interesting(round, withBias);
  drawBias(round);
  drawSlots(round);
  drawAlternatives(round);
  if (answer.state !== 'busy') {
    const detail = { lane: place?.lane ?? 0, at: place?.at ?? 0, round };
    panel.dispatchEvent(new CustomEvent('round-shown', { bubbles: true, detail }));
  }
  if (!scrolls) return;
  if (answer.state !== 'busy') scrolls = false;
  const { top, height } = panel.getBoundingClientRect();  // all of it if it fits, else from its top on
  if (top < 0 || top + height > innerHeight) panel.scrollIntoView({ block: height > innerHeight ? 'start' : 'end' });
}

/** @param {Inspection} looked */
function drawBias(looked) {
  const name = biasOf(looked);
  const none = !looked.recomputed || !looked.block.slots.length;
  $('.inspector-bias').hidden = none || Boolean(looked.bias && !looked.without);
  bias.hidden = !looked.without;
  bias.textContent = name[0].toUpperCase() + name.slice(1);
  bias.setAttribute('aria-checked', String(withBias));
  const n = looked.block.slots.filter((s) => s.outcome !== 'unsent').length;
  $('.inspector-bias p').textContent = !looked.without
    ? 'This drafter has no ' + name + ': all slots are drafted at once, and none knows which token was drafted before '
      + 'it.'
    : 'With it ' + looked.block.accepted + ' of ' + n + ' drafts are kept, without it ' + looked.without.accepted
      + ' of ' + n + '. ' + (withBias ? 'It tells each slot which token was drafted before it'
      + (looked.candidates ? ', and chooses among the slot’s ' + looked.candidates + ' best.' : '.')
      : 'Now no slot knows which token was drafted before it.');
}

/**
 * @param {string} kind
 * @param {number | null | undefined} value
 */
function level(kind, value) {
  const track = make('span', 'level ' + kind), fill = make('i');
  if (known(value)) fill.style.height = 100 * share(value) + '%'; else track.classList.add('unknown');
  track.append(fill);
  return track;
}

/** @param {number} x */
const share = (x) => Math.max(0, Math.min(1, x));

/** @type {readonly (readonly [string, 'q' | 'p' | 'accept' | 'drawn' | 'confidence'])[]} */
const ROWS = [
  ['q drafter', 'q'], ['p target', 'p'], ['min(1, p/q)', 'accept'], ['drawn', 'drawn'], ['confidence', 'confidence'],
];

/** @param {Inspection} looked */
function drawSlots(looked) {
  const focus = row.contains(document.activeElement);
  const rows = ROWS.filter(([, key]) => blockOf(looked, withBias).slots.some((s) => known(s[key])));
  const labels = make('div', 'slot-labels', undefined, { 'aria-hidden': 'true' });
  for (const name of ['slot', '', '', '', ...rows.map(([name]) => name)]) {
    labels.append(make('span', /^[qp] /.test(name) ? 'key ' + name[0] : '', name));
  }
  row.replaceChildren(...cellsOf(looked, withBias).map((cell, k) => slotTab(looked, cell, k, rows)));
  $('.inspector-scroll').querySelector('.slot-labels')?.remove();
  $('.inspector-scroll').prepend(labels);
  choose(Math.min(chosen, row.childElementCount - 1), focus);
}

/**
 * @param {Inspection} looked
 * @param {Slot | OwnToken} cell
 * @param {number} k
 * @param {typeof ROWS} rows
 */
function slotTab(looked, cell, k, rows) {
  const own = isOwn(cell), fate = own ? cell.kind : cell.outcome, unwritten = own && !written(looked, withBias);
  const tab = make('div', 'slot', undefined, { role: 'tab', 'aria-controls': 'slot-panel' });
  tab.id = 'slot-' + k;
  tab.dataset.fate = fate;
  tab.append(  // its content is its name; what only the labels on the left say is added for a screen reader
    make('span', 'sr-only', own ? '' : 'slot'),
    make('span', 'slot-number', own ? 'target' : k + 1),
    make('span', 'tok ' + KIND[fate], visible(cell.text)),
    make('span', 'slot-fate', FATE[fate] + (unwritten ? ', not written' : '')),
  );
  const levels = make('span', 'levels');
  tab.append(levels);
  if (!own) {
    levels.append(level('q', cell.q), level('p', cell.p));
    for (const [name, key] of rows) {
      tab.append(make('span', 'sr-only', name), make('span', 'slot-value', short(cell[key])));
    }
    const drafted = looked.block.slots[k], changed = !withBias && looked.without && drafted?.token_id !== cell.token_id;
    if (changed) tab.append(make('span', 'slot-was', 'was ' + visible(drafted?.text ?? '')));
  }
  tab.addEventListener('click', () => choose(k, true));
  return tab;
}

/**
 * @param {number} k
 * @param {boolean} focus
 */
function choose(k, focus) {
  chosen = k;
  const tabs = /** @type {HTMLElement[]} */ ([...row.children]);
  tabs.forEach((tab, i) => {
    tab.setAttribute('aria-selected', String(i === k));
    tab.tabIndex = i === k ? 0 : -1;
  });
  const tab = tabs[k];
  if (!tab || !round) return;
  slotPanel.setAttribute('aria-labelledby', tab.id);
  if (focus) tab.focus();
  drawSlot(round, cellsOf(round, withBias)[k], k);
}

const RESIDUAL = 'Residual max(p − q, 0)';

/**
 * @param {Inspection} looked
 * @param {Slot | OwnToken} cell
 * @param {number} k
 */
function drawSlot(looked, cell, k) {
  const tables = make('div', 'tops');
  const words = isOwn(cell) ? ownStory(looked, withBias, cell) : slotStory(looked, withBias, cell, k);
  slotPanel.replaceChildren(make('p', 'slot-story', words), tables);
  if (isOwn(cell)) {
    const corrects = cell.kind === 'correction', slots = blockOf(looked, withBias).slots.length;
    const title = corrects ? RESIDUAL : slots ? 'Target, after the block' : 'Target';
    top(tables, title, cell.candidates, cell.token_id, corrects ? 'left' : 'p');
  } else {
    const few = withBias && looked.candidates ? ', of ' + looked.candidates + ' candidates' : '';
    top(tables, 'Drafter, slot ' + (k + 1) + few, cell.drafter, cell.token_id, 'q');
    top(tables, 'Target, slot ' + (k + 1), cell.target, cell.token_id, 'p');
    const own = blockOf(looked, withBias).own;
    if (cell.outcome === 'rejected' && own) top(tables, RESIDUAL, own.candidates, own.token_id, 'left');
    const other = looked.without && blockOf(looked, !withBias).slots[k];
    if (other) {
      const title = 'Drafter, slot ' + (k + 1) + ', with' + (withBias ? 'out ' : ' ') + biasOf(looked);
      top(tables, title, other.drafter, other.token_id, 'q', 'other');
    }
  }
  if (!tables.childElementCount) {
    const busy = panel.dataset.state === 'busy';
    tables.append(make('p', 'slot-none', busy ? 'Computing …' : 'The race wrote down no distribution here.'));
  }
}

/**
 * The most probable tokens of a distribution.
 * @param {HTMLElement} into
 * @param {string} title
 * @param {readonly Candidate[]} candidates
 * @param {number} token  the one that is looked at
 * @param {string} kind
 * @param {string} [look]
 */
function top(into, title, candidates, token, kind, look = 'top') {
  if (!candidates.length) return;
  const most = candidates.slice(0, MOST_CANDIDATES);
  const table = make('table', look + ' ' + kind), body = make('tbody');
  for (const c of most) {
    const line = make('tr', c.token_id === token ? 'this' : '');
    const name = make('th', '', visible(c.text), { scope: 'row' });
    const across = make('td', 'across'), fill = make('i');
    if (c.token_id === token) name.append(make('span', 'sr-only', ' (this token)'));
    fill.style.width = 100 * share(c.probability) + '%';
    across.append(fill);
    line.append(name, make('td', '', short(c.probability)), across);
    body.append(line);
  }
  table.append(make('caption', '', title + ': top ' + most.length), body);
  into.append(table);
}

/**
 * Every slot's alternatives in one table: a row a slot, or two.
 * @param {Inspection} looked
 */
function drawAlternatives(looked) {
  const place = $('.alternatives'), all = alternativesOf(looked), table = make('table'), body = make('tbody');
  place.hidden = !all.length;
  if (!all.length) return;
  const bias = looked.without ? ', with and without ' + biasOf(looked) : '', most = all[0].tokens.length;
  const title = 'Every slot’s ' + (most === 5 ? 'five' : most) + ' most probable drafts' + bias;
  $('.alternatives summary').textContent = title;
  for (const { slot, how, drafted, best, tokens } of all) {
    const line = make('tr', how === 'without' ? 'without' : ''), name = 'slot ' + (slot + 1) + (how ? ', ' + how : '');
    line.append(make('th', '', name, { scope: 'row' }));
    for (const { token_id, text, probability } of tokens) {
      const cell = make('td', token_id === drafted ? 'drafted' : ''), right = token_id === best;
      const marks = [token_id === drafted && 'drafted', right && 'the target’s choice'].filter(Boolean).join(', ');
      cell.style.setProperty('--share', 100 * share(probability) + '%');
      cell.append(make('b', right ? 'right' : '', visible(text)), ' ' + short(probability));
      if (marks) cell.append(make('span', 'sr-only', ' (' + marks + ')'));
      line.append(cell);
    }
    body.append(line);
  }
  table.append(make('caption', '', '▸ was drafted; ✓ is the target’s most probable token there, behind the drafts '
    + 'before it.'), body);
  const scroll = $('.alternatives-scroll');
  scroll.setAttribute('aria-label', title);
  scroll.replaceChildren(table);
}

// ---- moving ---------------------------------------------------------------------------------------------

/** @type {Record<string, number>} */
const MOVES = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

row.addEventListener('keydown', (event) => {
  if (!(event.key in MOVES) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(row.childElementCount - 1, chosen + MOVES[event.key])), true);
});

bias.addEventListener('click', () => {
  if (!round) return;
  withBias = !withBias;
  chosen = interesting(round, withBias);
  drawBias(round);
  drawSlots(round);
});

/** @param {number} by */
const step = (by) => () => { if (place) open({ lane: place.lane, at: place.at + by }); };
$('.look-previous').addEventListener('click', step(-1));
$('.look-next').addEventListener('click', step(1));
$('.look-close').addEventListener('click', close);
panel.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  event.stopPropagation();
  close();
});

// ---- the board ------------------------------------------------------------------------------------------

document.addEventListener('round-picked', (event) => open(event.detail, event.detail.from));
document.addEventListener('race-start', close, true);  // it does not bubble
watch('value', take);
