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
