// @ts-check
// The endpoint's address, a model's name and snippets to copy. The value is JSON: see playground/use_lane.py.
import { $, make, onValue, parsed } from './dom.js';
import { snippets } from './snippets.js';

/** @type {HTMLDetailsElement} */
const panel = $('details');
/** @type {HTMLSelectElement} */
const pick = $('select');
const EVERY_MS = 2000;
let key = '';

/**
 * A term of the list: what it is, the text, and a button that copies it.
 * @param {[string, string]} entry
 */
function row([name, text]) {
  const copy = make('button', '', 'Copy', { type: 'button', 'aria-label': 'Copy: ' + name });
  const shown = make('dd'), head = make('dt', '', name);
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = 'Copied';
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  });
  head.append(copy);
  shown.append(make('pre', '', text, { tabindex: '0' }));
  return [head, shown];
}

function draw() {
  $('dl').replaceChildren(...snippets(location.origin, pick.value, key).flatMap(row));
}

/** What the engine does, while somebody looks. */
async function look() {
  if (!panel.open || document.hidden || !panel.isConnected) return;
  try {
    const { running, waiting } = await (await fetch('/running')).json();
    const more = waiting ? ', ' + waiting + (waiting === 1 ? ' waits' : ' wait') : '';
    $('.use-now').textContent = 'Now: ' + (running ? 'a ' + running + ' runs' : 'nothing runs') + more + '.';
  } catch { /* the program has ended, which the page says elsewhere */ }
}

pick.addEventListener('change', draw);
panel.addEventListener('toggle', look);
setInterval(look, EVERY_MS);

onValue(() => {
  const { note, models, key: asked } = parsed({ note: '', models: [], key: '' }), before = pick.value;
  key = asked;
  panel.hidden = !note && !models.length;
  $('.use-note').textContent = note;
  $('.use-body').hidden = !models.length;
  $('.use-key').textContent = key ? 'The endpoint asks for ' + key + ' in the place of KEY.' : '';
  pick.replaceChildren(...models.map((/** @type {[string, string]} */ [words, name]) => {
    return make('option', '', words, { value: name });
  }));
  if (models.some((/** @type {[string, string]} */ [, name]) => name === before)) pick.value = before;
  if (models.length) draw();
});
