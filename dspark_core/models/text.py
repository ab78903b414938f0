"""Between text and token ids: chat templates, text that stays text, and the bytes of one token."""

from pathlib import Path

from jinja2 import TemplateError
from mlx_lm.utils import load_tokenizer

from ..errors import ModelError
from .control import ControlTokens
from .token_bytes import TokenBytes
from .typed import StandIns, stand_ins

# Ends of turn that a tokenizer's own list is known to leave out (Gemma-4).
MORE_STOP_TOKENS = ("<turn|>", "<|tool_response>")

# What a template's expressions raise beside jinja2's errors, where they expect other messages.
NOT_RENDERED = (AttributeError, LookupError, TypeError, ValueError)


class Text:
    """A model directory's tokenizer and chat template."""

    unlimited = ""  # why nothing limits what they make this process do, where they should not run in it

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
        rendered = self._render(_with(messages, written.contents))
        text, typed = written.text(rendered)
        if text != whole:  # the template acts upon what a content says
            rendered = self._render_typed(messages, written) or rendered
            text, typed = written.text(rendered)
        self._require_all(messages, written.left_out(rendered))
        prompt = self._control.encode(text, typed)
        if text == whole:
            return prompt
        # It makes something else of its contents than pieces of them. Its rendering of stand-ins, which it cannot act
        # upon, has no control tokens but its own; where the contents' own rendering has the same, that is the prompt.
        own = self._control.encode(whole, [False] * len(whole))
        controls = ([i for i in ids if i in self._control.ids] for ids in (prompt, own))
        return own if next(controls) == next(controls) else prompt

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
            )
        except (TemplateError, *NOT_RENDERED) as e:  # it raises where it knows no system turn, for one
            raise ModelError(f"The model's chat template cannot render this conversation ({e}).") from None

    def _render_typed(self, messages: list[dict[str, str]], written: StandIns) -> str:
        """The rendering in stand-ins that act as what they stand for; empty where the template asks more of them."""
        variables = self.tokenizer.special_tokens_map | {"enable_thinking": False}
        try:
            return written.render(self.tokenizer.get_chat_template(), messages, **variables)
        except (TemplateError, *NOT_RENDERED):
            return ""

    def _require_all(self, messages: list[dict[str, str]], left_out: list[int]) -> None:
        """Raises ModelError if the template leaves out one of these messages, and not only what it says: Qwen3 drops
        what was thought in earlier turns."""
        if left_out:
            words = stand_ins(["x"] * len(messages))
            gone = set(left_out) & set(words.left_out(self._render(_with(messages, words.contents))))
            if gone:
                raise ModelError(f"The model's chat template leaves out the {messages[min(gone)]['role']} turn.")

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
