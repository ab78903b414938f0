"""A target of every family computes what transformers' own torch model computes from the same directory."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from dspark_core.models.target import load_target

from .families import FAMILIES, build

torch = pytest.importorskip("torch")

TOLERANCE = 1e-4
IDS = [(7 * i) % 61 + 1 for i in range(14)]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family, tmp_path):
    """In one pass, in two with a cache between, and by mlx-lm's own forward."""
    model = build(family)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(torch.tensor([IDS]), use_cache=False).logits[0].float().numpy()
    target, ids = load_target(tmp_path, "stored"), mx.array(IDS)
    cache, own = target.new_cache(), make_prompt_cache(target.model)
    found = [target.head(target.forward(ids, target.new_cache())[0]), target.model(ids[None])[0]]
    found.append(target.head(mx.concatenate([target.forward(part, cache)[0] for part in (ids[:9], ids[9:])])))
    found.append(target.head(mx.concatenate([target.own_hidden(part, own) for part in (ids[:9], ids[9:])])))
    differences = [float(np.abs(np.array(logits) - wanted).max()) for logits in found]
    print(family, differences, np.abs(wanted).max())
    assert max(differences) < TOLERANCE
