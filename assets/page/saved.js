// @ts-check
// Saved races: a file is read here, its size checked before, and sent as text; the server validates it. What the server
// answers is JSON: something to say, or a file to save. Nothing of it becomes markup.
import { $, parsed, racing, saveText } from './dom.js';
import { settingsInAddress } from './parts.js';

const status = $('.keep-said'), page = document.body;
/** @type {HTMLInputElement} */
const file = $('.keep-file');
/** @type {HTMLSelectElement} */
const pick = $('.keep-races select');
const maxBytes = Number(props.max_bytes);
/** @type {number?} */
let answered = null;
let shown = '0';

/**
 * @param {string} words
 * @param {boolean} [failed]
 */
function say(words, failed) {
  status.textContent = words;
  status.dataset.failed = String(Boolean(failed));
}

/** Says so, if a race is running. */
function busy() {
  if (racing()) say('A race is running: stop it first.', true);
  return racing();
}

/** @param {File[]} files */
async function open(files) {
  if (files.length !== 1) return say('One file at a time, please.', true);
  if (busy()) return;
  const [chosen] = files;
  if (chosen.size > maxBytes) {
    const size = (chosen.size / 1e6).toFixed(1);
    return say('This file has ' + size + ' MB; a race has at most ' + maxBytes / 1e6 + ' MB.', true);
  }
  say('Opening …');
  try {
    const text = await chosen.text();
    if (/^\s*<!doctype html/i.test(text)) {
      return say('This is a page, for a browser. The race itself is the .json that “Save as JSON” gives.', true);
    }
    trigger('upload', { text });
  } catch {
    say('This file cannot be read.', true);
  }
}

async function take() {
  const answer = parsed({ n: 0 });
  if (!answer.n || answer.n === answered) return;
  answered = answer.n;
  if (answer.races) list(answer.races, answer.on);
  if (answer.link !== undefined) return copy(location.origin + location.pathname + answer.link + settingsInAddress());
  if (answer.text !== undefined) {
    saveText(answer.name, answer.type, answer.text);
    return say('Saved as ' + answer.name + '.');
  }
  say(answer.words, answer.failed);
}

/** @param {string} link */
async function copy(link) {
  try {
    await navigator.clipboard.writeText(link);
    say('Copied. The link fills the page; it starts nothing.');
  } catch {
    say(link);
  }
}

/**
 * @param {string[]} races
 * @param {number} on  the one that stands on the board
 */
function list(races, on) {
  $('.keep-races').hidden = races.length < 2;
  pick.replaceChildren(...races.map((name, k) => new Option(name, String(k))));
  shown = pick.value = String(on);
}

$('.keep-import').addEventListener('click', () => file.click());
file.addEventListener('change', () => {
  if (file.files?.length) open([...file.files]);
  file.value = '';
});
for (const button of /** @type {NodeListOf<HTMLElement>} */ (element.querySelectorAll('[data-keep]'))) {
  button.addEventListener('click', () => {
    const kind = button.dataset.keep;
    if (kind === 'link') return trigger('select');
    if (busy()) return;
    say('Saving …');
    trigger('download', { kind });
  });
}

pick.addEventListener('change', () => {
  if (busy()) {
    pick.value = shown;
    return;
  }
  shown = pick.value;
  trigger('submit', { which: Number(pick.value) });
});

// A file may be dropped anywhere on the page.
/** @param {DragEvent} event */
const carriesFile = (event) => event.dataTransfer?.types.includes('Files') ?? false;
let over = 0;  // how many elements deep the file is

/** @param {number} depth */
function mark(depth) {
  over = Math.max(0, depth);
  page.classList.toggle('keep-drop', over > 0);
}

document.addEventListener('dragenter', (event) => { if (carriesFile(event)) mark(over + 1); });
document.addEventListener('dragleave', (event) => { if (carriesFile(event)) mark(over - 1); });
document.addEventListener('dragover', (event) => { if (carriesFile(event)) event.preventDefault(); });
document.addEventListener('drop', (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  mark(0);
  open([...(event.dataTransfer?.files ?? [])]);
});

watch('value', take);
