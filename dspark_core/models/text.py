"""Between text and token ids: chat templates, text that stays text, and the bytes of one token."""

from pathlib import Path

from jinja2 import TemplateError
from mlx_lm.utils import load_tokenizer
from transformers.utils.chat_template_utils import _compile_jinja_template

from .control import ControlTokens
from .errors import ModelError
from .token_bytes import TokenBytes
from .typed import StandIns, stand_ins

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
        self.token_bytes = TokenBytes(self.tokenizer)
        self._control = ControlTokens(self.tokenizer)

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text. Names of control tokens in it stay text; lone surrogates become U+FFFD."""
        clean = _whole_characters(text)
        return self._control.encode(clean, [True] * len(clean))

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn; thinking off where it is known.

        `messages` are {"role", "content"}. The ids are those of the tokenizer's `apply_chat_template`, but that only
        the template's own text may become control tokens: their names in a content are encoded as plain text. A model
        without a template is a base model, which continues text: the contents, with an empty line between them.
        Raises ModelError if the template refuses the conversation or leaves a message of it out.
        """
        messages = [{**m, "content": _whole_characters(m["content"])} for m in messages]
        if not self.has_chat_template:
            return self._opening() + self.encode("\n\n".join(m["content"] for m in messages))
        whole, written = self._render(messages), stand_ins([m["content"] for m in messages])
        text, typed = written.text(self._render_typed(messages, written))
        if text == whole:
            return self._control.encode(text, typed)
        # The template makes something else of its contents than their pieces. Then they are stand-ins to it and it
        # cannot act upon what they say; where it matters to no control token, its own rendering is the prompt.
        text, typed = written.text(self._render(_with(messages, [str.__str__(c) for c in written.contents])))
        safe, own = self._control.encode(text, typed), self._control.encode(whole, [False] * len(whole))
        controls = ([i for i in ids if i in self._control.ids] for ids in (safe, own))
        return own if next(controls) == next(controls) else safe

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except TemplateError as e:  # it raises where it knows no system turn, for one
            raise ModelError(f"The model's chat template cannot render this conversation ({e}).") from None

    def _render_typed(self, messages: list[dict[str, str]], written: StandIns) -> str:
        """The rendering of the messages in stand-ins, which `apply_chat_template` would make plain strings of.
        Raises ModelError if the template leaves a message out."""
        typed = _with(messages, written.contents)
        template = self.tokenizer.chat_template
        if isinstance(template, str):
            how = {"add_generation_prompt": True, "enable_thinking": False, "tools": None, "documents": None}
            try:
                rendered = _compile_jinja_template(template).render(
                    messages=typed, **self.tokenizer.special_tokens_map, **how
                )
            except TemplateError:  # it knows a content by what it says
                rendered = ""
        else:
            rendered = self._render(typed)
        if left_out := written.left_out(rendered):
            # Or of its content only: Qwen3 drops what was thought in earlier turns. A plain word would be there.
            words = stand_ins(["x"] * len(messages))
            gone = set(left_out) & set(words.left_out(self._render(_with(messages, list(map(str, words.contents))))))
            if gone:
                raise ModelError(f"The model's chat template leaves out the {messages[min(gone)]['role']} turn.")
        return rendered

    def _opening(self) -> list[int]:
        """The special tokens that begin a text, such as <bos>."""
        bare, whole = self.tokenizer.encode("a", add_special_tokens=False), self.tokenizer.encode("a")
        return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(bare)] == bare), [])

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special


def _whole_characters(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _with(messages: list[dict[str, str]], contents: list[str]) -> list[dict[str, str]]:
    return [{**m, "content": content} for m, content in zip(messages, contents, strict=True)]
