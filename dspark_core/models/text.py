"""Between text and token ids: chat templates, text that stays text, and the bytes of one token."""

import re
from pathlib import Path

from jinja2 import TemplateError
from mlx_lm.utils import load_tokenizer

from .errors import ModelError

# The template is rendered with this in place of each message and cut there. Private-use characters, so that
# no template tests for it or strips it.
PLACEHOLDER = "\ue000message {}\ue001"
PLACEHOLDER_PATTERN = re.compile("\ue000message (\\d+)\ue001")

# Ends of turn that a tokenizer's own list is known to leave out (Gemma-4).
MORE_STOP_TOKENS = ("<turn|>", "<|tool_response>")


class Text:
    """A model directory's tokenizer and chat template."""

    def __init__(self, directory: Path, eos_token_id: int | list[int] | None):
        eos = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id
        try:
            self.tokenizer = load_tokenizer(directory, {"trust_remote_code": False}, eos_token_ids=eos)
        except Exception as e:  # transformers raises many kinds
            raise ModelError(f"The tokenizer in {directory} cannot be loaded ({e}).") from e
        vocabulary = self.tokenizer.get_vocab()
        self.special = {i: str(t) for i, t in self.tokenizer.added_tokens_decoder.items()}
        more = {vocabulary[t] for t in MORE_STOP_TOKENS if t in vocabulary}
        self.stop_ids = frozenset(self.tokenizer.eos_token_ids | more)
        self._pieces = {i: piece for piece, i in vocabulary.items()}
        # Byte-level vocabularies write a space as U+0120; the others follow SentencePiece.
        self._byte_of = _byte_level_table() if any("\u0120" in p for p in vocabulary) else None

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text. Special-token spellings in it stay text; lone surrogates become U+FFFD."""
        clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self.tokenizer.encode(clean, add_special_tokens=False, split_special_tokens=True)

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn; thinking off where it is known.

        `messages` are {"role", "content"}. Only the template's own text may become control tokens:
        it is rendered with placeholders, and the contents are encoded as plain text. A model without a
        template is a base model, which continues text: the contents, with an empty line between them.
        Raises ModelError if the template refuses the conversation or leaves a message of it out.
        """
        if not self.has_chat_template:
            return self.tokenizer.encode("") + self.encode("\n\n".join(m["content"] for m in messages))
        held = [{**m, "content": PLACEHOLDER.format(i)} for i, m in enumerate(messages)]
        try:
            rendered = self.tokenizer.apply_chat_template(
                held, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except TemplateError as e:  # it raises where it knows no system turn, for one
            raise ModelError(f"The model's chat template cannot render this conversation ({e}).") from None
        parts = PLACEHOLDER_PATTERN.split(rendered)
        if left_out := [m["role"] for i, m in enumerate(messages) if str(i) not in parts[1::2]]:
            raise ModelError(f"The model's chat template leaves out the {left_out[0]} turn.")
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:  # the number inside a placeholder
                ids += self.encode(messages[int(part)]["content"].strip())
            elif part:
                ids += self.tokenizer.encode(part, add_special_tokens=False)
        return ids

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that one token adds to the text; may end or begin inside a character."""
        if token_id in self.special:
            return self.special[token_id].encode()
        piece = self._pieces.get(token_id, "")
        if self._byte_of is not None:
            return bytes(self._byte_of[c] for c in piece if c in self._byte_of)
        if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()


def _byte_level_table() -> dict[str, int]:
    """Printable stand-in -> byte, for byte-level BPE (the GPT-2 convention).

    Printable bytes of Latin-1 stand for themselves; the others, in order, for U+0100 onwards.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in table.values()]
    return table | {chr(0x100 + i): b for i, b in enumerate(others)}
