"""A short probe at load: is a block drafter read as it was trained?

A first slot or taps that are read one off raise no error anywhere; they halve what is accepted. So the target writes a
little text of its own, and at every place of it the drafter's first draft is compared with what follows: as the
checkpoint's config says, and, where that finds little, with the other first slot and with taps one layer up or down. A
clearly better other reading is worth a sentence; nothing is changed by itself.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlx.core as mx

from .drafter import BlockDrafter, Drafter
from .target import Target

TEXT = "Count from one to twenty in words, and then name the months of the year."
PLACES = 32  # of the text at which a drafter is asked
FEWEST = 12  # below it nothing is concluded
SECONDS = 4.0  # for all of it: what is known by then decides
GOOD = 0.5  # share of first drafts from which on a reading is not doubted
BETTER = 0.25  # of the places, that another reading must find more, and at least twice as many


def doubts(
    target: Target, drafters: Mapping[str, Drafter], prompt: list[int], clock: Callable[[], float] = time.perf_counter
) -> dict[str, str]:
    """By a drafter's id, a sentence if another reading of its checkpoint fits the target's own text after `prompt`
    clearly better. Block drafters only, and only those whose acceptance was not measured before."""
    asked = {i: d for i, d in drafters.items() if isinstance(d, BlockDrafter) and not d.info.calibration.survival}
    if not asked:
        return {}
    until = clock() + SECONDS
    layers = tuple(sorted({t for d in asked.values() for taps in _shifted(d, target).values() for t in taps}))
    written = Written.by(target, prompt, layers, lambda: clock() > until - SECONDS / 2)
    found = {id_: written.doubt(target, d, lambda: clock() > until) for id_, d in asked.items()}
    return {id_: words for id_, words in found.items() if words}


def _shifted(drafter: Drafter, target: Target) -> dict[int, tuple[int, ...]]:
    """Its taps, and those one layer earlier and later where there are such, by the shift."""
    shifts = {s: tuple(t + s for t in drafter.taps) for s in (0, -1, 1)}
    return {s: taps for s, taps in shifts.items() if min(taps) >= -1 and max(taps) <= target.num_layers - 2}


@dataclass(frozen=True)
class Written:
    """A prompt of `start` tokens with the target's greedy text behind it, and the hidden states [T - 1, d] of all its
    positions but the last, by layer."""

    text: list[int]
    start: int
    states: dict[int, mx.array]

    @classmethod
    def by(cls, target: Target, prompt: list[int], layers: tuple[int, ...], enough: Callable[[], bool]) -> "Written":
        cache, text, new = target.new_cache(), list(prompt), mx.array(prompt)
        rows: list[mx.array] = []
        while len(text) < len(prompt) + PLACES + 1:
            hidden, features = target.forward(new, cache, layers)
            new = mx.argmax(target.head(hidden[-1:]), axis=-1).astype(mx.int32)
            rows += [features] if features is not None else []
            text.append(int(new.item()))
            if text[-1] in target.stop_ids or enough():
                break
        return cls(text, len(prompt), dict(zip(layers, mx.split(mx.concatenate(rows), len(layers), -1), strict=True)))

    def hits(self, drafter: BlockDrafter, taps: tuple[int, ...], enough: Callable[[], bool]) -> tuple[int, list[int]]:
        """Places asked, and at how many of them slots 0 and 1 give what follows there."""
        tapped = mx.concatenate([self.states[t] for t in taps], axis=-1)
        ids, context = mx.array(self.text), drafter.begin()
        context.extend(ids[: self.start], tapped[: self.start])
        asked, found = 0, [0, 0]
        for at in range(self.start, len(self.text) - 1):
            if enough():
                break
            drafts = _first_drafts(drafter, context.look(ids[at : at + 1]).hidden, ids[at : at + 1])
            found = [f + (d == self.text[at + 1]) for f, d in zip(found, drafts, strict=True)]
            context.extend(ids[at : at + 1], tapped[at : at + 1])
            asked += 1
            if asked == FEWEST and found[drafter.config.first_slot] >= GOOD * asked:
                break  # nothing to doubt
        return asked, found

    def doubt(self, target: Target, drafter: BlockDrafter, enough: Callable[[], bool]) -> str:
        """The sentence of `doubts`; empty if there is none."""
        first, taps = drafter.config.first_slot, _shifted(drafter, target)
        asked, by_slot = self.hits(drafter, taps.pop(0), enough)
        own = by_slot[first]
        if asked < FEWEST or own >= GOOD * asked:
            return ""
        readings = {f"slot {1 - first} predicted first, not slot {first}": by_slot[1 - first]}
        for shift, other in taps.items():
            tried, found = self.hits(drafter, other, enough)
            words = f"its taps were {list(other)}, one layer {'earlier' if shift < 0 else 'later'}"
            readings[words] = found[first] if tried == asked else 0
        words = max(readings, key=lambda name: readings[name])
        if readings[words] < max(2 * own, own + BETTER * asked):
            return ""
        return (
            f"{drafter.info.name} may be read wrongly: {own} of {asked} first drafts fit {target.name}'s own text, and "
            f"{readings[words]} would if {words}. It runs as its config.json says; look there if little is accepted."
        )


def _first_drafts(drafter: BlockDrafter, slots: mx.array, anchor: mx.array) -> list[int]:
    """What slots 0 and 1 of hidden states [B, d] draft as the first token after the anchor [1]."""

    def greedy(logits: mx.array, first: int = 0) -> tuple[mx.array, None]:
        return mx.argmax(logits, axis=-1).astype(mx.int32), None

    base, before = drafter.head(slots[:2]), slots[: drafter.config.first_slot]
    ids = [
        drafter.chain(anchor, base[k : k + 1], mx.concatenate([before, slots[k : k + 1]]), greedy)[0] for k in (0, 1)
    ]
    return [int(i) for i in mx.concatenate(ids).tolist()]
