// @ts-check
// The race in view: at Race its settings fold and the board comes to the top of the window. On other tabs what asks for
// a race is slim; on the stage, for a projector, all of it is left out.
import { board, lanes } from './board.js';
import { $, make, onPage, racing } from './dom.js';
import { playAlone } from './replay.js';

const page = document.body, stage = $('.pick-stage');
const leave = make('button', 'stage-leave', 'Leave the stage', { type: 'button' });  // also where other tabs are open
let asked = false, stopped = false;  // Race was pressed, and its race is not here yet; Stop was, since then
const QUICK_S = 2.5, READABLE = 24;  // a race over sooner, of so many tokens, was too quick to be read

/** @param {boolean} on */
function setStage(on) {
  page.toggleAttribute('data-stage', on);
  if (on) {
    page.append(leave);
    leave.focus();
    toTop();
  } else {
    leave.remove();
    stage.focus();
  }
}

/** A window that the board does not fit into begins with its panes. */
function toTop() {
  const low = innerHeight < 560 && board.querySelector('.panes');
  (low || board).scrollIntoView({ block: 'start', behavior: 'instant' });
}

/** Somebody pressed Race, on whatever tab. */
function raceAsked() {
  onPage('#settings-head [aria-expanded=true]')?.click();
  if (page.hasAttribute('data-elsewhere')) onPage('#tabs [role=tab]')?.click();
  asked = true;
  stopped = false;
  onPage('#stop')?.setAttribute('data-live', '');
}

/** A Stop that was pressed since may have come to the server before the race: it comes again. */
function raceHere() {
  if (!asked || board.dataset.state !== 'running') return;
  asked = false;
  requestAnimationFrame(toTop);
  board.addEventListener('race-over', replayQuick, { once: true });
  if (stopped) onPage('#stop')?.click();
}

function replayQuick() {
  const most = Math.max(...lanes.map((lane) => lane.committed), 0);
  const quick = lanes.every((lane) => lane.seconds < QUICK_S) && most >= READABLE;
  if (quick && board.dataset.state === 'done') playAlone(0);
}

document.addEventListener('click', (event) => {
  if (!element.isConnected || !(event.target instanceof Element)) return;
  if (event.target.closest('#race')) raceAsked();
  if (event.target.closest('#stop')) stopped = true;
});
board.addEventListener('race-start', raceHere);
board.addEventListener('race-refused', () => { asked = false; });
stage.addEventListener('click', () => setStage(true));
leave.addEventListener('click', () => setStage(false));
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || racing()) return;
  if (asked) onPage('#stop')?.click();
  else if (page.hasAttribute('data-stage')) setStage(false);
}, { capture: true });
// The board has no width while another tab is open.
new ResizeObserver(() => {
  const before = page.hasAttribute('data-elsewhere'), now = element.isConnected && !board.offsetWidth;
  page.toggleAttribute('data-elsewhere', now);
  if (now && !before) scrollTo(0, 0);
}).observe(board);
