"""What is asked of a proof of exactness, and what comes of it: plain records without MLX.

A proof is a generator of (-1, event) pairs, like a race: `Step`s while it works, then its evidence.
"""

from dataclasses import dataclass

from ..decode.rounds import Settings
from .goodness import Comparison
from .record import Difference

RIGHT, ALWAYS, FROM_P, NO_BIAS = "right", "always", "from-p", "no-bias"
SAMPLERS = (RIGHT, ALWAYS, FROM_P, NO_BIAS)


@dataclass(frozen=True, slots=True)
class Step:
    """How far a proof is: `share` of the whole, 0 to 1, and what it does now."""

    share: float
    words: str


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """Draw the first two tokens of rounds `n` times, at most for `seconds`, and compare with the exact distribution.

    `sampler` is RIGHT or the name of a wrong one: ALWAYS keeps every draft, FROM_P draws the correction from p
    instead of the residual, NO_BIAS accepts with the q from before the Markov bias.
    """

    prompt: str
    method: str
    settings: Settings
    sampler: str = RIGHT
    n: int = 10_000
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two successive tokens: their exact probability and how often they were drawn. `second` None stands for every
    other second token together."""

    first: int
    second: int | None
    probability: float
    drawn: int


@dataclass(frozen=True, slots=True)
class DrawEvidence:
    """The draws of one proof.

    anchor:    the token held fixed before the two that are drawn
    prefixes:  first tokens that were followed; `followed` is the target's probability that the first is one of them
    pairs:     the most likely pairs, most likely first
    kept:      share of first drafts that were accepted
    repeated:  draws done again by the decode loop itself, with the same numbers; `same` of them gave the same tokens
    seconds:   wall clock of the whole proof
    """

    request: DrawRequest
    anchor: int
    prefixes: int
    followed: float
    pairs: tuple[Pair, ...]
    comparison: Comparison
    kept: float
    repeated: int
    same: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AgreementRequest:
    """Decode `prompts` greedily, `tokens` each, with the target alone and with every drafter that is loaded."""

    prompts: tuple[str, ...]
    tokens: int = 24


@dataclass(frozen=True, slots=True)
class Agreement:
    """One prompt, decoded greedily by every lane.

    lanes:       their names, plain first
    tokens:      of the plain answer
    kind, words: of the verdict: "identical", "tie", "divergence" or "none"
    differences: where a lane first differs from plain
    closest:     the smallest gap between the target's two best logits along the plain answer
    tied:        positions of it where the two best are equal
    lower:       of these, by lane: how many it reached with the plain answer before it, and at how many of them it took
                 the lowest of the equal ids
    """

    prompt: str
    lanes: tuple[str, ...]
    tokens: int
    kind: str
    words: str
    differences: tuple[Difference, ...]
    closest: float
    tied: int
    lower: tuple[tuple[int, int], ...] = ()
