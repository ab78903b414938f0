"""The hardware-aware schedule against texts and confidences that are made to cost it time, on curves of any shape.

    python -m tests.scripts.schedule_adversary [GAMES]

Prints, of GAMES (2,000) decodes of 300 rounds, with and without a confidence head, the most that one lost: as a share
of the bound that `HardwareAware` states, worked out from the curve alone after every round; and by its end, in per cent
of the time that plain decoding would have taken.
"""

import math
import random
import sys
from dataclasses import dataclass

from dspark_core.decode.adaptive import (
    FIRST_LOSS,
    LOSS,
    MOST_LOSS,
    OPTIMISM,
    PROBE_LOSS,
    UNKNOWN,
    UNLUCKY,
    WON_BACK,
    HardwareAware,
)
from dspark_core.decode.rounds import Round

from ..decode.curves import BUS, TAXI, curve


def hostile(rng: random.Random):
    """A text and a confidence head that work together against the schedule: `confidence(i, slots)` of round i, and
    `accepted(i, sent)` of what it sends."""
    kind, p = rng.choice(("sure and wrong", "random", "phases", "bait", "turns", "once in a while")), rng.random()
    period = rng.choice((3, 8, 20, 60, 150))

    def confidence(i, slots):
        if kind == "random":
            return [rng.random() for _ in range(slots)]
        if kind == "phases":
            return [0.99 if i // period % 2 else 0.3] * slots
        return [0.999] * slots if kind == "sure and wrong" else [0.97, *[rng.choice((0.9, 0.99))] * (slots - 1)]

    def accepted(i, sent):
        if kind == "bait":  # takes a little, so that more is sent, and never takes that
            return sent if sent <= 2 else 0
        right = {
            "sure and wrong": False,
            "random": rng.random() < p,
            "phases": i // period % 2 == 0,
            "turns": i < period or rng.random() < p / 2,
            "once in a while": i % period == 0,
        }
        return sent if right[kind] else 0

    return confidence, accepted


def any_curve(rng: random.Random):
    """A taxi, a bus, or anything: a step at width 2, a price for each further token, a hump, dear or cheap drafts."""
    plain = rng.uniform(4, 150)
    step, each, hump = rng.uniform(0, 1.2) * plain, rng.choice((0, 0.03, 0.1, 0.25, 0.5)) * plain, rng.randint(2, 20)
    by_width = {w: plain + step + each * (w - 1) * rng.uniform(0.9, 1.1) for w in range(2, 18)}
    if hump in by_width:
        by_width[hump] += rng.uniform(0, 1) * plain
    made = curve({1: plain} | by_width, draft=rng.uniform(0.02, 1) * plain, row=rng.uniform(0, 0.2) * plain)
    return rng.choice((TAXI, BUS, made, made, made))


@dataclass(frozen=True)
class Game:
    """The most that was lost after any round, as a share of the bound there; and what was lost in all, as a share of
    the time that plain decoding takes for as many tokens."""

    share: float
    lost: float


def play(seed: int, confident: bool, rounds: int = 300) -> Game:
    rng = random.Random(seed)
    costs, most = any_curve(rng), rng.choice((7, 15))
    prior = rng.choice(((), (0.9,) * most, (0.5,) * most, tuple(0.95**k for k in range(1, most + 1))))
    method, (confidence, accepted) = "DSpark" if confident else "DFlash", hostile(rng)
    plain, slots = costs.plain_s(100), prior or (UNKNOWN,) * most
    hoped = max(
        sum(math.prod(slots[:k]) for k in range(n + 1)) * plain - costs.round_s(method, n, n, 100)
        for n in range(1, most + 1)
    )
    hoped = max(0.0, hoped + (OPTIMISM * plain if confident else 0))
    s, ahead, share = HardwareAware(costs, method, prior, confident).begin(most), False, 0.0
    lost = elapsed = dearest = 0.0
    for i in range(rounds):
        n, looked, c = 0 if ahead else s.drafts(most, 100), False, confidence(i, most)
        if n and s.looks:
            looked, n = True, s.look(c[0], n)
        sent = s.proposed(n, c[:n]) if n and s.needs_confidence else n
        k = accepted(i, sent)
        r = Round(i, 100, 0, (0,) * n, sent, k, 0, k == sent, (0,) * (k + 1), 0.0, looked=looked)
        ahead = not n and not looked and s.parked()
        s.observe(r)
        took = costs.recorded_s(method, r)
        elapsed, lost, dearest = elapsed + took, lost + took - plain * (k + 1), max(dearest, took - plain)
        first = min(max(FIRST_LOSS * plain + WON_BACK * hoped, UNLUCKY * plain), MOST_LOSS * plain)
        share = max(share, lost / (first + dearest + (LOSS + PROBE_LOSS) * elapsed))
    return Game(share, lost / (elapsed - lost))


def main() -> None:
    games = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for confident in (False, True):
        played = [play(seed, confident) for seed in range(games)]
        lost = sorted(g.lost for g in played)
        print(
            f"{'with' if confident else 'without'} a confidence head, {games} games: at most "
            f"{100 * max(g.share for g in played):.1f} % of the bound; of plain decoding's time, at most "
            f"{100 * lost[-1]:.1f} %, in half of the games at most {100 * lost[games // 2]:.2f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
