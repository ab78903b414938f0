"""A verdict in words, from outputs and measured numbers alone: `verdict.py` measures and this puts it in words, and
opening a file does so again, so that a saved race cannot claim another verdict than its numbers give. No MLX.
"""

from collections.abc import Sequence

from ..decode.rounds import Settings
from .records import Difference, LaneRecord, exact


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token in which two outputs differ (a missing token differs); None if they agree."""
    common = min(len(a), len(b))
    at = next((i for i in range(common) if a[i] != b[i]), common)
    return at if at < max(len(a), len(b)) else None


def participants(lanes: Sequence[LaneRecord]) -> list[int]:
    """Indices of the lanes that a verdict compares, those that did not fail. The first is the reference that the others
    are compared with: the first plain one, else the first."""
    finished = [i for i, lane in enumerate(lanes) if lane.error is None]
    plain = [i for i in finished if not lanes[i].spec.speculative]
    reference = (plain or finished)[:1]
    return [*reference, *(i for i in finished if i not in reference)]


def parted(lanes: Sequence[LaneRecord]) -> dict[int, int]:
    """Lane -> where it first leaves the reference, of the lanes that do."""
    reference, *others = participants(lanes) or [0]
    found = {i: first_difference(lanes[reference].output, lanes[i].output) for i in others}
    return {i: at for i, at in found.items() if at is not None}


def kind_of(lanes: Sequence[LaneRecord], settings: Settings, differences: Sequence[Difference]) -> str:
    """The kind of a verdict on lanes that ran to their end, given what was measured where they part."""
    if len(participants(lanes)) < 2:
        return "none"
    if not settings.greedy:
        return "sampled"
    if not differences:
        return "identical"
    return "tie" if all(d.tie for d in differences) else "divergence"


def verdict_words(kind: str, differences: Sequence[Difference], lanes: Sequence[LaneRecord], settings: Settings) -> str:
    """A verdict in sentences."""
    compared = participants(lanes)
    failed = len(lanes) - len(compared)
    note = f" {failed} lane{'s' * (failed > 1)} failed and took no part." if failed else ""
    if kind == "none":
        return "Nothing to compare: fewer than two lanes finished." + note
    if kind == "sampled":
        return (
            f"Sampled at temperature {exact(settings.temperature)}: each lane draws its own tokens, so the outputs may "
            "differ; the distribution they are drawn from is the same." + note
        )
    if kind == "identical":
        n = len(lanes[compared[0]].output)
        return f"Identical output: {len(compared)} lanes, {n} token{'s' * (n > 1)} each, compared one by one." + note
    return " ".join(_difference_sentence(d, lanes[d.lane].spec.name) for d in differences) + note


def _difference_sentence(d: Difference, name: str) -> str:
    where = f"{name} first differs at token {d.index + 1}: the target's two best logits are {d.gap:.3g} apart"
    if d.tie:
        return f"{where} there, within rounding ({d.rounding:.3g}): a numerical tie."
    if d.noise == 0:
        explained = "rounding explains nothing on this device"
    elif d.noise is None:
        explained = "how far the width moves logits on this device is not known"
    else:
        explained = f"rounding explains {d.rounding:.3g}"
    return f"{where} there, the choice needed {d.needed:.3g}, {explained}: a real divergence."
