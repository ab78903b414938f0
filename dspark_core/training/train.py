"""Train one or several drafters on the same batches; the target runs once a step for all of them.

Every batch follows from the seed and the step alone, so a resumed run goes on as if it had not stopped.
"""

import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_type_hints

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from . import TrainingError
from .data import Rows, anchor_weights, write_atomic
from .muon import StackedMuon
from .synthesize import top_k
from .torch_drafter import CandidateSelector, DrafterShape, TorchDrafter
from .torch_target import TorchTarget

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class LossWeights:
    """What each slot's losses count: ce: cross-entropy on the sampled token; tv: L1 distance to the target's
    distribution; confidence: BCE (DeepSpec's loss; DSpark paper, section on training).

    `greedy_confidence` makes the confidence head predict whether greedy decoding accepts the draft (is the
    draft's argmax the target's?) instead of the paper's overlap 1 - tv/2, which is the acceptance at temperature 1.
    `dpace` above 0 lets each block's own probabilities q of its labels weigh its slots in the place of gamma: slot k
    counts sum over j >= k of prod over i <= j of (1 - dpace) q_i + dpace, what the expected number of accepted drafts
    gains by it (D-PACE, as speculators has it). The confidence head's slots then all count the same.
    """

    ce: float = 0.1
    tv: float = 0.9
    confidence: float = 1.0
    gamma: float = 4.0
    greedy_confidence: bool = False
    dpace: float = 0.0

    def by_slot(self, inside: Tensor) -> Tensor:
        """exp(-k/gamma), or 1 under dpace, over the contiguous supervised prefix of each block; inside [..., drafts]
        bool."""
        k = torch.arange(inside.shape[-1], device=inside.device)
        return inside.int().cumprod(-1) * (1.0 if self.dpace else torch.exp(-k / self.gamma))

    def by_path(self, weights: Tensor, ce: Tensor) -> Tensor:
        """`weights` [..., drafts] of `by_slot` times D-PACE's, from the labels' cross-entropy [..., drafts]."""
        if not self.dpace:
            return weights
        q = torch.where(weights > 0, (1 - self.dpace) * torch.exp(-ce.detach()) + self.dpace, 0.0)
        return weights * q.cumprod(-1).flip(-1).cumsum(-1).flip(-1)


class Heads(NamedTuple):
    """What turns hidden states into logits over V tokens (or the candidates of them): the target's head [V, d], the
    second Markov matrix or the selector's successors [V, r] or None, the confidence head's weight [1, d+r] and bias
    [1] or None, and how many candidates the selector has (0: no selector)."""

    output: Tensor
    following: Tensor | None
    confidence: tuple[Tensor, Tensor] | None
    top_k: int = 0


class SlotBatch(NamedTuple):
    """Slots of N blocks of P drafts. hidden [N, P, d]; previous [N, P, r] the Markov head's or the selector's query by
    the token before each slot (teacher-forced), or None; target_hidden [N, P, d] after the target's final norm, at the
    position that predicts the label; labels [N, P]; weights [N, P] of `by_slot`, already normalised."""

    hidden: Tensor
    previous: Tensor | None
    target_hidden: Tensor
    labels: Tensor
    weights: Tensor


def slot_losses(slots: SlotBatch, heads: Heads, kinds: LossWeights) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses of N blocks, and [5, N, P] detached: ce, tv, bce, confidence logit, right (argmax is
    the label). With a selector ce and right are the selector's; the backbone's own logits have a cross-entropy too."""
    logits = slots.hidden @ heads.output.T
    if heads.following is not None and not heads.top_k:
        logits = logits + slots.previous @ heads.following.T
    logits = logits.float()
    log_z = torch.logsumexp(logits, -1)
    ce = log_z - logits.gather(-1, slots.labels.unsqueeze(-1)).squeeze(-1)
    best = logits.detach().argmax(-1)
    every = ce
    if heads.top_k:
        ce, best = selector_loss(logits, slots, heads)
        every = every + ce
    weights = kinds.by_path(slots.weights, ce)
    loss = kinds.ce * (weights * every).sum()
    zero = torch.zeros_like(ce)
    tv, bce, sure = zero, zero, zero
    if kinds.tv or heads.confidence is not None:
        with torch.no_grad():
            wanted = (slots.target_hidden @ heads.output.T).float()
            p = wanted.softmax(-1)
        tv = (torch.exp(logits - log_z.unsqueeze(-1)) - p).abs().sum(-1)
        loss = loss + kinds.tv * (weights * tv).sum()
        if heads.confidence is not None:
            features = slots.hidden if slots.previous is None else torch.cat([slots.hidden, slots.previous], -1)
            weight, bias = heads.confidence
            sure = F.linear(features.float(), weight.float(), bias.float()).squeeze(-1)
            accept = 1 - 0.5 * tv.detach()
            if kinds.greedy_confidence:
                accept = (best == wanted.argmax(-1)).float()
            bce = F.binary_cross_entropy_with_logits(sure, accept.clamp(0, 1), reduction="none")
            loss = loss + kinds.confidence * (slots.weights * bce).sum()  # D-PACE knows the outcome: not for this
    return loss, torch.stack([ce, tv, bce, sure, (best == slots.labels).float()]).detach()


def selector_loss(logits: Tensor, slots: SlotBatch, heads: Heads) -> tuple[Tensor, Tensor]:
    """Cross-entropy [N, P] of the labels among the selector's candidates (the likeliest by `logits` [N, P, C]; a label
    that is not among them takes the last one's place), and its choice [N, P], -1 where that is such a label."""
    labels = slots.labels.unsqueeze(-1)
    candidates = top_k(logits.detach().flatten(0, 1), heads.top_k)[1].view(*logits.shape[:2], -1)
    match = candidates == labels
    found = match.any(-1)
    last = torch.where(found, candidates[..., -1], slots.labels).unsqueeze(-1)
    candidates = torch.cat([candidates[..., :-1], last], -1)
    place = torch.where(found, match.int().argmax(-1), candidates.shape[-1] - 1)
    assert slots.previous is not None and heads.following is not None
    scores = CandidateSelector.score(logits, candidates, slots.previous, heads.following)
    ce = F.cross_entropy(scores.flatten(0, 1), place.flatten(), reduction="none").view_as(place)
    chosen = scores.detach().argmax(-1)
    ids = candidates.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    return ce, torch.where((chosen == place) & ~found, -1, ids)


@dataclass(frozen=True)
class Recipe:
    """How one drafter is built and trained. `anchors` blocks of each row are trained in a step."""

    method: str
    name: str
    block: int
    first_slot: int = 0
    layers: int = 3
    rank: int = 0
    confidence: bool = False
    taps: str = ""  # "1-8-14"; empty: five, evenly spread
    mask: int = -1  # the mask token's id; -1: the target's unknown or padding token
    anchors: int = 32
    lr: float = 1.5e-3
    optimizer: str = "adamw"  # or "muon": for the backbone's matrices
    start: str = "target"  # or "random", or a checkpoint's directory, also of another method
    ce: float = 1.0
    tv: float = 0.0
    gamma: float = 4.0
    dpace: float = 0.0
    labels: str = "data"  # or "greedy": the target's own best token, as far as the row's text is it
    greedy_confidence: bool = False
    top_k: int = 0  # candidates of DFlash 2's selector, whose rank is `rank`

    @property
    def weights(self) -> LossWeights:
        return LossWeights(self.ce, self.tv, float(self.confidence), self.gamma, self.greedy_confidence, self.dpace)

    @staticmethod
    def parse(text: str) -> "Recipe":
        """'dspark' or 'dspark:layers=2,rank=64'. Raises TrainingError for an unknown method, field or value."""
        method, _, rest = text.partition(":")
        if method not in RECIPES:
            raise TrainingError(f"There is no method {method!r}; choose from {', '.join(RECIPES)}.")
        changes: dict = {}
        kinds = get_type_hints(Recipe)
        for item in filter(None, rest.split(",")):
            key, _, value = item.partition("=")
            if key not in kinds or key == "method":
                raise TrainingError(
                    f"A drafter has no setting {key!r}; {', '.join(k for k in kinds if k != 'method')}."
                )
            try:
                flag = {"true": True, "false": False}
                changes[key] = flag[value] if kinds[key] is bool else kinds[key](value)
            except (KeyError, ValueError):
                raise TrainingError(f"{key}={value!r} is not a {kinds[key].__name__}.") from None
        recipe = replace(RECIPES[method], **changes)
        if recipe.labels not in ("data", "greedy"):
            raise TrainingError(f"labels={recipe.labels!r} is neither data nor greedy.")
        return recipe

    def shape_for(self, target: TorchTarget, mask_token_id: int) -> DrafterShape:
        """The drafter's shape for this target. Raises TrainingError for taps the target does not have."""
        n = len(target.layers)
        taps = tuple(int(t) for t in self.taps.split("-")) if self.taps else self._even_taps(n)
        if list(taps) != sorted(set(taps)) or not all(-1 <= t < n - 1 for t in taps):
            raise TrainingError(f"Taps {list(taps)} must be increasing and lie between -1 and {n - 2}.")
        if self.layers > n:
            raise TrainingError(f"A drafter of {self.layers} layers cannot start from a target of {n}.")
        return DrafterShape(
            hidden_size=target.hidden_size,
            intermediate_size=target.config["intermediate_size"],
            heads=target.shape.heads,
            kv_heads=target.shape.kv_heads,
            head_dim=target.shape.head_dim,
            layers=self.layers,
            vocab_size=target.vocab_size,
            target_layers=n,
            eps=target.shape.eps,
            rope=DrafterShape.rope_of(target.config),
            max_positions=target.config.get("max_position_embeddings", 2048),
            block_size=self.block,
            taps=taps,
            mask_token_id=self.mask if self.mask >= 0 else mask_token_id,
            first_slot=self.first_slot,
            markov_rank=0 if self.top_k else self.rank,
            confidence=self.confidence,
            selector_rank=self.rank if self.top_k else 0,
            selector_top_k=self.top_k or DrafterShape.selector_top_k,
        )

    @staticmethod
    def _even_taps(n: int, k: int = 5) -> tuple[int, ...]:
        """k layers spread over n, from the second to the third last (z-lab's formula); fewer if n is small."""
        k = max(1, min(k, n - 3))
        if k == 1:
            return (n // 2,)
        return tuple(sorted({round(1 + i * (n - 4) / (k - 1)) for i in range(k)}))


RECIPES = {
    "dspark": Recipe("dspark", "dspark", 7, rank=128, confidence=True, ce=0.1, tv=0.9),
    "dflash": Recipe("dflash", "dflash", 7),  # DeepSpec's: DSpark's backbone without heads
    "zlab-dflash": Recipe("zlab-dflash", "zlab-dflash", 16, first_slot=1, gamma=7.0),
    "dflash2": Recipe("dflash2", "dflash2", 16, first_slot=1, rank=64, top_k=16, gamma=7.0),
}


@dataclass(frozen=True)
class TrainingPlan:
    """What a run does, whatever the drafters: either `steps` or `minutes` ends it."""

    steps: int = 0
    minutes: float = 0.0
    rows: int = 64
    seed: int = 0
    warmup: float = 0.02
    candidates: int = 0  # vocabulary entries in the loss; 0: all
    early: int = 160
    late_weight: float = 0.5
    loop_weight: float = 0.1
    chunk: int = 8192  # slots whose logits are held at once
    save_seconds: float = 50.0
    log_every: int = 50

    def progress(self, step: int, seconds: float) -> float:
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return max(by_steps, by_time)


@dataclass
class Batch:
    """One step's rows, the same for every drafter. R rows, T positions.

    ids, answer [R, T]; hidden [R, T, d] the target's, after its final norm; taps {layers: [R, T, m*d]};
    anchors [R, A] positions and usable [R, A] whether the row had that many; head [C, d] of the candidate
    tokens, their ids [C], and place [V]: a token's index among them or -1; embed [V, d]; best [R, T]: the candidate
    that the target finds likeliest after each position, or None where no drafter is trained on it.
    """

    ids: Tensor
    answer: Tensor
    hidden: Tensor
    taps: dict[tuple[int, ...], Tensor]
    anchors: Tensor
    usable: Tensor
    head: Tensor
    candidates: Tensor
    place: Tensor
    embed: Tensor
    best: Tensor | None = None

    def slots(self, anchors: int, drafts: int, greedy: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Positions before each label [R, A, drafts] (clamped into the row), labels, and which are supervised. Labels
        are the row's tokens or, `greedy`, the target's best ones up to the first that the row departs from."""
        T = self.ids.shape[1]
        at = self.anchors[:, :anchors, None] + torch.arange(drafts, device=self.ids.device)
        inside = (at + 1 < T) & self.usable[:, :anchors, None]
        label_at = (at + 1).clamp(max=T - 1).flatten(1)
        labels = self.ids.gather(1, label_at).view_as(at)
        inside &= self.answer.gather(1, label_at).view_as(at)
        at = at.clamp(max=T - 1)
        if greedy:
            assert self.best is not None
            best = self.best.gather(1, at.flatten(1)).view_as(at)
            inside[..., 1:] &= (best == labels)[..., :-1].int().cumprod(-1).bool()
            labels = best
        return at, labels, inside


class Course:
    """One drafter on its way through training."""

    def __init__(self, recipe: Recipe, drafter: TorchDrafter, compiled: bool = False):
        self.recipe, self.drafter = recipe, drafter
        self.slot_losses: Callable = slot_losses
        if compiled:
            drafter.blocks = torch.compile(drafter.blocks, dynamic=False)  # type: ignore[method-assign]
            self.slot_losses = torch.compile(slot_losses, dynamic=False)
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, p in drafter.named_parameters():
            backbone = name.startswith(("fc.", "layers."))
            (matrices if backbone and p.ndim == 2 else others).append(p)
        adam = {"lr": recipe.lr, "weight_decay": 0.0, "betas": (0.9, 0.95), "fused": others[0].is_cuda}
        self.optimizers: list[torch.optim.Optimizer]
        if recipe.optimizer == "adamw":
            self.optimizers = [torch.optim.AdamW(matrices + others, **adam)]
        elif recipe.optimizer == "muon":
            self.optimizers = [StackedMuon(matrices, recipe.lr), torch.optim.AdamW(others, **adam)]
        else:
            raise TrainingError(f"There is no optimizer {recipe.optimizer!r}; adamw and muon are known.")

    def backward(self, batch: Batch, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of one batch. Returns the loss, the slots' figures [5, R, A, drafts] of `slot_losses` and
        their weights [R, A, drafts]."""
        d, kinds = self.drafter, self.recipe.weights
        A, P = min(self.recipe.anchors, batch.anchors.shape[1]), d.config.drafts
        at, labels, inside = batch.slots(A, P, self.recipe.labels == "greedy")
        place = batch.place[labels]
        weights = kinds.by_slot(inside) * (place >= 0)
        share = (weights / (weights.sum() + 1e-6)).view(-1, P)

        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=batch.hidden.dtype == torch.bfloat16):
            hidden = d(batch.embed, batch.taps[d.config.taps], batch.ids, batch.anchors[:, :A])
        hidden = hidden.flatten(0, 1)
        width = hidden.shape[-1]
        wanted = batch.hidden.gather(1, at.flatten(1).unsqueeze(-1).expand(-1, -1, width)).view_as(hidden)
        graph = [hidden, *self._following(hidden, batch.ids.gather(1, at.flatten(1)).view(-1, P), batch.candidates)]
        # The logits of all slots at once would fill the memory: each chunk runs back to these leaves, and
        # the backbone is run backward once.
        leaves = [g.detach().requires_grad_() for g in graph]
        previous, following = leaves[1:] if len(leaves) > 1 else (None, None)
        confidence = None
        if d.config.confidence:
            confidence = (d.confidence_head.proj.weight, d.confidence_head.proj.bias)
        heads = Heads(batch.head, following, confidence, d.config.selector_top_k if d.config.selector_rank else 0)
        slots = SlotBatch(leaves[0], previous, wanted, place.view(-1, P).clamp(min=0), share)
        total, figures = torch.zeros((), device=hidden.device), []
        N = len(hidden)
        size = math.ceil(N / math.ceil(N * P / chunk))
        for i in range(0, N, size):
            part = SlotBatch(*(None if t is None else t[i : i + size] for t in slots))
            loss, one = self.slot_losses(part, heads, kinds)
            loss.backward()
            total = total + loss.detach()
            figures.append(one)
        torch.autograd.backward(graph, [leaf.grad for leaf in leaves])
        return total, torch.cat(figures, 1).view(-1, *weights.shape), weights

    def _following(self, hidden: Tensor, before: Tensor, candidates: Tensor) -> tuple[Tensor, ...]:
        """What the token before each slot does: the query [N, P, r] of the Markov head or the selector and the rows
        [C, r] of the candidates, or nothing."""
        d = self.drafter
        if d.config.markov_rank:
            query, rows = d.markov_head.markov_w1(before), d.markov_head.markov_w2.weight
        elif d.config.selector_rank:
            selector = d.candidate_selector
            query = selector.predecessor_codebook[before] * selector.hidden_projection(hidden.float())
            rows = selector.successor_codebook
        else:
            return ()
        return query.to(hidden.dtype), rows[candidates].to(hidden.dtype)

    def step(self, factor: float) -> None:
        """One optimizer step at `factor` of the learning rate, gradients clipped to norm 1."""
        torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict:
        return {"drafter": self.drafter.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}

    def load(self, state: dict) -> None:
        self.drafter.load_state_dict(state["drafter"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


class Trainer:
    """The run: data, target (compiled: so are the drafters), drafters, clock and checkpoints."""

    def __init__(
        self,
        target: TorchTarget,
        rows: Rows,
        recipes: list[Recipe],
        plan: TrainingPlan,
        out: Path,
        mask_token_id: int,
        notify: Callable[[str], None] = print,
    ):
        if len({r.name for r in recipes}) != len(recipes):
            raise TrainingError("Two drafters have the same name; add name=... to one of them.")
        if not (plan.steps or plan.minutes):
            raise TrainingError("Say how long to train: a number of steps or of minutes.")
        torch.manual_seed(plan.seed)
        self.target, self.plan, self.out, self.notify = target, plan, out, notify
        self.courses = [self._course(r, mask_token_id) for r in recipes]
        device = target.device
        self.ids, self.answer = rows.ids.to(device), rows.answer.to(device)
        self.weights = torch.cat(
            [
                anchor_weights(i, a, plan.early, plan.late_weight, plan.loop_weight).to(torch.float16)
                for i, a in zip(self.ids.split(4096), self.answer.split(4096), strict=True)
            ]
        )
        usable = (self.weights > 0).any(1)
        self.ids, self.answer, self.weights = self.ids[usable], self.answer[usable], self.weights[usable]
        if not len(self.ids):
            raise TrainingError("No row has two answer tokens in a row: there is nothing to train on.")
        self.counts = torch.bincount(self.ids[self.answer].long(), minlength=target.vocab_size).float()
        self.step, self.seconds = 0, 0.0
        self.log: list[dict] = []
        self.saved_step: int | None = None

    def _course(self, recipe: Recipe, mask_token_id: int) -> Course:
        config = recipe.shape_for(self.target, mask_token_id)
        if recipe.start in ("target", "random"):
            drafter = TorchDrafter(config).to(self.target.device)
            if recipe.start == "target":
                drafter.start_from(self.target)
        else:
            drafter = TorchDrafter(config).to(self.target.device)
            try:
                drafter.go_on_from(TorchDrafter.load(recipe.start, str(self.target.device)))
            except TrainingError as e:
                raise TrainingError(f"{recipe.name} cannot start from {recipe.start}: {e}") from None
        return Course(recipe, drafter, self.target.is_compiled)

    @torch.no_grad()
    def batch(self, step: int) -> Batch:
        """The batch of a step: rows in the order of a shuffle for each pass over the data."""
        plan, n, device = self.plan, len(self.ids), self.target.device
        first = step * plan.rows
        index = torch.cat([self._order((first + i) // n)[(first + i) % n].view(1) for i in range(plan.rows)])
        g = torch.Generator(device).manual_seed(plan.seed * 1_000_003 + step)
        ids, answer = self.ids[index.to(device)].long(), self.answer[index.to(device)]
        weights = self.weights[index.to(device)].float()
        A = min(max(c.recipe.anchors for c in self.courses), ids.shape[1])
        anchors = torch.multinomial(weights + 1e-9, A, generator=g)
        usable = weights.gather(1, anchors) > 0
        needed = tuple(sorted({t for c in self.courses for t in c.drafter.config.taps}))
        hidden, features = self.target.forward(ids, needed)
        by_tap = dict(zip(needed, features.chunk(len(needed), -1), strict=True))
        sets = {c.drafter.config.taps for c in self.courses}
        taps = {s: features if s == needed else torch.cat([by_tap[t] for t in s], -1) for s in sets}
        candidates, place = self._candidates(ids, g)
        head = self.target.head if plan.candidates == 0 else self.target.head[candidates]
        best = None
        if any(c.recipe.labels == "greedy" for c in self.courses):
            best = candidates[torch.cat([(h @ head.T).argmax(-1) for h in hidden.split(16)])]
        return Batch(ids, answer, hidden, taps, anchors, usable, head, candidates, place, self.target.embed, best)

    def _order(self, epoch: int) -> Tensor:
        if getattr(self, "_epoch", None) != epoch:
            g = torch.Generator().manual_seed(self.plan.seed * 7919 + epoch)
            self._epoch, self._shuffle = epoch, torch.randperm(len(self.ids), generator=g)
        return self._shuffle

    def _candidates(self, ids: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens in this step's loss: the data's most frequent, the batch's own, and a random rest so that no
        token goes unseen for long (its logit would be free to drift upward)."""
        V = self.target.vocab_size
        every = torch.arange(V, device=ids.device)
        if not 0 < self.plan.candidates < V:
            return every, every
        score = torch.rand(V, device=ids.device, generator=g)
        frequent = self.counts.topk(self.plan.candidates * 5 // 8).indices
        score[frequent] += 1
        score[ids.flatten()] += 2
        chosen = score.topk(self.plan.candidates).indices.sort().values
        place = torch.full((V,), -1, device=ids.device)
        place[chosen] = torch.arange(len(chosen), device=ids.device)
        return chosen, place

    def factor(self) -> float:
        """Share of the learning rate: linear warm-up, then a cosine to zero."""
        done = self.plan.progress(self.step, self.seconds)
        if done < self.plan.warmup:
            return done / self.plan.warmup + 1e-3
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def run(self) -> None:
        """Train to the end of the plan. Raises TrainingError if a loss is not finite; the last checkpoint, taken
        before that, stays."""
        last_save = last = time.monotonic()
        total = None
        while self.plan.progress(self.step, self.seconds) < 1:
            factor = self.factor()
            batch = self.batch(self.step)
            losses, details = [], []
            for course in self.courses:
                loss, figures, weights = course.backward(batch, self.plan.chunk)
                course.step(factor)
                losses.append(loss)
                details.append((figures, weights))
            self.step += 1
            now = torch.stack(losses)
            total = now if total is None else total + now
            logs = self.step % self.plan.log_every == 0 or self.step <= 2
            saves = time.monotonic() - last_save >= self.plan.save_seconds
            if logs or saves:
                self._check(total)  # waits for the device: the clock below is honest
            self.seconds += time.monotonic() - last
            last = time.monotonic()
            if logs:
                self._report(details)
                total = None
            if saves:
                self._save_or_warn()
                last_save = time.monotonic()
        self._check(total)
        try:
            self.save()
        except OSError as e:
            raise TrainingError(f"{self._unsaved(e)} Make room, then go on with --resume.") from None

    def _check(self, total: Tensor | None) -> None:
        if total is None or torch.isfinite(total).all():
            return
        bad = self.courses[int((~torch.isfinite(total)).nonzero()[0])].recipe.name
        step = self.saved_step
        saved = "no checkpoint was taken yet" if step is None else f"the checkpoint of step {step} is kept"
        raise TrainingError(f"The loss of {bad} is not finite before step {self.step}: training stopped; {saved}.")

    def _report(self, details: list) -> None:
        entry: dict = {"step": self.step, "seconds": round(self.seconds, 1)}
        for course, (figures, weights) in zip(self.courses, details, strict=True):
            total = weights.sum() + 1e-6
            ce, tv, bce = ((figures[i] * weights).sum() / total for i in range(3))
            counted = (weights > 0).float()
            right = (figures[4] * counted).sum((0, 1)) / counted.sum((0, 1)).clamp(min=1)
            entry[course.recipe.name] = {
                "ce": round(ce.item(), 4),
                "tv": round(tv.item(), 4),
                "confidence": round(bce.item(), 4),
                "right": [round(x, 3) for x in right.tolist()],
            }
        self.log.append(entry)
        parts = [
            f"{name} ce {e['ce']:.3f} tv {e['tv']:.3f} bce {e['confidence']:.3f} "
            f"right {' '.join(f'{x:.2f}' for x in e['right'][:7])}"
            for name, e in entry.items()
            if isinstance(e, dict)
        ]
        self.notify(f"step {self.step} {self.seconds:.0f} s | " + " | ".join(parts))

    def _save_or_warn(self) -> None:
        try:
            self.save()
        except OSError as e:
            self.notify(self._unsaved(e))

    def _unsaved(self, e: OSError) -> str:
        saved = "there is none yet" if self.saved_step is None else f"that of step {self.saved_step} is kept"
        return f"The checkpoint of step {self.step} could not be saved ({e.strerror or e}); {saved}."

    def save(self) -> None:
        """Checkpoint, whole or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "plan": asdict(self.plan),
            "recipes": [asdict(c.recipe) for c in self.courses],
            "courses": [c.state() for c in self.courses],
        }
        write_atomic(self.out / CHECKPOINT, lambda path: torch.save(state, path))
        self.saved_step = self.step

    def resume(self) -> None:
        """Go on from the checkpoint. Raises TrainingError if there is none or it is of another run."""
        path = self.out / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.target.device, weights_only=True)
        except OSError:
            raise TrainingError(f"There is no {path} to resume from.") from None
        if state["recipes"] != [asdict(c.recipe) for c in self.courses] or state["plan"]["seed"] != self.plan.seed:
            raise TrainingError(f"{path} is of a run with other drafters or another seed.")
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
        self.saved_step = self.step
        for course, saved in zip(self.courses, state["courses"], strict=True):
            course.load(saved)
        self.notify(f"resumed at step {self.step}, {self.seconds:.0f} s")

    def write_drafters(self, data: dict) -> list[Path]:
        """A directory for each drafter: config.json, model.safetensors (bf16, without the target's embedding and
        head) and run.json, the record of how it came to be."""
        written = []
        for course in self.courses:
            directory = self.out / course.recipe.name
            directory.mkdir(parents=True, exist_ok=True)
            tensors = {k: v.to(torch.bfloat16).contiguous().cpu() for k, v in course.drafter.state_dict().items()}
            write_atomic(directory / "model.safetensors", partial(save_file, tensors, metadata={"format": "pt"}))
            (directory / "config.json").write_text(json.dumps(course.drafter.config.to_json(), indent=1) + "\n")
            record = {
                "target": self.target.directory.name,
                "recipe": asdict(course.recipe),
                "plan": asdict(self.plan),
                "data": data,
                "steps": self.step,
                "seconds": round(self.seconds, 1),
                "trained_together": [c.recipe.name for c in self.courses],
                "losses": [{"step": e["step"], "seconds": e["seconds"], **e[course.recipe.name]} for e in self.log],
                "versions": {"torch": torch.__version__, "python": platform.python_version()},
                "device": torch.cuda.get_device_name() if self.target.device.type == "cuda" else platform.machine(),
                "command": " ".join(sys.argv[1:]),
            }
            (directory / "run.json").write_text(json.dumps(record, indent=1) + "\n")
            written.append(directory)
        return written
