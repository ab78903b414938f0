// Keeping races: a file is read here, its size checked before, and sent as text; the server validates it. What
// the server answers is JSON: something to say, or a file to save. Nothing of it becomes markup.
const $ = (selector) => element.querySelector(selector);
const said = $('.keep-said'), file = $('.keep-file'), page = document.body;
const maxBytes = Number(props.max_bytes);
const pick = $('.keep-races select');
let seen = null, shown = '0';

function say(words, failed) {
  said.textContent = words;
  said.dataset.failed = Boolean(failed);
}

const racing = () => page.dataset.race === 'running' && 'A race is running: stop it first.';

async function open(files) {
  if (files.length !== 1) return say('One file at a time, please.', true);
  if (racing()) return say(racing(), true);
  const [chosen] = files;
  if (chosen.size > maxBytes) {
    return say('This file has ' + (chosen.size / 1e6).toFixed(1) + ' MB; a race has at most ' + maxBytes / 1e6 + ' MB.', true);
  }
  say('Opening …');
  try {
    trigger('upload', { text: await chosen.text() });
  } catch {
    say('This file cannot be read.', true);
  }
}

function save(name, type, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function answer() {
  const told = JSON.parse(props.value || '{"n": 0}');
  if (!told.n || told.n === seen) return;
  seen = told.n;
  if (told.races) list(told.races, told.on);
  if (told.link !== undefined) {
    const link = location.origin + location.pathname + told.link;
    try {
      await navigator.clipboard.writeText(link);
      return say('Copied. The link fills the page; it starts nothing.');
    } catch {
      return say(link);
    }
  }
  if (told.text !== undefined) {
    save(told.name, told.type, told.text);
    return say('Saved as ' + told.name + '.');
  }
  say(told.words, told.failed);
}

function list(races, on) {
  $('.keep-races').hidden = races.length < 2;
  pick.replaceChildren(...races.map((name, k) => new Option(name, k)));
  shown = pick.value = String(on);
}

$('.keep-import').addEventListener('click', () => file.click());
file.addEventListener('change', () => {
  if (file.files.length) open([...file.files]);
  file.value = '';
});
for (const button of element.querySelectorAll('[data-keep]')) {
  button.addEventListener('click', () => {
    const kind = button.dataset.keep;
    if (kind === 'link') return trigger('select');
    if (racing()) return say(racing(), true);
    say('Saving …');
    trigger('download', { kind });
  });
}

pick.addEventListener('change', () => {
  if (racing()) {
    pick.value = shown;
    return say(racing(), true);
  }
  shown = pick.value;
  trigger('submit', { which: Number(pick.value) });
});

// A file may be dropped anywhere on the page.
const carriesFile = (event) => event.dataTransfer?.types.includes('Files');
let over = 0;
const mark = (on) => { page.classList.toggle('keep-drop', on); };
document.addEventListener('dragenter', (event) => { if (carriesFile(event)) { over += 1; mark(true); } });
document.addEventListener('dragleave', (event) => { if (carriesFile(event)) { over = Math.max(0, over - 1); mark(over > 0); } });
document.addEventListener('dragover', (event) => { if (carriesFile(event)) event.preventDefault(); });
document.addEventListener('drop', (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  over = 0;
  mark(false);
  open([...event.dataTransfer.files]);
});

watch('value', answer);
