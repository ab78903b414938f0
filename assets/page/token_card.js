// @ts-check
// A card at the token that is pointed at or has the focus: its fate, and what is known of it, from what is on the page
// already. Shift and an arrow go from token to token. A round that was looked at closer has its numbers from there.
import { board, how, lanes, panes, roundAt } from './board.js';
import { make } from './dom.js';
import { cardOf, cardText, telling } from './tokens.js';

/** @import {Found} from './board.js' */
/** @import {Known} from './rounds.js' */
/** @typedef {{ found: Found, j: number, node: HTMLElement }} Pointed  a token of a round */

const WAIT_MS = 140, GAP = 6, PANELS = '.lesson, .inspector, .tour';
const tip = make('div', 'token-card', undefined, { 'aria-hidden': 'true' });
tip.hidden = true;
board.append(tip);
/** What was computed of rounds after the race. @type {Map<string, Known>} */
const looked = new Map();
/** @type {HTMLElement?} */
let tipFor = null;
let soon = 0, coming = 0;  // a timer, and a frame that brings the card

/** @param {Found} found */
const nodesOf = ({ lane, round }) => /** @type {HTMLElement[]} */ (
  lane.nodes[round.at].flatMap((node) => [...node.querySelectorAll('.tok')]));

/**
 * @param {Element?} node
 * @returns {Pointed?}
 */
function tokenAt(node) {
  const mark = /** @type {HTMLElement?} */ (node?.closest?.('.round .tok') ?? null), found = roundAt(mark);
  const j = found && mark ? nodesOf(found).indexOf(mark) : -1;
  return found && mark && j >= 0 ? { found, j, node: mark } : null;
}

/** @param {Pointed} pointed */
const wordsOf = ({ found: { lane, round }, j }) => cardOf(lane, round, j, how.temperature,
  looked.get(lane.i + ' ' + round.at) ?? round.known);

/** @param {Pointed} pointed */
function showTip(pointed) {
  clearTimeout(soon);
  const { title, place, story, facts, note } = wordsOf(pointed), list = make('dl', '');
  for (const [name, value] of facts) {
    const fact = make('div', '');
    fact.append(make('dt', '', name), make('dd', '', value));
    list.append(fact);
  }
  tip.replaceChildren(make('p', 'token-title', title), make('p', 'token-place', place), make('p', '', story),
    ...facts.length ? [list] : [], ...note ? [make('p', 'token-place', note)] : []);
  tip.hidden = false;
  tipFor = pointed.node;
  const around = board.getBoundingClientRect(), spot = pointed.node.getClientRects()[0];
  if (!spot) return hideTip();
  const { offsetWidth: wide, offsetHeight: high } = tip, roof = Math.max(0, -around.top);
  const above = spot.top - around.top - high - GAP, below = spot.bottom - around.top + GAP;
  tip.style.left = Math.max(0, Math.min(around.width - wide, spot.left - around.left - 12)) + 'px';
  tip.style.top = (above >= roof ? above : below) + 'px';
}

function hideTip() {
  clearTimeout(soon);
  cancelAnimationFrame(coming);
  coming = 0;
  tip.hidden = true;
  tipFor = null;
}

/** The pointer may go from the token onto its card. */
function hideSoon() {
  clearTimeout(soon);
  soon = setTimeout(hideTip, WAIT_MS);
}

/** @param {EventTarget?} target */
const elementOf = (target) => target instanceof Element ? target : null;

panes.addEventListener('pointerover', ({ target }) => {
  const pointed = tokenAt(elementOf(target));
  if (!pointed) return tipFor ? hideSoon() : clearTimeout(soon);
  if (pointed.node === tipFor) return clearTimeout(soon);
  if (!tip.hidden) return showTip(pointed);
  clearTimeout(soon);
  soon = setTimeout(() => showTip(pointed), WAIT_MS);
});
panes.addEventListener('pointerleave', hideSoon);
tip.addEventListener('pointerenter', () => clearTimeout(soon));
tip.addEventListener('pointerleave', hideSoon);
panes.addEventListener('scroll', () => { if (!tip.hidden && !tip.matches(':hover')) hideTip(); },
  { capture: true, passive: true });  // one that is about to come finds its token where that is by then
for (const moved of ['race-start', 'replay-moment']) board.addEventListener(moved, hideTip);

// ---- by keyboard -----------------------------------------------------------------------------------------

panes.addEventListener('focusin', ({ target }) => {
  const pointed = tokenAt(elementOf(target)), found = pointed?.found ?? roundAt(elementOf(target));
  if (!found) return;
  const j = pointed?.j ?? telling(found.round), node = pointed?.node ?? nodesOf(found)[j];
  coming = requestAnimationFrame(() => {  // behind the scrolling
    coming = 0;
    if (node?.isConnected) showTip({ found, j, node });
  });
});
panes.addEventListener('focusout', hideTip);

/**
 * To the next token of a lane's answer, or the one before; from a round, to its first or last one.
 * @param {Found} here
 * @param {number} by
 */
function moveBy(here, by) {
  const { lane } = here, shownUpTo = lane.shown ?? lane.rounds.length;
  let round = here.round, j = tokenAt(document.activeElement)?.j ?? (by > 0 ? -1 : round.tokens.length);
  for (j += by; j < 0 || j >= round.tokens.length || !nodesOf({ lane, round })[j].offsetParent; j += by) {
    if (j >= 0 && j < round.tokens.length) continue;  // hidden by choice
    const other = lane.rounds[round.at + by];
    if (!other || other.at >= shownUpTo) return;
    round = other;
    j = by > 0 ? -1 : round.tokens.length;
  }
  const node = nodesOf({ lane, round })[j];
  node.tabIndex = -1;
  node.setAttribute('role', 'group');
  node.setAttribute('aria-label', cardText(wordsOf({ found: { lane, round }, j, node })));
  lane.stick = false;
  node.focus();
}

panes.addEventListener('keydown', (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key], here = roundAt(document.activeElement);
  if (!by || !event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
  const lane = lanes.find(({ text }) => text === document.activeElement), round = lane?.rounds[0];
  const from = here ?? (lane && round ? { lane, round } : null);
  if (!from) return;
  event.preventDefault();
  event.stopPropagation();
  moveBy(from, by);
}, { capture: true });
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || (tip.hidden && !coming) || !element.isConnected) return;
  hideTip();
  // Whoever has the focus in a panel means that, wherever the pointer happens to lie.
  if (document.body.dataset.race === 'running' || elementOf(event.target)?.closest(PANELS)) return;
  event.stopImmediatePropagation();
}, { capture: true });

// ---- what was computed after the race --------------------------------------------------------------------

/** @param {readonly (number | null | undefined)[]} row */
const numbersOf = (row) => row.filter((x) => typeof x === 'number');

document.addEventListener('round-shown', ({ detail }) => {
  const round = lanes[detail.lane]?.rounds[detail.at];
  if (!detail.round.recomputed || !round || round.known.p.length) return;
  const { slots } = detail.round.block;
  looked.set(detail.lane + ' ' + detail.at, {
    ...round.known, later: true, q: numbersOf(slots.map((slot) => slot.q)), p: numbersOf(slots.map((slot) => slot.p)),
    confidence: numbersOf(slots.map((slot) => slot.confidence)),
  });
});
board.addEventListener('race-start', () => looked.clear());
