import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';

import { code, invisible, quoted, recall, remember, visible } from '../../../assets/page/dom.js';

test('every character of a text can be seen', () => {
  const texts = {
    'word': 'word',
    'two words': 'two words',
    '': '∅',
    ' ': '·',
    '    ': '····',
    ' word': '·word',
    'word ': 'word·',
    ' a b  ': '·a b··',
    '\n': '↵',
    '\n\n  if': '↵↵  if',
    '\r\n': 'U+000D↵',
    '\t\tx': '⇥⇥x',
    '\u00a0x\u3000': '·x·',
    '\u0000': 'U+0000',
    'a\u0007b': 'aU+0007b',
    '\u200b': 'U+200B',
    'a\u00adb': 'aU+00ADb',
    '\u202eabc': 'U+202Eabc',
    '\ufeff': 'U+FEFF',
    '\u2028': 'U+2028',
    '\u2800': 'U+2800',
    '\u3164': 'U+3164',
    '\u034f': 'U+034F',
    '\u{e0041}': 'U+E0041',
    '\ufe0f': 'U+FE0F',
    '❤\ufe0f': '❤\ufe0f',
    '👩\u200d💻': '👩U+200D💻',
    '日本': '日本',
  };
  for (const [text, seen] of Object.entries(texts)) assert.equal(visible(text), seen, JSON.stringify(text));
});

test('no text that leaves no mark stays without one', () => {
  for (let point = 0; point < 0x30000; point += 1) {
    if (point >= 0xd800 && point < 0xe000) continue;
    const c = String.fromCodePoint(point);
    const nothing = /^[\p{Cc}\p{Cf}\p{Z}\p{Default_Ignorable_Code_Point}]$/u.test(c);
    if (nothing) assert.notEqual(visible(c), c, code(c));
    else if (c !== '\u2800') assert.equal(visible(c), c, code(c));
  }
});

test('in quotation marks the one blank before a word stays a blank', () => {
  assert.equal(quoted(' word'), '“ word”');
  assert.equal(quoted(' two words'), '“ two words”');
  assert.equal(quoted('·word'), '“·word”');
  assert.equal(quoted('  word'), '“··word”');
  assert.equal(quoted(' '), '“·”');
  assert.equal(quoted('word '), '“word·”');
  assert.equal(quoted(''), '“∅”');
  assert.equal(quoted(' \u200b'), '“ U+200B”');
});

test('a token of nothing but what cannot be seen is told from others', () => {
  const nothing = ['\u200b', '\u200d\ufe0f', '\u0001', '\u2800', '\u{e0100}'];
  for (const text of nothing) assert.ok(invisible(text), code(text));
  for (const text of ['', 'a', 'a\u200b', ' ', '👩\u200d']) assert.ok(!invisible(text), text);
});

test('characters by their numbers', () => {
  assert.equal(code('a\u200b'), 'U+0061 U+200B');
  assert.equal(code('\u{1f600}'), 'U+1F600');
});

afterEach(() => { delete globalThis.localStorage; });

test('a value is kept under the name of this page, and forgotten', () => {
  const held = new Map();
  globalThis.localStorage = {
    getItem: (key) => held.get(key) ?? null, setItem: (key, value) => held.set(key, value),
    removeItem: (key) => held.delete(key),
  };
  assert.equal(recall('tour'), null);
  remember('tour', 0);
  assert.deepEqual([...held], [['dspark-tour', '0']]);
  assert.equal(recall('tour'), '0');
  remember('tour', null);
  assert.equal(recall('tour'), null);
});

test('in private mode nothing is kept, and nothing fails', () => {
  Object.defineProperty(globalThis, 'localStorage', {
    configurable: true, get() { throw new Error('access is denied'); },
  });
  remember('size', 'large');
  assert.equal(recall('size'), null);
});
