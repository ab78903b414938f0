"""How far logits move with the number of rows that are computed together: the width noise of a target on a device.

Kernels for one row and for several may add in another order. A logit then depends on the width of the forward that it
comes from, and on the widths at which the keys and values before it were written. MLX's CPU backend has no such noise;
GPUs do.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx

from ..models.target import Target
from ..store import is_number, read_json, write_json
from .measure import cache_file, made_of

# Every width from 1 to 17 once, in three passes of 51 positions each. One row on entries that were written wide has
# noise too, so width 1 is among them.
PASSES = (17, 3, 16, 15), (14, 1, 13, 12, 11), (10, 9, 2, 8, 7, 6, 5, 4)
BEGINNING, LENGTH = 16, 51
MOST = 1e6  # of a logit's movement, to be believed


@dataclass(frozen=True, slots=True)
class Noise:
    """largest: the largest difference of a logit, in the logits' own units; exactly 0 if no width changes any
    alone:   the same for the first forward of each pass alone, whose cache was not yet written wide
    """

    largest: float
    alone: float


def measure_noise(target: Target) -> Noise:
    """The target's own greedy text, first as plain decoding computes it, then at all widths, on the cache that those
    widths leave behind."""
    beginning = mx.arange(BEGINNING, dtype=mx.int32) * 37 % target.vocab_size
    cache = target.new_cache()
    hidden, _ = target.forward(beginning, cache)
    text, rows = [mx.argmax(target.head(hidden[-1:]), axis=-1).astype(mx.int32)], []
    for _ in range(LENGTH):
        hidden, _ = target.forward(text[-1], cache)
        rows.append(target.head(hidden))
        text.append(mx.argmax(rows[-1], axis=-1).astype(mx.int32))
        mx.async_eval(text[-1])
    ids = mx.concatenate(text)
    moves = []
    for widths in PASSES:
        cache, at = target.new_cache(), 0
        target.forward(beginning, cache)
        for width in widths:
            hidden, _ = target.forward(ids[at : at + width], cache)
            clean = mx.concatenate(rows[at : at + width]).astype(mx.float32)
            moved = mx.abs(target.head(hidden).astype(mx.float32) - clean).max()
            moves.append((at == 0, moved.item()))
            at += width
    return Noise(max(m for _, m in moves), max(m for first, m in moves if first))


# ---- kept on disk, beside the cost curves ----------------------------------------------------------------


def load_noise(target: Target, directory: Path | None = None) -> Noise | None:
    """What was measured for exactly this target, precision, device and versions; or None."""
    wanted = made_of(target, {})
    try:
        kept = read_json(cache_file(wanted, directory, "noise-"))
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.keys() != {"made_of", "largest", "alone"} or kept["made_of"] != wanted:
        return None
    largest, alone = kept["largest"], kept["alone"]
    believable = is_number(largest, 0, MOST) and is_number(alone, 0, MOST) and alone <= largest
    return Noise(float(largest), float(alone)) if believable else None


def save_noise(target: Target, noise: Noise, directory: Path | None = None) -> Path:
    """Keep it. Raises OSError if the directory cannot be written."""
    wanted = made_of(target, {})
    file = cache_file(wanted, directory, "noise-")
    write_json(file, {"made_of": wanted} | asdict(noise))
    return file
