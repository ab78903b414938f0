"""The bytes that each token adds to a text, asked of the tokenizer's own decoder, and the text that they make.

A vocabulary's pieces do not say how they are written: U+0120 is a space in a byte-level vocabulary and a letter in
Gemma's. So a token is decoded after a letter, and what it adds is what it is. Only where that is no whole character
does its piece give the bytes, if they are those that the decoder could not read.

Bytes alone do not make the text where a decoder looks at several tokens. Byte fallback (Llama-2, Gemma) reads a run of
tokens such as <0xE4> as a whole: if one byte fits nowhere, or is missing at the end, all of the run is unreadable.
"""

import codecs
import copy
import re
from collections.abc import Callable, Iterable
from typing import Any

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
UNREADABLE = "\ufffd"
# Where `clean_up_tokenization_spaces` is on, transformers takes the spaces out of these, in this order.
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class TokenBytes:
    """Called with a token id: its UTF-8 bytes after other text, which may end or begin inside a character; none for an
    id that the vocabulary lacks. Of a text's first token see `at_start`; TextStream makes the text of them.

    clean_up: are the spaces before punctuation taken out of the text?
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        bpe = type(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)).__name__ == "BPE"
        forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
        wanted = getattr(tokenizer, "clean_up_tokenization_spaces", False)
        self.clean_up = bool(wanted and (not bpe or getattr(tokenizer, forced, False)))
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

    def is_byte(self, token_id: int) -> bool:
        """Is it one byte of a run that the decoder reads as a whole?"""
        data = self(token_id)
        piece = BYTE.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token_id))) if len(data) == 1 else None
        return piece is not None and data == bytes.fromhex(piece[1])

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


class TextStream:
    """The text of an answer, token by token: what `add` gave so far is a beginning of what the tokenizer decodes the
    whole to, special tokens written out, and `end` gives the rest.

    `token_bytes` is a TokenBytes, or anything that is called as it is: what it has no method for is not so.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]):
        self._after = token_bytes
        self._at_start = getattr(token_bytes, "at_start", token_bytes)
        self._is_byte = getattr(token_bytes, "is_byte", lambda token_id: False)
        self._clean_up: bool = getattr(token_bytes, "clean_up", False)
        self._begun = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._run = b""  # bytes that the decoder reads as a whole
        self._dropped = ""  # the space that it leaves out if they begin the text
        self._held = ""  # what may still lose a space

    def add(self, token_id: int) -> str:
        """The text that is certain now that this token is there."""
        data, first = self._next(token_id)
        if self._is_byte(token_id):
            if first != data:
                self._dropped = data.removesuffix(first).decode()
            self._run += data
            return ""
        return self._cleaned(self._end_run() + self._decoder.decode(first))

    def end(self) -> str:
        """What is left, as nothing follows."""
        return self._cleaned(self._end_run() + self._decoder.decode(b"", final=True), final=True)

    def alone(self, token_id: int) -> str:
        """What this token says by itself, here; it becomes no part of the text."""
        return self._next(token_id)[1].decode(errors="replace")

    def aside(self, token_ids: Iterable[int]) -> list[str]:
        """Each of these tokens as it would read after the text so far, which is not changed."""
        other, texts = copy.copy(self), []
        decoder = other._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.setstate(self._decoder.getstate())
        decoder.decode(self._run)  # what is unfinished of it may go on
        for token_id in token_ids:
            texts.append(decoder.decode(other._next(token_id)[1]))
        return [*texts[:-1], texts[-1] + decoder.decode(b"", final=True)] if texts else []

    def _next(self, token_id: int) -> tuple[bytes, bytes]:
        """A token's bytes after other text, and here."""
        data = self._after(token_id)
        first = data if self._begun else self._at_start(token_id)
        self._begun = self._begun or bool(data)
        return data, first

    def _end_run(self) -> str:
        run, dropped, self._run, self._dropped = self._run, self._dropped, b"", ""
        try:
            return run.decode().removeprefix(dropped)
        except UnicodeDecodeError:
            return UNREADABLE * len(run)

    def _cleaned(self, text: str, final: bool = False) -> str:
        if not self._clean_up:
            return text
        text = self._held + text
        # No piece of CLEAN_UP goes on behind a letter that is not one of these.
        size = len(text) if final else len(text.rstrip(" 'nvr"))
        text, self._held = text[:size], text[size:]
        for spaced in CLEAN_UP:
            text = text.replace(spaced, spaced.strip())
        return text


def whole_characters(text: str) -> str:
    """With U+FFFD in the place of every half of a surrogate pair, which no UTF-8 can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
