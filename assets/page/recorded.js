// @ts-check
// Recorded races on the board, as long as there was no other one. They stand in the page as JSON
// (dspark_core/playground/recordings.py); the first of them plays by itself, once.
import { board, showRecords, showValue } from './board.js';
import { $, make } from './dom.js';
import { playAlone, shownMoment } from './replay.js';

/**
 * @typedef {Record<'title' | 'device' | 'pays' | 'where' | 'settings' | 'made' | 'prompt' | 'records', string>}
 *   Recording
 */

/** @type {Recording[]} */
const recordings = JSON.parse(document.getElementById('recordings')?.textContent ?? '[]');
const first = document.getElementById('first'), ours = Boolean(first?.contains(element));
const choice = $('.recordings');

/**
 * @param {Recording} recording
 * @param {number} [from]  plays on from this moment; else it is shown as a whole
 */
function showRecording(recording, from) {
  showRecords(recording.records, 'A recording, made on ' + recording.where + ' (' + recording.made + '): '
    + recording.settings + '. ' + (ours ? '' : 'Press Race to run it here.'));
  for (const [k, button] of [...choice.children].entries()) {
    button.setAttribute('aria-pressed', String(recordings[k] === recording));
  }
  if (from !== undefined) playAlone(from);
}

if (recordings.length && (ours || board.dataset.state === 'idle' || !board.dataset.state)) {
  choice.replaceChildren(...recordings.map((recording) => {
    const words = [recording.device, recording.pays].filter(Boolean).join(', ');
    const button = make('button', '', recording.title + ' (' + words + ')', { type: 'button' });
    button.addEventListener('click', () => showRecording(recording, 0));
    return button;
  }));
  const text = first?.querySelector('#first-ask p');
  if (ours && text) text.textContent = recordings[0].prompt;
  showRecording(recordings[0], ours || !first ? 0 : shownMoment(first));
}
if (!ours) {
  first?.remove();
  document.addEventListener('click', (event) => {  // the board shows what will run
    const asked = event.target instanceof Element && event.target.closest('#race');
    if (asked && board.hasAttribute('data-recorded')) showValue();
  }, { capture: true });
}
