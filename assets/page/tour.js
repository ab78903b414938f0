// The guided tour: five steps on the race that stands on the board. Every number and token in it is that race's.
const $ = (selector) => element.querySelector(selector);
const panel = $('.tour'), starter = $('.tour-start'), nextButton = $('.tour-next'), backButton = $('.tour-back');
const KEY = 'dspark-tour';
let step = 0, marked = null, waiting = false;

const remember = (value) => { try { value === null ? localStorage.removeItem(KEY) : localStorage.setItem(KEY, value); } catch { /* private mode */ } };
const recall = () => { try { return localStorage.getItem(KEY); } catch { return null; } };

// ---- what the race has to show --------------------------------------------------------------------------

const theBoard = () => document.querySelector('.board');
const visible = (text) => '“' + text.replace(/\n/g, '↵').replace(/\t/g, '⇥') + '”';
const count = (n, word, many) => n + ' ' + (n === 1 ? word : many || word + 's');
const seconds = (s) => s < 1 ? (1000 * s).toFixed(s < 0.01 ? 1 : 0) + ' ms' : s.toFixed(2) + ' s';
const rounds = (lane) => lane.rounds.length - 1;  // the first entry is the prompt's own token
const sentOf = (round) => round.tokens.filter((t) => 'ard'.includes(t.kind));
const ownOf = (round) => round.tokens.filter((t) => 'cbpe'.includes(t.kind)).at(-1);

// The plain lane, a lane with a drafter, and a round of it with both an acceptance and a rejection where there is one.
function found() {
  const board = theBoard(), lanes = board?.lanes?.() || [];
  if (!['done', 'stopped'].includes(board?.dataset.state)) return null;
  const plain = lanes.find((lane) => lane.plain && rounds(lane) > 0);
  const drafted = (round) => !round.first && round.proposed > 0;
  const lane = lanes.find((l) => !l.plain && l.rounds.some(drafted));
  if (!plain || !lane) return null;
  const both = (round) => drafted(round) && round.accepted > 0 && round.accepted < round.proposed && ownOf(round);
  const round = lane.rounds.filter(both).sort((a, b) => b.accepted - a.accepted)[0] || lane.rounds.find(drafted);
  return { plain, lane, round };
}

const STEPS = [
  {
    title: 'One token at a time',
    where: ({ plain }) => plain.pane,
    words: ({ plain }) => 'The plain lane asks the target for one token, adds it to the text and asks again: ' + count(rounds(plain), 'pass', 'passes')
      + ' for ' + count(plain.committed, 'token') + ', ' + seconds(plain.seconds / rounds(plain)) + ' each. The target has to read all its weights for every single one.',
  },
  {
    title: 'A block is drafted',
    where: ({ round }) => round.nodes[0],
    mark: true,
    words: ({ lane, round }) => 'The ' + lane.name + ' lane has a drafter, a much smaller model beside the target. In round ' + (round.index + 1) + ' it wrote '
      + count(round.drafted, 'token') + ' ahead' + (round.proposed < round.drafted ? ' and sent ' + round.proposed : '') + ': ' + visible(sentOf(round).map((t) => t.text).join('')) + '.',
  },
  {
    title: 'One pass verifies it',
    where: () => document.querySelector('.inspector:not([hidden]) .inspector-scroll'),
    mark: true,
    look: true,
    words: ({ plain, round }) => 'One pass of the target goes over all ' + count(round.proposed, 'draft') + ' at once and says what it would have put in each slot: p beside the drafter’s q. '
      + 'Draft and pass together took ' + seconds(round.time - round.before) + '; a plain step takes ' + seconds(plain.seconds / rounds(plain)) + '.',
  },
  {
    title: 'What is kept',
    where: ({ round }) => round.nodes[0],
    mark: true,
    words({ round }) {
      const own = ownOf(round), refused = round.tokens.find((t) => t.kind === 'r');
      const token = own && own.kind !== 'e' ? visible(own.text) : own ? 'the end of the answer' : null;
      const kept = round.accepted ? 'The first ' + count(round.accepted, 'draft') + ' passed: accepted. ' : 'The first draft did not pass. ';
      const then = refused
        ? visible(refused.text) + ' did not: rejected, and all behind it is discarded. ' + (token ? 'In its place stands the target’s own token, the correction ' + token + '. ' : '')
        : token ? 'Nothing was rejected, so the same pass gives one more token, the bonus ' + token + '. ' : '';
      return kept + then + 'So this round gave ' + count(round.to - round.from, 'token') + ', each one the target’s choice: the text is the same as without a drafter.';
    },
  },
  {
    title: 'When it pays',
    where: ({ lane }) => lane.pane.querySelector('.figures'),
    words({ plain, lane }) {
      const perRound = lane.committed / rounds(lane), cost = (lane.seconds / rounds(lane)) / (plain.seconds / rounds(plain)), times = perRound / cost;
      return 'Over the whole race a round of ' + lane.name + ' gave ' + perRound.toFixed(2) + ' tokens and took as long as ' + cost.toFixed(2) + ' plain steps. '
        + 'It pays when the first number is the larger one: here ' + times.toFixed(2) + ' × plain, so ' + (times > 1 ? 'it pays' : 'it does not pay')
        + ' with this prompt, on this machine. Fewer drafts per round cost less; an easier text has more of them accepted.';
    },
  },
];

// ---- the panel ------------------------------------------------------------------------------------------

function show() {
  unmark();
  const race = found(), here = STEPS[step];
  waiting = !race;
  remember(step);
  panel.hidden = false;
  starter.hidden = true;
  $('.tour-count').textContent = 'Guided tour, step ' + (step + 1) + ' of ' + STEPS.length;
  $('h2').textContent = here.title;
  backButton.disabled = step === 0;
  nextButton.textContent = step === STEPS.length - 1 ? 'Done' : 'Next';
  nextButton.disabled = waiting;
  if (waiting) {
    $('.tour-words').textContent = document.body.dataset.race === 'running' ? 'The tour goes on when the race is over.'
      : 'The tour goes through a race of yours. Pick an example and press Race, with a plain lane and a drafter; it goes on when the race is over.';
    light(document.querySelector('#race'));
    return;
  }
  $('.tour-words').textContent = here.words(race);
  const tab = document.querySelector('#tabs [role=tab]');
  if (tab && tab.getAttribute('aria-selected') !== 'true') tab.click();
  const detail = { lane: race.lane.i, at: race.round.at, quiet: true };
  if (here.look) document.dispatchEvent(new CustomEvent('round-picked', { detail }));
  else if (here.mark) theBoard().mark(detail.lane, detail.at);
  light(here.where(race) || race.round.nodes[0]);
}

function light(node) {
  if (!node) return;
  marked = node;
  node.classList.add('tour-here');
  node.scrollIntoView({ block: 'center', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'instant' : 'smooth' });
}

function unmark() {
  marked?.classList.remove('tour-here');
  marked = null;
}

function leave(done) {
  unmark();
  panel.hidden = true;
  remember(done ? null : step);
  if (done) step = 0;
  offer();
  starter.focus({ preventScroll: true });
}

function offer() {
  const left = recall();
  starter.hidden = false;
  starter.textContent = left === null ? 'Guided tour' : 'Go on with the tour (step ' + (step + 1) + ' of ' + STEPS.length + ')';
}

function go(by) {
  if (step + by >= STEPS.length) return leave(true);
  step = Math.max(0, step + by);
  show();
}

starter.addEventListener('click', () => { show(); $('h2').focus({ preventScroll: true }); });
nextButton.addEventListener('click', () => go(1));
backButton.addEventListener('click', () => go(-1));
$('.tour-leave').addEventListener('click', () => leave(false));
panel.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  event.stopPropagation();
  leave(false);
});

const again = () => { if (!panel.hidden) show(); };
document.addEventListener('round-shown', () => { if (!panel.hidden && STEPS[step].look && marked?.isConnected) light(marked); });
document.addEventListener('race-over', again, true);  // they do not bubble
document.addEventListener('race-start', again, true);

const left = Number(recall());
step = Number.isInteger(left) && left > 0 && left < STEPS.length ? left : 0;
offer();
