// @ts-check
// The guided tour: five steps on the race that stands on the board. Every number and token in it is that race's.
import { $, findBoard, quoted, racing, recall, remember } from './dom.js';
import { count, duration } from './numbers.js';
import { ownToken, sentTokens } from './rounds.js';

/** @import {LaneView, Round, View} from './rounds.js' */
/**
 * What the tour goes through.
 * @typedef {object} Example
 * @property {View} view
 * @property {LaneView} plain
 * @property {LaneView} lane  one with a drafter
 * @property {Round} round  one of its rounds
 */
/**
 * @typedef {object} Step
 * @property {string} title
 * @property {(race: Example) => Element?} where  what it points at
 * @property {(race: Example) => string} words
 * @property {boolean} [mark]  the round is marked
 * @property {boolean} [look]  the inspector is opened
 */

const panel = $('.tour'), starter = $('.tour-start');
/** @type {HTMLButtonElement} */
const nextButton = $('.tour-next'), backButton = /** @type {HTMLButtonElement} */ ($('.tour-back'));
const KEY = 'tour';
let step = 0;
/** @type {Element?} */
let marked = null;

// ---- what the race has to show --------------------------------------------------------------------------

/** @param {LaneView} lane */
const rounds = (lane) => lane.rounds.length - 1;  // the first entry is the prompt's own token
/** @param {LaneView} lane */
const perRound = (lane) => lane.seconds / rounds(lane);

/**
 * The plain lane, a lane with a drafter, and a round of it with both an acceptance and a rejection where there is one.
 * @returns {Example?}
 */
function found() {
  const view = findBoard()?.view();
  if (!view || !['done', 'stopped'].includes(view.state)) return null;
  const plain = view.lanes.find((lane) => lane.plain && rounds(lane) > 0);
  const drafted = (/** @type {Round} */ round) => round.proposed > 0;
  const lane = view.lanes.find((l) => !l.plain && l.rounds.some(drafted));
  if (!plain || !lane) return null;
  const both = lane.rounds.filter((r) => r.accepted > 0 && r.tokens.some((t) => t.kind === 'r') && ownToken(r));
  const round = both.sort((a, b) => b.accepted - a.accepted)[0] || lane.rounds.find(drafted);
  return { view, plain, lane, round };
}

/** @type {readonly Step[]} */
const STEPS = [
  {
    title: 'One token at a time',
    where: ({ view, plain }) => view.pane(plain.i),
    words: ({ plain }) => 'The plain lane asks the target for one token, adds it to the text and asks again: '
      + count(rounds(plain), 'pass', 'passes') + ' for ' + count(plain.committed, 'token') + ', '
      + duration(perRound(plain)) + ' each. The target has to read all its weights for every single one.',
  },
  {
    title: 'A block is drafted',
    where: ({ view, lane, round }) => view.round(lane.i, round.at),
    mark: true,
    words: ({ lane, round }) => 'The ' + lane.name + ' lane has a drafter, a much smaller model beside the target. '
      + 'In round ' + (round.index + 1) + ' it wrote ' + count(round.drafted, 'token') + ' ahead'
      + (round.proposed < round.drafted ? ' and sent ' + round.proposed : '') + ': '
      + quoted(sentTokens(round).map((token) => token.text).join('')) + '.',
  },
  {
    title: 'One pass verifies it',
    where: () => document.querySelector('.inspector:not([hidden]) .inspector-scroll'),
    mark: true,
    look: true,
    words: ({ plain, round }) => 'One pass of the target goes over all ' + count(round.proposed, 'draft')
      + ' at once and says what it would have put in each slot: p beside the drafter’s q. Draft and pass together took '
      + duration(round.time - round.before) + '; a plain step takes ' + duration(perRound(plain)) + '.'
      + (document.querySelector('.inspector-bias:not([hidden]) .bias:not([hidden])')
        ? ' This drafter’s drafts see each other; DFlash’s do not. Switch that off here, and see what it drafts then.'
        : ''),
  },
  {
    title: 'What is kept',
    where: ({ view, lane, round }) => view.round(lane.i, round.at),
    mark: true,
    words({ round, view }) {
      const own = ownToken(round), refused = round.tokens.find((token) => token.kind === 'r');
      const token = own && own.kind !== 'e' ? quoted(own.text) : own ? 'the end of the answer' : null;
      const passed = round.accepted ? 'The first ' + count(round.accepted, 'draft') + ' passed: accepted. '
        : 'The first draft did not pass. ';
      const then = refused
        ? quoted(refused.text) + ' did not: rejected, and all behind it is discarded. '
          + (token ? 'In its place stands the target’s own token, the correction ' + token + '. ' : '')
        : token && !round.bonus
          ? 'The next one was a close call, so strict mode asked plain decoding’s own numbers, which chose '
            + token + '. '
        : token ? 'Nothing was rejected, so the same pass gives one more token, the bonus ' + token + '. ' : '';
      return passed + then + 'So this round gave ' + count(round.to - round.from, 'token')
        + (view.temperature
          ? ', each one drawn as the target alone would draw it: the text may be another, its chances are the same.'
          : ', each one the target’s choice: the text is the same as without a drafter.');
    },
  },
  {
    title: 'When it pays',
    where: ({ view, lane }) => view.figures(lane.i),
    words({ plain, lane }) {
      const n = rounds(lane), gave = lane.committed / n, cost = perRound(lane) / perRound(plain), times = gave / cost;
      const counted = (lane.rounds.slice(1).reduce((sum, round) => sum + round.length, 0) / n).toFixed(2);
      return 'Over the whole race a round of ' + lane.name + ' gave ' + gave.toFixed(2) + ' tokens '
        + (counted === gave.toFixed(2) ? ''
          : '(the pane counts ' + counted + ', with what the end of the answer cut off) ')
        + 'and took as long as ' + cost.toFixed(2) + ' plain steps. '
        + 'It pays when the first number is the larger one: here ' + times.toFixed(2) + ' × plain, so '
        + (times > 1 ? 'it pays' : 'it does not pay') + ' with this prompt, on this machine. '
        + 'Fewer drafts per round cost less; an easier text has more of them accepted.';
    },
  },
];

const MARGIN = 48;  // of the card, on both sides, in px

// ---- the panel ------------------------------------------------------------------------------------------

function show() {
  unmark();
  const race = found(), here = STEPS[step];
  remember(KEY, step);
  panel.hidden = false;
  starter.hidden = true;
  $('.tour-count').textContent = 'Guided tour, step ' + (step + 1) + ' of ' + STEPS.length;
  $('h2').textContent = here.title;
  backButton.disabled = step === 0;
  nextButton.textContent = step === STEPS.length - 1 ? 'Done' : 'Next';
  nextButton.disabled = !race;
  if (!race) {
    $('.tour-words').textContent = racing() ? 'The tour goes on when the race is over.'
      : 'The tour goes through a race of yours. Press Race, with a plain lane and a drafter; '
        + 'it goes on when the race is over.';
    light(document.querySelector('#race'));
    return;
  }
  $('.tour-words').textContent = here.words(race);
  const tab = /** @type {HTMLElement?} */ (document.querySelector('#tabs [role=tab]'));
  if (tab && tab.getAttribute('aria-selected') !== 'true') tab.click();
  const detail = { lane: race.lane.i, at: race.round.at, quiet: true };
  if (here.look) document.dispatchEvent(new CustomEvent('round-picked', { detail }));
  else if (here.mark) findBoard()?.mark(detail.lane, detail.at);
  light(here.where(race) || race.view.round(race.lane.i, race.round.at));
}

/** @param {Element?} node */
function light(node) {
  if (!node) return;
  marked = node;
  node.classList.add('tour-here');
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  node.scrollIntoView({ block: 'center', behavior: still ? 'instant' : 'smooth' });
  // Scrolling moves it up and down only: the card stands where there is room beside it.
  const { left, right } = node.getBoundingClientRect(), takes = panel.offsetWidth + MARGIN;
  panel.dataset.side = right > innerWidth - takes && left > takes ? 'left' : 'right';
}

function unmark() {
  marked?.classList.remove('tour-here');
  marked = null;
}

/** @param {boolean} done */
function leave(done) {
  unmark();
  panel.hidden = true;
  remember(KEY, done ? null : step);
  if (done) step = 0;
  offer();
  starter.focus({ preventScroll: true });
}

function offer() {
  const left = recall(KEY);
  starter.hidden = false;
  const place = 'step ' + (step + 1) + ' of ' + STEPS.length;
  starter.textContent = left === null ? 'Guided tour' : 'Go on with the tour (' + place + ')';
}

/** @param {number} by */
function go(by) {
  if (step + by >= STEPS.length) return leave(true);
  step = Math.max(0, step + by);
  show();
}

starter.addEventListener('click', () => { show(); $('h2').focus({ preventScroll: true }); });
nextButton.addEventListener('click', () => go(1));
backButton.addEventListener('click', () => go(-1));
$('.tour-leave').addEventListener('click', () => leave(false));
panel.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  event.stopPropagation();
  leave(false);
});

const again = () => { if (!panel.hidden) show(); };
document.addEventListener('round-shown', () => {
  if (!panel.hidden && STEPS[step].look && marked?.isConnected) light(marked);
});
document.addEventListener('race-over', again, true);  // they do not bubble
document.addEventListener('race-start', again, true);

const left = Number(recall(KEY));
step = Number.isInteger(left) && left > 0 && left < STEPS.length ? left : 0;
offer();
