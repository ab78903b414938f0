"""The target: a model that mlx-lm loads, with tapped hidden states and a cache that rolls back.

mlx-lm's models return logits only. A family's walk (targets/<family>.py) calls the same layer modules in the same order
and yields the hidden state after each one; at load its logits are compared with the model's own.
"""

from collections.abc import Callable
from glob import has_magic
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache
from mlx_lm.utils import load_model

from ..errors import ModelError, in_one_line
from .cache import WindowCache
from .config import check_family
from .files import build_error, check_stop_ids, check_texts, tokenizer_error
from .headers import read_config, read_headers
from .targets import family_of
from .text import Text
from .token_bytes import TokenBytes
from .weights import check_precision, convert, read_weights, wide_product

Cache = list[KVCache | WindowCache]
Progress = Callable[[str], None]


class Target:
    """One loaded target model. Shapes: T positions, V vocabulary, d hidden size, m taps."""

    directory: Path | None = None  # where its files are

    def __init__(self, model: Any, config: dict[str, Any], text: Text | None, name: str, precision: str):
        self.model = model
        self.name = name
        self.precision = precision
        self.text = text
        self._lm = getattr(model, "language_model", model)  # Gemma-4 wraps its text model
        self._body = self._lm.model
        args = self._lm.args
        family = family_of(self._lm.model_type)
        if family is None:
            raise ModelError(f"{name} has a text model of type {self._lm.model_type!r}, which is not supported.")
        self._walk = family.walk
        self.num_layers = len(self._body.layers)
        self.hidden_size = args.hidden_size
        self.vocab_size = args.vocab_size
        self.context_length = getattr(args, "max_position_embeddings", None) or 2048
        self.softcap = getattr(args, "final_logit_softcapping", None)
        self.embed_scale = getattr(self._body, "embed_scale", 1.0)
        eos = config.get("eos_token_id")
        eos = [eos] if isinstance(eos, int) else (eos or [])
        self.stop_ids = text.stop_ids if text else frozenset(eos)
        self.dtype = self._body.norm.weight.dtype

    def new_cache(self) -> Cache:
        """An empty cache: one entry a layer, every entry able to drop its newest positions."""
        return (
            [_rolling(c) for c in self._lm.make_cache()]
            if hasattr(self._lm, "make_cache")
            else [KVCache() for _ in range(self.num_layers)]
        )

    def forward(self, ids: mx.array, cache: Cache, taps: tuple[int, ...] = ()) -> tuple[mx.array, mx.array | None]:
        """Run ids [T] after what `cache` holds.

        Returns the final hidden states [T, d] (after the last norm, ready for `head`) and the tapped
        ones [T, m*d], concatenated in the order of `taps`: a layer index stands for that layer's output,
        -1 for the embedding output; None without taps.
        """
        tapped = {}
        for i, h in enumerate(self._walk(self._body, ids[None], cache), start=-1):
            if i in taps:
                tapped[i] = h
        features = mx.concatenate([tapped[i] for i in taps], axis=-1)[0] if taps else None
        return self._body.norm(h)[0], features

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
        return wide_product(getattr(self._lm, "lm_head", self._body.embed_tokens), hidden)

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation; see Text.encode_chat. Raises ModelError without a tokenizer."""
        return self._need_text().encode_chat(messages)

    @property
    def token_bytes(self) -> TokenBytes:
        """Token id -> the UTF-8 bytes that it adds. Raises ModelError without a tokenizer."""
        return self._need_text().token_bytes

    def is_special(self, token_id: int) -> bool:
        return self.text is not None and self.text.is_special(token_id)

    def _need_text(self) -> Text:
        if self.text is None:
            raise ModelError(f"{self.name} has no tokenizer files.")
        return self.text

    def prove_taps(self) -> None:
        """Compare the tapped forward's logits with the model's own. Raises ModelError if they differ."""
        try:
            ids = mx.arange(4) % self.vocab_size
            own = self.model(ids[None])[0].astype(mx.float32)
            hidden, _ = self.forward(ids, self.new_cache())
            tapped = self.head(hidden).astype(mx.float32)
            finite = mx.isfinite(own).all().item()
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

    def _weights(self) -> list[tuple[str, mx.array]]:
        from mlx.utils import tree_flatten

        return [(n, w) for n, w in tree_flatten(self.model.parameters()) if mx.issubdtype(w.dtype, mx.floating)]


def _rolling(cache: Any) -> KVCache | WindowCache:
    """mlx-lm's cache for a layer, or the one that takes the place of its ring."""
    window = getattr(cache, "max_size", None)
    return cache if window is None else WindowCache(window)


def load_target(directory: str | Path, precision: str = "auto", progress: Progress = lambda _: None) -> Target:
    """Load an mlx-lm or Hugging Face directory (Llama, Qwen3, Gemma-4 families).

    `precision`: see `config.PRECISIONS`. A directory without tokenizer files loads, but cannot encode
    text. Raises ModelError, in one sentence, for anything that is missing, cut off or does not fit.
    """
    target = open_target(directory, precision, progress)
    progress("reading weights")
    read_weights(target.model, target.name)
    progress("checking the taps")
    target.prove_taps()
    return target


def open_target(directory: str | Path, precision: str = "auto", progress: Progress = lambda _: None) -> Target:
    """A target whose files, names and shapes are checked and whose tokenizer is there, but whose weights are not
    read yet: `read_weights(target.model, ...)` and `target.prove_taps()` follow. Raises ModelError."""
    directory = Path(directory)
    check_precision(precision)
    if has_magic(str(directory)):
        raise ModelError(f"{directory} has one of * ? [ in its path, which mlx-lm cannot open: rename the directory.")
    config = read_config(directory)
    family = check_family(directory, config)
    check_texts(directory)
    check_stop_ids(directory / "config.json", config.get("eos_token_id"))
    instead: dict[str, Any] = family.config_for_mlx(config) if hasattr(family, "config_for_mlx") else {}
    tensors = read_headers(directory)
    progress("checking names and shapes")
    try:
        model, config = load_model(directory, lazy=True, model_config=instead)
        words = convert(model, precision)
    except ModelError:
        raise
    except Exception as e:  # whatever an odd field of the config sets off in mlx-lm
        raise build_error(directory, tensors, e) from e
    progress("reading the tokenizer")
    has_text = any((directory / f).exists() for f in ("tokenizer.json", "tokenizer.model"))
    text = _text(directory, config.get("eos_token_id")) if has_text else None
    try:
        target = Target(model, config, text, directory.name, words)
    except (TypeError, ValueError, AttributeError) as e:
        raise build_error(directory, tensors, e) from e
    target.directory = directory
    return target


def _text(directory: Path, eos_token_id: Any) -> Text:
    """A directory's tokenizer. Raises ModelError that names the file to blame."""

    def load(place: Path) -> Text:
        return Text(place, eos_token_id)

    try:
        return load(directory)
    except Exception as e:
        cause = e.__cause__ if isinstance(e, ModelError) and e.__cause__ else e
        raise tokenizer_error(directory, cause, load) from e
