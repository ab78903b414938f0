"""The target: a model that mlx-lm loads, with tapped hidden states and a cache that rolls back.

mlx-lm's models return logits only. A family's walk (targets/<family>.py) calls the same layer modules in the same order
and yields the hidden state after each one; at load its logits are compared with the model's own.
"""

import importlib
from collections.abc import Callable
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache, KVCache
from mlx_lm.utils import load_model

from ..errors import ModelError, RankLost, in_one_line
from .cache import Cache, RecurrentCache, WindowCache, trim
from .fields import is_whole
from .files import build_error, check_stop_ids, check_texts
from .headers import read_config, read_headers
from .quantization import Quantization
from .target_config import WRAPPED, TargetConfig, own_head, read_target
from .text import Text
from .text_process import ForeignText, ForeignTokenBytes, open_text
from .thoughts import Thought
from .token_bytes import TokenBytes
from .tokenizer_files import eos_ids, has_tokenizer
from .weights import check_precision, convert, read_weights, wide_product

Progress = Callable[[str], None]
Reading = Callable[[int, int], None]  # takes bytes done and in all
Cancelling = Callable[[], bool]
WIDTH_EPS = 2.0**-10  # GPUs may multiply float32 with 10 bits of mantissa, by the kernel that a width takes


class Target:
    """One loaded target model. Shapes: T positions, V vocabulary, d hidden size, m taps."""

    directory: Path | None = None  # where its files are
    no_rollback = ""  # why no drafter can run on it, once `prove_taps` found it so
    machines = 1  # that compute it together: see sharded.py
    cpu_streams = ""  # in how many parts its layers are computed, once that is settled and where they are

    def __init__(
        self,
        model: Any,
        shape: TargetConfig,
        config: dict[str, Any],
        text: Text | ForeignText | None,
        name: str,
        precision: str,
    ):
        self.model = model
        self.name = name
        self.precision = precision
        self.text = text
        self._lm = getattr(model, "language_model", model)  # Gemma-4 wraps its text model
        self._body = self._lm.model
        self._norm = getattr(self._body, "norm", None) or self._body.embedding_norm  # LFM2's name for the last one
        self.walk = shape.family.walk
        self.family: str = shape.family.TITLE
        self.num_layers = len(self._body.layers)
        self.hidden_size = shape.hidden_size
        self.vocab_size = shape.vocab_size
        self.context_length = shape.context_length
        self.softcap = getattr(self._lm.args, "final_logit_softcapping", None)
        self.embed_scale = getattr(self._body, "embed_scale", 1.0)
        eos = config.get("eos_token_id")
        eos = frozenset(filter(is_whole, eos if isinstance(eos, list) else [eos]))
        self.stop_ids = text.stop_ids if text else eos
        self.dtype = self._norm.weight.dtype

    def read(self, progress: Reading = lambda done, total: None, cancelled: Cancelling = lambda: False) -> None:
        """Read the weights of an opened target; see `read_weights`. Raises ModelError, Cancelled."""
        read_weights(self.model, self.name, progress, cancelled)

    @property
    def lost(self) -> str:
        """Why machines are gone that had a part of it, in a sentence; empty where all are there."""
        return ""

    def leave_part(self, group: Any) -> None:
        """Before the weights are read: leave of the layers what is this rank's by mlx-lm's own `shard`, and nothing of
        what only `head` needs. Raises ValueError where a size cannot be split."""
        sharded = self.model if hasattr(self.model, "shard") else self._lm  # a wrapper may have none where its text has
        sharded.shard(group)
        self._lm.pop("lm_head", None)

    def new_cache(self) -> Cache:
        """An empty cache: one entry a layer, every entry able to drop its newest positions."""
        if not hasattr(self._lm, "make_cache"):
            return [KVCache() for _ in range(self.num_layers)]
        caches = self._lm.make_cache()  # a layer's own, or what takes the place of its ring
        caches = [RecurrentCache() if isinstance(c, ArraysCache) else c for c in caches]
        return [WindowCache(c.max_size) if getattr(c, "max_size", None) is not None else c for c in caches]

    def forward(self, ids: mx.array, cache: Cache, taps: tuple[int, ...] = ()) -> tuple[mx.array, mx.array | None]:
        """Run ids [T] after what `cache` holds.

        Returns the final hidden states [T, d] (after the last norm, ready for `head`) and the tapped
        ones [T, m*d], concatenated in the order of `taps`: a layer index stands for that layer's output,
        -1 for the embedding output; None without taps.
        """
        tapped = {}
        for i, h in enumerate(self.walk(self._body, ids[None], cache), start=-1):
            if i in taps:
                tapped[i] = h
        features = mx.concatenate([tapped[i] for i in taps], axis=-1)[0] if taps else None
        return self._norm(h)[0], features

    def own_hidden(self, ids: mx.array, cache: list[Any]) -> mx.array:
        """Final hidden states [T, d] of ids [T] by mlx-lm's own forward, masks and caches (`make_prompt_cache`): it
        shares the layers with `forward` and nothing else, so it can say whether `forward` is right."""
        return self._body(ids[None], cache=cache)[0]

    def embed(self, ids: mx.array) -> mx.array:
        """Input embeddings [..., d] of ids, scaled where the model scales them (Gemma)."""
        h = self._body.embed_tokens(ids)
        return h if self.embed_scale == 1.0 else h * self.embed_scale

    def head(self, hidden: mx.array) -> mx.array:
        """Logits [..., V] of hidden states [..., d], with the model's softcap if it has one."""
        z = self.raw_head(hidden)
        return z if self.softcap is None else mx.tanh(z / self.softcap) * self.softcap

    def raw_head(self, hidden: mx.array) -> mx.array:
        """Logits [..., V] before any softcap."""
        return wide_product(self.head_layer, hidden)

    @property
    def head_layer(self) -> nn.Linear | nn.Embedding:
        """What has the head's weight [V, d]: the embedding, where that is tied to it."""
        layer: nn.Linear | nn.Embedding = getattr(self._lm, "lm_head", self._body.embed_tokens)
        return layer

    def encode_chat(self, messages: list[dict[str, str]], thinking: bool = False) -> list[int]:
        """Token ids of a conversation, all of them in the vocabulary; see Text.encode_chat. Raises ModelError, also
        without a tokenizer, and where it has no switch for `thinking`."""
        text = self._need_text()
        if not thinking:
            return self._checked(text.encode_chat(messages), "conversation")
        if not text.thinks:
            raise ModelError(f"The chat template of {self.name} has no switch for thinking.")
        return self._checked(text.encode_chat(messages, True), "conversation")

    def begun_thought(self, thinking: bool) -> Thought | None:
        """The thought that the chat template begins where an answer goes on, if it begins one."""
        openings = getattr(self.text, "openings", ("", ""))
        return Thought.begun(openings[thinking], self.text.special.values()) if any(openings) and self.text else None

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text to go on from; see Text.encode_text. Raises ModelError as `encode_chat` does."""
        return self._checked(self._need_text().encode_text(text), "text")

    def _checked(self, ids: list[int], what: str) -> list[int]:
        if not ids:
            raise ModelError(f"{self.name}: its chat template and tokenizer make no tokens of this {what}.")
        if max(ids) >= self.vocab_size:  # MLX reads past a table's end without a word
            raise ModelError(
                f"{self.name}: its tokenizer makes the token id {max(ids)} of this {what}, and its vocabulary "
                f"ends at {self.vocab_size - 1}."
            )
        return ids

    @property
    def token_bytes(self) -> TokenBytes | ForeignTokenBytes:
        """Token id -> the UTF-8 bytes that it adds. Raises ModelError without a tokenizer."""
        return self._need_text().token_bytes

    def is_special(self, token_id: int) -> bool:
        return self.text is not None and self.text.is_special(token_id)

    def _need_text(self) -> Text | ForeignText:
        if self.text is None:
            raise ModelError(f"{self.name} has no tokenizer files.")
        return self.text

    def prove_taps(self) -> None:
        """Compare the tapped forward's logits with the model's own. Raises ModelError if they differ. Where they are
        right, but not after a rollback, `no_rollback` says so."""
        try:
            ids = mx.arange(8) % self.vocab_size
            own = self.model(ids[None])[0].astype(mx.float32)
            hidden, _ = self.forward(ids, self.new_cache())
            tapped = self.head(hidden).astype(mx.float32)
            finite = mx.isfinite(own).all().item()
        except RankLost:
            raise
        except Exception as e:  # a field of the config that nothing before it looked at
            where = (self.directory or Path(self.name)) / "config.json"
            raise ModelError(f"{where} does not describe a model that can run: {in_one_line(e)}.") from e
        if not finite:
            place = next((n for n, w in self._weights() if not mx.isfinite(w).all().item()), "")
            place = place or f"{(self.directory or Path(self.name)) / 'config.json'}, for its weights are"
            raise ModelError(f"{self.name} gives logits that are not finite: look at {place}.")
        tolerance = 32 * mx.finfo(self.dtype).eps * mx.abs(own).max().item()
        worst = mx.abs(own - tapped).max().item()
        if worst > tolerance:
            raise ModelError(
                f"{self.name}: the tapped forward differs from the model's own logits by {worst:.3g}, "
                f"more than {tolerance:.3g}; this mlx-lm version is not supported."
            )
        # Rows that are computed with fewer others are rounded otherwise; a state that is not the text's own does more.
        tolerance = 32 * max(mx.finfo(self.dtype).eps, WIDTH_EPS) * mx.abs(own).max().item()
        worst = mx.abs(own - self._read_with_rollbacks(ids)).max().item()
        if not worst <= tolerance:
            self.no_rollback = (
                f"After a rollback the logits of {self.name} differ by {worst:.3g} from those without one, more than "
                f"{tolerance:.3g}: no drafter can run on it, only plain decoding."
            )

    def _read_with_rollbacks(self, ids: mx.array) -> mx.array:
        """Logits [8, V] of 8 ids, read in pieces, with drafts between them that are rejected."""
        cache, rows = self.new_cache(), []
        for first, last, wrong in ((0, 4, 2), (4, 5, 3), (5, 8, 0)):
            drafts = (ids[:wrong] + 1) % self.vocab_size
            hidden, _ = self.forward(mx.concatenate([ids[first:last], drafts]), cache)
            rows.append(hidden[: last - first])
            trim(cache, wrong)
        return self.head(mx.concatenate(rows)).astype(mx.float32)

    def _weights(self) -> list[tuple[str, mx.array]]:
        from mlx.utils import tree_flatten

        return [(n, w) for n, w in tree_flatten(self.model.parameters()) if mx.issubdtype(w.dtype, mx.floating)]


def load_target(directory: str | Path, precision: str = "auto", progress: Progress = lambda _: None) -> Target:
    """Load an mlx-lm or Hugging Face directory of one of the families in targets/.

    `precision`: see `config.PRECISIONS`. A directory without tokenizer files loads, but cannot encode
    text. Raises ModelError, in one sentence, for anything that is missing, cut off or does not fit.
    """
    target = open_target(directory, precision, progress)
    progress("reading weights")
    target.read()
    progress("checking the taps")
    target.prove_taps()
    return target


def open_target(
    directory: str | Path, precision: str = "auto", progress: Progress = lambda _: None, with_text: bool = True
) -> Target:
    """A target whose files, names and shapes are checked and whose tokenizer is there (unless not `with_text`), but
    whose weights are not read yet: `read` and `prove_taps` follow. Raises ModelError."""
    directory = Path(directory)
    check_precision(precision)
    if has_magic(str(directory)):
        raise ModelError(f"{directory} has one of * ? [ in its path, which mlx-lm cannot open: rename the directory.")
    config, tensors = read_config(directory), read_headers(directory)
    check_texts(directory)
    check_stop_ids(directory / "config.json", config.get("eos_token_id"))
    quantization = Quantization(directory, config, tensors)
    quantization.check(awq=True)
    shape = read_target(directory, config, tensors)
    tied = shape.tied and not own_head(tensors)
    instead = shape.for_mlx(tied) | quantization.for_mlx()
    progress("checking names and shapes")
    try:
        model, config = load_model(
            directory, lazy=True, model_config=instead, get_model_classes=partial(_classes, shape, tied)
        )
        words = convert(model, precision, directory.name)
    except ModelError:
        raise
    except Exception as e:  # of whatever kind: the files decide what mlx-lm stumbles over
        raise build_error(directory, tensors, e) from e
    progress("reading the tokenizer")
    config["eos_token_id"] = sorted(eos_ids(directory))  # mlx-lm takes those of one file
    text = open_text(directory, config["eos_token_id"]) if with_text and has_tokenizer(directory) else None
    try:
        target = Target(model, shape, config, text, directory.name, words)
    except (TypeError, ValueError, AttributeError) as e:
        raise build_error(directory, tensors, e) from e
    target.directory = directory
    return target


def _classes(shape: TargetConfig, tied: bool, config: dict[str, Any]) -> tuple[Any, Any]:
    """mlx-lm's Model and ModelArgs, with what transformers' model has and that one lacks: what the family says, biases
    of the attention, a head beside a wrapped text model."""
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    complete = getattr(shape.family, "complete", lambda model_class, _: model_class)
    base: Any = complete(module.Model, shape)

    class Model(base):
        def __init__(self, args: Any):
            super().__init__(args)
            for layer in self.layers if shape.biased else ():
                linears = (layer.get("self_attn", {}).get(f"{name}_proj") for name in "qkvo")
                for linear in (linear for linear in linears if linear is not None):
                    linear.bias = mx.zeros(linear.weight.shape[0])

        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            weights = super().sanitize(weights) if hasattr(base, "sanitize") else weights  # mlx-lm's Phi-3 has none
            head = {n: weights.pop(n) for n in list(weights) if n.removeprefix(WRAPPED).startswith("lm_head.")}
            at = WRAPPED if hasattr(self, "language_model") else ""
            return weights if tied else weights | {at + n.removeprefix(WRAPPED): w for n, w in head.items()}

    return Model, module.ModelArgs
