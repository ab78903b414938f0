// @ts-check
// Sentences, one a line. The value is a list of them as JSON.
import { $, make, onValue, parsed } from './dom.js';

onValue(() => {
  const list = $('ul');
  list.replaceChildren(...parsed([]).map((/** @type {string} */ words) => make('li', '', words)));
  list.hidden = !list.children.length;
});
