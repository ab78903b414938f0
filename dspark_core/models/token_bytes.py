"""The bytes that each token adds to a text, asked of the tokenizer's own decoder.

A vocabulary's pieces do not say how they are written: U+0120 is a space in a byte-level vocabulary and a letter in
Gemma's. So a token is decoded after a letter, and what it adds is what it is. Only where that is no whole character
does its piece give the bytes, if they are those that the decoder could not read.
"""

import re
from typing import Any

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
UNREADABLE = "\ufffd"


class TokenBytes:
    """Called with a token id: its UTF-8 bytes after other text, which may end or begin inside a character; none for an
    id that the vocabulary lacks. Joined over the tokens of a text they are what `tokenizer.decode` makes of it, special
    tokens written out, as far as that treats every token alike; of the first see `at_start`."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._before = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._before_text = self._decode(self._before)
        self._known: dict[int, bytes] = {}

    def __call__(self, token_id: int) -> bytes:
        if token_id not in self._known:
            text = self._decode([*self._before, token_id])
            alone = not text.startswith(self._before_text)  # a decoder that looks at what comes next
            added = self._decode([token_id]) if alone else text[len(self._before_text) :]
            self._known[token_id] = self._bytes(token_id, added)
        return self._known[token_id]

    def at_start(self, token_id: int) -> bytes:
        """Its bytes as the first token of a text, where some decoders leave out a leading space."""
        return self._bytes(token_id, self._decode([token_id]))

    def _decode(self, ids: list[int]) -> str:
        try:
            return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        except (IndexError, KeyError, OverflowError, TypeError, ValueError):  # an id beyond the vocabulary
            return ""

    def _bytes(self, token_id: int, text: str) -> bytes:
        if UNREADABLE not in text:
            return text.encode()
        piece = str(self._tokenizer.convert_ids_to_tokens(token_id))
        if byte := BYTE.fullmatch(piece):
            return bytes.fromhex(byte[1])
        if all(c in BYTE_OF for c in piece):
            raw = bytes(BYTE_OF[c] for c in piece)
            if _readable(raw.decode(errors="replace")) == _readable(text):
                return raw
        return text.encode()


def _readable(text: str) -> str:
    return text.replace(UNREADABLE, "")


def _byte_level_table() -> dict[str, int]:
    """Printable stand-in -> byte, for byte-level BPE (the GPT-2 convention).

    Printable bytes of Latin-1 stand for themselves; the others, in order, for U+0100 onwards.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in table.values()]
    return table | {chr(0x100 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_level_table()
