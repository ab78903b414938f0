// The round inspector: what stands in its value (dspark_core/playground/inspector.py says which JSON) is drawn as a
// row of slots and the chosen slot's distributions. Model text goes through textContent only.
const $ = (selector) => element.querySelector(selector);
const panel = $('.inspector'), row = $('.slots'), slotPanel = $('.slot-panel'), bias = $('.bias');
const MOST_SLOTS = 64, MOST_CANDIDATES = 10;
let asked = 0, place = null, round = null, withBias = true, chosen = 0, opener = null;
let follow = false;  // the page scrolls along until the round stands there

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// ---- words and numbers ----------------------------------------------------------------------------------

const known = (x) => typeof x === 'number';
const share = (x) => Math.max(0, Math.min(1, x));
const number = (x) => !known(x) ? '–' : x >= 0.9995 ? '1' : x >= 0.01 ? x.toFixed(2) : x >= 0.0005 ? x.toFixed(3) : x > 0 ? '<.001' : '0';
const fine = (x) => !known(x) ? 'not known' : x >= 0.001 || x === 0 ? String(Number(x.toPrecision(3))) : x.toExponential(1);
const code = (text) => [...text].map((c) => 'U+' + c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')).join(' ');
const visible = (text) => text.replace(/\n/g, '↵').replace(/\t/g, '⇥').replace(/[\p{Cf}\p{Cc}\u200b]/gu, code).replace(/^ +| +$/g, (s) => '·'.repeat(s.length)) || '∅';
const quoted = (text) => '“' + visible(text) + '”';
const KIND = { accepted: 'a', rejected: 'r', discarded: 'd', unsent: 'u', correction: 'c', bonus: 'b', own: 'p' };
const FATE = { accepted: 'accepted', rejected: 'rejected', discarded: 'discarded', unsent: 'not sent',
  correction: 'correction', bonus: 'bonus', own: 'the target’s own' };

// ---- what is asked for ----------------------------------------------------------------------------------

const theBoard = () => document.querySelector('.board');
const lanes = () => theBoard()?.lanes?.() || [];

function open({ lane, at, quiet }, from) {
  const held = lanes()[lane]?.rounds[at];
  if (!held || held.first) return;
  if (document.body.dataset.race === 'running') {
    theBoard().querySelector('.board-details').textContent = 'A round can be opened when the race is over. Stop ends it.';
    return;
  }
  const fresh = panel.hidden;
  if (fresh || from) opener = from || document.activeElement;
  place = { lane, at };
  round = null;
  asked += 1;
  panel.hidden = false;
  theBoard().mark(lane, at);
  head();
  say('Looking …');
  if (fresh) {
    $('.inspector-scroll .slot-labels')?.remove();
    row.replaceChildren();
    slotPanel.replaceChildren();
    $('.inspector-bias').hidden = true;
  }
  trigger('select', { n: asked, lane, index: held.index });
  if ((fresh || from) && !quiet) panel.focus({ preventScroll: true });
  follow = !quiet && (fresh || from);
}

function close() {
  if (panel.hidden) return;
  panel.hidden = true;
  asked += 1;
  trigger('clear', {});
  theBoard().mark();
  if (opener?.isConnected) opener.focus({ preventScroll: true });
  place = round = null;
}

function head() {
  const lane = lanes()[place.lane], held = lane.rounds[place.at];
  $('h2').textContent = lane.name + ', round ' + (held.index + 1);
  const told = theBoard().describe(place.lane, place.at).slice(lane.name.length + 2);
  $('.inspector-what').textContent = told[0].toUpperCase() + told.slice(1);
  $('.look-previous').disabled = place.at <= 1;
  $('.look-next').disabled = place.at >= lane.rounds.length - 1;
  const elsewhere = $('.look-elsewhere');
  elsewhere.replaceChildren();
  for (const other of lanes()) {
    const at = other.rounds.findIndex((r) => !r.first && r.to > held.from);
    if (other === lane || at < 0) continue;
    const go = make('button', 'look-other', other.name);
    go.type = 'button';
    go.dataset.lane = other.i;
    go.addEventListener('click', () => { open({ lane: other.i, at }); panel.focus({ preventScroll: true }); });
    elsewhere.append(go);
  }
  if (elsewhere.childElementCount) elsewhere.prepend(make('span', '', 'Same place in'));
}

function say(words, state) {
  $('.inspector-known').textContent = words;
  panel.dataset.state = state || 'busy';
}

// ---- what came ------------------------------------------------------------------------------------------

function take() {
  if (!props.value || panel.hidden) return;
  const told = JSON.parse(props.value);
  if (told.n !== asked) return;  // of a round that is not looked at any more
  const first = !round;
  round = told.round;
  say(told.state === 'done' ? knownWords() : told.words + (told.state === 'failed' && round ? ' Below stands what the race wrote down.' : ''), told.state);
  if (!round) return;
  if (first) chosen = interesting();
  drawBias();
  drawSlots();
  if (told.state !== 'busy') panel.dispatchEvent(new CustomEvent('round-shown', { bubbles: true }));
  if (!follow) return;
  if (told.state !== 'busy') follow = false;
  const { top, height } = panel.getBoundingClientRect();  // all of it if it fits, else from its top on
  if (top < 0 || top + height > innerHeight) panel.scrollIntoView({ block: height > innerHeight ? 'start' : 'end' });
}

function knownWords() {
  const { recomputed, prefix, reused, seconds, agrees, greedy, temperature } = round;
  if (!recomputed) return 'What the race wrote down.';
  const how = greedy
    ? 'Greedy keeps a draft if it is the target’s most probable token; the probabilities are shown at temperature 1.'
    : 'At temperature ' + Number(temperature.toPrecision(3)) + ', with the race’s own random numbers.';
  const same = agrees ? 'the same drafts, the same fate' : 'rounding fell differently this time, the drafts and fate shown are the race’s';
  const again = reused ? ' (' + reused + ' still at hand)' : '';
  return 'Recomputed from the ' + prefix + ' tokens before this round' + again + ' in ' + seconds.toFixed(2) + ' s: ' + same + '. ' + how;
}

const block = () => withBias || !round.without ? round.block : round.without;
// The anchor is no slot: cells are the drafted slots, then the target's own token.
const cells = () => [...block().slots.slice(0, MOST_SLOTS), ...(block().own ? [block().own] : [])];

function interesting() {
  const at = block().slots.findIndex((s) => s.outcome === 'rejected');
  return at >= 0 ? at : Math.max(0, cells().length - 1);
}

function drawBias() {
  $('.inspector-bias').hidden = !round.recomputed || !round.block.slots.length;
  bias.hidden = !round.without;
  bias.setAttribute('aria-checked', withBias);
  const n = round.block.slots.filter((s) => s.outcome !== 'unsent').length, words = $('.inspector-bias p');
  words.textContent = round.without
    ? 'With it ' + round.block.accepted + ' of ' + n + ' drafts are kept, without it ' + round.without.accepted + ' of ' + n + '. '
      + (withBias ? 'It tells each slot which token was drafted before it.' : 'Now no slot knows which token was drafted before it.')
    : 'This drafter has no Markov bias: all slots are drafted at once, and none knows which token was drafted before it.';
}

function bar(kind, value) {
  const track = make('span', 'level ' + kind), fill = make('i');
  if (known(value)) fill.style.height = 100 * share(value) + '%'; else track.classList.add('unknown');
  track.append(fill);
  return track;
}

function drawSlots() {
  const focus = row.contains(document.activeElement);
  const labels = make('div', 'slot-labels');
  labels.setAttribute('aria-hidden', 'true');
  const rows = [['q drafter', 'q'], ['p target', 'p'], ['min(1, p/q)', 'accept'], ['drawn', 'drawn'], ['confidence', 'confidence']]
    .filter(([, key]) => block().slots.some((s) => known(s[key])));
  for (const name of ['slot', '', '', '', ...rows.map(([name]) => name)]) labels.append(make('span', name[0] === 'q' ? 'key q' : name[0] === 'p' ? 'key p' : '', name));
  const drafted = round.block.slots;
  row.replaceChildren(...cells().map((cell, k) => {
    const own = !('outcome' in cell), fate = own ? cell.kind : cell.outcome;
    const tab = make('div', 'slot');
    tab.setAttribute('role', 'tab');
    tab.id = 'slot-' + k;
    tab.dataset.fate = fate;
    tab.setAttribute('aria-controls', 'slot-panel');
    tab.setAttribute('aria-selected', k === chosen);
    tab.tabIndex = k === chosen ? 0 : -1;
    const changed = !withBias && round.without && !own && drafted[k]?.token_id !== cell.token_id;
    tab.append(  // its content is its name; what only the labels on the left say is added for a screen reader
      make('span', 'sr-only', own ? '' : 'slot'),
      make('span', 'slot-number', own ? 'target' : k + 1),
      make('span', 'tok ' + KIND[fate], visible(cell.text)),
      make('span', 'slot-fate', FATE[fate] + (own && !written() ? ', not written' : '')),
    );
    const levels = make('span', 'levels');
    if (!own) levels.append(bar('q', cell.q), bar('p', cell.p));
    tab.append(levels);
    if (!own) for (const [name, key] of rows) tab.append(make('span', 'sr-only', name), make('span', 'slot-value', number(cell[key])));
    if (changed) tab.append(make('span', 'slot-was', 'was ' + visible(drafted[k].text)));
    tab.addEventListener('click', () => choose(k, true));
    return tab;
  }));
  $('.inspector-scroll .slot-labels')?.remove();
  $('.inspector-scroll').prepend(labels);
  choose(Math.min(chosen, row.childElementCount - 1), focus);
}

// Whether the target's own token became part of the answer: the answer may have ended inside the block.
const written = () => !withBias || round.written > round.block.accepted;

function choose(k, focus) {
  chosen = k;
  [...row.children].forEach((tab, i) => {
    tab.setAttribute('aria-selected', i === k);
    tab.tabIndex = i === k ? 0 : -1;
  });
  const tab = row.children[k];
  if (!tab) return;
  slotPanel.setAttribute('aria-labelledby', tab.id);
  if (focus) tab.focus();
  drawSlot(cells()[k], k);
}

function drawSlot(cell, k) {
  const tables = make('div', 'tops');
  if ('outcome' in cell) {
    slotPanel.replaceChildren(make('p', 'slot-story', story(cell, k)), tables);
    top(tables, 'Drafter, slot ' + (k + 1), cell.drafter, cell.token_id, 'q');
    top(tables, 'Target, slot ' + (k + 1), cell.target, cell.token_id, 'p');
    const own = block().own;
    if (cell.outcome === 'rejected' && own) top(tables, 'Residual max(p − q, 0)', own.candidates, own.token_id, 'left');
  } else {
    slotPanel.replaceChildren(make('p', 'slot-story', ownStory(cell)), tables);
    top(tables, cell.kind === 'correction' ? 'Residual max(p − q, 0)' : 'Target, after the block', cell.candidates, cell.token_id, cell.kind === 'correction' ? 'left' : 'p');
  }
  if (!tables.childElementCount) tables.append(make('p', 'slot-none', 'The race wrote down no distribution here.'));
}

function story(slot, k) {
  const token = quoted(slot.text), put = withBias || !round.without ? 'The drafter put ' : 'Without the bias the drafter would put ';
  const parts = [put + token + ' into slot ' + (k + 1) + (known(slot.q) ? ' with q = ' + fine(slot.q) : '')];
  if (slot.outcome === 'unsent') return parts[0] + '. It was not sent to the target.';
  if (known(slot.p)) parts.push('the target gives it p = ' + fine(slot.p));
  const said = parts.join('; ') + '. ';
  if (slot.outcome === 'discarded') {
    return said + (block().slots.some((s) => s.outcome === 'rejected') ? 'A draft before it was rejected, so it is discarded, whatever it is.' : 'The answer ended before it.');
  }
  if (round.greedy) {
    const best = slot.target[0];
    return said + (slot.outcome === 'accepted' ? 'It is the target’s most probable token: accepted.'
      : 'The target’s most probable token is ' + (best ? quoted(best.text) : 'another one') + ': rejected.');
  }
  const rule = known(slot.accept) ? 'It is accepted with probability min(1, p/q) = ' + fine(slot.accept) : 'It was compared with p/q';
  const drawn = known(slot.drawn) ? '; the number drawn was ' + fine(slot.drawn) : '';
  return said + rule + drawn + ': ' + slot.outcome + '.';
}

function ownStory(own) {
  const token = quoted(own.text), unwritten = written() ? '' : ' It is not part of the answer, which ended inside the block.';
  if (own.kind === 'bonus') return 'Nothing was rejected, so the same pass of the target also gives the next token: ' + token + ', the bonus.' + unwritten;
  if (own.kind === 'own') return 'Nothing was sent to verification: the target’s own token is ' + token + '.' + unwritten;
  const mass = known(own.rejected) ? ' A draft here is rejected with probability ' + fine(own.rejected) + (round.greedy ? ' at temperature 1.' : '.') : '';
  return (round.greedy ? 'In place of the rejected draft the target’s most probable token is taken: ' + token + '. (Sampling would draw from the residual: what p has more than q.)'
    : 'In place of the rejected draft a token is drawn from the residual, what p has more than q: ' + token + '.') + mass + unwritten;
}

function top(into, title, candidates, token, kind) {
  if (!candidates.length) return;
  const table = make('table', 'top ' + kind), body = make('tbody'), caption = make('caption', '', title + ': top ' + Math.min(candidates.length, MOST_CANDIDATES));
  for (const c of candidates.slice(0, MOST_CANDIDATES)) {
    const line = make('tr', c.token_id === token ? 'this' : ''), name = make('th', '', visible(c.text)), value = make('td', '', number(c.probability)), level = make('td', 'across'), fill = make('i');
    name.scope = 'row';
    if (c.token_id === token) name.append(make('span', 'sr-only', ' (this token)'));
    fill.style.width = 100 * share(c.probability) + '%';
    level.append(fill);
    line.append(name, value, level);
    body.append(line);
  }
  table.append(caption, body);
  into.append(table);
}

// ---- moving ---------------------------------------------------------------------------------------------

row.addEventListener('keydown', (event) => {
  const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(row.childElementCount - 1, chosen + moves[event.key])), true);
});

bias.addEventListener('click', () => {
  withBias = !withBias;
  chosen = interesting();
  drawBias();
  drawSlots();
});

const step = (by) => () => open({ lane: place.lane, at: place.at + by });
$('.look-previous').addEventListener('click', step(-1));
$('.look-next').addEventListener('click', step(1));
$('.look-close').addEventListener('click', close);
panel.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  event.stopPropagation();
  close();
});

// ---- the board ------------------------------------------------------------------------------------------

document.addEventListener('round-picked', (event) => open(event.detail, event.detail.from));
document.addEventListener('race-start', close, true);  // it does not bubble
watch('value', take);
