"""What the page's controls ask for, made safe: numbers within their limits, lanes, one race request."""

import math
from collections.abc import Mapping

from ..decode.rounds import Settings
from ..models.info import DrafterInfo
from ..race.records import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, MAX_SYSTEM, PLAIN, LaneSpec, RaceRequest, exact

MAX_PROMPT = 100_000  # characters
MAX_TOKENS = 4096
MAX_LANES = 4
LANE_CONTROLS = 5  # of each lane: see lane_of
ALL_LANES = MAX_LANES * LANE_CONTROLS  # after them may come whether strict mode is on
Offers = Mapping[str, DrafterInfo]  # by method
# What a lane may ask of a method while no drafter of it is loaded: that of the drafters most in use.
USUAL: Offers = {
    "DSpark": DrafterInfo(
        id="dspark", method="DSpark", title="DSpark", block=7, max_drafts=7, has_confidence=True, has_bias=True
    ),
    "DFlash": DrafterInfo(id="dflash", method="DFlash", title="DFlash", block=16, first_slot=1, max_drafts=15),
}
TOGETHER, IN_TURN = "together, by a fair clock", "one after another"


def clamp(value, low: float, high: float, default: float) -> float:
    """A number a client sent, within its limits; `default` if it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return min(max(number, low), high) if math.isfinite(number) else default


def settings_of(max_tokens, temperature, top_k, top_p, seed) -> Settings:
    return Settings(
        max_tokens=int(clamp(max_tokens, 1, MAX_TOKENS, 96)),
        temperature=clamp(temperature, 0, 2, 0),
        top_k=int(clamp(top_k, 0, 1000, 0)),
        top_p=clamp(top_p, 0.01, 1, 1),
        seed=int(clamp(seed, 0, 2**31 - 1, 0)),
    )


def offers_of(engine) -> Offers:
    """What can be asked of each method on this engine; None is one that is not there yet."""
    return USUAL if engine is None else {**USUAL, **getattr(engine, "drafter_info", {})}


def lane_of(method, length, schedule, cap, threshold, offers: Offers = USUAL) -> LaneSpec | None:
    """The lane that one column of controls describes, within what the loaded drafter offers; None if it is off."""
    if method == PLAIN:
        return LaneSpec(PLAIN)
    info = offers.get(method) if isinstance(method, str) else None
    if info is None:
        return None
    if schedule == HARDWARE:
        return LaneSpec(method, HARDWARE, label="hardware-aware")
    if info.has_confidence and schedule in (CONFIDENCE, CUMULATIVE):
        threshold = clamp(threshold, 0, 1, 0.5)
        words = "confidence" if schedule == CONFIDENCE else "product"
        return LaneSpec(method, schedule, threshold=threshold, label=f"{words} ≥ {_hundredths(threshold)}")
    if info.by_block:
        length = int(clamp(length, info.shortest, info.block, info.block))
        schedule = FULL if length == info.block else CAP
        return LaneSpec(method, schedule, cap=info.drafts(length), label=f"block {length}")
    if schedule == CAP:
        cap = int(clamp(cap, 1, info.max_drafts, info.max_drafts))
        return LaneSpec(method, CAP, cap=cap, label=f"cap {cap}")
    return LaneSpec(method, FULL, cap=info.max_drafts, label="full block")


def _hundredths(number: float) -> str:
    """A number with two decimals, or with all that it has."""
    return f"{number:.2f}" if number == round(number, 2) else exact(number)


def too_much(lane: int, asked: float, info: DrafterInfo) -> str:
    """One sentence: lane number `lane` (from 0) was asked for more than its drafter has. Empty if it was not."""
    words = info.excess(asked, info.by_block)
    return f"Lane {lane + 1}: {words}." if words else ""


def lanes_of(controls, offers: Offers = USUAL) -> tuple[LaneSpec, ...]:
    """The lanes that all columns of controls describe, at most MAX_LANES."""
    columns = controls[:ALL_LANES]
    lanes = [lane_of(*columns[i : i + LANE_CONTROLS], offers) for i in range(0, len(columns), LANE_CONTROLS)]
    return tuple(lane for lane in lanes if lane)


def strict_of(controls, settings: Settings) -> bool:
    """Is strict mode asked for? It is for greedy decoding only."""
    return controls[ALL_LANES:] == (True,) and settings.greedy


def in_words(max_tokens, temperature, top_k, top_p, seed, order, system, *controls, offers: Offers = USUAL) -> str:
    """The same settings as `request_of` takes, in one line: which lanes race, how far, how tokens are chosen."""
    settings = settings_of(max_tokens, temperature, top_k, top_p, seed)
    words = ["greedy"]
    if not settings.greedy:
        words = [f"temperature {exact(settings.temperature)}"]
        words += [f"top-k {settings.top_k}"] if settings.top_k else []
        words += [f"top-p {exact(settings.top_p)}"] if settings.top_p < 1 else []
        words += [f"seed {settings.seed}"]
    words += ["strict"] if strict_of(controls, settings) else []
    words += [IN_TURN] if order == IN_TURN else []
    words += ["with a system turn"] if isinstance(system, str) and system.strip() else []
    lanes = ", ".join(lane.name for lane in lanes_of(controls, offers))
    return f"{lanes}; up to {settings.max_tokens} tokens, {', '.join(words)}"


def request_of(
    prompt, max_tokens, temperature, top_k, top_p, seed, order, system, *controls, offers: Offers = USUAL
) -> RaceRequest:
    """The race that the page's controls ask for. Raises ValueError, in one sentence for the visitor."""
    prompt = prompt if isinstance(prompt, str) else ""
    if not prompt.strip():
        raise ValueError("Type a prompt, or pick one of the examples.")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"The prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are taken.")
    system = system if isinstance(system, str) and system.strip() else ""
    if len(system) > MAX_SYSTEM:
        raise ValueError(f"The system turn has {len(system):,} characters; at most {MAX_SYSTEM:,} are taken.")
    lanes = lanes_of(controls, offers)
    if len(lanes) < 2:
        raise ValueError("A race needs at least two lanes.")
    settings = settings_of(max_tokens, temperature, top_k, top_p, seed)
    strict = strict_of(controls, settings)
    return RaceRequest(prompt, lanes, settings, together=order != IN_TURN, system=system, strict=strict)
