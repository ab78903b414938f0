"""What was asked of a race and what came of it: plain records that can become one JSON document.

Nothing here imports MLX, so the page's threads may use it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..decode.rounds import Prefill, Round, Settings, Start
from ..models import drafters
from ..models.thoughts import Thought
from ..models.token_bytes import whole_characters
from .inspection import Inspection

PLAIN = "plain"
FULL, CAP, CONFIDENCE, CUMULATIVE, HARDWARE = "full", "cap", "confidence", "cumulative", "hardware"
BLOCK = "block"  # of the bench alone, whose lanes are named before a drafter is there: see LaneSpec
SCHEDULES = (FULL, CAP, CONFIDENCE, CUMULATIVE, HARDWARE)
MAX_SYSTEM = 10_000  # characters of a system turn
MAX_EXCHANGES = 16  # of a conversation so far
MAX_EARLIER = 100_000  # characters of them all


def exact(number: float) -> str:
    """A number that was asked for, in the digits that it takes to read it back: 0.7, 1234567, 1e-07."""
    return repr(float(number)).removesuffix(".0")


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """One lane's own settings.

    method:    "plain", or the title of a drafter's method, such as "DSpark"
    schedule:  "full" sends every draft to verification, "cap" at most `cap` of them, "confidence" those
               before the first slot whose confidence is below `threshold`, "cumulative" those before the first
               where the product of the confidences is, "hardware" what this machine's costs make worthwhile; "block"
               what an effective block length of `cap` slots sends, whatever the drafter's first slot is
    label:     the schedule in the page's words; empty for a plain lane
    drafter:   id of the loaded drafter that it runs, such as "dspark-2"; empty for the first one of its method
    """

    method: str
    schedule: str = FULL
    cap: int = 0
    threshold: float = 0.0
    label: str = ""
    drafter: str = ""

    @property
    def drafter_id(self) -> str:
        """Id of the loaded drafter that the lane runs; "plain" for a plain lane."""
        return self.drafter or self.method.lower()

    @property
    def speculative(self) -> bool:
        return self.method != PLAIN

    @property
    def title(self) -> str:
        """The method's name for the visitor, such as "DFlash 2"."""
        return drafters.title(self.method) if self.speculative else self.method

    @property
    def name(self) -> str:
        return f"{self.title} · {self.label}" if self.label else self.title


@dataclass(frozen=True, slots=True)
class RaceRequest:
    """A race as asked for. `together` shares the device by the fair clock; else lanes run in order.

    system:   the conversation's system turn, at most MAX_SYSTEM characters; empty leaves it to the chat template
    strict:   greedy lanes with a drafter decide close calls again by plain decoding's own numbers, where the device
              needs it (decode/strict.py)
    earlier:  the conversation so far, as (user's turn, assistant's turn) pairs, at most MAX_EXCHANGES of them with
              MAX_EARLIER characters; `prompt` is the next user's turn
    thinking: answers begin with a thought: only where the chat template has a switch for it
    """

    prompt: str
    lanes: tuple[LaneSpec, ...]
    settings: Settings
    together: bool = True
    profile: bool = False
    system: str = ""
    earlier: tuple[tuple[str, str], ...] = ()
    strict: bool = False
    thinking: bool = False

    def __post_init__(self) -> None:
        """Half a surrogate pair, which no document can hold, becomes U+FFFD on the way in, wherever it comes from."""
        whole = whole_characters
        object.__setattr__(self, "prompt", whole(self.prompt))
        object.__setattr__(self, "system", whole(self.system))
        object.__setattr__(self, "earlier", tuple((whole(user), whole(reply)) for user, reply in self.earlier))

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation as a chat template takes it."""
        system = [{"role": "system", "content": self.system}] if self.system.strip() else []
        turns = [
            m for u, a in self.earlier for m in ({"role": "user", "content": u}, {"role": "assistant", "content": a})
        ]
        return [*system, *turns, {"role": "user", "content": self.prompt}]

    @property
    def switches(self) -> dict[str, bool]:
        """What `encode_chat` is given beside the messages."""
        return {"thinking": True} if self.thinking else {}


@dataclass(frozen=True, slots=True)
class Failed:
    """A lane that cannot go on; `message` is one sentence for its pane."""

    message: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is being done while nothing is decoded, or why nothing has come yet, in a sentence."""

    words: str


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A lane is being run in, off the clock."""


@dataclass(frozen=True, slots=True)
class DeviceNoise:
    """The noise of this device was measured for a strict race; see RaceRecord.noise."""

    largest: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Where lane `lane` first leaves the reference lane.

    index:    of the first differing token in the output (0 is the token that the prompt itself gives)
    gap:      the target's best logit minus its second best there, at width 1 on a clean cache
    needed:   its best logit minus the smaller of the two chosen tokens' logits; what rounding had to bridge
    noise:    how far logits move with the width on this device, as mlx-lm's own forward shows it (decode/strict.py);
              None if that is not known
    ulp:      one unit in the last place of the logits' dtype at the best logit
    tie:      rounding alone decides between the two tokens: see `rounding_decides`
    """

    lane: int
    index: int
    gap: float
    needed: float
    noise: float | None
    ulp: float
    tie: bool

    @property
    def rounding(self) -> float:
        """What rounding can bridge between two logits here."""
        return self.noise + 2 * self.ulp if self.noise else 0.0

    @property
    def rounding_decides(self) -> bool:
        """True if the two chosen tokens are as good as each other, up to rounding.

        Where the width is known to change no logit (noise 0) every lane sees the same numbers and takes the lowest of
        equal ids, so nothing excuses a difference, not even two equal logits: some lane saw others. Where nothing is
        known, only equal logits are a tie. Otherwise it is the noise and a unit in the last place for each logit.
        """
        return self.noise != 0 and self.needed <= self.rounding


@dataclass(frozen=True, slots=True)
class Verdict:
    """Are the outputs the same?

    kind: "identical", "tie" (only ties differ), "divergence", "sampled" or "none" (nothing to compare)
    """

    kind: str
    words: str
    differences: tuple[Difference, ...] = ()


@dataclass(slots=True)
class LaneRecord:
    spec: LaneSpec
    start: Start | None = None
    rounds: list[Round] = field(default_factory=list)
    error: str | None = None
    inspections: list[Inspection] = field(default_factory=list)  # of rounds that were looked at, one each

    @property
    def output(self) -> list[int]:
        """Every token of the answer, the one from the prompt's own logits first."""
        if self.start is None:
            return []
        return [self.start.token_id, *(t for r in self.rounds for t in r.committed)]

    @property
    def finish(self) -> str | None:
        """Why the lane ended by itself; None while it runs, was stopped or failed."""
        if self.rounds:
            return self.rounds[-1].finish
        return self.start.finish if self.start else None

    def inspection(self, index: int) -> Inspection | None:
        """What is known of round `index`, if it was looked at."""
        return next((i for i in self.inspections if i.index == index), None)

    def add(self, event: Prefill | Start | Round | Failed) -> None:
        if isinstance(event, Start):
            self.start = event
        elif isinstance(event, Round):
            self.rounds.append(event)
        elif isinstance(event, Failed):
            self.error = event.message


@dataclass(frozen=True, slots=True)
class RaceSource:
    """What a race runs on, taken down as it begins: once it is over, the engine may hold other models, or none.

    token_bytes: the text of a token id, of the tokenizer alone
    stop_ids:    the target's
    drafters:    method -> name, block and precision, or why it does not run
    machine, versions: as in dspark_core/machine.py
    """

    token_bytes: Callable[[int], bytes]
    stop_ids: frozenset[int]
    drafters: dict[str, str]
    machine: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class PassCosts:
    """Seconds that the parts of a pass take by themselves, by the cost curve that the race began with.

    verify:  of width 1, 2, ...
    draft:   by drafter's id: a look, then 1, 2, ... drafts
    wait:    by drafter's id, everything else of a round: of one in one piece, and of one whose confidences the host
             waited for
    machine: where that was measured, if it was not where the race ran
    """

    verify: tuple[float, ...]
    draft: dict[str, tuple[float, ...]] = field(default_factory=dict)
    wait: dict[str, tuple[float, float]] = field(default_factory=dict)
    machine: str = ""

    def split(self, r: Round, drafter: str) -> tuple[float, float, float] | None:
        """Drafting, verification and waiting of such a round; None where a part of it is not known."""
        draft = self.draft.get(drafter, ())
        if len(r.draft_ids) >= len(draft) or r.proposed >= len(self.verify):
            return None
        blind, waited = self.wait.get(drafter, (0.0, 0.0))
        wait = (blind if r.confidence is None else waited) + (max(0.0, waited - blind) if r.looked else 0.0)
        return (draft[len(r.draft_ids)] if r.draft_ids or r.looked else 0.0), self.verify[r.proposed], wait


@dataclass(slots=True)
class RaceRecord:
    """`noise`: how far this target's logits move with the width on this device, in logits; None if that is not known.
    A strict race always knows it, and at 0 nothing was decided again, for nothing can differ.

    `costs`: by which rounds that were not timed apart are split (passes.py); None in files of before there were any.
    `thought`: the one that its prompt begins, if it begins one: the answers go on with it.

    `source` is for the trace and is part of no document."""

    target: str
    precision: str
    request: RaceRequest
    prompt_tokens: int
    lanes: list[LaneRecord]
    stopped: bool = False
    verdict: Verdict | None = None
    noise: float | None = None
    costs: PassCosts | None = None
    thought: Thought | None = None
    source: RaceSource | None = field(default=None, compare=False, repr=False, metadata={"saved": False})

    @property
    def interrupted(self) -> bool:
        """Did it end before its lanes did? A race with a verdict never does."""
        return self.stopped or (self.verdict is None and any(x.finish is None and x.error is None for x in self.lanes))

    @property
    def stop_ids(self) -> frozenset[int] | None:
        """Those that end its answers; None where they are the target's own."""
        return self.request.settings.stop_ids
