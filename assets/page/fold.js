// @ts-check
// A button that says of itself whether what it controls is unfolded; style sheets do the rest.
import { $ } from './dom.js';

const button = $('button');
button.addEventListener('click', () => {
  button.setAttribute('aria-expanded', String(button.getAttribute('aria-expanded') === 'false'));
});
