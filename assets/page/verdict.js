// @ts-check
// A verdict and its small print. The value is JSON: {kind, words, more}; the kind decides on looks.
import { $, onValue, parsed } from './dom.js';

onValue(() => {
  const { kind, words, more } = parsed({}), box = $('.board-verdict');
  box.dataset.kind = kind || '';
  const fresh = !box.textContent;
  box.textContent = words || '';
  const { bottom } = box.getBoundingClientRect();
  if (fresh && words && bottom > innerHeight) box.scrollIntoView({ block: 'center', behavior: 'instant' });
  $('.more').textContent = more || '';
});
