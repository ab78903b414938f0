"""The one grammar of a lane: which drafter it runs, and how many of its drafts it sends to verification.

    plain
    dspark                  how many is decided by this machine's costs; dspark:hardware says the same
    dspark:full             all of them
    dspark:cap=3            three at most
    dflash:block=6          what the first six slots of a block draft; everywhere else lengths are counted in drafts
    dspark:confidence=0.5   those before the first whose confidence is below 0.5
    dspark:cumulative=0.5   those before the first where the product of the confidences is
    dflash-2:full           the second DFlash drafter that is loaded; `dflash` alone is the first

Links, scripts, the page's controls and the bench read and write lanes by this file. A saved race has the settings of a
lane as fields (trace.py), and its label as it is written here. No method is known here: what a name stands for, how
long a block is and what may be asked of it, the DrafterInfo says. No MLX, no gradio.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import LaneError
from ..models.info import DrafterInfo
from .records import BLOCK, CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, PLAIN, LaneSpec, exact

MAX_LANES = 4  # of a race on the page
WHOLE = math.inf  # in place of a number: all that the drafter has
BY_THRESHOLD = (CONFIDENCE, CUMULATIVE)
USUAL_THRESHOLD = 0.5
_NUMBERED = re.compile(r"-(\d+)$")
_BLOCK_LABEL = re.compile(r"(?:#[0-9]+, )?block ([1-9][0-9]{0,3})")


@dataclass(frozen=True, slots=True)
class AskedLane:
    """A lane as somebody asks for it, before its drafter's limits are put to it.

    info:     its drafter; None for plain decoding
    schedule: one of records.SCHEDULES, or BLOCK
    number:   drafts (CAP), slots (BLOCK) or a threshold; WHOLE for all there is
    """

    info: DrafterInfo | None = None
    schedule: str = HARDWARE
    number: float = WHOLE

    @property
    def spec(self) -> LaneSpec:
        """The lane that runs: what was asked for, within what the drafter has."""
        info, schedule = self.info, self.schedule
        if info is None:
            return LaneSpec(PLAIN)
        spec = LaneSpec(info.method, schedule, drafter="" if info.id == info.method.lower() else info.id)
        if schedule in BY_THRESHOLD:
            number = self.number if math.isfinite(self.number) else USUAL_THRESHOLD
            return _labelled(spec, threshold=min(max(number, 0.0), 1.0))
        if schedule == HARDWARE:
            return _labelled(spec)
        return _labelled(spec, FULL if schedule == FULL else CAP, self._drafts(info))

    def _drafts(self, info: DrafterInfo) -> int:
        """How many drafts a round sends at most."""
        if self.schedule == FULL or not math.isfinite(self.number):
            return info.max_drafts
        wanted = info.drafts(int(self.number)) if self.schedule == BLOCK else int(self.number)
        return min(max(wanted, 1), info.max_drafts)

    @property
    def excess(self) -> str:
        """A clause that says so if more was asked for than there is; empty if not."""
        if self.info is None or self.schedule not in (CAP, BLOCK) or not math.isfinite(self.number):
            return ""
        return self.info.excess(self.number, self.schedule == BLOCK)


def read_lane(text: str, infos: Sequence[DrafterInfo]) -> AskedLane:
    """What `text` asks of one of the drafters `infos`. Raises LaneError."""
    name, *parts = text.strip().lower().split(":")
    if name == PLAIN:
        if parts:
            raise LaneError(f"{PLAIN} has no setting {parts[0][:40]!r}.")
        return AskedLane()
    info = find(infos, name)
    if info is None:
        raise LaneError(f"There is no lane {name[:40]!r}; there are {', '.join([PLAIN, *(i.id for i in infos)])}.")
    asked = AskedLane(info)
    for part in parts:
        asked = _setting(info, part.strip())
    return asked


def read_lanes(text: str, infos: Sequence[DrafterInfo]) -> list[AskedLane]:
    """Lanes with commas between them, as many as make a race on the page. Raises LaneError."""
    lanes = [read_lane(lane, infos) for lane in text[:1000].split(",") if lane.strip()]
    if not 2 <= len(lanes) <= MAX_LANES:
        raise LaneError(f"A race has 2 to {MAX_LANES} lanes, not {len(lanes)}.")
    return lanes


def excesses(lanes: Sequence[AskedLane | None]) -> list[str]:
    """A sentence for every lane that asked for more than its drafter has, by its number from 1; None is a place
    without a lane."""
    return [f"Lane {k + 1}: {lane.excess}." for k, lane in enumerate(lanes) if lane and lane.excess]


def lane_text(spec: LaneSpec) -> str:
    """The text that `read_lane` reads as `spec`."""
    if not spec.speculative:
        return PLAIN
    name = spec.drafter_id
    if spec.schedule == HARDWARE:
        return f"{name}:{HARDWARE}"
    if spec.schedule in BY_THRESHOLD:
        return f"{name}:{spec.schedule}={exact(spec.threshold)}"
    return f"{name}:{spec.schedule}={spec.cap}" if spec.schedule in (CAP, BLOCK) else f"{name}:{FULL}"


def find(infos: Sequence[DrafterInfo], drafter_id: object) -> DrafterInfo | None:
    """The drafter of an id."""
    return next((info for info in infos if info.id == drafter_id), None)


def method_name(drafter_id: str) -> str:
    """The method's name in a drafter's id: "dspark" of "dspark-2"."""
    return _NUMBERED.sub("", drafter_id)


def schedules(info: DrafterInfo) -> list[tuple[str, str]]:
    """What can be chosen of a drafter, as (words, value)."""
    confident = [("confidence threshold", CONFIDENCE), ("cumulative confidence", CUMULATIVE)]
    fixed = [("full block", FULL), ("fixed cap", CAP)]
    return [("hardware-aware", HARDWARE), *fixed, *(confident if info.has_confidence else [])]


# ---- labels --------------------------------------------------------------------------------------------------


def label_of(spec: LaneSpec, slots: int = 0) -> str:
    """The schedule in the page's words, such as "cap 3", in drafts. A further drafter of a method goes with its number:
    "#2, cap 3". `slots`: of a race that was saved when blocks were labelled by theirs, "block 6"."""
    if not spec.speculative:
        return ""
    if spec.schedule == HARDWARE:
        words = "hardware-aware"
    elif spec.schedule in BY_THRESHOLD:
        number = f"{spec.threshold:.2f}" if spec.threshold == round(spec.threshold, 2) else exact(spec.threshold)
        words = f"{'confidence' if spec.schedule == CONFIDENCE else 'product'} ≥ {number}"
    elif slots:
        words = f"block {slots}"
    else:
        words = f"cap {spec.cap}" if spec.schedule == CAP else "full block"
    further = _NUMBERED.search(spec.drafter)
    return f"#{further[1]}, {words}" if further else words


def block_in(label: str) -> int:
    """The slots that the label of an old race names; 0 if it names none."""
    found = _BLOCK_LABEL.fullmatch(label)
    return int(found[1]) if found else 0


def _labelled(spec: LaneSpec, schedule: str = "", cap: int = 0, threshold: float = 0.0) -> LaneSpec:
    lane = LaneSpec(spec.method, schedule or spec.schedule, cap, threshold, drafter=spec.drafter)
    return LaneSpec(lane.method, lane.schedule, cap, threshold, label_of(lane), lane.drafter)


def _setting(info: DrafterInfo, part: str) -> AskedLane:
    """What one setting of a lane's text asks for. Raises LaneError."""
    key, given, value = part.partition("=")
    if key in (HARDWARE, FULL) and not given:
        return AskedLane(info, key)
    if key in (CAP, BLOCK) or (key in BY_THRESHOLD and info.has_confidence):
        try:
            number = float(value) if given else WHOLE
        except (ValueError, OverflowError):
            number = math.nan
        if math.isnan(number) or (given and math.isinf(number)):
            raise LaneError(f"{value[:40]!r} in {part[:40]!r} is not a number.")
        return AskedLane(info, key, number)
    known = [HARDWARE, FULL, f"{CAP}=N", f"{BLOCK}=N", *(f"{t}=X" for t in BY_THRESHOLD if info.has_confidence)]
    raise LaneError(f"{info.id} has no setting {part[:40]!r}: use {', '.join(known)}.")
