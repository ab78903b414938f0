// @ts-check
// Lessons: a strip at the lower edge asks a question; the visitor's answer sets everything and starts a race (or draws
// samplers); the strip then tells the answer on it, and opens what shows it, above itself. What is sent and what comes
// back: dspark_core/playground/lessons.py. Nothing of it is stored.
import { $, findBoard, make, parsed } from './dom.js';
import { openLinked, openPart } from './parts.js';

/**
 * @typedef {{ id: string, title: string, question: string, about: string, options: string[] }} Lesson
 * @typedef {{ lane?: number, at?: number, bias?: boolean, tab?: string, id?: string,
 *   set?: Record<string, string> }} Place
 * @typedef {{ n: number, state: string, words: string, press: string, right: number[], place: Place }} Told
 */

const strip = $('.lesson'), starter = $('.lessons-start'), title = $('h2'), choices = $('.lesson-choices');
const words = $('.lesson-words'), name = $('.lesson-name');
/** @type {Lesson[]} */
const LESSONS = parsed({ lessons: [] }).lessons ?? [];
const WAIT_MS = 10_000, SETTLE_MS = 2_500, STEP_MS = 100;
/** @type {Lesson?} */
let lesson = null;
/** @type {Element?} */
let marked = null;
let asked = 0, picked = 0, settle = 0;
let running = false;  // what was set for this lesson has not come to its end

/** @param {string} selector */
const found = (selector) => /** @type {HTMLElement?} */ (document.querySelector(selector));

/**
 * A button among the choices.
 * @param {string} text
 * @param {() => void} chosen
 */
function choice(text, chosen) {
  const button = make('button', '', text, { type: 'button' });
  button.addEventListener('click', chosen);
  choices.append(button);
  return button;
}

// ---- what the strip shows -------------------------------------------------------------------------------

/**
 * @param {string} what
 * @param {string} head
 * @param {string} text
 */
function show(what, head, text) {
  /** @type {HTMLElement?} */
  const tour = document.querySelector('.tour:not([hidden]) .tour-leave');
  tour?.click();
  unmark();
  strip.hidden = false;
  strip.dataset.state = what;
  name.textContent = lesson ? 'Lesson: ' + lesson.title : 'Lessons';
  title.textContent = head;
  words.textContent = text;
  choices.replaceChildren();
  $('.lesson-all').hidden = !lesson;
}

/** @param {string} [text] */
function showAll(text = '') {
  giveUp();
  lesson = null;
  show('all', 'Which lesson?', text || 'Each asks first, then races, and tells the answer on that very race.');
  for (const one of LESSONS) choice(one.title, () => { ask(one); title.focus({ preventScroll: true }); });
  fit();
}

/**
 * @param {Lesson} one
 * @param {string} [text]  before it is asked again
 */
function ask(one, text = '') {
  giveUp();
  lesson = one;
  show('asked', one.question, (text ? text + ' ' : '') + one.about);
  one.options.forEach((option, k) => choice(option, () => answer(k)));
  if (!one.options.length) guess();
  fit();
  if (one.options.length) return;
  found('#tabs [role=tab]')?.click();  // where the prompt that will race can be seen
  scrollTo(0, 0);
}

/** A number to guess, of 100. */
function guess() {
  const box = make('input', '', undefined, { type: 'range', min: '0', max: '100', step: '1', value: '50' });
  const label = make('label', '', 'Of 100: '), number = make('output', '', '50');
  box.addEventListener('input', () => { number.textContent = box.value; });
  label.append(number, box);
  choices.append(label);
  choice('Race', () => answer(Number(box.value)));
}

/** @param {number} k */
const said = (k) => lesson?.options.length ? '“' + lesson.options[k] + '”' : k + ' of 100';

/** @param {number} k  the option, or the number */
function answer(k) {
  if (!lesson) return;
  asked += 1;
  picked = k;
  running = true;
  show('running', lesson.question, 'You said ' + said(k) + '. ' + lesson.about);
  title.focus({ preventScroll: true });
  fit();
  trigger('select', { n: asked, lesson: lesson.id, picked: k });
}

/** @param {Told} told */
function tell(told) {
  if (!lesson) return;
  running = false;
  const { right, place } = told, one = lesson;
  const bears = right.map((k) => '“' + one.options[k] + '”').join(' or ');
  const verdict = !bears ? '' : right.includes(picked) ? 'You said ' + said(picked) + ': so it is here. '
    : 'You said ' + said(picked) + '; here it is ' + bears + '. ';
  show('told', one.question, verdict + told.words);
  choice('Show it again', () => { open(place); });
  choice('Ask again', () => { ask(one); });
  const next = LESSONS[LESSONS.indexOf(one) + 1];
  if (next) choice('Next: ' + next.title, () => { ask(next); title.focus({ preventScroll: true }); });
  fit();
  open(place);
}

/** @param {string} why */
function fail(why) {
  running = false;
  if (lesson) ask(lesson, why);
}

/** What was set is not waited for any more. */
function giveUp() {
  if (running) trigger('clear', {});
  running = false;
  asked += 1;
}

function leave() {
  giveUp();
  unmark();
  strip.hidden = true;
  lesson = null;
  fit();
  starter.focus({ preventScroll: true });
}

/** The page ends above the strip, and scrolls to what is above it. */
function fit() {
  const height = strip.hidden ? 0 : strip.offsetHeight;
  document.documentElement.style.setProperty('--strip', height + 'px');
}

// ---- what it opens --------------------------------------------------------------------------------------

function unmark() {
  clearInterval(settle);
  marked?.classList.remove('lesson-here');
  marked = null;
}

/**
 * Mark an element and bring it to the top of the window. What is drawn meanwhile may move it; a visitor who scrolls is
 * left alone.
 * @param {Element} node
 */
function light(node) {
  unmark();
  marked = node;
  node.classList.add('lesson-here');
  const until = performance.now() + SETTLE_MS;
  const toTop = () => {
    if (performance.now() > until || !node.isConnected) clearInterval(settle);
    else if (Math.abs(node.getBoundingClientRect().top - 12) > 4) node.scrollIntoView({ behavior: 'instant' });
  };
  toTop();
  settle = window.setInterval(toTop, STEP_MS);
}

for (const event of ['wheel', 'touchmove', 'keydown', 'pointerdown']) {
  addEventListener(event, () => clearInterval(settle), { passive: true, capture: true });
}

/**
 * The first of these elements that is there; a tab's are made when it is opened.
 * @param {string[]} ids
 * @returns {Promise<HTMLElement | null>}
 */
async function made(...ids) {
  const mine = asked;
  for (let waited = 0; waited < WAIT_MS && mine === asked; waited += STEP_MS) {
    for (const id of ids) {
      const node = document.getElementById(id);
      if (node && node.offsetParent) return node;
    }
    await new Promise((resume) => { setTimeout(resume, STEP_MS); });
  }
  return null;
}

/** @param {Place} place */
async function open(place) {
  const { lane, at, tab, id = '' } = place;
  const first = found('#tabs [role=tab]'), button = tab ? found('#' + tab) : first;
  if (button && button.getAttribute('aria-selected') !== 'true') button.click();
  if (tab) {
    const node = await made(id);
    if (place.set && (id === 'what-if' || id === 'many-users')) openPart(id, place.set);
    if (node) light(node);
    return;
  }
  const view = findBoard()?.view();
  if (!view || lane === undefined || !view.lanes[lane]) return;
  if (at === undefined) {
    light(view.pane(lane));
    return;
  }
  const look = () => {
    const bias = found('.inspector .bias:not([hidden])'), panel = found('.inspector');
    if (place.bias === false && bias?.getAttribute('aria-checked') === 'true') bias.click();
    const counts = found('.inspector-bias:not([hidden]) p')?.textContent;
    if (counts && place.bias === false && !words.textContent?.includes(counts)) {
      words.textContent += ' ' + counts;
      fit();
    }
    if (panel) light(panel);
  };
  document.addEventListener('round-shown', look, { once: true });
  document.dispatchEvent(new CustomEvent('round-picked', { detail: { lane, at, quiet: true } }));
  const panel = found('.inspector:not([hidden])');
  if (panel) light(panel);
}

// ---- what came ------------------------------------------------------------------------------------------

watch('value', () => {
  /** @type {Told} */
  const told = parsed({});
  if (told.n !== asked || !lesson) return;
  if (told.state === 'told') tell(told);
  if (told.state === 'failed') fail(told.words);
});

document.addEventListener('lesson-set', async () => {
  /** @type {Told} */
  const { n, state, press } = parsed({});
  if (n !== asked || state !== 'set' || !element.isConnected) return;
  found(press === '#race' ? '#tabs [role=tab]' : '#prove-button')?.click();  // elsewhere, what is pressed may be hidden
  const button = await made(press.slice(1));
  if (n === asked) button?.click();
});

/** A race that is refused, fails or is stopped ends no lesson by itself. */
new MutationObserver(() => {
  const state = document.body.dataset.race;
  if (!running || (state !== 'failed' && state !== 'stopped')) return;
  const why = state === 'failed' ? found('.board-status')?.textContent ?? '' : 'The race was stopped before its end.';
  giveUp();
  fail(why + ' Choose again.');
}).observe(document.body, { attributeFilter: ['data-race'] });

// Another race on the board is not what was told of.
document.addEventListener('race-start', () => {
  if (lesson && !running && strip.dataset.state === 'told') ask(lesson);
}, true);

starter.addEventListener('click', () => { showAll(); title.focus({ preventScroll: true }); });
$('.lesson-all').addEventListener('click', () => { showAll(); title.focus({ preventScroll: true }); });
$('.lesson-leave').addEventListener('click', leave);
strip.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  event.stopPropagation();
  leave();
});
document.addEventListener('click', (event) => {
  if (event.target instanceof Element && event.target.closest('.tour-start') && !strip.hidden) leave();
}, true);
addEventListener('resize', fit);
new MutationObserver(fit).observe(document.body, { attributeFilter: ['data-text'] });

const wanted = new URLSearchParams(location.search).get('lesson');
if (wanted !== null) {
  const one = LESSONS.find(({ id }) => id === wanted);
  if (one) ask(one); else showAll('There is no lesson “' + wanted.slice(0, 40) + '”; these there are:');
}
openLinked();
