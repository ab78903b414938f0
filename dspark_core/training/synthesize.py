"""The target writes its own training data: it continues openings of user turns, answers them, and goes on.

All rows advance together over a static cache; on CUDA each step is one replayed graph (a graph for every 64
positions of cache in view). User turns are sampled at temperature 1, answers at a temperature drawn for each row.
"""

import json
import random
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import TrainingError
from .data import Chat, Rows, open_lines
from .torch_target import TorchTarget

TEMPERATURES = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 1.0)  # greedy decoding is what is raced
TOP_K = 50
USER_LIMIT = 160  # tokens; a user turn that rambles is ended there
VIEW = 64


@dataclass(frozen=True)
class Opening:
    """The ids a row begins with; `answering`: the user turn is whole and the answer comes next."""

    ids: list[int]
    answering: bool


class Openings:
    """Endless openings drawn from a TOML file of kinds: beginnings that the target continues (`open`), and whole user
    turns with {slots} to fill (`ask`), some with an `ending`."""

    def __init__(self, chat: Chat, seed: int, file: Path | None = None):
        self.chat, self.draw = chat, random.Random(seed)
        self.file = file or Path(__file__).with_name("openings.toml")
        with open(self.file, "rb") as f:
            kinds = tomllib.load(f)
        self.slots = kinds.pop("slots", {})
        self.kinds, self.shares = list(kinds.values()), [k.get("share", 1) for k in kinds.values()]

    def __iter__(self) -> Iterator[Opening]:
        chat, draw = self.chat, self.draw
        while True:
            (kind,) = draw.choices(self.kinds, self.shares)
            asks, opens = kind.get("ask", []), kind.get("open", [])
            if draw.random() < kind.get("whole", 0.5) and asks:
                text = self._fill(draw.choice(asks))
                if kind.get("ending"):
                    text += draw.choice(kind["ending"])
                yield Opening(chat.prompt(text), True)
            else:
                text = self._fill(draw.choice(opens or [""]))
                yield Opening(chat.start + chat.encode(text), False)

    def _fill(self, text: str) -> str:
        while "{" in text:
            head, _, rest = text.partition("{")
            if "}" not in rest:
                break
            name, _, tail = rest.partition("}")
            if name == "n":
                numbers = [self.draw.randint(2, 12), self.draw.randint(2, 60), self.draw.randint(10, 999)]
                value = str(self.draw.choice(numbers))
            elif name in self.slots:
                value = self.draw.choice(self.slots[name])
            else:
                raise TrainingError(f"{self.file} has no slot {name!r}.")
            text = head + value + tail
        return text.replace("<<", "{").replace(">>", "}")


class Writer:
    """Writes `rows` rows of `length` tokens at a time."""

    def __init__(self, target: TorchTarget, chat: Chat, rows: int, length: int):
        self.target, self.rows, self.length = target, rows, length
        device = target.device
        self.cache = target.new_cache(rows, length)
        self.tables = target.rope(length)
        self.stops = torch.tensor(sorted(target.stop_ids | {chat.to_answer[0], chat.to_user[0]}), device=device)
        width = max(len(chat.to_answer), len(chat.to_user))
        between = [t + [0] * (width - len(t)) for t in (chat.to_answer, chat.to_user)]
        self.between = torch.tensor(between, device=device)  # [2, width], by phase
        self.between_length = torch.tensor([len(chat.to_answer), len(chat.to_user)], device=device)

        def column(dtype=torch.long):
            return torch.zeros(rows, dtype=dtype, device=device)

        self.ids = torch.zeros(rows, length, dtype=torch.long, device=device)
        self.answer = torch.zeros(rows, length, dtype=torch.bool, device=device)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.prompt_length, self.phase, self.turn = column(), column(), column()
        self.forced = column()  # place in `between` of the next token, 0 while the target writes
        self.temperature = column(torch.float32)
        self.places = torch.arange(length, device=device)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    @torch.no_grad()
    def _step(self, view: int) -> None:
        """One token for every row. Phase 0 is a user turn, 1 an answer."""
        tokens = self.ids.index_select(1, self.at).squeeze(1)
        mask = torch.zeros(view, device=self.ids.device, dtype=self.target.dtype)
        mask = mask.masked_fill(self.places[:view] > self.at, float("-inf"))
        hidden = self.target.step(tokens, self.at, self.cache, self.tables, mask)
        temperature = torch.where(self.phase == 1, self.temperature, torch.ones_like(self.temperature))
        picked = pick(hidden @ self.target.head.T, temperature)
        after = self.at + 1
        given = self.ids.index_select(1, after).squeeze(1)
        in_prompt = after < self.prompt_length
        free = (self.forced == 0) & ~in_prompt
        forced = self.between.view(-1)[self.phase * self.between.shape[1] + self.forced]
        too_long = (self.phase == 0) & (self.turn >= USER_LIMIT)
        picked = torch.where(too_long, self.between[0, 0], picked)
        token = torch.where(in_prompt, given, torch.where(free, picked, forced))
        self.ids.index_copy_(1, after, token.unsqueeze(1))
        self.answer.index_copy_(1, after, (free & (self.phase == 1)).unsqueeze(1))
        ended = free & (token.unsqueeze(1) == self.stops).any(1)
        place = torch.where(free, ended.long(), self.forced + 1)
        place = torch.where(in_prompt, torch.zeros_like(place), place)
        done = ~in_prompt & (place >= self.between_length[self.phase])
        self.turn.copy_(torch.where(free & ~ended, self.turn + 1, torch.zeros_like(self.turn)))
        self.forced.copy_(torch.where(done, torch.zeros_like(place), place))
        self.phase.copy_(torch.where(done, 1 - self.phase, self.phase))
        self.at.add_(1)

    def _advance(self, view: int) -> None:
        if self.ids.device.type != "cuda":
            self._step(view)
            return
        if view not in self.graphs:
            state = [t.clone() for t in self._state()]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._step(view)
            torch.cuda.current_stream().wait_stream(side)
            self._restore(state)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step(view)
            self._restore(state)
            self.graphs[view] = graph
        self.graphs[view].replay()

    def _state(self) -> list[Tensor]:
        return [self.ids, self.answer, self.at, self.phase, self.turn, self.forced]

    def _restore(self, state: list[Tensor]) -> None:
        for tensor, saved in zip(self._state(), state, strict=True):
            tensor.copy_(saved)

    def write(self, starts: list[Opening], temperatures: list[float], length: int = 0) -> tuple[Tensor, Tensor]:
        """Ids [R, T] and which of them are answers [R, T]; openings are cut to leave room for an answer."""
        device, length = self.ids.device, length or self.length
        cut = [o.ids[: length - 2] for o in starts]
        for t in (*self._state(), self.prompt_length):
            t.zero_()
        longest = max(map(len, cut))
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in cut])
        self.ids[: len(cut), :longest] = padded.to(device)
        self.prompt_length[: len(cut)] = torch.tensor([len(ids) for ids in cut], device=device)
        self.phase[: len(cut)] = torch.tensor([int(o.answering) for o in starts], device=device)
        self.temperature[: len(cut)] = torch.tensor(temperatures, device=device)
        for i in range(length - 1):
            self._advance(min(self.length, (i // VIEW + 1) * VIEW))
        return self.ids[: len(cut), :length].clone(), self.answer[: len(cut), :length].clone()


def pick(logits: Tensor, temperature: Tensor) -> Tensor:
    """Token ids [R] from logits [R, V]: the argmax (lowest id on a tie) where temperature is 0, else sampled
    among the TOP_K highest."""
    best = logits.argmax(-1)
    top, index = top_k(logits, TOP_K)
    noise = -torch.log(torch.empty_like(top).exponential_().clamp_min(1e-20))  # Gumbel
    sampled = (top / temperature.clamp_min(1e-3).unsqueeze(1) + noise).argmax(-1, keepdim=True)
    return torch.where(temperature > 0, index.gather(1, sampled).squeeze(1), best)


def top_k(logits: Tensor, k: int, width: int = 128) -> tuple[Tensor, Tensor]:
    """The k highest of each row, float32, and their indices. A wide row is first cut to the k chunks with the
    highest maxima, which hold them all: sorting 49,152 columns would cost more than the model."""
    R, V = logits.shape
    k = min(k, V)
    if V % width or V // width <= 2 * k:
        top, index = logits.topk(k, -1)
        return top.float(), index
    chunks = logits.view(R, V // width, width)
    which = chunks.amax(-1).topk(k, -1).indices
    held = chunks.gather(1, which.unsqueeze(-1).expand(-1, -1, width)).flatten(1)
    top, index = held.topk(k, -1)
    return top.float(), which.gather(1, index // width) * width + index % width


class Avoid:
    """Texts that must not be in the data: rows that share a run of `n` tokens with one are dropped."""

    def __init__(self, chat: Chat, texts: list[str], n: int = 12):
        self.hashes: dict[int, set[int]] = {}
        for text in texts:
            for variant in (text.strip(), " " + text.strip()):
                ids = chat.encode(variant)
                if len(ids) >= 4:
                    length = min(n, len(ids))
                    found = self._run_hashes(torch.tensor([ids]), length)[0].tolist()
                    self.hashes.setdefault(length, set()).update(found)

    def __call__(self, ids: Tensor) -> Tensor:
        """Which rows [R] of ids [R, T] hold a protected run."""
        bad = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for length, hashes in self.hashes.items():
            if ids.shape[1] >= length:
                wanted = torch.tensor(sorted(hashes), device=ids.device)
                bad |= torch.isin(self._run_hashes(ids, length), wanted).any(1)
        return bad

    @staticmethod
    def _run_hashes(ids: Tensor, n: int) -> Tensor:
        """A 64-bit hash of every run of n ids: [R, T] -> [R, T-n+1]."""
        T = ids.shape[1] - n + 1
        out = torch.zeros(len(ids), T, dtype=torch.long, device=ids.device)
        for i in range(n):
            out = out * 6364136223846793005 + ids[:, i : i + T].long() + 1442695040888963407
        return out


def read_texts(file: str | Path) -> list[str]:
    """Every string in a .toml or .jsonl file, or the lines of another."""
    file = Path(file)

    def strings(value) -> list[str]:
        if isinstance(value, str):
            return [value]
        if isinstance(value, dict):
            value = list(value.values())
        return [s for v in value for s in strings(v)] if isinstance(value, list) else []

    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".toml":
            return strings(tomllib.loads(text))
        if file.suffix == ".jsonl":
            return [s for row in text.splitlines() if row.strip() for s in strings(json.loads(row))]
        return [row for row in text.splitlines() if row.strip()]
    except (OSError, ValueError) as e:
        raise TrainingError(f"{file} cannot be read ({e}).") from None


def record_beside(data: Path) -> Path:
    """Where a data file's record lies: data.jsonl or data.jsonl.xz -> data.json."""
    return data.with_name(data.name.removesuffix(".xz")).with_suffix(".json")


@dataclass(frozen=True)
class SynthesisPlan:
    """How much is written, until `tokens` or `minutes`, in batches of `rows` rows of `length` tokens, from `seed`."""

    tokens: int = 0
    minutes: float = 0.0
    rows: int = 1024
    length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.tokens or self.minutes):
            raise TrainingError("Say how much to write: a number of tokens or of minutes.")

    def is_done(self, tokens: int, seconds: float) -> bool:
        return bool((self.tokens and tokens >= self.tokens) or (self.minutes and seconds >= 60 * self.minutes))


def synthesize(
    target: TorchTarget,
    chat: Chat,
    out: Path,
    plan: SynthesisPlan,
    avoid: Avoid,
    openings_file: Path | None = None,
    notify: Callable[[str], None] = print,
) -> dict:
    """Write rows to `out` (JSONL, appended batch by batch) as planned, less those with a text to avoid. Returns the
    run's record."""
    torch.manual_seed(plan.seed)
    draw = random.Random(plan.seed)
    source = iter(Openings(chat, plan.seed, openings_file))
    writer = Writer(target, chat, plan.rows, plan.length)
    out.parent.mkdir(parents=True, exist_ok=True)
    begun, rows, tokens, answer_tokens, dropped, seconds = time.monotonic(), 0, 0, 0, 0, 0.0
    with open_lines(out, "w") as f:
        while not plan.is_done(tokens, seconds):
            starts = [next(source) for _ in range(plan.rows)]
            temperatures = [draw.choice(TEMPERATURES) for _ in range(plan.rows)]
            ids, answer = writer.write(starts, temperatures)
            bad = avoid(ids)
            good = (~bad & (answer.sum(1) > 0)).cpu().numpy()
            dropped += int(bad.sum())
            ids, answer = ids.cpu().numpy(), answer.cpu().numpy()
            for i in np.flatnonzero(good):
                f.write(Rows.line(ids[i], answer[i], temperatures[i]) + "\n")
            f.flush()
            rows += int(good.sum())
            tokens += int(good.sum()) * plan.length
            answer_tokens += int(answer[good].sum())
            seconds = time.monotonic() - begun
            notify(f"{rows} rows, {tokens / 1e6:.1f} M tokens, {seconds:.0f} s, {tokens / seconds:.0f} tokens/s")
    record = {
        "rows": rows,
        "tokens": tokens,
        "answer_tokens": answer_tokens,
        "dropped_for_protected_text": dropped,
        "seconds": round(seconds, 1),
        "seed": plan.seed,
        "length": plan.length,
        "batch": plan.rows,
        "temperatures": TEMPERATURES,
        "target": target.directory.name,
    }
    record_beside(out).write_text(json.dumps(record, indent=1) + "\n")
    return record
