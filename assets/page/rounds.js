// @ts-check
// A race as plain data, and its rounds in words and numbers. Nothing here touches the page.
import { quoted } from './dom.js';

/**
 * A token of a round; its kind is one of the small letters in dspark_core/playground/stream.py.
 * @typedef {{ readonly kind: string, readonly text: string, readonly thought?: boolean }} Token
 */

/**
 * A round of a lane. The first of a lane is the token that the prompt itself gives, and has an index of -1.
 * @typedef {object} Round
 * @property {boolean} first
 * @property {number} index  its number in the race, from 0
 * @property {number} at  its place among the lane's rounds
 * @property {number} from  the committed tokens before it
 * @property {number} to  the committed tokens after it
 * @property {number} time  seconds of decoding at its end
 * @property {number} before  seconds of decoding at its beginning
 * @property {number} drafted  tokens in its block
 * @property {number} proposed  of which were sent to verification
 * @property {number} accepted
 * @property {boolean} bonus  all that were sent were accepted
 * @property {number} length  accepted + 1; where a stop token among the accepted ended the answer, accepted
 * @property {number} proposedSoFar  of all rounds up to this one
 * @property {number} acceptedSoFar  the same
 * @property {readonly Token[]} tokens
 * @property {Readonly<Parts>} parts
 * @property {Readonly<Known>} known
 */

/**
 * Seconds of a round's parts, which add up to it.
 * @typedef {object} Parts
 * @property {string} how  "timed" apart in the race, "split" by a cost curve; empty where all of it counts as
 *   verification
 * @property {number} draft
 * @property {number} verify
 * @property {number} again  of close calls that strict mode decided again
 * @property {number} wait  of everything else
 */

/**
 * What is known of a round's drafts, slot by slot, as far as the race wrote it down.
 * @typedef {object} Known
 * @property {boolean} later  q and p were computed after the race
 * @property {readonly number[]} confidence
 * @property {readonly number[]} q  the drafter's probabilities
 * @property {readonly number[]} p  the target's
 * @property {readonly Token[]} hidden  drafts that stand nowhere on the board
 */

/**
 * A lane as others than the board see it: frozen, and whole whatever moment a replay shows.
 * @typedef {object} LaneView
 * @property {number} i
 * @property {string} name
 * @property {boolean} plain
 * @property {number} committed  tokens, without the one that the prompt gives
 * @property {number} seconds  of decoding
 * @property {readonly Readonly<Round>[]} rounds
 */

/**
 * A race as others than the board see it, and the elements that show parts of it.
 * @typedef {object} View
 * @property {string} state  "idle", "running", "done", "stopped" or "failed"
 * @property {number} temperature  of the race; 0 is greedy
 * @property {readonly Readonly<LaneView>[]} lanes
 * @property {(i: number) => HTMLElement} pane  of a lane
 * @property {(i: number) => HTMLElement} figures  of a lane
 * @property {(i: number, at: number) => HTMLElement} round  of a lane, where it begins
 */

/**
 * The board's element: `view` is the race on it, `mark` marks a round (or none), `explain` puts words where those of a
 * round stand.
 * @typedef {HTMLElement & {
 *   view: () => Readonly<View>, mark: (i?: number, at?: number) => void, explain: (words: string) => void,
 * }} Board
 */

// ---- places --------------------------------------------------------------------------------------------

/**
 * How many numbers of the ascending list are at most x.
 * @param {readonly number[]} list
 * @param {number} x
 */
export function countUpTo(list, x) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] <= x) low = middle + 1; else high = middle;
  }
  return low;
}

/**
 * The drafts of a round that were sent to verification.
 * @param {Round} round
 */
export const sentTokens = (round) => round.tokens.filter((token) => 'ard'.includes(token.kind));

/**
 * The token that the target itself ends a round with, if it does: not where a draft that was accepted ended the answer.
 * @param {Round} round
 */
export function ownToken(round) {
  if (round.to - round.from <= round.accepted) return undefined;
  return round.tokens.filter((token) => 'cbpe'.includes(token.kind)).at(-1);
}

const ROUNDING = 1e-3;  // of a record's seconds, which have four digits

/**
 * What a record says of a round beside its tokens.
 * @param {readonly string[]} fields  none where nothing is known
 * @param {number} seconds  that it took
 * @returns {{ parts: Readonly<Parts>, known: Readonly<Known> }}
 */
export function moreOf([how = '', draft, verify, again, later, confidence, q, p, ...hidden], seconds) {
  const [a, b, c] = [draft, verify ?? seconds, again].map((text) => Number(text ?? 0));
  const left = seconds - a - b - c, wait = left > ROUNDING * seconds ? left : 0;
  const numbers = (/** @type {string | undefined} */ text) => Object.freeze(text ? text.split(' ').map(Number) : []);
  const tokens = hidden.map((text) => Object.freeze({ kind: text[0], text: text.slice(1) }));
  return {
    parts: Object.freeze({ how, draft: a, verify: seconds - a - c - wait, again: c, wait }),
    known: Object.freeze({
      later: later === '1', confidence: numbers(confidence), q: numbers(q), p: numbers(p),
      hidden: Object.freeze(tokens),
    }),
  };
}

/**
 * Every draft of a round in its slot, those that stand nowhere on the board among them.
 * @param {Round} round
 * @returns {Token[]}
 */
export function draftsOf(round) {
  const own = ownToken(round), again = own?.kind === 'p' && round.proposed > 0;  // it is a draft, too
  return [...round.tokens.filter((token) => token !== own || again), ...round.known.hidden];
}

// ---- before it is checked --------------------------------------------------------------------------------

/**
 * A round's phases, each with the moment at which it ends, in seconds from the round's beginning: its block is drafted,
 * the target checks it.
 * @param {Round} round
 * @returns {[phase: 'draft' | 'check', end: number][]}
 */
export function phasesOf({ drafted, before, time, parts }) {
  const length = time - before, drafting = parts.how ? parts.draft : length / 3;
  return drafted ? [['draft', drafting], ['check', length]] : [['check', length]];
}

/**
 * The phase that a round is in, and how much of it is over; none before it has begun and once it is over.
 * @param {Round} round
 * @param {number} elapsed  seconds from its beginning
 * @returns {{ phase: 'draft' | 'check', share: number }?}
 */
export function phaseAt(round, elapsed) {
  if (elapsed <= 0 || elapsed >= round.time - round.before) return null;
  let from = 0;
  for (const [phase, end] of phasesOf(round)) {
    if (elapsed < end) return { phase, share: (elapsed - from) / (end - from) };
    from = end;
  }
  return null;
}

/**
 * The next moment to look at, when a round is gone through phase by phase: the middle of a phase, or the round's end.
 * @param {Round} round
 * @param {number} elapsed  seconds from its beginning
 */
export function nextStop(round, elapsed) {
  let from = 0;
  for (const [, end] of phasesOf(round)) {
    const middle = (from + end) / 2;
    if (middle > elapsed + 1e-9) return middle;
    from = end;
  }
  return round.time - round.before;
}

// ---- rounds in words -----------------------------------------------------------------------------------

/**
 * A round in one line, without the name of its lane.
 * @param {{ readonly plain: boolean }} lane
 * @param {Round} round
 */
export function describe(lane, round) {
  const at = round.to - round.from > 1 ? 'tokens ' + (round.from + 1) + ' to ' + round.to : 'token ' + (round.from + 1);
  const own = ownToken(round), chosen = !own ? '' : own.kind === 'e' ? 'the end of its answer' : quoted(own.text);
  if (round.first) return at + ': ' + chosen + ', from the prompt itself; it belongs to no round.';
  const took = (round.time - round.before).toFixed(3) + ' s.';
  if (lane.plain) return at + ': ' + chosen + ', ' + took;
  const place = 'round ' + (round.index + 1) + ', ' + at + '. ';
  if (!round.drafted) return place + 'Nothing drafted; a plain step gives ' + chosen + '. ' + took;
  return place + fate(round, chosen) + '. ' + took;
}

/**
 * Where a round's time went, and how that is known; nothing where it was one pass of the target.
 * @param {Round} round
 */
export function partWords({ parts }) {
  if (!parts.how && !parts.again) return '';
  const named = [['drafting', parts.draft], ['verification', parts.verify], ['decided again', parts.again],
    ['waiting', parts.wait]].filter(([, seconds]) => Number(seconds) >= 0.0005);
  const words = named.map(([name, seconds]) => name + ' ' + Number(seconds).toFixed(3) + ' s').join(', ');
  const how = parts.how === 'timed' ? ', timed apart' : parts.how ? ', split as the cost curve has it' : '';
  return words && words[0].toUpperCase() + words.slice(1) + how + '.';
}

/**
 * What became of a round's drafts.
 * @param {Round} round
 * @param {string} chosen  the target's own token in words, or nothing
 */
function fate(round, chosen) {
  const accepted = round.tokens.filter((token) => token.kind === 'a').map((token) => token.text).join('');
  const rejected = round.tokens.find((token) => token.kind === 'r');
  const sent = round.proposed === round.drafted ? 'all sent' : round.proposed + ' sent';
  const ended = !chosen && round.tokens.some((token) => token.kind === 'e');
  const which = [accepted && quoted(accepted), ended && 'the end of its answer'].filter(Boolean).join(' and ');
  const words = round.drafted + ' drafted, ' + sent + ', ' + round.accepted + ' accepted' + (which && ': ' + which);
  if (rejected) {
    return words + '; ' + quoted(rejected.text) + ' rejected' + (chosen && ', the target’s correction is ' + chosen);
  }
  if (!chosen) return words;
  if (!round.proposed) return words + '; the target’s own token is ' + chosen;
  if (round.bonus) return words + '; nothing rejected, the target’s bonus is ' + chosen;
  return words + '; the draft after them was a close call: plain decoding’s own numbers decided it again, for '
    + chosen;
}
