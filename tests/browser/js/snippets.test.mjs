import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';

import { snippets } from '../../../assets/page/snippets.js';

const texts = (/** @type {string} */ model, key = '') => Object.fromEntries(snippets('http://127.0.0.1:1', model, key));

test('a name reaches the program as it is, whatever is in it', () => {
  for (const model of ['smollm2@dspark:cap=3', 'it\'s "$(date)" `x` \\ two@plain']) {
    const { curl } = texts(model);
    const words = execFileSync('bash', ['-c', curl.replace(/^curl/, 'printf "%s\\n"')], { encoding: 'utf-8' });
    assert.equal(JSON.parse(words.trim().split('\n').at(-1) ?? '').model, model);
  }
});

test('a key is asked for where there is one', () => {
  for (const text of Object.values(texts('m')).slice(2)) assert.ok(!text.includes('KEY'));
  for (const text of Object.values(texts('m', 'the token')).slice(2)) assert.ok(text.includes('KEY'));
});
