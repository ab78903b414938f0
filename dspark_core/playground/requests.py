"""What the page's controls ask for, made safe: numbers within their limits, lanes, one race request."""

import math

from ..decode.rounds import Settings
from ..race.record import CAP, CONFIDENCE, CUMULATIVE, FULL, HARDWARE, MAX_SYSTEM, PLAIN, LaneSpec, RaceRequest, exact

MAX_PROMPT = 100_000  # characters
MAX_TOKENS = 4096
MAX_LANES = 4
LANE_CONTROLS = 5  # of each lane: see lane_of
ALL_LANES = MAX_LANES * LANE_CONTROLS  # after them may come whether strict mode is on
# A drafter whose length is set as a block of slots; the others count drafts (their cap).
BLOCK_LENGTHS = {"DFlash": 16}
CAPS = {"DSpark": 7}
TOGETHER, IN_TURN = "together, by a fair clock", "one after another"


def clamp(value, low: float, high: float, default: float) -> float:
    """A number a client sent, within its limits; `default` if it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
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


def lane_of(method, length, schedule, cap, threshold) -> LaneSpec | None:
    """The lane that one column of controls describes; None if it is off."""
    if method == PLAIN:
        return LaneSpec(PLAIN)
    if schedule == HARDWARE and (method in BLOCK_LENGTHS or method in CAPS):
        return LaneSpec(method, HARDWARE, label="hardware-aware")
    if method in BLOCK_LENGTHS:
        longest = BLOCK_LENGTHS[method]
        length = int(clamp(length, 2, longest, longest))
        schedule = FULL if length == longest else CAP
        return LaneSpec(method, schedule, cap=length - 1, label=f"block {length}")
    if method in CAPS:
        cap, threshold = int(clamp(cap, 1, CAPS[method], CAPS[method])), clamp(threshold, 0, 1, 0.5)
        if schedule == CAP:
            return LaneSpec(method, CAP, cap=cap, label=f"cap {cap}")
        if schedule == CONFIDENCE:
            return LaneSpec(method, CONFIDENCE, threshold=threshold, label=f"confidence ≥ {_hundredths(threshold)}")
        if schedule == CUMULATIVE:
            return LaneSpec(method, CUMULATIVE, threshold=threshold, label=f"product ≥ {_hundredths(threshold)}")
        return LaneSpec(method, FULL, cap=CAPS[method], label="full block")
    return None


def _hundredths(number: float) -> str:
    """A number with two decimals, or with all that it has."""
    return f"{number:.2f}" if number == round(number, 2) else exact(number)


def lanes_of(controls) -> tuple[LaneSpec, ...]:
    """The lanes that all columns of controls describe, at most MAX_LANES."""
    columns = controls[:ALL_LANES]
    lanes = [lane_of(*columns[i : i + LANE_CONTROLS]) for i in range(0, len(columns), LANE_CONTROLS)]
    return tuple(lane for lane in lanes if lane)


def strict_of(controls, settings: Settings) -> bool:
    """Is strict mode asked for? It is for greedy decoding only."""
    return controls[ALL_LANES:] == (True,) and settings.greedy


def in_words(max_tokens, temperature, top_k, top_p, seed, order, system, *controls) -> str:
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
    lanes = ", ".join(lane.name for lane in lanes_of(controls))
    return f"{lanes}; up to {settings.max_tokens} tokens, {', '.join(words)}"


def request_of(prompt, max_tokens, temperature, top_k, top_p, seed, order, system, *controls) -> RaceRequest:
    """The race that the page's controls ask for. Raises ValueError, in one sentence for the visitor."""
    prompt = prompt if isinstance(prompt, str) else ""
    if not prompt.strip():
        raise ValueError("Type a prompt, or pick one of the examples.")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"The prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are taken.")
    system = system if isinstance(system, str) and system.strip() else ""
    if len(system) > MAX_SYSTEM:
        raise ValueError(f"The system turn has {len(system):,} characters; at most {MAX_SYSTEM:,} are taken.")
    lanes = lanes_of(controls)
    if len(lanes) < 2:
        raise ValueError("A race needs at least two lanes.")
    settings = settings_of(max_tokens, temperature, top_k, top_p, seed)
    strict = strict_of(controls, settings)
    return RaceRequest(prompt, lanes, settings, together=order != IN_TURN, system=system, strict=strict)
