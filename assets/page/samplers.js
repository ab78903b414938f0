// @ts-check
// Samplers side by side: a card each, as dspark_core/playground/proof_view.py writes them.
import { $, make, onValue, parsed } from './dom.js';

/** @typedef {Record<'title' | 'kind' | 'badge' | 'away' | 'p' | 'draws' | 'why', string> & { right: boolean }} Card */

onValue(() => {
  /** @type {Card[]} */
  const cards = parsed([]);
  $('.samplers').replaceChildren(...cards.map((card) => {
    const node = make('article', card.right ? 'right' : '');
    node.dataset.kind = card.kind;
    node.append(
      make('h4', '', (card.right ? '' : 'Wrong: ') + card.title), make('p', 'outcome', card.badge),
      make('p', 'away', card.away), make('p', '', card.p), make('p', '', card.draws), make('p', 'why', card.why),
    );
    return node;
  }));
});
