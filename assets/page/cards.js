// @ts-check
// The presets as cards. The value is JSON: where downloads land, and a card each. Cards are made once and then changed
// in place, so that the focus stays where it is. Names and sentences of models go through textContent; a link is
// followed only to the hub.
import { copyable } from './copyable.js';
import { $, make, onValue, parsed } from './dom.js';

/**
 * @typedef {{ title: string, size: string, licence: string, state: string, link: string }} Part
 * @typedef {{ kind: string, words: string, more: string }} Badge
 * @typedef {{ name: string, title: string, about: string, notes: string[], badges: Badge[],
 *   versions: { value: string, words: string }[], version: string, target: Part,
 *   drafters: (Part & { id: string, on: boolean })[], button: { action: string, words: string, main: boolean },
 *   busy: { share: number, words: string } | null, said: { kind: string, words: string },
 *   places: string[], remove: string, command: string }} Card
 * @typedef {Pick<Card, 'notes' | 'places' | 'remove' | 'command'>} Folded  what is shown on demand
 */

const HUB = 'https://huggingface.co/';
/** @type {Record<string, string>} */
const EVENTS = { look: 'submit', download: 'submit', load: 'apply', unload: 'apply', cancel: 'stop', stop: 'stop' };
/** @type {Map<string, { root: HTMLElement, draw: (card: Card) => void }>} */
const made = new Map();

/**
 * Draw only where what is drawn has changed.
 * @template T
 * @param {(value: T) => void} draw
 */
function changing(draw) {
  let before = '';
  return (/** @type {T} */ value) => {
    const now = JSON.stringify(value);
    if (now !== before) draw(value);
    before = now;
  };
}

/**
 * Size, licence and state of a download, and its page on the hub, by its name or in short.
 * @param {Part} part
 * @param {boolean} named
 */
function partWords({ size, licence, state, link }, named) {
  const words = make('small', 'card-part', [size, licence, state].filter(Boolean).join(' · '));
  if (link.startsWith(HUB)) {
    const name = link.slice(HUB.length), away = { href: link, target: '_blank', rel: 'noreferrer noopener' };
    words.append(words.textContent ? '\u00a0·\u00a0' : '', named ? make('a', '', name, away)
      : make('a', '', 'hub', { ...away, 'aria-label': name + ' on the hub', title: name }));
  }
  return words;
}

/**
 * A box or a button of a choice, before its words.
 * @param {Record<string, string>} attributes
 * @param {...(string | Node)} words
 */
function option(attributes, ...words) {
  const label = make('label');
  label.append(make('input', '', undefined, attributes), ' ', ...words);
  return label;
}

/**
 * What one chooses on a card: the target's precision, the drafters.
 * @param {string} name
 */
function choices(name) {
  const place = make('div', 'card-choices'), target = make('div');
  const versions = make('fieldset', 'card-versions'), drafters = make('fieldset', 'card-drafters');
  place.append(versions, target, drafters);
  const chosen = (/** @type {HTMLElement} */ set) => [...set.querySelectorAll('input')]
    .filter((box) => box.checked).map((box) => box.value);
  place.addEventListener('change', () => trigger('select', {
    card: name, precision: chosen(versions)[0], drafters: chosen(drafters),
  }));
  const drawVersions = changing((/** @type {Card['versions']} */ all) => {
    const words = all.map(({ value, words }) => option({ type: 'radio', name: 'precision of ' + name, value }, words));
    versions.replaceChildren(make('legend', '', 'Target'), ...words);
  });
  const drawTarget = changing((/** @type {Part} */ part) => target.replaceChildren(partWords(part, true)));
  const drawDrafters = changing((/** @type {Card['drafters']} */ all) => {
    const boxes = all.map((part) => option({ type: 'checkbox', value: part.id },
      make('span', '', part.title), ' ', partWords(part, false)));
    drafters.replaceChildren(make('legend', '', 'Drafters'), ...boxes);
  });
  const mark = (/** @type {HTMLElement} */ set, /** @type {boolean[]} */ on) => {
    set.querySelectorAll('input').forEach((box, k) => { box.checked = on[k]; });
  };
  return { place, draw(/** @type {Card} */ card) {
    drawVersions(card.versions);
    mark(versions, card.versions.map(({ value }) => value === card.version));
    drawTarget({ ...card.target, size: '', state: '' });
    drawDrafters(card.drafters.map((part) => ({ ...part, on: false })));
    mark(drafters, card.drafters.map(({ on }) => on));
  } };
}

/**
 * Notes, where the files lie, how to remove them, the same pair elsewhere.
 * @param {Folded} folded
 */
function more({ notes, places, remove, command }) {
  /** @type {HTMLElement[]} */
  const out = notes.map((text) => make('p', '', text));
  if (places.length) {
    const list = make('ul');
    list.append(...places.map((text) => make('li', '', text)));
    out.push(make('p', '', 'Its files lie here:'), list);
  }
  if (remove) {
    const line = make('p', '', 'To remove what was downloaded: ');
    line.append(copyable(remove));
    out.push(line);
  }
  if (command) {
    const line = make('p', '', 'The same pair in mlx-dspark: ');
    line.append(copyable(command));
    out.push(line);
  }
  return out;
}

/**
 * The one button, and how far is what it stands for.
 * @param {string} name
 */
function action(name) {
  const place = make('div', 'card-action'), button = make('button', '', '', { type: 'button' });
  const bar = make('progress', '', undefined, { max: '1' }), words = make('span', 'card-busy');
  place.append(button, bar, words);
  button.addEventListener('click', () => {
    const { action } = button.dataset;
    if (action) trigger(EVENTS[action], { card: name, action });
  });
  return { place, draw(/** @type {Card} */ { title, button: next, busy }) {
    button.textContent = next.words;
    button.setAttribute('aria-label', next.words + ': ' + title);
    button.dataset.action = next.action;
    button.dataset.main = String(next.main);
    button.setAttribute('aria-disabled', String(!next.action));
    bar.hidden = words.hidden = !busy;
    bar.value = busy?.share ?? 0;
    bar.setAttribute('aria-label', title + ': ' + (busy?.words ?? ''));
    words.textContent = busy?.words ?? '';
  } };
}

/** @param {Card} card */
function cardOf({ name, title }) {
  const root = make('li', 'model-card'), head = make('div', 'card-head'), badges = make('span', 'card-badges');
  const about = make('p', 'card-about'), memory = make('p', 'card-memory');
  const said = make('p', 'card-said', '', { role: 'status' });
  const details = make('details'), body = make('div');
  const chosen = choices(name), next = action(name);
  head.append(make('h4', '', title), badges);
  details.append(make('summary', '', 'Notes, files, other engines'), body);
  root.append(head, about, chosen.place, memory, next.place, said, details);
  root.dataset.card = name;
  const drawBadges = changing((/** @type {Badge[]} */ list) => badges.replaceChildren(...list.map((badge) => {
    return make('span', 'badge', badge.words, { 'data-kind': badge.kind });
  })));
  const drawMore = changing((/** @type {Folded} */ folded) => body.replaceChildren(...more(folded)));
  return { root, draw(/** @type {Card} */ card) {
    const { notes, places, remove, command } = card;
    about.textContent = card.about;
    memory.textContent = card.badges.map((badge) => badge.more).join('');
    if (said.textContent !== card.said.words) said.textContent = card.said.words;
    said.dataset.kind = card.said.kind;
    drawBadges(card.badges);
    chosen.draw(card);
    next.draw(card);
    drawMore({ notes, places, remove, command });
  } };
}

onValue(() => {
  const { where, cards } = parsed({ where: 'Looking at what is on this machine …', cards: [] });
  $('.cards-where').textContent = where;
  for (const card of /** @type {Card[]} */ (cards)) {
    if (!made.has(card.name)) {
      made.set(card.name, cardOf(card));
      $('.card-list').append(/** @type {{ root: HTMLElement }} */ (made.get(card.name)).root);
    }
    made.get(card.name)?.draw(card);
  }
});
