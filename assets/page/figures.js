// @ts-check
// A lane's figures on the board: four numbers, its tokens per round and its speed over time as small drawings.
import { make, svg } from './dom.js';

/** @import {Round} from './rounds.js' */

/**
 * A moment of a lane: seconds of decoding, and a number.
 * @typedef {[seconds: number, number: number]} Point
 */

/**
 * A lane on the board. Where a replay hides its end, `shown` says how many rounds are left, and the counts are theirs.
 * @typedef {object} Lane
 * @property {number} i
 * @property {string} name
 * @property {boolean} plain
 * @property {HTMLElement} pane
 * @property {HTMLElement} text  where its tokens go
 * @property {HTMLElement} note
 * @property {HTMLElement} fill  of its progress bar
 * @property {HTMLElement} figures
 * @property {Record<string, HTMLElement>} figure  where each number stands
 * @property {SVGElement} histogram
 * @property {SVGElement[]} bars
 * @property {SVGElement} line  of its speed
 * @property {Round[]} rounds  none of them changes any more
 * @property {string[]} more  what is said of the round that comes next
 * @property {HTMLElement[][]} nodes  of each round
 * @property {HTMLElement[]} tokens  of each committed token
 * @property {string} answer  without what was thought before it
 * @property {boolean} thinking  its newest token is of a thought
 * @property {boolean} ended  its newest token ends a line
 * @property {HTMLElement?} block  the block of text that is not full yet
 * @property {number} blockTokens
 * @property {HTMLElement?} tail
 * @property {number} firstToken  seconds before the first token
 * @property {number} committed
 * @property {number} seconds  of decoding
 * @property {number} rate  tok/s
 * @property {number} proposed
 * @property {number} accepted
 * @property {number} undrafted  rounds without a draft
 * @property {number} unsent  rounds of which no draft was sent
 * @property {string} idle  which of both the last round was
 * @property {number[]} lengths  how many rounds gave 0, 1, 2 ... tokens
 * @property {Point[]} points  committed tokens after each round
 * @property {Point[]} speeds
 * @property {boolean} stick  its end is to stay in sight
 * @property {boolean} dirty  has to be drawn
 * @property {boolean} over
 * @property {number?} shown
 */

const SPEED_TOKENS = 16;  // tok/s over time looks back over this many tokens
const FEWEST = 8;  // tokens of either lane before one is held against the other, while they run
const FIGURES = [
  ['speed', 'tok/s', 'Tokens per second of decoding, on this lane’s own clock'],
  ['times', '× plain', 'How many times as fast as the plain lane of the same race'],
  ['perRound', 'tokens per round', 'A round is one draft and one check by the target'],
  ['rate', 'accepted', 'Share of the drafts sent that the target agreed with'],
];

/**
 * How many rounds are to be seen, the prompt's own token among them.
 * @param {Lane} lane
 */
export const shownRounds = (lane) => lane.shown ?? lane.rounds.length;

/**
 * What has become of a lane's tokens per round, for a screen reader.
 * @param {readonly number[]} lengths  how many rounds gave 0, 1, 2 ... tokens
 * @param {number} rounds
 */
export function histogramWords(lengths, rounds) {
  const share = (/** @type {number} */ n) => Math.round(100 * n / Math.max(1, rounds)) + ' %';
  const shares = lengths.map((n, k) => n && k + ': ' + share(n));
  return 'Tokens per round, share of rounds. ' + shares.filter(Boolean).join(', ');
}

/**
 * tok/s over the last SPEED_TOKENS tokens, at about a hundred moments.
 * @param {readonly Point[]} points  seconds and committed tokens after each round
 * @param {number} count  how many of them are to be seen
 * @returns {Point[]}
 */
export function speedsOf(points, count) {
  /** @type {Point[]} */
  const speeds = [];
  const step = Math.max(1, Math.floor(count / 100));
  let from = 0;
  for (let k = 0; k < count; k += step) {
    while (points[k][1] - points[from][1] > SPEED_TOKENS) from += 1;
    const span = points[k][0] - points[from][0], tokens = points[k][1] - points[from][1];
    if (tokens >= SPEED_TOKENS / 2 && span > 0) speeds.push([points[k][0], tokens / span]);
  }
  return speeds;
}

/**
 * The points of a line through speeds, in a box of 120 by 44.
 * @param {readonly Point[]} speeds
 * @param {number} right  the time at its right end
 * @param {number} top  the speed at its upper end
 */
export const lineThrough = (speeds, right, top) => speeds
  .map(([t, s]) => (120 * t / right).toFixed(1) + ',' + (42 - 40 * s / top).toFixed(1)).join(' ');

/** The four numbers of a lane, not known yet. */
export function makeFigures() {
  const figures = make('dl', 'figures');
  /** @type {Record<string, HTMLElement>} */
  const figure = {};
  for (const [key, term, meaning] of FIGURES) {
    const cell = make('div', 'figure-' + key, undefined, { title: meaning });
    figure[key] = make('dd', '', '–');
    cell.append(make('dt', '', term), figure[key]);
    figures.append(cell);
  }
  return { figures, figure };
}

/** Both drawings of a lane, empty. */
export function makeDrawings() {
  const drawings = make('div', 'drawings');
  const histogram = svg('svg', { class: 'histogram', viewBox: '0 0 120 44', role: 'img',
    preserveAspectRatio: 'xMinYMax' });
  const speed = svg('svg', { class: 'speed', viewBox: '0 0 120 44', role: 'img', preserveAspectRatio: 'none' });
  histogram.setAttribute('aria-label', 'Tokens per round, share of rounds');
  speed.setAttribute('aria-label', 'tok/s over own time');
  const line = svg('polyline', { fill: 'none', 'vector-effect': 'non-scaling-stroke' });
  speed.append(line);
  const holdHistogram = make('figure'), holdSpeed = make('figure');
  holdHistogram.append(histogram, make('figcaption', '', 'tokens per round'));
  holdSpeed.append(speed, make('figcaption', '', 'tok/s over time'));
  drawings.append(holdHistogram, holdSpeed);
  return { drawings, histogram, line };
}

/**
 * Draw a lane anew.
 * @param {Lane} lane
 * @param {readonly Lane[]} lanes  all of them, on one scale
 * @param {number} maxTokens
 */
export function draw(lane, lanes, maxTokens) {
  lane.dirty = false;
  const { figure, committed, seconds } = lane;
  lane.rate = seconds > 0 ? committed / seconds : 0;
  const rounds = shownRounds(lane) - 1;
  if (lane.rate) figure.speed.textContent = lane.rate.toFixed(lane.rate < 100 ? 1 : 0);
  if (rounds > 0) {
    if (lane.plain) {
      figure.perRound.textContent = '1';
      for (const other of lanes) if (other !== lane && other.rate) drawTimes(other, lane);
    } else {
      const tokens = lane.lengths.reduce((sum, n, length) => sum + n * length, 0);
      figure.perRound.textContent = (tokens / rounds).toFixed(2);
      figure.rate.textContent = lane.proposed ? Math.round(100 * lane.accepted / lane.proposed) + ' %' : 'none sent';
    }
    drawTimes(lane, lanes.find((other) => other.plain));
  }
  const tokens = lane.rounds[rounds]?.to || 0;
  lane.fill.style.width = Math.min(100, 100 * tokens / maxTokens) + '%';
  if (!lane.plain) drawHistogram(lane);
  lane.speeds = speedsOf(lane.points, Math.max(0, rounds));
}

/**
 * Draw how many times as fast as plain a lane is.
 * @param {Lane} lane
 * @param {Lane} [plain]
 */
export function drawTimes(lane, plain) {
  const enough = [lane, plain].every((one) => one && (one.over || one.committed >= FEWEST));
  const ratio = enough && plain?.rate && lane.rate ? lane.rate / plain.rate : 0;
  lane.figure.times.textContent = !ratio ? '–' : lane.plain ? '1' : ratio.toFixed(2);
  lane.figure.times.dataset.trend = lane.plain || !ratio ? '' : ratio >= 1.005 ? 'up' : ratio < 0.995 ? 'down' : '';
}

/** @param {Lane} lane */
function drawHistogram(lane) {
  const longest = Math.max(4, lane.lengths.length - 1);
  const peak = Math.max(...lane.lengths.filter(Boolean), 1);
  if (lane.bars.length !== longest) {
    lane.histogram.replaceChildren();
    lane.bars = Array.from({ length: longest }, (_, k) => {
      const width = 120 / longest;
      const bar = svg('rect', { x: k * width + 1, width: width - 2, y: 32, height: 0, rx: 1 });
      const label = svg('text', { x: (k + 0.5) * width, y: 43, 'text-anchor': 'middle' });
      label.textContent = longest > 10 && k % 2 ? '' : String(k + 1);
      lane.histogram.append(bar, label);
      return bar;
    });
  }
  lane.bars.forEach((bar, k) => {
    const height = 30 * (lane.lengths[k + 1] || 0) / peak;
    bar.setAttribute('y', String(32 - height));
    bar.setAttribute('height', String(height));
  });
}

/**
 * Draw every lane's tok/s over time, all on one scale: a lane that has ended is drawn again while others go on.
 * @param {readonly Lane[]} lanes
 */
export function drawSpeeds(lanes) {
  const right = Math.max(...lanes.map((l) => l.seconds), 1e-9);
  const top = 1.1 * Math.max(...lanes.flatMap((l) => l.speeds.map((s) => s[1])), 1e-9);
  for (const lane of lanes) lane.line.setAttribute('points', lineThrough(lane.speeds, right, top));
}
