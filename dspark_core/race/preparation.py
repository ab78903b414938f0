"""What a first race needs, got ready while nobody asks for anything: every kernel run once, the cost curve measured.

A step is a single operation on the device (the longest is a verification of a whole block), so that whoever comes
meanwhile waits for at most one. A race that comes before the end warms its own lanes, and goes by the costs known then.
"""

from collections.abc import Generator

from ..decode.prefill import prefill_once
from ..decode.rounds import Settings
from ..decode.speculative import Options
from .loaded import Models, Warmth
from .race import WARM_UP_PROMPT, rehearse
from .records import HARDWARE, PLAIN, LaneSpec, RaceRequest

KERNELS = "Getting ready for a race, while nothing is asked for: each way of decoding runs once."
COSTS = (
    "Getting ready for a race, while nothing is asked for: measuring what a step costs here, about a minute's work. "
    "Race whenever you like: it comes first."
)


def prepare(models: Models) -> Generator[str, None, None]:
    """Before every step, what it is a part of, in a sentence or two."""
    specs = [LaneSpec(PLAIN), *(LaneSpec(i.method, HARDWARE, drafter=i.lane_drafter) for i in models.infos)]
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
    while models.known_curve() is None:
        yield COSTS
        events = models.measure_curve()
        for _ in events:
            yield COSTS
            if models.known_curve() is not None:  # somebody measured it meanwhile
                break
        events.close()
