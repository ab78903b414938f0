// @ts-check
// A token of a round in words: its fate, and what the race wrote down of it. The words are the inspector's own, from as
// much as is known here. Nothing in this file touches the page.
import { quoted } from './dom.js';
import { fine, known } from './numbers.js';
import { draftsOf, ownToken } from './rounds.js';
import { ownStory, slotStory } from './slots.js';

/** @import {Known, Round} from './rounds.js' */
/** @import {Inspection, Slot} from './slots.js' */
/**
 * What stands on a token's card.
 * @typedef {object} CardWords
 * @property {string} title  the token, and its fate in a word or two
 * @property {string} place
 * @property {string} story
 * @property {[name: string, value: string][]} facts
 * @property {string} note  on the facts
 */

/** @type {Record<string, string>} */
const OUTCOMES = { a: 'accepted', e: 'accepted', r: 'rejected', d: 'discarded', u: 'unsent' };
/** @type {Record<string, string>} */
const OWN_KINDS = { c: 'correction', b: 'bonus', p: 'own' };
/** @type {Record<string, string>} */
const FATES = {
  unsent: 'not sent', own: 'the target’s own', again: 'decided again', correction: 'correction', bonus: 'bonus',
};

/**
 * The round as the inspector takes one, from what the race itself wrote down.
 * @param {Round} round
 * @param {number} temperature
 * @param {Known} numbers
 * @returns {Inspection}
 */
function inspectionOf(round, temperature, numbers) {
  const own = ownToken(round), again = own?.kind === 'p' && round.proposed > 0;
  const slots = draftsOf(round).map((token, k) => {
    const q = numbers.q[k] ?? null, p = numbers.p[k] ?? null, unsent = token.kind === 'u' && k < round.proposed;
    return /** @type {Slot} */ ({
      token_id: k, text: token.text, q, p, confidence: numbers.confidence[k] ?? null, drawn: null,
      accept: known(q) && known(p) ? Math.min(1, p / q) : null, drafter: [], target: [],
      outcome: token === own ? 'again' : unsent ? 'discarded' : OUTCOMES[token.kind],
    });
  });
  const kind = again ? 'again' : own?.kind !== 'e' ? OWN_KINDS[own?.kind ?? 'p']
    : !round.proposed ? 'own' : round.bonus ? 'bonus' : 'correction';
  return {
    block: {
      slots, accepted: round.accepted,
      own: own ? { token_id: -1, text: own.text, kind, candidates: [], rejected: null } : null,
    },
    without: null, greedy: temperature === 0, temperature: temperature || 1, written: round.to - round.from,
    recomputed: false, agrees: null, prefix: 0, reused: 0, seconds: 0,
  };
}

/**
 * @param {{ readonly name: string, readonly plain: boolean }} lane
 * @param {Round} round
 * @param {number} j  which of its tokens
 * @param {number} temperature
 * @param {Known} [numbers]  in place of the round's own
 * @returns {CardWords}
 */
export function cardOf(lane, round, j, temperature, numbers = round.known) {
  const token = round.tokens[j], named = token.kind === 'e' ? 'the end of the answer' : quoted(token.text);
  /** @type {CardWords} */
  const card = { title: named, place: lane.name, story: '', facts: [], note: '' };
  if (round.first) return { ...card, story: 'The prompt itself gives this token; it belongs to no round.' };
  card.place += ', round ' + (round.index + 1);
  if (lane.plain) return { ...card, story: 'One pass of the target, one token.' };
  const looked = inspectionOf(round, temperature, numbers), { slots, own } = looked.block, last = ownToken(round);
  if (own && token === last) {
    const story = round.drafted ? ownStory(looked, true, own) : 'Nothing was drafted: a plain step of the target.';
    return { ...card, title: named + ', ' + FATES[own.kind], story };
  }
  const k = round.tokens.slice(0, j).filter((other) => other !== last || own?.kind === 'again').length, slot = slots[k];
  /** @type {[string, number | null | undefined][]} */
  const facts = [['confidence', slot.confidence], ['q, drafter', slot.q], ['p, target', slot.p],
    ['min(1, p/q)', slot.accept]];
  for (const [name, value] of facts) if (known(value)) card.facts.push([name, fine(value)]);
  card.title += ', ' + (FATES[slot.outcome] ?? slot.outcome);
  card.place += ', draft ' + (k + 1) + ' of ' + round.drafted;
  card.story = slotStory(looked, true, slot, k);
  if (numbers.later && known(slot.q)) {
    card.note = 'q and p were computed after the race' + (temperature ? '.' : ', at temperature 1.');
  }
  return card;
}

/**
 * The same as one text.
 * @param {CardWords} card
 */
export const cardText = ({ title, place, story, facts, note }) => [
  title + '.', place + '.', story, ...facts.map(([name, value]) => name + ' ' + value + '.'), note,
].filter(Boolean).join(' ');

/**
 * The token of a round that tells most of it: the rejected one, or the target's own, or the last.
 * @param {Round} round
 */
export function telling({ tokens }) {
  const rejected = tokens.findIndex((token) => token.kind === 'r');
  return rejected >= 0 ? rejected : tokens.length - 1;
}
