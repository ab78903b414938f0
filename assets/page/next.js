// @ts-check
// What a visitor may do when a race is over, under its verdict: be shown what happened, race a text where drafting
// pays, with the setting that is advised, or drafting whatever it costs. Each presses a button of the page.
import { board } from './board.js';
import { $, make, onPage } from './dom.js';

const row = $('.board-next');

function offerNext() {
  const { paid, idle } = row.dataset, advised = onPage('#next-advised')?.textContent?.trim();
  /** @type {[string, string, unknown][]} */
  const offers = [
    ['What happened?', '.tour-start', paid],
    ['Try a text where it pays', '#next-pays', paid === '0'],
    ['Draft anyway', '#next-anyway', idle && idle !== '-1' && !board.hasAttribute('data-recorded')],
    [advised ?? '', '#next-advised', paid && advised],
  ];
  row.replaceChildren(...offers.filter(([, place, fits]) => fits && onPage(place)).map(([words, place]) => {
    const button = make('button', '', words, { type: 'button' });
    button.addEventListener('click', () => onPage(place)?.click());
    return button;
  }));
}

board.addEventListener('race-start', () => row.replaceChildren());
board.addEventListener('race-over', offerNext);
board.addEventListener('race-over', () => {
  const button = onPage('#next-advised');  // its words come a moment later
  if (button) new MutationObserver(offerNext).observe(button, { childList: true, characterData: true, subtree: true });
}, { once: true });
