"""Muon for many matrices of few shapes: those of one shape go through the orthogonalization as one stack.

A drafter's 30 matrices have four shapes: stacked, a step is some 60 kernels in the place of 750, and a small model's
step waits for kernels to be launched. Source of the method: Keller Jordan, "Muon"; the constants are those of
torch.optim.Muon, whose result this equals but for rounding.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalize(g: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices to g [n, rows, cols], roughly (singular values near 1), in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315  # the quintic Newton-Schulz step
    x = g.bfloat16()
    tall = g.shape[1] > g.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class StackedMuon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; the step is as long as AdamW's would be (0.2 of a unit a weight)."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            stacks: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    stacks[p.shape].append(p)
            for shape, matrices in stacks.items():
                grads = [p.grad for p in matrices]
                for p in matrices:
                    if "momentum" not in self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                momenta = [self.state[p]["momentum"] for p in matrices]
                torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
                update = orthogonalize(torch.stack(torch._foreach_lerp(grads, momenta, group["momentum"])))
                factor = -group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_(matrices, list(update.to(matrices[0].dtype).unbind()), alpha=factor)
