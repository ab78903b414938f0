// @ts-check
// What a round costs and brings, as dspark_core/race/forecast.py has it, for any acceptance and costs. Nothing here
// touches the page. Inputs are those of dspark_core/race/what_if.py.

/**
 * What a pass over so many tokens takes: dspark_core/decode/batch_rows.py.
 * @typedef {{ points: Record<string, number>, measured: number }} Passes
 * Seconds of a drafter's rounds by drafts sent: dspark_core/race/what_if.py.
 * @typedef {{ plain: number, verify: number[], draft: number[], known: boolean }} RoundCosts
 * A machine to start from.
 * @typedef {{ id: string, title: string, source: string, plain: number, further: number, passes: Passes,
 *   rounds: RoundCosts[] }} Start
 * A drafter and what was accepted of its drafts.
 * @typedef {{ name: string, place: number, drafts: number, accepted: number[], raced: boolean,
 *   measured: number[] }} Line
 * What is asked; null is as the start point or the race has it. `accept` is every draft's acceptance, `shift` the
 * log-odds by which the measured one is moved, times are in milliseconds.
 * @typedef {{ accept: number?, shift: number, draft: number?, further: number?, cap: number, batch: number }} Asked
 * Of one number of drafts: tokens a round, tokens at which it is as fast as plain decoding, x plain, and tokens a
 * second of one request and of all.
 * @typedef {{ drafts: number, tokens: number, even: number, times: number, each: number, all: number }} Prospect
 */

/**
 * Linear between the two nearest points.
 * @param {readonly [number, number][]} points  in order; x is not beyond the last
 * @param {number} x
 */
function between(points, x) {
  if (points.length === 1) return points[0][1];
  const right = Math.max(1, points.findIndex(([at]) => at >= x));
  const [a, s] = points[right - 1], [b, t] = points[right];
  return x === a ? s : x === b ? t : s + (t - s) * (x - a) / (b - a);
}

/**
 * Seconds of a pass over `rows` tokens; beyond the points as steep as their upper half.
 * @param {Passes} passes
 * @param {number} rows
 */
export function passSeconds(passes, rows) {
  /** @type {[number, number][]} */
  const points = Object.entries(passes.points).map(([at, s]) => [Number(at), s]);
  points.sort(([a], [b]) => a - b);
  const [widest, last] = points[points.length - 1];
  if (rows <= widest || widest === 1) return between(points, Math.min(rows, widest));
  const half = Math.floor(widest / 2);
  return last + Math.max(0, last - between(points, half)) / (widest - half) * (rows - widest);
}

/** @param {number} p */
const odds = (p) => Math.log(Math.min(Math.max(p, 1e-4), 1 - 1e-4) / (1 - Math.min(Math.max(p, 1e-4), 1 - 1e-4)));

/**
 * An acceptance moved by so many log-odds.
 * @param {number} p
 * @param {number} by
 */
export const shifted = (p, by) => by ? 1 / (1 + Math.exp(-(odds(p) + by))) : p;

/**
 * Acceptance of each slot given the ones before it.
 * @param {Line} line
 * @param {Asked} asked
 */
export const acceptance = (line, { accept, shift }) => accept === null
  ? line.accepted.map((p) => shifted(p, shift)) : Array.from({ length: line.drafts }, () => accept);

/**
 * Milliseconds of a drafter's longest draft: as the start point has it, or moved as the first drafter's is.
 * @param {Start} start
 * @param {number} k  which line
 * @param {Asked} asked
 */
export function draftMs(start, k, { draft }) {
  const own = 1000 * Math.max(0, ...start.rounds[k].draft);
  const first = 1000 * Math.max(0, ...start.rounds[0].draft);
  return draft === null ? own : first && own ? draft * own / first : draft;
}

/**
 * By number of drafts, from 0 on, what comes of a line on a machine; empty where nothing is known of its acceptance.
 * @param {Start} start
 * @param {number} k  which of the lines
 * @param {Line} line
 * @param {Asked} asked
 * @returns {Prospect[]}
 */
export function prospects(start, k, line, asked) {
  const { plain, verify, draft } = start.rounds[k], { batch } = asked;
  const accepted = acceptance(line, asked), most = Math.min(accepted.length, verify.length - 1);
  if (!most) return [];
  const further = asked.further === null ? null : asked.further / 1000;
  // What `rows` tokens take beside one, if each took `further` on average.
  const moved = (/** @type {number} */ s, /** @type {number} */ one, /** @type {number} */ rows) =>
    further === null ? s : start.further ? one + (s - one) * further / start.further : s + further * (rows - 1);
  const pass = (/** @type {number} */ rows) => moved(passSeconds(start.passes, rows), start.plain, rows);
  const check = verify.map((s, n) => moved(s, plain, n + 1));
  const longest = Math.max(...draft), takes = draftMs(start, k, asked) / 1000;
  const write = draft.map((s, n) => !n || asked.draft === null ? s : longest ? s * takes / longest : takes);
  // Drafting for several requests grows as the target's own pass over as many tokens does.
  const slots = draft.length - 1;
  const grows = batch === 1 ? 1 : passSeconds(start.passes, batch * slots) / passSeconds(start.passes, slots);
  const step = batch === 1 ? plain : pass(batch) * plain / pass(1);
  let survival = 1, tokens = 1;
  /** @type {Prospect[]} */
  const out = [{ drafts: 0, tokens, even: 1, times: 1, each: 1 / step, all: batch / step }];
  for (let n = 1; n <= most; n += 1) {
    survival *= accepted[n - 1];
    tokens += survival;
    const checked = batch === 1 ? check[n] : pass(batch * (n + 1)) * check[n] / pass(n + 1);
    const round = write[n] * grows + checked;
    out.push({ drafts: n, tokens, even: round / step, times: tokens / round * step, each: tokens / round,
      all: batch * tokens / round });
  }
  return out;
}
