// @ts-check
// A command that can be copied with one press.
import { make } from './dom.js';

const COPIED_MS = 1500;

/**
 * The command and its button. Where the browser does not let a page copy, the text is selected.
 * @param {string} text
 */
export function copyable(text) {
  const place = make('span', 'copyable'), code = make('code', '', text, { tabindex: '0' });
  const button = make('button', '', 'Copy', { type: 'button', 'aria-label': 'Copy: ' + text });
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
      setTimeout(() => { button.textContent = 'Copy'; }, COPIED_MS);
    } catch {
      getSelection()?.selectAllChildren(code);
      button.textContent = 'Selected';
    }
  });
  place.append(code, button);
  return place;
}
