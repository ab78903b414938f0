"""One answer, or a conversation, in the terminal: by the lane that won, without the page.

    python -m dspark_core.generate "Name three primes."                       the embedded model's first drafter
    python -m dspark_core.generate "..." --lane dspark:cap=3                  a lane, as links and saved races name it
    python -m dspark_core.generate "..." --preset qwen3-4b --lane plain       another model, if it is on this machine
    git diff | python -m dspark_core.generate -                               the prompt from standard input
    python -m dspark_core.generate --chat                                     a conversation, a line a turn

Accepted drafts are bold where a terminal reads it, and a thought before the answer is faint; elsewhere the thought is
left to standard error. So are the figures, at the end.
"""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .catalog.hub import Hub
from .catalog.local import name_of
from .catalog.names import HubName
from .decode.rounds import Settings
from .errors import LaneError, ModelError, PresetError, Refused, in_one_line
from .models import drafters as methods
from .models.group import take_place
from .models.info import drafter_ids
from .models.token_bytes import whole_characters
from .presets import EMBEDDED, Place, Preset, read_presets
from .race.answer import AnswerRequest, Began, Ended, Piece
from .race.lane_spec import lane_text, method_name, read_lane
from .race.records import PLAIN, LaneSpec

if TYPE_CHECKING:
    from .race.loaded import Models

BOLD, FAINT, REGULAR = "\x1b[1m", "\x1b[2m", "\x1b[22m"
# What a terminal would obey, whatever a model writes.
UNSAFE = {c: "\ufffd" for c in (*range(9), 11, 12, *range(14, 32), *range(127, 160))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; `arguments` as on the command line."""
    take_place()
    plain_text = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("python -m dspark_core.generate", description=__doc__, formatter_class=plain_text)
    p.add_argument("prompt", nargs="?", help="what to answer; - reads it from standard input")
    p.add_argument("--lane", help="such as plain or dspark:cap=3 (default: the first drafter, as costs decide)")
    p.add_argument("--preset", default=EMBEDDED, help=f"which models (default: {EMBEDDED})")
    p.add_argument("--system", default="", help="the system turn")
    p.add_argument("--tokens", type=int, default=512, help="how many at most (default: 512)")
    p.add_argument("--temperature", type=float, default=0.0, help="0, the default, is greedy")
    p.add_argument("--top-p", type=float, default=1.0)
    p.add_argument("--top-k", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be given again")
    p.add_argument("--thinking", action="store_true", help="begin with a thought, where the model has that switch")
    p.add_argument("--strict", action="store_true", help="plain decoding's own numbers decide close calls, on a GPU")
    p.add_argument("--chat", action="store_true", help="keep the conversation: a line of standard input is a turn")
    p.add_argument("--json", action="store_true", help="one JSON document an answer, figures included")
    p.add_argument("--plain", action="store_true", help="mark nothing")
    a = p.parse_args(arguments)
    if a.prompt is None and not a.chat:
        p.error("there is nothing to answer: give a prompt, - or --chat")
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, io.StringIO())
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        if a.prompt == "-" and not a.chat:
            a.prompt = sys.stdin.read()
        if not (a.chat or a.prompt.strip()):
            raise Refused("There is nothing to answer: the prompt is empty.")
        asked = Settings(a.tokens, a.temperature, a.top_k, a.top_p, a.seed)
        Conversation(a, asked, *load(a.preset, a.lane)).run()
    except Refused as refusal:
        sys.exit(f"error: {refusal}")
    except OSError as error:  # whoever read this has enough, or there is no room for it
        with contextlib.suppress(OSError):  # what is left of it is not tried again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141 if isinstance(error, BrokenPipeError) else f"error: {in_one_line(error)}.")
    except KeyboardInterrupt:
        sys.exit(130)


def load(preset_name: str, lane: str | None) -> tuple["Models", LaneSpec]:
    """A preset's target with the drafter of a lane. Raises PresetError, ModelError and LaneError."""
    presets, _ = read_presets()
    preset = next((p for p in presets if p.name == preset_name), None)
    if preset is None:
        names = ", ".join(p.name for p in presets)
        raise PresetError(f"There is no preset {preset_name[:60]!r}; there are {names}.")
    ids = drafter_ids(d.method for d in preset.drafters)
    drafters: dict[str, Place | None] = dict(zip(ids, (d.path for d in preset.drafters), strict=True))
    drafters |= {m.lower(): None for m in methods.marked("EVERYWHERE") if m.lower() not in ids}
    lane = lane if lane is not None else next(iter(ids), PLAIN)
    wanted = lane.strip().lower().partition(":")[0]
    if wanted not in (PLAIN, *drafters):
        raise LaneError(f"There is no lane {wanted[:40]!r}; there are {', '.join([PLAIN, *drafters])}.")
    return _loaded(preset, {wanted: drafters[wanted]} if wanted in drafters else {}, lane)


def _loaded(preset: Preset, drafters: dict[str, Place | None], lane: str) -> tuple["Models", LaneSpec]:
    from .models.checkpoint import load_drafter
    from .models.sharded import load_spread
    from .race.loaded import Models

    where = _here(preset.target)
    places = {id_: None if place is None else _here(place) for id_, place in drafters.items()}
    target = load_spread(where)
    target.name = name_of(where)
    loaded = {
        id_: load_drafter(place, target, preset.drafter_precision, method=method_name(id_))
        for id_, place in places.items()
    }
    models = Models(target, dict(loaded))
    for _ in models.settle_streams():
        pass
    return models, read_lane(lane, models.infos).spec


def _here(place: Place) -> Path:
    """Where a model lies on this machine. Raises ModelError."""
    found = Hub().local(place) if isinstance(place, HubName) else place
    if found is None:
        name = place.repo if isinstance(place, HubName) else place
        raise ModelError(f"{name} is not on this machine: download it on the page's Models tab.")
    return found


@dataclass
class Conversation:
    """Turns and answers, from the command's arguments and standard input to standard output."""

    arguments: argparse.Namespace
    settings: Settings
    models: "Models"
    lane: LaneSpec
    messages: list[dict[str, str]] = field(default_factory=list)
    stopped: bool = False

    def run(self) -> None:
        """Raises Refused, and KeyboardInterrupt where nothing is being answered."""
        if self.arguments.system:
            self.messages.append({"role": "system", "content": whole_characters(self.arguments.system)})
        for prompt in self.prompts():
            self.messages.append({"role": "user", "content": whole_characters(prompt)})
            try:
                self.messages.append({"role": "assistant", "content": self.answer()})
            except Refused as refusal:
                if not self.arguments.chat:
                    raise
                self.messages.pop()
                print(f"error: {refusal}", file=sys.stderr)

    def prompts(self) -> Iterator[str]:
        first = self.arguments.prompt or ""
        if first.strip() and not (first == "-" and self.arguments.chat):
            yield first
        while self.arguments.chat:
            if sys.stdin.isatty():
                print("> ", end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line:
                return
            if line.strip():
                yield line.rstrip("\n")

    def answer(self) -> str:
        """Write one answer as it comes, and its figures. Ctrl+C ends it where it stands."""
        from .race.completion import complete

        a = self.arguments
        request = AnswerRequest(
            *(self.messages, self.lane, self.settings, tuple(filter(None, a.stop))),
            thinking=a.thinking,
            strict=a.strict,
        )
        out = Terminal(sys.stdout, marked=not a.plain, silent=a.json)
        began, ended, tokens = Began((), 0), None, 0
        with self.stoppable():
            for event in complete(self.models, request, lambda: self.stopped):
                if isinstance(event, Piece):
                    tokens += len(event.token_ids)
                    out.write(event)
                elif isinstance(event, Began):
                    began = event
                elif isinstance(event, Ended):
                    ended = event
        out.end()
        if ended:
            self.report(out, tokens, began, ended)
        if self.stopped and not a.chat:
            raise KeyboardInterrupt
        self.stopped = False
        return out.text

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        def stop(number: int, frame: object) -> None:
            self.stopped = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def report(self, out: "Terminal", tokens: int, began: Began, ended: Ended) -> None:
        figures, lane = ended.figures, lane_text(self.lane)
        if self.arguments.json:
            head: dict[str, Any] = {"model": self.models.target.name, "lane": lane, "text": out.text}
            head |= ({"thought": out.thought} if out.thought else {}) | self.models.streams
            counts = {"prompt_tokens": len(began.prompt_ids), "cached_tokens": began.cached, "tokens": tokens}
            print(json.dumps(head | {"finish": ended.finish} | counts | figures), flush=True)
            return
        parts = [lane, f"{tokens} tokens"]
        if figures["tokens_per_second"]:
            parts.append(f"{figures['tokens_per_second']:.1f} tok/s")
        if figures["proposed"]:
            parts.append(f"{figures['tokens_per_round']:.2f} tokens per round")
            parts.append(f"{figures['accepted']} of {figures['proposed']} drafts accepted")
        if figures["prefill_s"] is not None:
            cached = f" ({began.cached} of {len(began.prompt_ids)} tokens known)" if began.cached else ""
            parts.append(f"first token after {figures['prefill_s']:.2f} s{cached}")
        parts += self.models.streams.values()
        print(f"[{', '.join(parts)}]", file=sys.stderr, flush=True)


class Terminal:
    """Where an answer is written. On a terminal accepted drafts are bold, and nothing in it is obeyed. `text` is the
    answer so far, `thought` what was thought before it."""

    def __init__(self, out: TextIO, marked: bool, silent: bool):
        self.out, self.silent, self.tty = out, silent, out.isatty()
        self.marked = marked and self.tty and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
        self.text = self.thought = ""

    def write(self, piece: Piece) -> None:
        thought = "".join(text for text, _ in piece.thought)
        parted = self.thought + thought and piece.text and not self.text
        self.text += piece.text
        self.thought += thought
        if self.silent:
            return
        aside = self.out if self.tty else sys.stderr
        if thought or parted:
            shown = thought.translate(UNSAFE) if self.tty or sys.stderr.isatty() else thought
            aside.write((f"{FAINT}{shown}{REGULAR}" if self.marked and thought else shown) + "\n\n" * bool(parted))
            aside.flush()
        for text, accepted in piece.texts:
            shown = text.translate(UNSAFE) if self.tty else text
            self.out.write(f"{BOLD}{shown}{REGULAR}" if accepted and self.marked else shown)
        self.out.flush()

    def end(self) -> None:
        if not self.silent and not self.text.endswith("\n"):
            self.out.write("\n")
            self.out.flush()


if __name__ == "__main__":
    main()
