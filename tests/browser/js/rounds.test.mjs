import assert from 'node:assert/strict';
import { test } from 'node:test';

import { countUpTo, describe, ownToken, sentTokens } from '../../../assets/page/rounds.js';

const LANE = { plain: false };

/** A round of these tokens, each with its kind before it. */
function round(texts, counts = {}) {
  const tokens = texts.map((text) => ({ kind: text[0], text: text.slice(1) }));
  const committed = tokens.filter(({ kind }) => kind !== 'r' && kind !== 'd').length;
  const drafted = tokens.filter(({ kind }) => 'ard'.includes(kind)).length;
  return {
    first: false, index: 2, from: 10, to: 10 + committed, before: 1, time: 1.25, drafted, proposed: drafted,
    accepted: tokens.filter(({ kind }) => kind === 'a').length, tokens, ...counts,
  };
}

test('how many numbers are at most x', () => {
  for (const list of [[], [3], [1, 1, 1], [0, 0.5, 0.5, 2, 7, 7, 9]]) {
    for (let x = -1; x <= 10; x += 0.25) assert.equal(countUpTo(list, x), list.filter((y) => y <= x).length);
  }
  const list = Array.from({ length: 1000 }, (_, k) => k * k % 977).sort((a, b) => a - b);
  for (const x of [-1, 0, 488, 976, 1000]) assert.equal(countUpTo(list, x), list.filter((y) => y <= x).length);
});

test('the tokens that were sent, and the target’s own', () => {
  const here = round(['a one', 'r two', 'd three', 'c deux']);
  assert.deepEqual(sentTokens(here).map((token) => token.text), [' one', ' two', ' three']);
  assert.equal(ownToken(here).text, ' deux');
  assert.equal(ownToken(round(['a one'])), undefined);
  assert.equal(ownToken(round(['a one', 'e'], { accepted: 2 })), undefined, 'the end was drafted');
});

test('a round in words: a rejection and its correction', () => {
  assert.equal(describe(LANE, round(['a one', 'r two', 'd three', 'c deux'])),
    'round 3, tokens 11 to 12. 3 drafted, all sent, 1 accepted: “ one”; “ two” rejected, the target’s correction is '
    + '“ deux”. 0.250 s.');
});

test('a round in words: a whole block and its bonus', () => {
  assert.equal(describe(LANE, round(['a one', 'a\n', 'b two'], { bonus: true })),
    'round 3, tokens 11 to 13. 2 drafted, all sent, 2 accepted: “ one↵”; nothing rejected, the target’s bonus is '
    + '“ two”. 0.250 s.');
});

test('a round in words: a close call that plain decoding’s numbers decided for the draft', () => {
  assert.equal(describe(LANE, round(['a one', 'p two'], { drafted: 7, proposed: 7 })),
    'round 3, tokens 11 to 12. 7 drafted, all sent, 1 accepted: “ one”; the draft after them was a close call: plain '
    + 'decoding’s own numbers decided it again, for “ two”. 0.250 s.');
});

test('a round in words: nothing sent', () => {
  assert.equal(describe(LANE, round(['p one'], { drafted: 7 })),
    'round 3, token 11. 7 drafted, 0 sent, 0 accepted; the target’s own token is “ one”. 0.250 s.');
});

test('a round in words: nothing drafted', () => {
  assert.equal(describe(LANE, round(['p\u200b'])),
    'round 3, token 11. Nothing drafted; a plain step gives “U+200B”. 0.250 s.');
});

test('a round in words: the answer ended inside the block', () => {
  assert.equal(describe(LANE, round(['a one', 'e<|im_end|>'], { drafted: 7, proposed: 3, accepted: 2 })),
    'round 3, tokens 11 to 12. 7 drafted, 3 sent, 2 accepted: “ one” and the end of its answer. 0.250 s.');
  assert.equal(describe(LANE, round(['e<|im_end|>'], { drafted: 7, proposed: 3, accepted: 1 })),
    'round 3, token 11. 7 drafted, 3 sent, 1 accepted: the end of its answer. 0.250 s.');
  assert.equal(describe(LANE, round(['a one', 'e<|im_end|>'], { drafted: 7, proposed: 1, accepted: 1, bonus: true })),
    'round 3, tokens 11 to 12. 7 drafted, 1 sent, 1 accepted: “ one”; nothing rejected, the target’s bonus is the end '
    + 'of its answer. 0.250 s.');
});

test('a plain step, and the token of the prompt', () => {
  assert.equal(describe({ plain: true }, round(['p one'])), 'token 11: “ one”, 0.250 s.');
  assert.equal(describe(LANE, round(['p one'], { first: true, index: -1 })),
    'token 11: “ one”, from the prompt itself; it belongs to no round.');
});
