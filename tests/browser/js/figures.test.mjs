import assert from 'node:assert/strict';
import { test } from 'node:test';

import { histogramWords, lineThrough, shownRounds, speedsOf } from '../../../assets/page/figures.js';

test('a lane of even rounds has one speed, once half a window is behind it', () => {
  const points = Array.from({ length: 60 }, (_, k) => [(k + 1) * 0.5, (k + 1) * 4]);  // 8 tokens a second
  const speeds = speedsOf(points, points.length);
  assert.equal(speeds[0][0], 1.5, 'two rounds after the first');
  assert.equal(speeds.at(-1)[0], 30);
  for (const [, speed] of speeds) assert.ok(Math.abs(speed - 8) < 1e-9);
});

test('a change of speed is seen within a window', () => {
  const points = Array.from({ length: 80 }, (_, k) => [k < 40 ? k + 1 : 40 + (k - 39) / 10, k + 1]);
  const speeds = speedsOf(points, points.length);
  assert.ok(Math.abs(speeds.find(([time]) => time === 40)[1] - 1) < 1e-9);
  assert.ok(Math.abs(speeds.at(-1)[1] - 10) < 1e-9);
});

test('only what is to be seen counts; of a long race there are about a hundred moments', () => {
  const points = Array.from({ length: 4096 }, (_, k) => [k + 1, k + 1]);
  assert.deepEqual(speedsOf(points, 0), []);
  assert.deepEqual(speedsOf(points, 5), []);
  assert.equal(speedsOf(points, 20).at(-1)[0], 20);
  const many = speedsOf(points, 4096).length;
  assert.ok(many > 90 && many <= 110, String(many));
});

test('rounds that took no time have no speed', () => {
  assert.deepEqual(speedsOf(Array.from({ length: 40 }, (_, k) => [0, k]), 40), []);
});

test('a line through speeds, in a box of 120 by 44', () => {
  assert.equal(lineThrough([[0, 0], [5, 10], [10, 20]], 10, 20), '0.0,42.0 60.0,22.0 120.0,2.0');
  assert.equal(lineThrough([], 1e-9, 1e-9), '');
});

test('tokens per round in words, also of a list with gaps', () => {
  const lengths = [];
  lengths[1] = 1;
  lengths[4] = 3;
  assert.equal(histogramWords(lengths, 4), 'Tokens per round, share of rounds. 1: 25 %, 4: 75 %');
  assert.equal(histogramWords([], 0), 'Tokens per round, share of rounds. ');
  assert.equal(histogramWords([0, 0, 2], 2), 'Tokens per round, share of rounds. 2: 100 %');
});

test('a lane shows all its rounds unless a replay hides some', () => {
  assert.equal(shownRounds({ rounds: [1, 2, 3], shown: null }), 3);
  assert.equal(shownRounds({ rounds: [1, 2, 3], shown: 0 }), 0);
});
