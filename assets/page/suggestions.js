// @ts-check
// Sentences, one a line; some end in a command that can be copied. The value is a list of them as JSON.
import { copyable } from './copyable.js';
import { $, make, onValue, parsed } from './dom.js';

/** @param {string | { words: string, command: string }} line */
function lineOf(line) {
  if (typeof line === 'string') return make('li', '', line);
  const item = make('li', '', line.words);
  item.append(copyable(line.command));
  return item;
}

onValue(() => {
  const list = $('ul');
  list.replaceChildren(...parsed([]).map(lineOf));
  list.hidden = !list.children.length;
});
