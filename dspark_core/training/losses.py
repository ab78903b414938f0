"""DSpark's losses, slot by slot, and the weights that add them up (DeepSpec's loss; paper section on training).

N slots in all, V vocabulary (or the candidates of it), d hidden size, r Markov rank.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """ce: cross-entropy on the sampled token; tv: L1 distance to the target's distribution; confidence: BCE.

    `greedy_confidence` makes the confidence head predict whether greedy decoding accepts the draft (is the
    draft's argmax the target's?) instead of the paper's overlap 1 - tv/2, which is the acceptance at temperature 1.
    """

    ce: float = 0.1
    tv: float = 0.9
    confidence: float = 1.0
    gamma: float = 4.0
    greedy_confidence: bool = False


def slot_weights(inside: Tensor, gamma: float) -> Tensor:
    """exp(-k/gamma) over the contiguous supervised prefix of each block; inside [..., drafts] bool."""
    k = torch.arange(inside.shape[-1], device=inside.device)
    return inside.int().cumprod(-1) * torch.exp(-k / gamma)


def slot_losses(
    hidden: Tensor,
    previous: Tensor | None,
    target_hidden: Tensor,
    head: Tensor,
    markov_w2: Tensor | None,
    confidence: tuple[Tensor, Tensor] | None,
    labels: Tensor,
    weights: Tensor,
    kinds: LossWeights,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses of N slots, and [5, N] detached: ce, tv, bce, confidence logit, right (argmax is
    the label).

    hidden [N, d]; previous [N, r] Markov embeddings of the token before each slot (teacher-forced), or None;
    target_hidden [N, d] after the target's final norm, at the position that predicts the label; head [V, d];
    markov_w2 [V, r]; confidence: weight [1, d+r] and bias [1]; labels [N]; weights [N] already normalised.
    """
    logits = hidden @ head.T
    if markov_w2 is not None:
        logits = logits + previous @ markov_w2.T
    logits = logits.float()
    log_z = torch.logsumexp(logits, -1)
    ce = log_z - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    loss = kinds.ce * (weights * ce).sum()
    zero = torch.zeros_like(ce)
    tv, bce, sure = zero, zero, zero
    best = logits.detach().argmax(-1)
    if kinds.tv or confidence is not None:
        with torch.no_grad():
            wanted = (target_hidden @ head.T).float()
            p = wanted.softmax(-1)
        tv = (torch.exp(logits - log_z.unsqueeze(-1)) - p).abs().sum(-1)
        loss = loss + kinds.tv * (weights * tv).sum()
        if confidence is not None:
            features = hidden if previous is None else torch.cat([hidden, previous], -1)
            sure = F.linear(features.float(), confidence[0].float(), confidence[1].float()).squeeze(-1)
            accept = 1 - 0.5 * tv.detach()
            if kinds.greedy_confidence:
                accept = (best == wanted.argmax(-1)).float()
            bce = F.binary_cross_entropy_with_logits(sure, accept.clamp(0, 1), reduction="none")
            loss = loss + kinds.confidence * (weights * bce).sum()
    return loss, torch.stack([ce, tv, bce, sure, (best == labels).float()]).detach()
