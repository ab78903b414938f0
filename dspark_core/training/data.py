"""Training rows and the chat they are made of: one JSON object a line, token ids with the parts the target answered.

    {"ids": [1, 2, ...], "answers": [[from, to], ...], "temperature": 0.7}

`answers` are half-open ranges of positions; the end-of-turn token belongs to the answer. A file whose name ends in
.xz is compressed: what a small model writes shrinks to less than a byte a token.
"""

import errno
import json
import lzma
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor

from . import TrainingError

PLACEHOLDERS = ("\ue000one\ue001", "\ue000two\ue001", "\ue000three\ue001")  # private use: no template looks for them
MOST_BROKEN = 0.01  # a file with a larger share of broken lines is refused


@dataclass(frozen=True)
class Chat:
    """`start`: before the first user turn; `to_answer`: between a user turn and its answer; `to_user`: between an
    answer and the next user turn. The latter two begin with the token that ends a turn."""

    tokenizer: Tokenizer
    start: list[int]
    to_answer: list[int]
    to_user: list[int]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, text: str) -> list[int]:
        """Ids of a first user turn, ready for the answer."""
        return self.start + self.encode(text.strip()) + self.to_answer

    def mask_token(self, vocab_size: int, stop_ids: Iterable[int]) -> int:
        """A token that no chat uses: the first row of the embedding past the tokenizer's vocabulary (what DeepSpec
        takes for Qwen3), else the last special token that the template leaves alone, else the last id."""
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        if size < vocab_size:
            return size
        used = {*self.start, *self.to_answer, *self.to_user, *stop_ids}
        special = sorted(i for i, t in self.tokenizer.get_added_tokens_decoder().items() if t.special)
        free = [i for i in special if i not in used and i < vocab_size]
        return free[-1] if free else vocab_size - 1

    @classmethod
    def load(cls, directory: str | Path) -> "Chat":
        """The chat of a model directory, thinking off. Raises TrainingError if it has no chat template."""
        from transformers import AutoTokenizer

        hf = AutoTokenizer.from_pretrained(directory)
        if not hf.chat_template:
            raise TrainingError(
                f"{directory} has no chat template: it is a base model, and drafters are trained on its own chats."
            )

        def render(messages: list[dict], answer: bool) -> str:
            return hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer, enable_thinking=False)

        one, two, three = PLACEHOLDERS
        user, answer, again = (
            {"role": "user", "content": one},
            {"role": "assistant", "content": two},
            {"role": "user", "content": three},
        )
        start, to_answer = render([user], True).split(one)
        try:
            to_user = render([user, answer, again], False).split(two)[1].split(three)[0]
        except (IndexError, ValueError) as e:
            raise TrainingError(f"{directory}: the chat template drops a turn of a conversation ({e}).") from None
        backend = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))

        def ids(text: str) -> list[int]:
            return backend.encode(text, add_special_tokens=False).ids

        return cls(backend, ids(start), ids(to_answer), ids(to_user))


@dataclass
class Rows:
    """N rows padded to T. ids [N, T] int32, answer [N, T] bool, temperature [N]."""

    ids: Tensor
    answer: Tensor
    temperature: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, index: slice | list[int] | Tensor) -> "Rows":
        return Rows(self.ids[index], self.answer[index], self.temperature[index])

    def prompts(self) -> list[bytes]:
        """What stands before the first answer of each row: rows with the same prompt have the same key."""
        first = self.answer.int().argmax(1).tolist()
        ids = self.ids.numpy()
        return [ids[i, :n].tobytes() for i, n in enumerate(first)]

    @classmethod
    def read(
        cls, files: Sequence[str | Path], vocab_size: int, least_answer: int = 14, notify: Callable[[str], None] = print
    ) -> "Rows":
        """All rows of `files`; those with fewer than `least_answer` answer tokens are left out.

        A few broken lines are skipped and reported. Raises TrainingError if a file is missing, has more than
        1 % broken lines, or nothing is left.
        """
        rows = [row for file in files for row in cls._read_file(file, vocab_size, notify)]
        rows = [r for r in rows if sum(b - a for a, b in r[1]) >= least_answer]
        if not rows:
            raise TrainingError(f"No row of {', '.join(map(str, files))} has {least_answer} answer tokens or more.")
        T = max(len(r[0]) for r in rows)
        ids, answer = np.zeros((len(rows), T), np.int32), np.zeros((len(rows), T), bool)
        for i, (row, answers, _) in enumerate(rows):
            ids[i, : len(row)] = row
            for a, b in answers:
                answer[i, a:b] = True
        return cls(torch.from_numpy(ids), torch.from_numpy(answer), torch.tensor([r[2] for r in rows]))

    @classmethod
    def _read_file(
        cls, file: str | Path, vocab_size: int, notify: Callable[[str], None]
    ) -> list[tuple[np.ndarray, list[list[int]], float]]:
        rows, broken, first, n = [], 0, "", 0
        try:
            with open_lines(file, "r") as f:
                for number, text in enumerate(f, 1):
                    if not text.strip():
                        continue
                    n += 1
                    try:
                        rows.append(cls._parse(text, vocab_size))
                    except ValueError as e:
                        broken, first = broken + 1, first or f"line {number}: {e}"
        except (OSError, EOFError, lzma.LZMAError) as e:
            raise TrainingError(f"{file} cannot be read: {getattr(e, 'strerror', None) or e}.") from None
        if n == 0:
            raise TrainingError(f"{file} is empty: it holds no training rows.")
        if broken > max(1, MOST_BROKEN * n) or broken == n:
            raise TrainingError(f"{file} has {broken} broken lines of {n} ({first}).")
        if broken:
            notify(f"{file}: skipped {broken} broken lines of {n} ({first})")
        return rows

    @staticmethod
    def _parse(text: str, vocab_size: int) -> tuple[np.ndarray, list[list[int]], float]:
        """Ids, answers and temperature of one line. Raises ValueError for anything that is not such a line."""
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError("not an object")
        ids = np.array(row.get("ids"))
        if ids.ndim != 1 or ids.dtype.kind != "i":
            raise ValueError("ids are not a list of integers")
        if len(ids) < 2 or ids.min() < 0 or ids.max() >= vocab_size:
            raise ValueError(f"ids are empty or not below {vocab_size}")
        answers = row.get("answers")
        if not isinstance(answers, list) or not all(
            isinstance(a, list) and len(a) == 2 and all(type(i) is int for i in a) and 0 < a[0] < a[1] <= len(ids)
            for a in answers
        ):
            raise ValueError("answers are not ranges inside the row")
        temperature = row.get("temperature", 0.0)
        if not isinstance(temperature, int | float):
            raise ValueError("temperature is not a number")
        return ids, answers, float(temperature)

    @staticmethod
    def line(ids: np.ndarray, answer: np.ndarray, temperature: float) -> str:
        """One row as a line of the file; ids [T], answer [T] bool."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], answer.astype(np.int8), [0]])))
        row = {"ids": ids.tolist(), "answers": edges.reshape(-1, 2).tolist(), "temperature": temperature}
        return json.dumps(row, separators=(",", ":"))

    def split(self, held_out: int) -> tuple["Rows", "Rows"]:
        """Training rows and the last `held_out` rows, less those whose prompt a training row shares."""
        if not 0 <= held_out < len(self):
            raise TrainingError(f"{held_out} rows are to be held out, but there are only {len(self)}.")
        n = len(self) - held_out
        keys = self.prompts()
        shared = set(keys[:n])
        return self.part(slice(0, n)), self.part([i for i in range(n, len(self)) if keys[i] not in shared])


def open_lines(file: str | Path, mode: str):
    """A text file to read ("r") or write ("w"), compressed if its name ends in .xz."""
    if str(file).endswith(".xz"):
        return lzma.open(file, mode + "t", encoding="utf-8", errors="replace", preset=1 if mode == "w" else None)
    return open(file, mode, encoding="utf-8", errors="replace")


def anchor_weights(ids: Tensor, answer: Tensor, early: int, late_weight: float, loop_weight: float) -> Tensor:
    """How often each position [R, T] should be an anchor: 0 where no token of the same answer follows it.

    Positions past the first `early` tokens of an answer count `late_weight`, and those inside a repetition (a
    small model's greedy answers often end in one) `loop_weight`: both teach little.
    """
    follows = torch.zeros_like(answer)
    follows[:, :-1] = answer[:, :-1] & answer[:, 1:]
    at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    last_outside = torch.where(answer, torch.zeros_like(at), at).cummax(1).values
    weights = torch.where(at - last_outside <= early, 1.0, late_weight) * follows
    return torch.where(repeats(ids), weights * loop_weight, weights)


def repeats(ids: Tensor, longest: int = 48, times: int = 32) -> Tensor:
    """Positions [R, T] whose last `times` tokens each equal the one p places before, for some p <= longest."""
    out = torch.zeros_like(ids, dtype=torch.bool)
    T = ids.shape[1]
    for p in range(1, min(longest, T - times) + 1):
        equal = (ids[:, p:] == ids[:, :-p]).int().cumsum(1)
        run = equal[:, times:] - equal[:, :-times] == times
        out[:, p + times :] |= run
    return out


# The room's one writer of whole files. The rest of the project has its own: they are to become one.
def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path), then move it into place: a failure leaves the previous file whole.

    Raises OSError if the file could not be written, also where the writer (torch, MLX, safetensors) calls a full disk
    by another name.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    try:
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (RuntimeError, SafetensorError) as e:
        temporary.unlink(missing_ok=True)
        raise OSError(errno.EIO, f"writing {path.name} failed: {' '.join(str(e).split())[:200]}") from e
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
