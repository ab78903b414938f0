"""Tokens per round by a teacher-forced walk over the target's own greedy answers.

Greedy speculation commits exactly the target's greedy answer, so its rounds can be read off that answer: draft at
every position at once, count how many drafts each position would have accepted, then hop from round to round.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import TrainingError
from .data import Chat, Rows
from .synthesize import Opening, Writer
from .torch_drafter import TorchDrafter
from .torch_target import TorchTarget


@dataclass(frozen=True)
class Answer:
    """A prompt and its greedy answer: ids; the answer is ids[start:end], its stop token included. Where a limit ended
    it, what the target goes on with may follow: drafts past the end are judged by that."""

    ids: list[int]
    start: int
    end: int


@dataclass(frozen=True)
class WalkedRound:
    """accepted: drafts that match what is known of the answer; tokens: what the round commits; length: what tokens
    per round counts, accepted + 1, or accepted where the answer's stop token is among them; possible: how many drafts
    could be judged; confidence: one number a slot, the head's logit or the margin (`TorchDrafter.draft`)."""

    at: int
    accepted: int
    tokens: int
    length: int
    possible: int
    confidence: tuple[float, ...]


def read_prompts(file: str | Path) -> list[str]:
    """{"prompt": text} lines. Raises TrainingError, naming the line, for anything else."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise TrainingError(f"{file} cannot be read ({e}).") from None
    prompts = []
    for number, text in enumerate(lines, 1):
        try:
            prompts += [str(json.loads(text)["prompt"])] if text.strip() else []
        except (ValueError, KeyError, TypeError):
            raise TrainingError(f'{file}, line {number}: expected {{"prompt": "..."}}.') from None
    if not prompts:
        raise TrainingError(f"{file} is empty: it holds no prompts.")
    return prompts


def greedy_answers(
    target: TorchTarget, chat: Chat, prompts: list[str], new_tokens: int, beyond: int = 0
) -> list[Answer]:
    """The target's greedy answers, at most new_tokens each; of one that this limit ends, up to `beyond` tokens more
    are in its ids."""
    starts = [Opening(chat.prompt(p), True) for p in prompts]
    longest = max(len(o.ids) for o in starts)
    length = math.ceil((longest + new_tokens + beyond) / 64) * 64
    ids, answer = Writer(target, chat, len(starts), length).write(starts, [0.0] * len(starts))
    ids, answer = ids.tolist(), answer.tolist()
    out = []
    for opening, row, inside in zip(starts, ids, answer, strict=True):
        n = len(opening.ids)
        end = n
        while end < min(n + new_tokens + beyond, length) and inside[end]:
            end += 1
        out.append(Answer(row[:end], n, min(end, n + new_tokens)))
    return out


@torch.no_grad()
def draft_everywhere(target: TorchTarget, drafter: TorchDrafter, answers: list[Answer]) -> tuple[Tensor, Tensor]:
    """Accepted drafts [R, A] of a round anchored at each position of each answer, and how sure the drafter was
    [R, A, drafts] (`TorchDrafter.draft`). Position a of row r stands for ids[start + a]."""
    c, device = drafter.config, target.device
    T = max(len(a.ids) for a in answers)
    A = max(1, max(a.end - a.start - 1 for a in answers))
    ids = torch.zeros(len(answers), T + c.block_size, dtype=torch.long, device=device)
    for i, a in enumerate(answers):
        ids[i, : len(a.ids)] = torch.tensor(a.ids, device=device)
    starts = torch.tensor([a.start for a in answers], device=device)
    ends = torch.tensor([len(a.ids) for a in answers], device=device)
    anchors = (starts[:, None] + torch.arange(A, device=device)).clamp(max=T - 1)
    _, taps = target.forward(ids[:, :T], c.taps)
    with torch.autocast(device.type, torch.bfloat16, enabled=target.dtype == torch.bfloat16):
        hidden = drafter(target.embed, taps, ids[:, :T], anchors)
    head = target.head.float()
    previous = ids.gather(1, anchors)
    alive = torch.ones_like(anchors, dtype=torch.bool)
    accepted = torch.zeros_like(anchors)
    confidence = torch.zeros(*anchors.shape, c.drafts, device=device)
    for k in range(c.drafts):
        previous, confidence[:, :, k] = drafter.draft(hidden[:, :, k], head, previous)
        label_at = anchors + k + 1
        alive &= (previous == ids.gather(1, label_at)) & (label_at < ends[:, None])
        accepted += alive
    return accepted, confidence


def walk_answers(
    target: TorchTarget, drafter: TorchDrafter, answers: list[Answer], batch: int = 8
) -> list[list[WalkedRound]]:
    """The rounds of greedy speculation over each answer. The first token comes from the prefill and is the first
    anchor; the last round ends where the answer does."""
    walked = []
    for i in range(0, len(answers), batch):
        part = answers[i : i + batch]
        accepted, confidence = (t.tolist() for t in draft_everywhere(target, drafter, part))
        for a, row, sure in zip(part, accepted, confidence, strict=True):
            at, rounds = a.start, []
            while at < a.end - 1:
                following = len(a.ids) - 1 - at
                n = row[at - a.start]
                logits = tuple(sure[at - a.start])
                tokens, possible = min(n + 1, a.end - 1 - at), min(drafter.config.drafts, following)
                length = tokens if len(a.ids) == a.end else n + 1
                rounds.append(WalkedRound(at, n, tokens, length, possible, logits))
                at += rounds[-1].tokens
            walked.append(rounds)
    return walked


def summarize(walked: Iterable[list[WalkedRound]], drafts: int) -> dict:
    """Tokens per round over all rounds (micro average), and acceptance by position: `survival`[k], the share of
    rounds that accept more than k drafts, and `conditional`[k], of those that accepted the k before."""
    rounds = [r for answer in walked for r in answer]
    survival, conditional = [], []
    for k in range(drafts):
        judged = [r for r in rounds if r.possible > k]
        reached = [r for r in judged if r.accepted >= k]
        passed = sum(r.accepted > k for r in judged)
        survival.append(round(passed / len(judged), 4) if judged else None)
        conditional.append(round(passed / len(reached), 4) if reached else None)
    tokens, length = sum(r.tokens for r in rounds), sum(r.length for r in rounds)
    return {
        "tokens_per_round": round(length / max(1, len(rounds)), 4),
        "rounds": len(rounds),
        "tokens": tokens,
        "survival": survival,
        "conditional": conditional,
    }


def evaluate(
    target: TorchTarget,
    chat: Chat,
    drafters: dict[str, TorchDrafter],
    files: list[Path],
    new_tokens: int,
    limit: int = 0,
) -> tuple[dict, dict]:
    """Results {drafter: {set: summary}} and details {set: {answers, rounds by drafter}} for comparing engines."""
    results: dict[str, dict] = {name: {} for name in drafters}
    details: dict[str, dict] = {}
    for file in files:
        prompts = read_prompts(file)
        prompts = prompts[:limit] if limit else prompts
        beyond = max((d.config.drafts for d in drafters.values()), default=0)
        answers = greedy_answers(target, chat, prompts, new_tokens, beyond)
        details[file.stem] = {"answers": [{"ids": a.ids[: a.end], "start": a.start} for a in answers], "rounds": {}}
        for name, drafter in drafters.items():
            walked = walk_answers(target, drafter, answers)
            results[name][file.stem] = summarize(walked, drafter.config.drafts)
            details[file.stem]["rounds"][name] = [[r.tokens for r in rounds] for rounds in walked]
    return results, details


def answers_by_side(rows: Rows, new_tokens: int) -> tuple[list[Answer], list[Answer]]:
    """The first answer of each row, cut at `new_tokens`: those to fit on and those to judge on. The same prompt always
    falls on the same side."""
    sides: tuple[list[Answer], list[Answer]] = ([], [])
    for i, key in enumerate(rows.prompts()):
        ids, inside = rows.ids[i].tolist(), rows.answer[i].tolist()
        start = inside.index(True)
        end = start
        while end < min(len(ids), start + new_tokens) and inside[end]:
            end += 1
        sides[sum(key) % 2].append(Answer(ids[:end], start, end))
    return sides


def full_rounds(
    target: TorchTarget, drafter: TorchDrafter, answers: list[Answer], batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of every round that had room for a whole block: how sure the drafter was of each slot [N, K], and whether the
    first k + 1 drafts were all accepted [N, K]."""
    K = drafter.config.drafts
    rounds = [r for walked in walk_answers(target, drafter, answers, batch) for r in walked if r.possible == K]
    logits = np.array([r.confidence for r in rounds]).reshape(len(rounds), -1)
    return logits, np.array([[r.accepted > k for k in range(K)] for r in rounds], float).reshape(-1, K)
