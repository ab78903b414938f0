// @ts-check
// Two races side by side. The value is JSON: heads, notes, groups of rows, answers. Texts go through textContent.
import { $, make, onValue, parsed } from './dom.js';
import { tableOf } from './table.js';

/**
 * A figure of both races, their ratio, and which of them (0 or 1) is better.
 * @typedef {[name: string, left: string, right: string, ratio: string, better: number | null]} Row
 * @typedef {{ name: string, same: string, rest: string? }} Answer  `rest` is null if the prompts differ
 */

/**
 * @param {string[]} heads
 * @param {{ name: string, rows: Row[] }[]} groups
 */
function drawTable(heads, groups) {
  const bodies = groups.map((group) => ({
    name: group.name,
    rows: group.rows.map(([name, left, right, ratio, better]) => {
      const cells = [left, right].map((text, side) => {
        return make('td', '', text, better === side ? { 'data-better': 'true' } : {});
      });
      return [name, ...cells, ratio];
    }),
  }));
  $('.compared-table').replaceChildren(tableOf(['', ...heads, 'right ÷ left'], bodies, { named: true }));
}

/**
 * @param {Answer[]} answers
 * @param {string[]} heads
 */
function drawAnswers(answers, heads) {
  const words = answers.some((answer) => answer.rest === null) ? 'another prompt'
    : answers.every((answer) => !answer.rest) ? 'the same on both sides'
      : 'marked from where they part, after ' + answers[0].same.length + ' characters';
  $('.compared-answers').replaceChildren(...answers.map((answer, side) => {
    const section = make('section');
    const text = make('pre', '', answer.same, { tabindex: '0', 'aria-label': 'Answer of ' + heads[side] });
    if (answer.rest) text.append(make('mark', '', answer.rest));
    section.append(make('h4', '', answer.name + ', ' + (side ? 'right' : 'left') + ': ' + words), text);
    return section;
  }));
}

onValue(() => {
  const { heads, notes, groups, answers } = parsed({});
  $('.compared-notes').replaceChildren(...(notes || []).map((/** @type {string} */ text) => make('p', '', text)));
  $('.compared-table').hidden = $('.compared-answers').hidden = !groups;
  if (!groups) return;
  drawTable(heads, groups);
  drawAnswers(answers, heads);
});
