"""What a first race needs, got ready while nobody asks for anything: every kernel run once, the cost curve measured.

A step is a single operation on the device (the longest is a verification of a whole block), so that whoever comes
meanwhile waits for at most one. A race that comes before the end warms its own lanes, and goes by the costs known then.
"""

import time
from collections.abc import Generator

from ..decode.measure import Measuring
from ..decode.prefill import prefill_once
from ..decode.rounds import Settings
from ..decode.speculative import Options
from .loaded import Models, Warmth
from .race import WARM_UP_PROMPT, rehearse
from .records import HARDWARE, PLAIN, LaneSpec, RaceRequest

CORES = "Getting ready: trying whether this processor is faster with its cores side by side. A race comes first."
KERNELS = "Getting ready: a first run of each drafter. A race comes first."
COSTS = "Getting ready: measuring what a step costs{left}. A race comes first."
LEFT = (10, 20, 30, 60, 120, 300, 600)  # seconds that are named: the nearest that is not too short


def prepare(models: Models) -> Generator[str, None, None]:
    """Before every step, what it is a part of, in a sentence or two."""
    for _ in models.settle_streams():
        yield CORES
    infos = [i for i in models.infos if i.id in models.loaded]
    specs = [LaneSpec(PLAIN), *(LaneSpec(i.method, HARDWARE, drafter=i.lane_drafter) for i in infos)]
    asked = RaceRequest("", tuple(specs), Settings())
    cold = [spec for spec in specs if not models.is_warm(Warmth.of(spec, asked, 0.0))]
    if cold:
        yield KERNELS
        prompt = [i % models.target.vocab_size for i in range(WARM_UP_PROMPT)]
        taps = sorted({t for d in models.loaded.values() for t in d.taps})
        prefilled = prefill_once(models.target, prompt, tuple(taps))
        models.read_s = models.read_s or prefilled.seconds / len(prompt)
        for spec in cold:
            for _ in rehearse(models, asked, spec, prompt, Options(prefilled=prefilled)):
                yield KERNELS
    if models.loaded and models.known_curve() is None:
        began, words = time.monotonic(), COSTS.format(left="")
        yield words
        events = models.measure_curve()
        for event in events:
            if isinstance(event, Measuring) and event.share > 0.05:
                left = (time.monotonic() - began) * (1 / event.share - 1)
                words = COSTS.format(left=f", {_about(left)} or so")
            yield words
            if models.known_curve() is not None:  # somebody measured it meanwhile
                break
        events.close()


def _about(seconds: float) -> str:
    n = next((n for n in LEFT if n >= seconds), LEFT[-1])
    return f"{n} s" if n < 120 else f"{n // 60} minutes"
