// @ts-check
// Parts of the page that keep what was set in the page's address, so that a link opens them as they stand:
// ?open=what-if&what-if=start:free,accept:0.9&users=users:8.

/** @typedef {Record<string, string>} Settings */

/** By a part's id: the button of the tab that it is in, and its name in an address. */
const PARTS = {
  'what-if': { tab: 'cost-button', name: 'what-if' },
  'many-users': { tab: 'cost-button', name: 'users' },
};

/** @typedef {keyof typeof PARTS} PartId */

/**
 * Settings as a text: name:value, with commas between.
 * @param {Settings} settings
 */
export const settingsText = (settings) => Object.entries(settings).map((pair) => pair.join(':')).join(',');

/**
 * What an address says of a part.
 * @param {PartId} id
 * @returns {Settings}
 */
export function settingsOf(id) {
  const text = new URLSearchParams(location.search).get(PARTS[id].name) ?? '';
  const pairs = text.slice(0, 1000).split(',').map((pair) => pair.split(':'));
  return Object.fromEntries(pairs.filter(({ length }) => length === 2));
}

/**
 * A number of a part's settings that is within its limits, or null.
 * @param {string | undefined} text
 * @param {number} least
 * @param {number} most
 */
export function numberOf(text, least, most) {
  const value = text === undefined || text.trim() === '' ? NaN : Number(text);
  return value >= least && value <= most ? value : null;
}

/** @param {URLSearchParams} query */
const plainQuery = (query) => query.toString().replaceAll('%3A', ':').replaceAll('%2C', ',');

/** @param {URLSearchParams} query */
function writeQuery(query) {
  history.replaceState(history.state, '', (query.size ? '?' + plainQuery(query) : location.pathname) + location.hash);
}

/**
 * Write a part's settings into the address; none takes the part out of it.
 * @param {PartId} id
 * @param {Settings} settings
 */
export function keepSettings(id, settings) {
  const query = new URLSearchParams(location.search), text = settingsText(settings);
  if (text) query.set(PARTS[id].name, text);
  else query.delete(PARTS[id].name);
  writeQuery(query);
}

/**
 * Copy a link that opens a part with these settings, beside all else that the address holds.
 * @param {PartId} id
 * @param {Settings} settings
 * @param {HTMLElement} button  which says so
 */
export async function copyPart(id, settings, button) {
  keepSettings(id, settings);
  const query = new URLSearchParams(location.search), words = button.textContent;
  query.set('open', id);
  const link = location.origin + location.pathname + '?' + plainQuery(query);
  try {
    await navigator.clipboard.writeText(link);
    button.textContent = 'Copied';
  } catch {
    button.textContent = 'It is in the address of this page';  // which has all but where it opens
  }
  setTimeout(() => { button.textContent = words; }, 1500);
}

/** What stands in the address of all parts, to go behind another query: empty, or with an & in front. */
export function settingsInAddress() {
  const query = new URLSearchParams(location.search), names = Object.values(PARTS).map(({ name }) => name);
  for (const name of [...query.keys()]) if (!names.includes(name)) query.delete(name);
  return query.size ? '&' + plainQuery(query) : '';
}

/**
 * Open a part's tab, show the part, and set it to these settings: for whatever leads a visitor there.
 * @param {PartId} id
 * @param {Settings} settings
 */
export function openPart(id, settings) {
  keepSettings(id, settings);
  document.dispatchEvent(new CustomEvent('part-set', { detail: id }));
  if (!document.getElementById(id)?.offsetParent) document.getElementById(PARTS[id].tab)?.click();
  const show = (/** @type {number} */ tries) => {
    const part = document.getElementById(id);
    if (part?.offsetParent) part.scrollIntoView({ block: 'start' });
    else if (tries) setTimeout(() => show(tries - 1), 50);
  };
  show(100);
}

/**
 * Read a part's settings now and whenever something else sets them.
 * @param {PartId} id
 * @param {(settings: Settings) => void} read
 */
export function onSettings(id, read) {
  read(settingsOf(id));
  document.addEventListener('part-set', (event) => {
    if (/** @type {CustomEvent} */ (event).detail === id && element.isConnected) read(settingsOf(id));
  });
  if (new URLSearchParams(location.search).get('open') !== id) return;
  const query = new URLSearchParams(location.search);  // once: a reload stays where its visitor is
  query.delete('open');
  writeQuery(query);
  requestAnimationFrame(() => document.getElementById(id)?.scrollIntoView({ block: 'start' }));
}
