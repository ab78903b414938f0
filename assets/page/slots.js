// @ts-check
// A round that is looked at closer (an Inspection of dspark_core/race/inspection.py), and what is said of its slots.
// Nothing here touches the page.
import { quoted } from './dom.js';
import { fine, known } from './numbers.js';

/** @import {Maybe} from './numbers.js' */
/**
 * @typedef {{ token_id: number, text: string, probability: number }} Candidate
 * @typedef {{ token_id: number, text: string, kind: string, candidates: Candidate[], rejected: Maybe }} OwnToken
 * @typedef {{ slots: Slot[], accepted: number, own: OwnToken? }} Block
 */
/**
 * @typedef {object} Slot
 * @property {number} token_id
 * @property {string} text
 * @property {string} outcome  "accepted", "rejected", "discarded", "unsent" or "again"
 * @property {Maybe} q  the drafter's probability
 * @property {Maybe} p  the target's
 * @property {Maybe} accept  min(1, p/q)
 * @property {Maybe} drawn  the number that was compared with it
 * @property {Maybe} confidence
 * @property {Candidate[]} drafter
 * @property {Candidate[]} target
 */
/**
 * @typedef {object} Inspection
 * @property {Block} block
 * @property {Block?} without  the block whose drafts do not see each other, if the drafter has one
 * @property {string} [bias]  what lets them: "Markov bias", "selector"
 * @property {number} [candidates]  tokens that each draft was settled among; none: all
 * @property {boolean} greedy
 * @property {number} temperature
 * @property {number} written  tokens that became part of the answer
 * @property {boolean} recomputed
 * @property {boolean?} agrees
 * @property {number} prefix
 * @property {number} reused
 * @property {number} seconds
 */

const MOST_SLOTS = 64;

/**
 * What lets a round's drafts see each other; races of older versions have Markov biases alone.
 * @param {Inspection} round
 */
export const biasOf = (round) => round.bias || 'Markov bias';

/**
 * @param {Inspection} round
 * @param {boolean} withBias
 */
export const blockOf = (round, withBias) => withBias || !round.without ? round.block : round.without;

/**
 * The drafted slots, then the target's own token. (The anchor is no slot.)
 * @param {Inspection} round
 * @param {boolean} withBias
 * @returns {(Slot | OwnToken)[]}
 */
export function cellsOf(round, withBias) {
  const { slots, own } = blockOf(round, withBias);
  return [...slots.slice(0, MOST_SLOTS), ...(own ? [own] : [])];
}

/**
 * @param {Slot | OwnToken} cell
 * @returns {cell is OwnToken}
 */
export const isOwn = (cell) => !('outcome' in cell);

/**
 * The cell to look at first: what was rejected, else the last one.
 * @param {Inspection} round
 * @param {boolean} withBias
 */
export function interesting(round, withBias) {
  const at = blockOf(round, withBias).slots.findIndex((slot) => slot.outcome === 'rejected');
  return at >= 0 ? at : Math.max(0, cellsOf(round, withBias).length - 1);
}

/**
 * Whether the target's own token became part of the answer: the answer may have ended inside the block.
 * @param {Inspection} round
 * @param {boolean} withBias
 */
export const written = (round, withBias) => !withBias || round.written > round.block.accepted;

const ALTERNATIVES = 5;

/**
 * What the drafter might have put into every slot: the most probable tokens, with and without what lets its drafts see
 * each other. Nothing where they were not computed; no row without where it has no such thing.
 * @param {Inspection} round
 * @returns {{ slot: number, how: string, drafted: number, best: number?, tokens: readonly Candidate[] }[]}
 */
export function alternativesOf(round) {
  const name = biasOf(round);
  return round.block.slots.slice(0, MOST_SLOTS).flatMap((slot, k) => {
    const other = round.without?.slots[k], best = slot.target[0]?.token_id ?? null;
    const kinds = other ? [['with ' + name, slot], ['without', other]] : [['', slot]];
    return /** @type {[string, Slot][]} */ (kinds).filter(([, { drafter }]) => drafter.length).map(([how, from]) => ({
      slot: k, how, drafted: from.token_id, best, tokens: from.drafter.slice(0, ALTERNATIVES),
    }));
  });
}

/**
 * Where what is shown of a round comes from.
 * @param {Inspection} round
 */
export function recomputedWords({ block, recomputed, prefix, reused, seconds, agrees, greedy, temperature }) {
  if (!recomputed) return 'What the race wrote down.';
  const how = greedy
    ? 'Greedy keeps a draft if it is the target’s most probable token; the probabilities are shown at temperature 1.'
    : 'At temperature ' + temperature + ', with the race’s own random numbers.';
  const same = agrees && block?.slots.length === 0 ? 'the same token'
    : agrees ? 'the same drafts, the same fate'
    : 'it came out differently this time, the drafts and fate shown are the race’s';
  const again = reused ? ' (' + reused + ' still at hand)' : '';
  return 'Recomputed from the ' + prefix + ' tokens before this round' + again + ' in ' + seconds.toFixed(2) + ' s: '
    + same + '. ' + how;
}

/**
 * What became of a drafted token, and why.
 * @param {Inspection} round
 * @param {boolean} withBias
 * @param {Slot} slot
 * @param {number} k
 */
export function slotStory(round, withBias, slot, k) {
  const who = withBias || !round.without ? 'The drafter put '
    : 'Without the ' + biasOf(round) + ' the drafter would put ';
  const put = who + quoted(slot.text) + ' into slot ' + (k + 1) + (known(slot.q) ? ' with q = ' + fine(slot.q) : '');
  if (slot.outcome === 'unsent') return put + '. It was not sent to the target.';
  const both = put + (known(slot.p) ? '; the target gives it p = ' + fine(slot.p) : '') + '. ';
  if (slot.outcome === 'discarded') {
    const behind = blockOf(round, withBias).slots.some((other) => other.outcome === 'rejected');
    return both + (behind ? 'A draft before it was rejected, so it is discarded, whatever it is.'
      : 'The answer ended before it.');
  }
  if (slot.outcome === 'again') {
    return both + 'The verification refused it, but so closely that strict mode asked plain decoding’s own numbers: '
      + 'they chose this very token, and it stands in the answer.';
  }
  if (round.greedy) return both + greedyFate(slot, blockOf(round, withBias).own);
  const rule = known(slot.accept) ? 'It is accepted with probability min(1, p/q) = ' + fine(slot.accept)
    : 'It was compared with p/q';
  const drawn = known(slot.drawn) ? '; the number drawn was ' + fine(slot.drawn) : '';
  return both + rule + drawn + ': ' + slot.outcome + '.';
}

/**
 * What became of a draft where the most probable token decides.
 * @param {Slot} slot
 * @param {OwnToken?} own  the target's own token behind the accepted drafts
 */
function greedyFate(slot, own) {
  const best = slot.target[0], itself = best?.token_id === slot.token_id;
  if (slot.outcome === 'accepted') {
    return !best || itself ? 'It is the target’s most probable token: accepted.'
      : 'In the race it was the target’s most probable token: accepted. Computed again, that is ' + quoted(best.text)
        + ', by rounding.';
  }
  if (itself) {
    return 'Computed again it is the target’s most probable token; by the numbers that decided in the race it was not: '
      + 'rejected.';
  }
  const other = best ?? (own?.kind === 'correction' ? own : null);
  return 'The target’s most probable token is ' + (other ? quoted(other.text) : 'another one') + ': rejected.';
}

/**
 * Where the target's own token comes from.
 * @param {Inspection} round
 * @param {boolean} withBias
 * @param {OwnToken} own
 */
export function ownStory(round, withBias, own) {
  const token = quoted(own.text);
  const unwritten = written(round, withBias) ? '' : ' It is not part of the answer, which ended inside the block.';
  if (own.kind === 'bonus') {
    return 'Nothing was rejected, so the same pass of the target also gives the next token: ' + token + ', the bonus.'
      + unwritten;
  }
  if (own.kind === 'again') {
    return 'A close call: strict mode asked plain decoding’s own numbers, and they chose the token that was drafted '
      + 'here: ' + token + '.' + unwritten;
  }
  if (own.kind === 'own') {
    return 'Nothing was sent to verification: the target’s own token is ' + token + '.' + unwritten;
  }
  const story = round.greedy
    ? 'In place of the rejected draft the target’s most probable token is taken: ' + token
      + '. (Sampling would draw from the residual: what p has more than q.)'
    : 'In place of the rejected draft a token is drawn from the residual, what p has more than q: ' + token + '.';
  const mass = known(own.rejected)
    ? ' A draft here is rejected with probability ' + fine(own.rejected) + (round.greedy ? ' at temperature 1.' : '.')
    : '';
  return story + mass + unwritten;
}
