import assert from 'node:assert/strict';
import { test } from 'node:test';

import { draftsOf, moreOf, nextStop, partWords, phaseAt, phasesOf } from '../../../assets/page/rounds.js';
import { cardOf, cardText, telling } from '../../../assets/page/tokens.js';

const LANE = { name: 'DSpark · full block', plain: false };

/** A round of one second of these tokens, with the fields of its Q record. */
function round(texts, counts = {}, fields = []) {
  const tokens = texts.map((text) => ({ kind: text[0], text: text.slice(1) }));
  const committed = tokens.filter(({ kind }) => !'rd'.includes(kind)).length;
  const drafted = tokens.filter(({ kind }) => 'ard'.includes(kind)).length;
  return {
    first: false, index: 2, from: 10, to: 10 + committed, before: 4, time: 5, drafted, proposed: drafted,
    accepted: tokens.filter(({ kind }) => kind === 'a').length, tokens, ...moreOf(fields, 1), ...counts,
  };
}

test('a round’s parts add up to it, and nothing known is one pass', () => {
  const sum = ({ draft, verify, again, wait }) => draft + verify + again + wait;
  assert.deepEqual(moreOf([], 2).parts, { how: '', draft: 0, verify: 2, again: 0, wait: 0 });
  for (const fields of [['split', '0.25', '0.7501', '0'], ['timed', '0.2', '0.5', '0.1'], ['', '0', '0.9', '0.1']]) {
    const { parts } = moreOf(fields, 1);
    assert.ok(Math.abs(sum(parts) - 1) < 1e-9 && Math.min(parts.draft, parts.verify, parts.wait) >= 0);
  }
  assert.equal(moreOf(['split', '0.25', '0.7495', '0'], 1).parts.wait, 0, 'four digits leave no waiting');
  assert.ok(Math.abs(moreOf(['timed', '0.2', '0.5', '0.1'], 1).parts.wait - 0.2) < 1e-9);
  assert.equal(partWords(round(['p one'])), '');
  assert.equal(partWords(round(['a one', 'b two'], {}, ['timed', '0.25', '0.5', '0'])),
    'Drafting 0.250 s, verification 0.500 s, waiting 0.250 s, timed apart.');
});

test('a round is drafted, then checked, then over; a step stops in the middle of each', () => {
  const here = round(['a one', 'b two'], {}, ['split', '0.25', '0.75', '0']);
  assert.deepEqual(phasesOf(here), [['draft', 0.25], ['check', 1]]);
  assert.equal(phaseAt(here, 0), null);
  assert.deepEqual(phaseAt(here, 0.125), { phase: 'draft', share: 0.5 });
  assert.deepEqual(phaseAt(here, 0.625), { phase: 'check', share: 0.5 });
  assert.equal(phaseAt(here, 1), null);
  const stops = [0];
  while (stops.at(-1) < 1) stops.push(nextStop(here, stops.at(-1)));
  assert.deepEqual(stops, [0, 0.125, 0.625, 1]);
  assert.deepEqual(phasesOf(round(['p one'])), [['check', 1]], 'nothing was drafted');
  assert.deepEqual(phasesOf(round(['a one', 'b two'])).map(([phase]) => phase), ['draft', 'check'], 'nor timed');
});

test('every draft in its slot', () => {
  const texts = (r) => draftsOf(r).map(({ text }) => text);
  const fields = ['', '0', '1', '0', '', '', '', '', 'u four'];
  assert.deepEqual(texts(round(['a one', 'r two', 'd three', 'c deux'], { drafted: 4 }, fields)),
    [' one', ' two', ' three', ' four']);
  assert.deepEqual(texts(round(['p one'], { drafted: 1, proposed: 0 }, fields)), [' four']);
  const again = round(['a one', 'p two', 'd three'], { drafted: 3, proposed: 3 });
  assert.deepEqual(texts(again), [' one', ' two', ' three'], 'the draft that was decided again is one');
});

test('a card has the fate of its token, and what the race wrote down', () => {
  const numbers = ['split', '0.2', '0.8', '0', '', '0.9 0.5 0.4', '0.5 0.4 0.3', '0.75 0.1 0.2'];
  const sampled = round(['a one', 'r two', 'd three', 'c deux'], {}, numbers);
  const card = cardOf(LANE, sampled, 1, 0.7);
  assert.equal(card.title, '“ two”, rejected');
  assert.equal(card.place, 'DSpark · full block, round 3, draft 2 of 3');
  assert.match(card.story, /with q = 0.4; the target gives it p = 0.1. It is accepted with probability .* = 0.25: rej/);
  assert.deepEqual(card.facts, [['confidence', '0.5'], ['q, drafter', '0.4'], ['p, target', '0.1'],
    ['min(1, p/q)', '0.25']]);
  assert.match(cardOf(LANE, sampled, 0, 0.7).title, /accepted$/);
  assert.match(cardOf(LANE, sampled, 2, 0.7).story, /A draft before it was rejected, so it is discarded/);
  assert.equal(cardOf(LANE, sampled, 3, 0.7).title, '“ deux”, correction');
  assert.deepEqual(cardOf(LANE, sampled, 3, 0.7).facts, []);
  assert.equal(telling(sampled), 1);
  assert.match(cardText(card), /^“ two”, rejected\. DSpark .* confidence 0\.5\. q, drafter 0\.4\./);
});

test('what was not written down is left out, and what came after the race says so', () => {
  const greedy = round(['a one', 'r two', 'c deux']);
  assert.deepEqual(cardOf(LANE, greedy, 0, 0).facts, []);
  assert.equal(cardOf(LANE, greedy, 1, 0).story,
    'The drafter put “ two” into slot 2. The target’s most probable token is “ deux”: rejected.');
  const later = { ...greedy.known, later: true, q: [0.5, 0.25], p: [0.5, 0] };
  assert.equal(cardOf(LANE, greedy, 1, 0, later).note, 'q and p were computed after the race, at temperature 1.');
  assert.equal(cardOf(LANE, greedy, 2, 0, later).note, '');
});

test('cards of tokens that were no drafts', () => {
  const story = (r, j, lane = LANE) => cardOf(lane, r, j, 0).story;
  assert.match(story(round(['a one', 'b two']), 1), /the bonus\.$/);
  assert.match(story(round(['p one'], { drafted: 0 }), 0), /Nothing was drafted/);
  assert.match(story(round(['p one'], { drafted: 3, proposed: 0 }), 0), /Nothing was sent/);
  assert.match(story(round(['p one']), 0, { name: 'plain', plain: true }), /One pass/);
  assert.match(story({ ...round(['p one']), first: true }, 0), /The prompt itself/);
  const ended = round(['a one', 'e<end>'], { drafted: 2, proposed: 2, accepted: 2, to: 12 });
  assert.equal(cardOf(LANE, ended, 1, 0).title, 'the end of the answer, accepted');
  const again = round(['a one', 'p two', 'd three'], { drafted: 3, proposed: 3 });
  assert.equal(cardOf(LANE, again, 1, 0).title, '“ two”, decided again');
  assert.match(cardOf(LANE, again, 2, 0).place, /draft 3 of 3$/);
});
