"""Control tokens, which a template writes and nobody can type: the added tokens of a vocabulary, special or not."""

import json
import secrets
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer, models


class ControlTokens:
    """The control tokens of a transformers tokenizer, `ids`, and how to encode a text that holds their names.

    An added token that is white space, or that the vocabulary makes of its text by itself, is no control token:
    Gemma's runs of newlines and spaces are none.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)  # a Tokenizer, or None

    @cached_property
    def _added(self) -> dict[int, AddedToken]:
        return dict(sorted(self._tokenizer.added_tokens_decoder.items()))

    @cached_property
    def ids(self) -> frozenset[int]:
        by_itself = None
        if self._backend is not None and isinstance(self._backend.model, models.BPE):
            by_itself = _without_added(self._backend)
        return frozenset(
            i
            for i, token in self._added.items()
            if not token.content.replace("\u2581", " ").isspace()
            and (token.special or by_itself is None or by_itself.encode(token.content).ids != [i])
        )

    def encode(self, text: str, typed: list[bool]) -> list[int]:
        """Token ids of a text without special tokens around it. A control token's name of which any character is
        `typed` stays text; all else gets the ids that it has in the text as a whole."""
        if self._backend is None:
            return self._encode_apart(text, typed)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = False
        whole = self._backend.encode(text, add_special_tokens=False)
        found = [(i, span) for i, span in zip(whole.ids, whole.offsets, strict=True) if i in self.ids]
        if not any(any(typed[slice(*span)]) for _, span in found):
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        renamed: list[str] = []
        at = 0
        for i, (start, end) in found:
            if not any(typed[start:end]):
                core = text[start:end]  # with the white space that the token takes in, if it takes any
                if self._added[i].lstrip:
                    start = end - len(core.lstrip())
                if self._added[i].rstrip:
                    end = start + len(text[start:end].rstrip())
                renamed += [text[at:start], self._names[i]]
                at = end
        ids = self._other.encode("".join(renamed) + text[at:], add_special_tokens=False).ids
        return [self._old_ids.get(i, i) for i in ids]

    def _encode_apart(self, text: str, typed: list[bool]) -> list[int]:
        """`encode` for a tokenizer in Python alone, whose parts may get other ids than the whole."""
        ids: list[int] = []
        at = i = 0
        names = sorted(((self._added[t].content, t) for t in self.ids), key=lambda pair: -len(pair[0]))
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        while i < len(text):
            name, token = next((n for n in names if text.startswith(n[0], i)), (text[i], None))
            if token is not None and not any(typed[i : i + len(name)]):
                ids += (self._tokenizer.encode(text[at:i], **plain) if at < i else []) + [token]
                at = i + len(name)
            i += len(name)
        return ids + (self._tokenizer.encode(text[at:], **plain) if at < len(text) else [])

    @cached_property
    def _names(self) -> dict[int, str]:
        """What control tokens are called in `_other`: names that nobody can guess."""
        return {i: f"\U0010fffd{secrets.token_hex(8)}\U0010fffd" for i in self.ids}

    @cached_property
    def _other(self) -> Tokenizer:
        """The same tokenizer, but that its control tokens have other names."""
        other = _without_added(self._backend)
        other.add_tokens([_renamed(token, self._names.get(i)) for i, token in self._added.items()])
        reached = {t for i in self.ids for t in other.encode(self._added[i].content).ids} & self.ids
        unknown = {getattr(self._tokenizer, "unk_token_id", None)}
        return other if reached <= unknown else self._with_other_pieces()

    def _with_other_pieces(self) -> Tokenizer:
        """`_other` where control tokens are pieces that the model finds without being told, as a Unigram's are."""
        spec = json.loads(self._backend.to_str())
        names = {self._added[i].content: name for i, name in self._names.items()}
        model = spec["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if "merges" in model:
            pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
            model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        for token in spec["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        return Tokenizer.from_str(json.dumps(spec))

    @cached_property
    def _old_ids(self) -> dict[int, int]:
        """Id in `_other` -> id here, of the added tokens."""
        return {self._other.token_to_id(self._names.get(i, token.content)): i for i, token in self._added.items()}


def _without_added(backend: Tokenizer) -> Tokenizer:
    """The same model, normalizer and pre-tokenizer, which it shares with `backend`, without added tokens."""
    plain = Tokenizer(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    return plain


def _renamed(token: AddedToken, name: str | None) -> AddedToken:
    how = {key: getattr(token, key) for key in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(name or token.content, **how)
