"""Small readers of a decode's events, shared by the decode tests."""

import mlx.core as mx

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.schedule import Schedule

NEVER = frozenset()


def output(events) -> list[int]:
    """All output tokens of a decode's events."""
    ids = []
    for e in events:
        if isinstance(e, Start):
            ids.append(e.token_id)
        elif isinstance(e, Round):
            ids.extend(e.committed)
    return ids


def rounds(events) -> list[Round]:
    return [e for e in events if isinstance(e, Round)]


def plain_output(target, prompt, n, stop_ids=NEVER) -> list[int]:
    return output(plain(target, prompt, Settings(n, stop_ids=stop_ids)))


class Recorded:
    """Uniform numbers from a recorded list."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def take(self, n: int) -> mx.array:
        taken, self.numbers = self.numbers[:n], self.numbers[n:]
        assert len(taken) == n, "the decode asked for more numbers than the reference used"
        return mx.array(taken, dtype=mx.float32)


def worst(a: mx.array, b: mx.array) -> float:
    """Largest absolute difference of two arrays of equal shape."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return mx.abs(a.astype(mx.float32) - b.astype(mx.float32)).max().item()


class Turns(Schedule):
    """Drafts by turns: some rounds of nothing, pipelined where the next drafts nothing either, then one of `n`."""

    def __init__(self, rests: list[int], n: int, looks: bool):
        self.rests, self.n, self.looks = rests, n, looks

    def begin(self, max_drafts):
        self.left, self.turn = self.rests[0], 0
        return self

    def drafts(self, max_drafts, position):
        return self.n if self.left == 0 else 0

    def parked(self):
        return self.left > 1

    def observe(self, r):
        self.left -= 1
        if r.draft_ids:
            self.turn += 1
            self.left = self.rests[self.turn % len(self.rests)]
