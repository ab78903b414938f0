// ---- replay --------------------------------------------------------------------------------------------
// Part of the board's script (it follows board.js). A race that is over stands on the board as a whole; the
// replay shows of every lane what it had committed at one moment of own time, the same moment for all lanes,
// prefill included. Nothing is built anew: what came later is hidden.

const TICK_MS = matchMedia('(prefers-reduced-motion: reduce)').matches ? 500 : 50;
const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];

const bar = make('div', 'replay');
const button = (name, label, sign) => {
  const node = make('button', name, sign);
  node.type = 'button';
  node.setAttribute('aria-label', label);
  node.title = label;
  return node;
};
const play = button('replay-play', 'Play', '▶'), previous = button('replay-previous', 'Previous round', '◂|');
const next = button('replay-next', 'Next round', '|▸'), slider = make('input', 'replay-at');
const clock = make('output', 'replay-clock'), pace = make('select', 'replay-speed'), paceLabel = make('label', '', 'Speed ');
slider.type = 'range';
slider.min = 0;
slider.step = 'any';
slider.setAttribute('aria-label', 'Moment of the race');
for (const speed of SPEEDS) {
  const option = make('option', '', speed + ' ×');
  option.value = speed;
  pace.append(option);
}
pace.value = SPEEDS.some((speed) => String(speed) === recall('replay-speed')) ? recall('replay-speed') : '1';
paceLabel.append(pace);
bar.setAttribute('role', 'group');
bar.setAttribute('aria-label', 'Replay');
bar.append(play, previous, next, slider, clock, paceLabel);
bar.hidden = true;
panes.before(bar);

// times: every lane's moments (its prompt's token, then its rounds); all: every moment once, in order
const replay = { now: 0, length: 0, all: [], timer: 0, ticked: 0 };

board.addEventListener('race-start', () => {
  pause();
  bar.hidden = true;
  verdict.style.visibility = '';
});

board.addEventListener('race-over', () => {
  const all = new Set();
  for (const lane of lanes) {
    lane.times = lane.rounds.map((round) => lane.firstToken + (round.time || 0));
    lane.blocks = [...lane.text.querySelectorAll('.block')];
    lane.cut = null;
    lane.said = [lane.note.textContent, lane.pane.dataset.state];
    for (const time of lane.times) all.add(time);
  }
  replay.all = [...all].sort((a, b) => a - b);
  if (!replay.all.length) return;
  replay.now = replay.length = replay.all.at(-1);
  slider.max = replay.length;
  bar.hidden = false;
  tell();
});

// How many numbers of the ascending list are at most x.
function countUpTo(list, x) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] <= x) low = middle + 1; else high = middle;
  }
  return low;
}

// Show the race as it stood `moment` seconds after its start.
function seek(moment) {
  replay.now = Math.max(0, Math.min(replay.length, moment));
  const end = replay.now >= replay.length;
  for (const lane of lanes) {
    const count = countUpTo(lane.times, replay.now);
    if (count !== shownRounds(lane)) cut(lane, count);
    if (end) {
      lane.shown = null;
      [lane.note.textContent, lane.pane.dataset.state] = lane.said;
    } else {
      const all = lane.rounds.length;
      lane.note.textContent = count === 0 ? (all ? 'reading the prompt' : lane.said[0])
        : count === all ? lane.said[0] : 'round ' + (count - 1) + ' of ' + (all - 1);
      lane.pane.dataset.state = count === all ? lane.said[1] : 'running';
    }
  }
  for (const lane of lanes) if (lane.dirty) draw(lane);
  for (const lane of lanes) times(lane, lanes.find((l) => l.plain));
  verdict.style.visibility = end ? '' : 'hidden';
  tell();
}

// Hide everything of a lane after its first `count` rounds: whole blocks, and rounds of the block in between.
function cut(lane, count) {
  const hide = (node, hidden) => { if (node.hidden !== hidden) node.hidden = hidden; };
  let between = null;
  for (const block of lane.blocks) {
    hide(block, Number(block.firstElementChild.dataset.round) >= count);
    if (!block.hidden) between = block;
  }
  if (lane.cut && lane.cut !== between) for (const node of lane.cut.children) hide(node, false);
  if (between) for (const node of between.children) hide(node, Number(node.dataset.round) >= count);
  lane.cut = between;
  if (lane.tail) lane.tail.hidden = count < lane.rounds.length;
  const before = shownRounds(lane), last = lane.rounds[count - 1];
  lane.shown = count;
  lane.seconds = last?.time || 0;
  lane.committed = Math.max(0, (last?.to || 0) - 1);
  lane.proposed = last?.proposedSoFar || 0;
  lane.accepted = last?.acceptedSoFar || 0;
  const [from, sign] = count >= before ? [before, 1] : [count, -1];
  for (const round of lane.rounds.slice(Math.max(1, from), Math.max(count, before))) {
    lane.lengths[round.accepted + 1] = (lane.lengths[round.accepted + 1] || 0) + sign;
  }
  if (count < 2) for (const dd of Object.values(lane.figure)) dd.textContent = '–';
  lane.dirty = true;
}

function tell() {
  slider.value = replay.now;
  const words = replay.now.toFixed(2) + ' of ' + replay.length.toFixed(2) + ' s';
  clock.textContent = words;
  slider.setAttribute('aria-valuetext', words);
  previous.setAttribute('aria-disabled', replay.now <= 0);  // not `disabled`, which would lose the focus
  next.setAttribute('aria-disabled', replay.now >= replay.length);
}

function tick() {
  const now = performance.now();
  seek(replay.now + (now - replay.ticked) / 1000 * Number(pace.value));
  replay.ticked = now;
  if (replay.now >= replay.length) pause();
}

function pause() {
  clearInterval(replay.timer);
  replay.timer = 0;
  play.textContent = '▶';
  play.setAttribute('aria-label', 'Play');
  play.title = 'Play';
}

play.addEventListener('click', () => {
  if (replay.timer) return pause();
  if (replay.now >= replay.length) {
    for (const lane of lanes) lane.stick = true;
    seek(0);
  }
  replay.ticked = performance.now();
  replay.timer = setInterval(tick, TICK_MS);
  play.textContent = '❚❚';
  play.setAttribute('aria-label', 'Pause');
  play.title = 'Pause';
});

// One moment on or back. What a lane committed there is lit, and the details line tells of it.
function step(by) {
  pause();
  const at = countUpTo(replay.all, replay.now) + by;
  seek(at < 1 ? 0 : replay.all[at - 1]);
  const lane = lanes.find((l) => l.times[shownRounds(l) - 1] === replay.now);
  show(lane ? { lane, round: lane.rounds[shownRounds(lane) - 1] } : null);
}

next.addEventListener('click', () => step(1));
previous.addEventListener('click', () => step(-1));
slider.addEventListener('input', () => { pause(); seek(Number(slider.value)); });
pace.addEventListener('change', () => remember('replay-speed', pace.value));
