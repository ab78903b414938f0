"""What is asked of a proof of exactness, and what comes of it: plain records without MLX.

A proof is a generator of (-1, event) pairs, like a race: `Step`s while it works, then its evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..decode.rounds import Settings
from ..race.records import Difference
from .chi_squared import ALPHA, Comparison

RIGHT, ALWAYS, FROM_P, NO_BIAS, BONUS = "right", "always", "from-p", "no-bias", "bonus"
SAMPLERS = (RIGHT, ALWAYS, FROM_P, NO_BIAS, BONUS)


@dataclass(frozen=True, slots=True)
class Step:
    """How far a proof is: `share` of the whole, 0 to 1, and what it does now; `left_s`: seconds until that is done, by
    the pace so far, None while there is none."""

    share: float
    words: str
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """What the parts of a proof took, in seconds, so that the next one can be announced.

    asking: the prompt and everything that the models were asked, once for all samplers
    draw:   a single draw
    repeating: the draws that the decode loop repeated
    """

    asking: float
    draw: float
    repeating: float

    def seconds(self, n: int, samplers: int) -> float:
        """Of a proof with so many samplers, `n` draws each."""
        return self.asking + samplers * n * self.draw + self.repeating


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """Draw the first tokens of an answer `n` times, at most for `seconds`, half of them in rounds of one draft and half
    in rounds of two, and compare with the exact distribution.

    `drafter` is the id of a loaded one. `sampler` is RIGHT or the name of a wrong one: ALWAYS keeps every draft, FROM_P
    draws the correction from p instead of the residual, NO_BIAS accepts with the q from before the Markov bias or
    the selector, BONUS draws the bonus from the row before.
    """

    prompt: str
    drafter: str
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
class Check:
    """One of a proof's comparisons: `name` says of what, in the page's words."""

    name: str
    comparison: Comparison


def together(checks: Sequence[Check]) -> float:
    """How often exact draws would give a comparison as bad as the worst, among so many (Bonferroni)."""
    tests = [c.comparison.p_value for c in checks if c.comparison.freedom or c.comparison.impossible]
    return min(1.0, max(1, len(tests)) * min(tests, default=1.0))


@dataclass(frozen=True, slots=True)
class DrawEvidence:
    """The draws of one proof.

    anchor:    the token held fixed before the two that are drawn
    prefixes:  first tokens that were followed; `followed` is the target's probability that the first is one of them
    pairs:     the most likely pairs, most likely first
    comparison: of all pairs
    checks:    every comparison, that of the pairs first: the proof is flagged if one of them is
    kept:      share of first drafts that were accepted
    bonuses:   bonus tokens that were compared
    repeated:  draws done again by the decode loop itself, with the same numbers; `same` of them gave the same tokens
    steady:    the device's numbers do not depend on the width, so all of them must
    seconds:   wall clock from the beginning of the proof to this evidence
    pace:      of the proof; no part of what is proven
    """

    request: DrawRequest
    anchor: int
    prefixes: int
    followed: float
    pairs: tuple[Pair, ...]
    comparison: Comparison
    checks: tuple[Check, ...]
    kept: float
    bonuses: int
    repeated: int
    same: int
    steady: bool
    seconds: float
    pace: Pace = field(default=Pace(0.0, 0.0, 0.0), compare=False)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of all comparisons; 0 if exact draws can come out in one way only."""
        return sum(c.comparison.freedom for c in self.checks)

    @property
    def worst(self) -> Check:
        """The comparison that exact draws would fit least often."""
        return min(self.checks, key=lambda c: c.comparison.p_value)

    @property
    def p_value(self) -> float:
        return together(self.checks)

    @property
    def loop_differs(self) -> bool:
        """True if the decode loop drew other tokens from the same numbers where it must draw the same."""
        return self.steady and self.same < self.repeated

    @property
    def flagged(self) -> bool:
        """True if exact draws would look like this less than once in 1 / ALPHA proofs, or the loop draws otherwise."""
        return self.p_value < ALPHA or self.loop_differs


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
