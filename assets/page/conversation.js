// @ts-check
// The conversation so far, folded. The value is JSON: {words, failed, turns: [[user's turn, answer], ...]}.
import { $, make, onValue, parsed } from './dom.js';

onValue(() => {
  const { words, failed, turns } = parsed({ words: '', turns: [] }), status = $('p');
  status.textContent = words;
  status.dataset.failed = String(Boolean(failed));
  $('details').hidden = !turns.length;
  $('dl').replaceChildren(...turns.flatMap((/** @type {[string, string]} */ [user, answer]) => {
    return [make('dt', '', user), make('dd', '', answer)];
  }));
});
