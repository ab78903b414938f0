"""What was measured, a JSON object a line, so that a report that was interrupted goes on where it stopped.

The first line says what is measured and on what, the machine's cost curve included; every other line is one `Row`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..decode.cost_curve import CostCurve
from ..decode.rounds import Round, Start
from ..race.records import LaneRecord, LaneSpec
from ..race.schema import Misfit, Schema, encode

LOG_VERSION = 1
MUST_AGREE = ("target", "precision", "drafters", "tokens", "temperature", "seed", "machine", "versions")


@dataclass(frozen=True, slots=True)
class Row:
    """One decode of one prompt.

    turn:        of the alternation, from 0; `place` is where in its order the lane came
    tok_s:       decoded tokens over seconds of decoding: without the prefill and the token it gives
    ids:         the output, the prefill's token first
    rounds:      of this project's loops; empty for other engines
    tokens_per_round: as the engine tells, for other engines
    scheduler_s: seconds spent inside the schedule
    cap:         that a lane with the best cap in hindsight ran at (0: plain decoding)
    """

    set: str
    prompt: int
    lane: str
    turn: int
    place: int
    tok_s: float
    seconds: float
    ids: tuple[int, ...]
    rounds: tuple[Round, ...] = ()
    tokens_per_round: float = 1.0
    scheduler_s: float = 0.0
    cap: int | None = None

    @property
    def key(self) -> tuple[str, int, str, int]:
        return self.set, self.prompt, self.lane, self.turn

    def record(self, spec: LaneSpec) -> LaneRecord:
        """The decode as a lane of a race."""
        return LaneRecord(spec, Start(self.ids[0], 0, 0.0), list(self.rounds))


@dataclass(frozen=True, slots=True)
class Header:
    """What is measured, and on what. Figures of two logs that differ in one of MUST_AGREE are not comparable."""

    target: str
    precision: str
    drafters: dict[str, str]
    tokens: int
    temperature: float
    seed: int
    machine: dict[str, str]
    versions: dict[str, str]
    when: str
    version: int = LOG_VERSION
    peers: dict[str, str] = field(default_factory=dict)  # versions of other engines that are installed


@dataclass
class Log:
    """An open log. `rows` by key."""

    path: Path
    header: Header
    curve: CostCurve
    rows: dict[tuple[str, int, str, int], Row] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.rows[row.key] = row
        self._append(encode(row))

    @staticmethod
    def create(path: Path, header: Header, curve: CostCurve) -> "Log":
        path.parent.mkdir(parents=True, exist_ok=True)
        log = Log(path, header, curve)
        log._append({"header": encode(header), "curve": json.loads(curve.to_json())})
        return log

    @staticmethod
    def read(path: Path) -> "Log | None":
        """The log that is there, or None. A last line that was cut off is dropped. Raises ValueError."""
        if not path.exists():
            return None
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines.pop():  # no line end: it was being written
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        if not lines:
            return None
        try:
            top = json.loads(lines[0])
            curve = top["curve"]
            # Older logs name drafters as their method is written: ids are that in lower case.
            costs = [
                c | {"draft": {name.lower(): points for name, points in c["draft"].items()}} for c in curve["costs"]
            ]
            curve = CostCurve.from_json(json.dumps(curve | {"costs": costs}))
            log = Log(path, Schema(Header).decode(top["header"]), curve)
            rows = Schema(Row)
            for line in lines[1:]:
                row = rows.decode(json.loads(line))
                log.rows[row.key] = row
        except Misfit as e:
            raise ValueError(f"{path} is no log of this version: {e.place} {e.words}.") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise ValueError(f"{path} is no log of this version ({e!r}).") from None
        return log

    def require_same(self, header: Header) -> None:
        """Raises ValueError if what is to be measured is not what the log holds."""
        for name in MUST_AGREE:
            before, now = getattr(self.header, name), getattr(header, name)
            if before != now:
                raise ValueError(
                    f"{self.path} was measured with another {name} ({before}, now {now}): "
                    "choose another --out, or delete it."
                )

    def _append(self, value: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, separators=(",", ":")) + "\n")
