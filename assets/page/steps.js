// @ts-check
// A round before it is checked. Where a replay stands inside a round, its block is shown as it was drafted, grey, with
// nothing decided; then one sweep, while the target checks it; the round itself comes at its end, with what was kept
// and struck. The step button goes from one of these to the next, through the rounds of one lane.
import { board, how, inWords, lanes, show } from './board.js';
import { $, make, quoted } from './dom.js';
import { shownRounds } from './figures.js';
import { bar, pause, replay, rewind, seek } from './replay.js';
import { draftsOf, nextStop, partWords, phaseAt } from './rounds.js';

/** @import {Lane} from './figures.js' */
/** @import {Round} from './rounds.js' */
/**
 * The round that a lane is in.
 * @typedef {object} Pending
 * @property {Round} round
 * @property {HTMLElement} node
 */

/** @type {Map<Lane, Pending>} */
const inside = new Map();
const stepper = make('button', 'replay-step', 'Step', {
  type: 'button', id: 'step', title: 'One phase on: the block as it is drafted, the target’s check, what is kept',
});
const through = make('select', 'replay-lane'), throughLabel = make('label', '', 'through ');
throughLabel.append(through);
bar.append(stepper, throughLabel);

/**
 * A round's block as it was drafted, with nothing decided, and on one line.
 * @param {Round} round
 */
function blockOfDrafts(round) {
  const node = make('span', 'pending'), drafts = draftsOf(round);
  drafts.forEach(({ text }, k) => {
    const sent = k < round.proposed, draft = make('span', sent ? 'draft' : 'draft unsent', text.replaceAll('\n', ''));
    if (text.includes('\n')) draft.dataset.sign = '↵'.repeat(text.split('\n').length - 1);
    node.append(draft);
  });
  if (!drafts.length) node.append(make('span', 'draft none', '…'));
  return node;
}

/**
 * Show what a lane is in the middle of.
 * @param {Lane} lane
 * @param {number} now
 */
function drawInside(lane, now) {
  const count = shownRounds(lane), round = count > 0 ? lane.rounds[count] : undefined;
  const stands = round && phaseAt(round, now - lane.firstToken - round.before), before = inside.get(lane);
  if (before && (!stands || before.round !== round || !before.node.isConnected)) {
    before.node.remove();
    inside.delete(lane);
  }
  if (!round || !stands) return;
  const node = inside.get(lane)?.node ?? blockOfDrafts(round);
  if (!inside.has(lane)) {
    lane.nodes[count - 1].at(-1)?.after(node);
    inside.set(lane, { round, node });
    lane.dirty = true;  // its end is to stay in sight
  }
  node.classList.remove('stepped');
  node.dataset.phase = stands.phase;
  node.style.setProperty('--checked', stands.phase === 'check' ? Math.round(100 * stands.share) + '%' : '0%');
}

/** @param {Lane} lane */
const lastTime = (lane) => lane.firstToken + (lane.rounds.at(-1)?.time ?? 0);

/** One phase on in the lane that is chosen. */
function stepOn() {
  pause();
  const lane = lanes[Number(through.value)] ?? lanes[0];
  if (!lane || lane.rounds.length < 2) return;
  for (const other of lanes) other.stick = true;
  if (replay.now >= Math.min(replay.length, lastTime(lane))) rewind();
  const local = replay.now - lane.firstToken, round = lane.rounds.find((r) => !r.first && r.time > local + 1e-9);
  if (!round) return;
  const stop = nextStop(round, Math.max(0, local - round.before)), over = stop >= round.time - round.before;
  seek(lane.firstToken + (over ? round.time : round.before + stop));
  const node = inside.get(lane)?.node;
  if (node?.dataset.phase === 'check') {  // all of it is swept over while one looks
    node.offsetWidth;
    node.classList.add('stepped');
    node.style.setProperty('--checked', '100%');
  }
  show(over ? { lane, round } : null);
  const words = over ? [inWords({ lane, round }), partWords(round)].filter(Boolean).join(' ')
    : insideWords(lane, round);
  board.explain(words);
  $('.board-announce').textContent = words;
}

/**
 * A round that is not over, in words.
 * @param {Lane} lane
 * @param {Round} round
 */
function insideWords(lane, round) {
  const { drafted, proposed } = round, place = lane.name + ', round ' + (round.index + 1) + ', ';
  const checking = phaseAt(round, replay.now - lane.firstToken - round.before)?.phase === 'check';
  const block = draftsOf(round).map(({ text }) => text).join('');
  const greedy = how.temperature ? '' : ' A draft stays if it is what the target itself would say.';
  if (!drafted) return place + 'one pass of the target, for one token: nothing was drafted.';
  if (!checking) {
    const few = proposed === drafted ? 'all of them' : proposed ? 'the first ' + proposed : 'none of them';
    return place + 'before it is checked: the drafter wrote ' + drafted + ' ahead, ' + quoted(block) + '. Sent to the '
      + 'target: ' + few + '.';
  }
  if (!proposed) return place + 'one pass of the target, for one token: no draft was sent.';
  return place + 'being checked: one pass of the target reads all ' + proposed + ' at once and says what should stand '
    + 'in each place.' + greedy;
}

stepper.addEventListener('click', stepOn);
board.addEventListener('replay-moment', (event) => {
  const { now } = /** @type {CustomEvent<{ now: number }>} */ (event).detail;
  for (const lane of lanes) drawInside(lane, now);
});
board.addEventListener('race-start', () => inside.clear());
board.addEventListener('race-over', () => {
  const those = lanes.filter((lane) => lane.rounds.length > 1);
  through.replaceChildren(...those.map((lane) => make('option', '', lane.name, { value: String(lane.i) })));
  const drafted = those.find((lane) => lane.rounds.some((round) => round.drafted));
  through.value = String((drafted ?? those[0])?.i ?? '');
  throughLabel.hidden = those.length < 2;
});
