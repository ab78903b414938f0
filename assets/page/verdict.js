// @ts-check
// A verdict and its small print. The value is JSON: {kind, words, more}; the kind decides on looks.
import { $, onValue, parsed } from './dom.js';

onValue(() => {
  const { kind, words, more } = parsed({}), box = $('.board-verdict');
  box.dataset.kind = kind || '';
  box.textContent = words || '';
  $('.more').textContent = more || '';
});
