// The race board. Its value is a string of records that only grows (dspark_core/playground/board.py says
// which); each frame parses the new tail and appends to the panes. Model text goes through textContent only.
const RECORD = '\x1e', FIELD = '\x1f';
const BLOCK_TOKENS = 128;    // a block is cut at the first newline after this many tokens ...
const BLOCK_LONGEST = 1024;  // ... or at the end of a round after this many
const SPEED_TOKENS = 16;     // tok/s over time looks back over this many tokens
const FRAME_MS = 30;         // a frame takes in records for this long; the next one goes on

const $ = (selector) => element.querySelector(selector);
const board = $('.board'), panes = $('.panes'), details = $('.board-details'), verdict = $('.board-verdict');
const HINT = details.textContent;
let lanes = [], run = null, maxTokens = 0, offset = 0, pending = '', frame = 0, lit = [];

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function svg(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  return node;
}

// ---- lanes ---------------------------------------------------------------------------------------------

function addLane(i, method, label) {
  const plain = method === 'plain', name = label ? method + ' · ' + label : method;
  const pane = make('section', 'pane' + (plain ? ' plain' : ''));
  pane.dataset.lane = i;
  pane.setAttribute('aria-label', name);
  const head = make('header', 'pane-head'), title = make('h3', '', method), copy = make('button', 'copy', 'Copy');
  if (label) title.append(' ', make('small', '', label));
  copy.type = 'button';
  copy.setAttribute('aria-label', 'Copy the answer of ' + name);
  head.append(title, copy);

  const figures = make('dl', 'figures'), figure = {};
  const wanted = [['speed', 'tok/s'], ['times', '× plain'], ['perRound', 'tokens per round'], ['rate', 'accepted']];
  for (const [key, term] of wanted) {
    const cell = make('div', 'figure-' + key);
    figure[key] = make('dd', '', '–');
    cell.append(make('dt', '', term), figure[key]);
    figures.append(cell);
  }

  const drawings = make('div', 'drawings');
  const histogram = svg('svg', { class: 'histogram', viewBox: '0 0 120 44', role: 'img' });
  const speed = svg('svg', { class: 'speed', viewBox: '0 0 120 44', role: 'img', preserveAspectRatio: 'none' });
  histogram.setAttribute('aria-label', 'Tokens per round, share of rounds');
  speed.setAttribute('aria-label', 'tok/s over own time');
  const line = svg('polyline', { fill: 'none', 'vector-effect': 'non-scaling-stroke' });
  speed.append(line);
  const holdHistogram = make('figure'), holdSpeed = make('figure');
  holdHistogram.append(histogram, make('figcaption', '', 'tokens per round'));
  holdSpeed.append(speed, make('figcaption', '', 'tok/s over time'));
  drawings.append(holdHistogram, holdSpeed);

  const bar = make('div', 'bar'), fill = make('i');
  bar.append(fill);
  const text = make('div', 'text');
  text.setAttribute('role', 'log');
  text.setAttribute('aria-live', 'off');
  text.setAttribute('aria-label', name + ': the answer');
  text.tabIndex = 0;
  const note = make('p', 'note', 'waiting');
  pane.append(head, figures, drawings, bar, note, text);
  panes.append(pane);

  const lane = {
    i, name, plain, pane, text, note, figure, histogram, line, fill, copy,
    rounds: [], tokens: [], answer: '', block: null, blockTokens: 0, current: -1,
    committed: 0, seconds: 0, proposed: 0, accepted: 0, undrafted: 0, unsent: 0, idle: '', lengths: [],
    bars: [], points: [],
    stick: true, dirty: false, over: false, firstToken: 0, tail: null,
    shown: null,  // how many of `rounds` are to be seen; null: all of them (replay.js sets it)
  };
  lanes[i] = lane;
  text.addEventListener('scroll', () => {
    lane.stick = text.scrollHeight - text.scrollTop - text.clientHeight < 48;
  }, { passive: true });
  text.addEventListener('keydown', (event) => onKey(lane, event));
  text.addEventListener('click', (event) => { if (getSelection().isCollapsed) pick(roundAt(event.target)); });
  text.addEventListener('pointerover', (event) => show(roundAt(event.target)));
  text.addEventListener('pointerleave', () => { if (!text.contains(document.activeElement)) show(null); });
  text.addEventListener('focusin', (event) => { if (event.target !== text) show(roundAt(event.target)); });
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(lane.answer);
    copy.textContent = 'Copied';
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  });
  return lane;
}

// A token that leaves no mark on the page is given one, in front of it and outside its text.
function signOf(text, gone) {
  if (/^\s*\n\s*$/.test(text)) return '↵'.repeat(text.split('\n').length - 1);
  if (/^[ \u00a0]+$/.test(text)) return gone ? '␣' : '';  // elsewhere its fill or underline shows
  if (/^\t+$/.test(text)) return '⇥';
  if (/^[\p{Cf}\p{Cc}\u200b]+$/u.test(text)) return code(text);
  return '';
}

const code = (text) => [...text].map((c) => 'U+' + c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')).join(' ');

function tokenNode(kind, text) {
  const gone = kind === 'r' || kind === 'd';
  const node = make(gone ? 'del' : 'span', 'tok ' + kind, text);
  const sign = kind === 'e' ? 'end' : kind === 'd' ? '' : signOf(text, gone);
  if (sign) node.dataset.sign = sign;
  return node;
}

function openRound(lane, round) {
  if (!lane.block) {
    lane.block = make('div', 'block');
    lane.text.append(lane.block);
    lane.blockTokens = 0;
  }
  const node = make('span', round.drafted === 0 ? 'round step' : 'round');  // a plain step has no seam
  node.dataset.round = round.at;
  node.tabIndex = -1;
  lane.block.append(node);
  round.nodes.push(node);
  return node;
}

function addTokens(lane, round, tokens) {
  round.at = lane.rounds.length;
  round.nodes = [];
  round.from = lane.tokens.length;
  round.tokens = tokens.map((token) => ({ kind: token[0], text: token.slice(1) }));
  let node = openRound(lane, round);
  for (const { kind, text } of round.tokens) {
    if (lane.blockTokens >= BLOCK_TOKENS && lane.answer.endsWith('\n') && node.childElementCount) {
      node.classList.add('goes-on');
      lane.block = null;
      node = openRound(lane, round);
    }
    const token = tokenNode(kind, text);
    node.append(token);
    lane.blockTokens += 1;
    if (kind === 'r' || kind === 'd') continue;
    lane.tokens.push(token);
    if (kind !== 'e') lane.answer += text;
  }
  if (lane.blockTokens >= BLOCK_LONGEST || (lane.blockTokens >= BLOCK_TOKENS && lane.answer.endsWith('\n'))) {
    lane.block = null;
  }
  round.to = lane.tokens.length;
  lane.rounds.push(round);
  lane.dirty = true;
}

// ---- records -------------------------------------------------------------------------------------------

// Why a lane with a drafter is not speculating.
const UNDRAFTED = 'by the costs measured on this machine, plain steps are expected to be faster';
const UNSENT = 'no draft was confident enough to be worth verifying';
const FINISH = { stop: 'the model ended its answer', length: 'token limit reached', context: 'context is full' };

const HANDLERS = {
  I(...words) {
    words.forEach((text, i) => {
      note(i, '', 'idle');
      lanes[i].text.append(make('p', 'how', text));
    });
    setState('idle');
  },
  N(max) { maxTokens = Number(max); },
  L(i, method, label) { addLane(Number(i), method, label); },
  M(words) { $('.board-status').textContent = words; },
  W(i) { note(i, 'warming up, off the clock', 'busy'); },
  P(i, done, total) {
    note(i, done === '0' ? 'reading the prompt, ' + total + ' tokens' : 'read ' + done + ' of ' + total + ' prompt tokens', 'busy');
    lanes[i].fill.style.width = (100 * done / total) + '%';
    lanes[i].fill.classList.add('prefill');
  },
  S(i, seconds, finish, token) {
    const lane = lanes[i];
    lane.firstToken = Number(seconds);
    lane.fill.classList.remove('prefill');
    addTokens(lane, { first: true }, [token]);
    note(i, firstTokenWords(lane));
    if (finish) end(lane, finish);
  },
  D(i, index, time, drafted, proposed, accepted, bonus, finish, ...tokens) {
    const lane = lanes[i];
    const round = {
      index: Number(index), time: Number(time), drafted: Number(drafted), proposed: Number(proposed),
      accepted: Number(accepted), bonus: bonus === '1', before: lane.seconds,
    };
    addTokens(lane, round, tokens);
    lane.committed += round.to - round.from;
    lane.seconds = round.time;
    round.proposedSoFar = lane.proposed += round.proposed;
    round.acceptedSoFar = lane.accepted += round.accepted;
    lane.lengths[round.accepted + 1] = (lane.lengths[round.accepted + 1] || 0) + 1;
    lane.points.push([round.time, lane.committed]);
    if (!lane.plain) tellIdle(lane, round);
    if (finish) end(lane, finish);
  },
  E(i, text) {
    if (!text) return;
    lanes[i].answer += text;
    lanes[i].tail = make('span', 'tail', text);
    lanes[i].text.append(lanes[i].tail);
  },
  A(i, words) { lanes[i].note.textContent += ' ' + words; },
  F(i, words) {
    if (i === '-1') {
      $('.board-status').textContent = words;
      setState('failed');
      return;
    }
    lanes[i].over = true;
    note(i, words, 'failed');
  },
  V(kind, words) {
    verdict.dataset.kind = kind;
    verdict.textContent = words;
    const proof = document.querySelector('#prove-button');  // the tab of the proof, where the page has one
    if (kind !== 'sampled' || !proof) return;
    const go = make('button', 'to-proof', 'See the proof');
    go.type = 'button';
    go.addEventListener('click', () => { proof.click(); proof.focus(); });
    verdict.append(' ', go);
  },
  Z(how, words) {
    setState(how);
    if (how !== 'failed') $('.board-status').textContent = { done: 'Finished.', stopped: 'Stopped.' }[how] || '';  // else it says why
    for (const lane of lanes) {
      if (!lane.over) note(lane.i, how === 'stopped' ? 'stopped' : 'did not run', 'stopped');
      lane.histogram.setAttribute('aria-label', histogramWords(lane));
    }
    if (how === 'failed') for (const lane of lanes) if (!lane.rounds.length) lane.note.textContent = 'did not run';
    $('.board-announce').textContent = words;
    board.dispatchEvent(new CustomEvent('race-over'));
  },
};

function setState(state) {
  board.dataset.state = document.body.dataset.race = state;
  for (const button of document.querySelectorAll('#race, #stop')) button.toggleAttribute('data-live', state === 'running');
}

function note(i, words, state) {
  lanes[i].note.textContent = words;
  lanes[i].pane.dataset.state = state || 'running';
}

const firstTokenWords = (lane) => 'first token after ' + lane.firstToken.toFixed(2) + ' s';

// A lane that drafts or sends nothing says why, while it does so and in the end.
function tellIdle(lane, round) {
  const idle = !round.drafted ? 'undrafted' : !round.proposed ? 'unsent' : '';
  if (idle) lane[idle] += 1;
  if (idle === lane.idle) return;
  lane.idle = idle;
  const words = { undrafted: 'not drafting: ' + UNDRAFTED, unsent: 'nothing sent: ' + UNSENT };
  note(lane.i, words[idle] || firstTokenWords(lane));
}

function end(lane, finish) {
  lane.over = true;
  const rounds = lane.rounds.length - 1, words = [lane.committed + 1 + ' tokens: ' + (FINISH[finish] || finish) + '.'];
  words.push('First token after ' + lane.firstToken.toFixed(2) + ' s.');
  if (lane.undrafted) words.push('Nothing drafted in ' + lane.undrafted + ' of ' + rounds + ' rounds: ' + UNDRAFTED + '.');
  if (lane.unsent) words.push('Nothing sent in ' + lane.unsent + ' of ' + rounds + ' rounds: ' + UNSENT + '.');
  note(lane.i, words.join(' '), 'done');
}

function start(id) {
  run = id;
  lanes = [];
  lit = [];
  panes.replaceChildren();
  verdict.textContent = '';
  verdict.dataset.kind = '';
  $('.board-announce').textContent = '';
  $('.board-status').textContent = '';
  details.textContent = HINT;
  setState('running');
  board.dispatchEvent(new CustomEvent('race-start'));
}

// Called at every update, also while the tab is hidden and no frames are drawn: the window may have moved on by
// the next one. Records that were missed all the same come with the whole race at its end.
function take() {
  const value = props.value || '', head = value.indexOf(RECORD);
  const [kind, id, base] = value.slice(0, head).split(FIELD);
  if (kind !== 'R') return;
  if (id.startsWith('refused')) {
    HANDLERS.F(...value.slice(head + 1, value.lastIndexOf(RECORD)).split(FIELD).slice(1));
    return;
  }
  if (id.startsWith('idle') && run && !run.startsWith('idle')) return;
  if (id !== run) {
    start(id);
    pending = '';
    offset = 0;
  }
  const from = head + 1 + offset - Number(base), end = value.lastIndexOf(RECORD) + 1;
  if (from <= head || end <= from) return;
  pending += value.slice(from, end);
  offset += end - from;
  frame ||= requestAnimationFrame(flush);
}

function flush() {
  frame = 0;
  const until = performance.now() + FRAME_MS;
  let from = 0;
  while (from < pending.length && performance.now() < until) {
    const end = pending.indexOf(RECORD, from);
    const [kind, ...fields] = pending.slice(from, end).split(FIELD);
    HANDLERS[kind]?.(...fields);
    from = end + 1;
  }
  pending = pending.slice(from);
  for (const lane of lanes) if (lane.dirty) draw(lane);
  if (pending) frame ||= requestAnimationFrame(flush);
}

// ---- figures -------------------------------------------------------------------------------------------

const shownRounds = (lane) => lane.shown ?? lane.rounds.length;  // the first one is the prompt's own token

function draw(lane) {
  lane.dirty = false;
  const { figure, committed, seconds } = lane;
  lane.rate = seconds > 0 ? committed / seconds : 0;
  const plain = lanes.find((other) => other.plain);
  const rounds = shownRounds(lane) - 1;
  if (lane.rate) figure.speed.textContent = lane.rate.toFixed(lane.rate < 100 ? 1 : 0);
  if (rounds > 0) {
    if (lane.plain) {
      figure.perRound.textContent = '1';
      for (const other of lanes) if (other !== lane && other.rate) times(other, lane);
    } else {
      figure.perRound.textContent = ((lane.accepted + rounds) / rounds).toFixed(2);
      figure.rate.textContent = lane.proposed ? Math.round(100 * lane.accepted / lane.proposed) + ' %' : 'none sent';
    }
    times(lane, plain);
  }
  const tokens = lane.rounds[rounds]?.to || 0;
  lane.fill.style.width = Math.min(100, 100 * tokens / maxTokens) + '%';
  if (!lane.plain) drawHistogram(lane, rounds);
  drawSpeed(lane);
  if (lane.stick) lane.text.scrollTop = lane.text.scrollHeight;
}

function times(lane, plain) {
  const ratio = plain?.rate && lane.rate ? lane.rate / plain.rate : 0;
  lane.figure.times.textContent = !ratio ? '–' : lane.plain ? '1' : ratio.toFixed(2);
  lane.figure.times.dataset.trend = lane.plain || !ratio ? '' : ratio >= 1.005 ? 'up' : ratio < 0.995 ? 'down' : '';
}

function drawHistogram(lane, rounds) {
  const longest = Math.max(4, lane.lengths.length - 1);
  const peak = Math.max(...lane.lengths.filter(Boolean), 1);
  if (lane.bars.length !== longest) {
    lane.histogram.replaceChildren();
    lane.bars = Array.from({ length: longest }, (_, k) => {
      const width = 120 / longest;
      const bar = svg('rect', { x: k * width + 1, width: width - 2, y: 32, height: 0, rx: 1 });
      const label = svg('text', { x: (k + 0.5) * width, y: 43, 'text-anchor': 'middle' });
      label.textContent = longest > 10 && k % 2 ? '' : k + 1;
      lane.histogram.append(bar, label);
      return bar;
    });
  }
  lane.bars.forEach((bar, k) => {
    const height = 30 * (lane.lengths[k + 1] || 0) / peak;
    bar.setAttribute('y', 32 - height);
    bar.setAttribute('height', height);
  });
}

function histogramWords(lane) {
  const rounds = Math.max(1, lane.rounds.length - 1);
  const shares = lane.lengths.map((n, k) => n && k + ': ' + Math.round(100 * n / rounds) + ' %').filter(Boolean);
  return 'Tokens per round, share of rounds. ' + shares.join(', ');
}

// tok/s over the last SPEED_TOKENS tokens, all lanes on one scale.
function drawSpeed(lane) {
  const points = lane.points, speeds = [], count = Math.max(0, shownRounds(lane) - 1);
  const step = Math.max(1, Math.floor(count / 100));
  let from = 0;
  for (let k = 0; k < count; k += step) {
    while (points[k][1] - points[from][1] > SPEED_TOKENS) from += 1;
    const span = points[k][0] - points[from][0];
    if (points[k][1] - points[from][1] >= SPEED_TOKENS / 2 && span > 0) {
      speeds.push([points[k][0], (points[k][1] - points[from][1]) / span]);
    }
  }
  lane.speeds = speeds;
  const right = Math.max(...lanes.map((l) => l.seconds), 1e-9);
  const top = 1.1 * Math.max(...lanes.flatMap((l) => (l.speeds || []).map((s) => s[1])), 1e-9);
  lane.line.setAttribute('points', speeds.map(([t, s]) => (120 * t / right).toFixed(1) + ',' + (42 - 40 * s / top).toFixed(1)).join(' '));
}

// ---- one round, in every pane --------------------------------------------------------------------------

function roundAt(node) {
  const found = node.closest?.('.round');
  const lane = lanes[found?.closest('.pane')?.dataset.lane];
  return lane ? { lane, round: lane.rounds[found.dataset.round] } : null;
}

function show(found) {
  for (const node of lit) node.classList.remove('lit');
  lit = [];
  if (!found) return;
  const { lane, round } = found;
  for (const other of lanes) lit.push(...(other === lane ? round.nodes : other.tokens.slice(round.from, round.to)));
  for (const node of lit) node.classList.add('lit');
  details.textContent = describe(lane, round);
}

const visible = (text) => '“' + text.replace(/\n/g, '↵').replace(/\t/g, '⇥').replace(/[\p{Cf}\u200b]/gu, code) + '”';

function describe(lane, round) {
  const at = round.to - round.from > 1 ? 'tokens ' + (round.from + 1) + ' to ' + round.to : 'token ' + (round.from + 1);
  const own = round.tokens.filter((t) => 'cbpe'.includes(t.kind)).at(-1);
  const chosen = own && (own.kind === 'e' ? 'the end of its answer' : visible(own.text));
  if (round.first) return lane.name + ', ' + at + ': ' + (chosen || '') + ', from the prompt itself; it belongs to no round.';
  const took = (round.time - round.before).toFixed(3) + ' s';
  if (lane.plain) return lane.name + ', ' + at + ': ' + (chosen || '') + ', ' + took + '.';
  if (!round.drafted) return lane.name + ', round ' + (round.index + 1) + ', ' + at + '. Nothing drafted; a plain step gives ' + (chosen || '') + '. ' + took + '.';
  const accepted = round.tokens.filter((t) => t.kind === 'a').map((t) => t.text).join('');
  const rejected = round.tokens.find((t) => t.kind === 'r');
  const sent = round.proposed === round.drafted ? 'all sent' : round.proposed + ' sent';
  const parts = [round.drafted + ' drafted, ' + sent + ', ' + round.accepted + ' accepted' + (accepted ? ': ' + visible(accepted) : '')];
  if (rejected) parts.push(visible(rejected.text) + ' rejected' + (chosen ? ', the target’s correction is ' + chosen : ''));
  else if (chosen) parts.push(round.proposed ? 'nothing rejected, the target’s bonus is ' + chosen : 'the target’s own token is ' + chosen);
  return lane.name + ', round ' + (round.index + 1) + ', ' + at + '. ' + parts.join('; ') + '. ' + took + '.';
}

// A round that is to be looked at closer: the inspector listens.
function pick(found) {
  if (!found?.round || found.round.first) return;
  const { lane, round } = found;
  const detail = { lane: lane.i, at: round.at, from: round.nodes[0] };
  board.dispatchEvent(new CustomEvent('round-picked', { bubbles: true, detail }));
}

// What the inspector and the tour use of the board: its lanes, a round in words, and a mark on a round (or none).
board.lanes = () => lanes;
board.describe = (i, at) => describe(lanes[i], lanes[i].rounds[at]);
board.mark = (i, at) => {
  for (const node of board.querySelectorAll('.looked')) node.classList.remove('looked');
  const lane = lanes[i], round = lane?.rounds[at];
  if (!round) return;
  show({ lane, round });
  for (const node of round.nodes) node.classList.add('looked');
  for (const other of lanes) {
    const node = other === lane ? round.nodes[0] : other.tokens[Math.min(round.from, other.tokens.length - 1)];
    if (!node) continue;
    const box = other.text.getBoundingClientRect(), at = node.getBoundingClientRect();
    other.stick = false;
    if (at.top < box.top || at.bottom > box.bottom) other.text.scrollTop += at.top - box.top - box.height / 3;
  }
};

function onKey(lane, event) {
  if (event.key === 'Enter' && !event.ctrlKey && !event.metaKey) return pick(roundAt(document.activeElement));
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey || !lane.rounds.length) return;
  event.preventDefault();
  const here = roundAt(document.activeElement), last = shownRounds(lane) - 1;
  if (last < 0) return;
  let next = (here ? here.round.at : 0) + moves[event.key];
  if (!here && Number.isFinite(next)) {  // arriving: where another pane was being read, else at the newest round
    const at = lane.tokens.findIndex((t) => t.classList.contains('lit'));
    next = at < 0 ? last : lane.rounds.findIndex((r) => r.to > at);
  }
  const round = lane.rounds[Math.max(0, Math.min(last, next))];
  const node = round.nodes[0];
  node.setAttribute('role', 'group');
  node.setAttribute('aria-label', describe(lane, round));
  lane.stick = false;
  node.focus();
  show({ lane, round });
}

// ---- the board's own controls --------------------------------------------------------------------------

const remember = (key, value) => { try { localStorage.setItem('dspark-' + key, value); } catch { /* private mode */ } };
const recall = (key) => { try { return localStorage.getItem('dspark-' + key); } catch { return null; } };

for (const key of ['rejected', 'size']) {
  const pick = $('.pick-' + key);
  const apply = () => { board.dataset[key] = pick.value; remember(key, pick.value); };
  if ([...pick.options].some((o) => o.value === recall(key))) pick.value = recall(key);
  pick.addEventListener('change', apply);
  apply();
}

const theme = $('.pick-theme');
function setTheme(dark) {
  document.body.classList.toggle('dark', dark);
  theme.textContent = dark ? 'Light' : 'Dark';
  theme.setAttribute('aria-label', 'Switch to the ' + (dark ? 'light' : 'dark') + ' theme');
}
setTheme(recall('theme') ? recall('theme') === 'dark' : document.body.classList.contains('dark'));
theme.addEventListener('click', () => {
  const dark = !document.body.classList.contains('dark');
  setTheme(dark);
  remember('theme', dark ? 'dark' : 'light');
});

document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) document.querySelector('#race')?.click();
  if (event.key === 'Escape' && document.body.dataset.race === 'running') document.querySelector('#stop')?.click();
});

watch('value', take);
take();
