import assert from 'node:assert/strict';
import { test } from 'node:test';

import { count, csvOf, duration, fine, short, shown } from '../../../assets/page/numbers.js';

test('times, short ones in milliseconds', () => {
  assert.deepEqual([0, 0.0042, 0.01, 0.142, 0.9994, 1, 61.256].map(duration),
    ['0.0 ms', '4.2 ms', '10 ms', '142 ms', '999 ms', '1.00 s', '61.26 s']);
});

test('how many', () => {
  assert.deepEqual([0, 1, 2].map((n) => count(n, 'token')), ['0 tokens', '1 token', '2 tokens']);
  assert.deepEqual([1, 2].map((n) => count(n, 'pass', 'passes')), ['1 pass', '2 passes']);
});

test('probabilities in a column', () => {
  const values = [1, 0.9996, 0.9994, 0.5, 0.01, 0.0099, 0.0005, 0.0004, 0, null, undefined];
  assert.deepEqual(values.map(short), ['1', '1', '0.999', '0.50', '0.01', '0.010', '0.001', '<.001', '0', '–', '–']);
});

test('probabilities in a sentence', () => {
  const values = [1, 0.123456, 0.001, 0.00012345, 1e-30, 0, null, undefined];
  assert.deepEqual(values.map(fine), ['1', '0.123', '0.001', '1.2e-4', '1.0e-30', '0', 'not known', 'not known']);
});

test('cells as texts', () => {
  assert.deepEqual([null, true, false, 0, 1.5, 'a'].map(shown), ['–', 'yes', 'no', '0', '1.5', 'a']);
});

test('rows as a CSV file: what has a comma, a quotation mark or a line end is quoted', () => {
  const rows = [['lane', 'tok/s'], ['a, b', 1.5], ['say "hi"', null], ['two\nlines', true], ['cr\r', '']];
  assert.equal(csvOf(rows), 'lane,tok/s\n"a, b",1.5\n"say ""hi""",\n"two\nlines",yes\n"cr\r",\n');
});

test('no cell of a CSV file is a formula', () => {
  const cells = {
    '=HYPERLINK("http://x.example")': `"'=HYPERLINK(""http://x.example"")"`,
    '+1': `"'+1"`, '-1+1': `"'-1+1"`, '@SUM(A1)': `"'@SUM(A1)"`, '  =1': `"'  =1"`, '\u200b=1': `"'\u200b=1"`,
    '\t=1': `"'\t'=1"`, '\r=1': `"'\r'=1"`, '\ttab': `"'\ttab"`, '\uff1d1': `"'\uff1d1"`,
    'a;=1': `"a;'=1"`, 'a\r\n=1': `"a\r'\n'=1"`, 'plain': 'plain', 'block 7 - all': 'block 7 - all',
  };
  for (const [text, cell] of Object.entries(cells)) assert.equal(csvOf([[text]]), cell + '\n');
  assert.equal(csvOf([[-1.5, true, null]]), '-1.5,yes,\n');
});
