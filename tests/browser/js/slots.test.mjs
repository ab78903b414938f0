import assert from 'node:assert/strict';
import { test } from 'node:test';

import { cellsOf, interesting, ownStory, recomputedWords, slotStory, written } from '../../../assets/page/slots.js';

const slot = (outcome, more = {}) => ({ token_id: 1, text: ' one', outcome, drafter: [], target: [], ...more });
const own = (kind, more = {}) => ({ token_id: 2, text: ' two', kind, candidates: [], ...more });
const looked = (block, more = {}) => ({ block, without: null, greedy: false, written: 9, ...more });

test('the cell to look at first is the rejected one, else the last', () => {
  const rejected = looked({ slots: [slot('accepted'), slot('rejected'), slot('discarded')], own: own('correction') });
  assert.equal(interesting(rejected, true), 1);
  assert.equal(interesting(looked({ slots: [slot('accepted'), slot('accepted')], own: own('bonus') }), true), 2);
  assert.equal(interesting(looked({ slots: [], own: null }), true), 0);
  const without = { slots: [slot('rejected')], own: null };
  assert.equal(interesting({ ...rejected, without }, false), 0);
  assert.equal(cellsOf(looked({ slots: Array(100).fill(slot('unsent')), own: own('own') }), true).length, 65);
});

test('what became of a draft when sampling', () => {
  const block = { slots: [], own: null };
  const numbers = { q: 0.5, p: 0.25, accept: 0.5, drawn: 0.75 };
  assert.equal(slotStory(looked(block), true, slot('rejected', numbers), 0),
    'The drafter put “ one” into slot 1 with q = 0.5; the target gives it p = 0.25. It is accepted with probability '
    + 'min(1, p/q) = 0.5; the number drawn was 0.75: rejected.');
  assert.equal(slotStory(looked(block), true, slot('accepted'), 3),
    'The drafter put “ one” into slot 4. It was compared with p/q: accepted.');
  assert.equal(slotStory(looked(block), true, slot('unsent'), 1),
    'The drafter put “ one” into slot 2. It was not sent to the target.');
});

test('what became of a draft when greedy, and of one behind a rejection or the end', () => {
  const greedy = looked({ slots: [slot('rejected')], own: null }, { greedy: true });
  const target = [{ token_id: 5, text: ' five', probability: 0.9 }];
  assert.match(slotStory(greedy, true, slot('rejected', { target }), 0),
    /The target’s most probable token is “ five”: rejected\.$/);
  assert.match(slotStory(greedy, true, slot('accepted'), 0), /It is the target’s most probable token: accepted\.$/);
  assert.match(slotStory(greedy, true, slot('discarded'), 1), /A draft before it was rejected/);
  const ended = looked({ slots: [slot('accepted')] });
  assert.match(slotStory(ended, true, slot('discarded'), 1), /The answer ended before it/);
});

test('where the target’s own token comes from, and whether it was written', () => {
  const here = looked({ slots: [], accepted: 2, own: null }, { written: 3 });
  assert.match(ownStory(here, true, own('bonus')), /“ two”, the bonus\.$/);
  assert.match(ownStory(here, true, own('own')), /Nothing was sent to verification/);
  assert.match(ownStory(here, true, own('correction', { rejected: 0.25 })),
    /drawn from the residual.*rejected with probability 0\.25\.$/);
  assert.match(ownStory({ ...here, greedy: true }, true, own('correction', { rejected: 0 })),
    /\(Sampling would draw.*rejected with probability 0 at temperature 1\.$/);
  assert.ok(written(here, true) && !written({ ...here, written: 2 }, true) && written({ ...here, written: 2 }, false));
  assert.match(ownStory({ ...here, written: 2 }, true, own('bonus')), /It is not part of the answer/);
});

test('where the numbers come from', () => {
  const made = { recomputed: true, prefix: 40, reused: 30, seconds: 0.125, agrees: true, greedy: true, temperature: 1 };
  assert.match(recomputedWords(made),
    /^Recomputed from the 40 tokens before this round \(30 still at hand\) in 0\.13 s:/);
  assert.match(recomputedWords({ ...made, reused: 0, agrees: false, greedy: false, temperature: 0.7 }),
    /this round in 0\.13 s: it came out differently.*At temperature 0\.7, with the race’s own random numbers\.$/);
  assert.equal(recomputedWords({ ...made, recomputed: false }), 'What the race wrote down.');
});
