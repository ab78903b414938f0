"""Between text and token ids: chat templates, text that stays text, the bytes of one token, and what ends an answer."""

from itertools import takewhile
from pathlib import Path

from ..errors import ModelError
from .control import ControlTokens
from .token_bytes import TokenBytes, whole_characters
from .tokenizer_files import chat_templates, eos_ids, open_tokenizer
from .typed import StandIns, stand_ins

# Ends of turn that a tokenizer's own list is known to leave out (Gemma-4).
MORE_STOP_TOKENS = ("<turn|>", "<|tool_response>")
# What chat templates call the switch for a thought before the answer.
SWITCHES = ("enable_thinking", "thinking")


class Text:
    """A model directory's tokenizer and chat template."""

    unlimited = ""  # why nothing limits what they make this process do, where they should not run in it

    def __init__(self, directory: Path, eos_token_id: int | list[int] | None):
        """`eos_token_id` goes beside what the directory's files say. Raises ModelError, in one sentence, if they make
        no tokenizer, or none of their chat templates renders a conversation."""
        try:
            self.tokenizer = open_tokenizer(directory)
        except Exception as e:  # transformers raises many kinds
            raise ModelError(f"The tokenizer in {directory} cannot be loaded ({_one_line(e)}).") from e
        vocabulary = self.tokenizer.get_vocab()
        self.special = {i: str(t) for i, t in self.tokenizer.added_tokens_decoder.items()}
        self.token_bytes = TokenBytes(self.tokenizer)
        self._control = ControlTokens(self.tokenizer)
        self._choose_template(directory)
        more = [vocabulary[t] for t in MORE_STOP_TOKENS if t in vocabulary]
        listed = eos_ids(directory, eos_token_id, self.tokenizer.eos_token_id, more, vocabulary=vocabulary)
        self.stop_ids = listed | self._end_of_turn()

    def _choose_template(self, directory: Path) -> None:
        """Take the first chat template that renders a bare conversation, none where the model has none. Raises
        ModelError."""
        try:
            templates = chat_templates(directory, self.tokenizer)
        except (OSError, RecursionError, ValueError) as e:
            raise ModelError(f"{directory}: the chat template cannot be read ({_one_line(e)}).") from None
        why = ""
        for template in templates:
            self.tokenizer.chat_template = template
            for roles in (["user"], ["system", "user"]):
                words = stand_ins(["x"] * len(roles))
                try:
                    rendered = self._render(_with([{"role": role} for role in roles], words.contents))
                except ModelError as e:
                    why = why or str(e)
                    continue
                if len(roles) - 1 not in words.left_out(rendered):
                    return
                why = why or "The model's chat template leaves out the user turn."
        self.tokenizer.chat_template = None
        if templates:
            raise ModelError(f"{directory}: {why}")

    def _end_of_turn(self) -> frozenset[int]:
        """The control token with which the chat template closes an answer, if there is one that can be told.

        It is the first after an answer, whether another turn follows or not: what differs there belongs to what
        follows. Nor is it one that turns begin with; some templates open the next turn without being asked to.
        """
        if not self.has_chat_template:
            return frozenset()
        user, answer, _ = contents = stand_ins(["x"] * 3).contents
        turns = _with([{"role": role} for role in ("user", "assistant", "user")], contents)
        try:
            whole, last = (self._render(turns[:n], prompt=False) for n in (3, 2))
            between, behind = (self._controls(text[text.rindex(answer) + 1 :]) for text in (whole, last))
            before = whole[: whole.index(user)].lstrip()
        except (ModelError, ValueError):  # it has no such conversations, or leaves out turns of them
            return frozenset()
        opening = {*takewhile(self._control.ids.__contains__, self._control.encode(before, [False] * len(before)))}
        opening |= set() if behind else {*self._controls(before)[-1:]}
        return frozenset(between[:1]) - opening if behind[:1] in ([], between[:1]) else frozenset()

    @property
    def openings(self) -> tuple[str, str]:
        """What the chat template writes behind the user's turn, where the answer goes on, without thinking and with:
        a thought that it begins there, for one. Empty without a template, and where that takes no such turn alone."""
        if not self.has_chat_template:
            return "", ""
        words = stand_ins(["x"]).contents
        turns = _with([{"role": "user"}], words)
        try:
            off, on = (self._render(turns, thinking=thinking).rpartition(words[0])[2] for thinking in (False, True))
        except ModelError:
            return "", ""
        return off, on

    def _controls(self, text: str) -> list[int]:
        """The control tokens of a text that a template wrote."""
        known = self._control.ids - {self.tokenizer.unk_token_id}
        return [i for i in self._control.encode(text, [False] * len(text)) if i in known]

    def vocabulary(self) -> dict[str, int]:
        """Every token with its id, control tokens included."""
        return dict(self.tokenizer.get_vocab())

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text. Names of control tokens in it stay text; lone surrogates become U+FFFD."""
        clean = whole_characters(text)
        return self._control.encode(clean, [True] * len(clean))

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text to go on from, as the tokenizer makes them: with what begins a text, and names of control
        tokens are control tokens."""
        opening, ids = self._opening(), self._control.encode(clean := whole_characters(text), [False] * len(clean))
        return ids if ids[: len(opening)] == opening else opening + ids

    @property
    def thinks(self) -> bool:
        """Has the chat template a switch for a thought before the answer?"""
        if not self.has_chat_template:
            return False
        bare = _with([{"role": "user"}], stand_ins(["x"]).contents)
        try:
            return self._render(bare) != self._render(bare, thinking=True)
        except ModelError:
            return False

    def encode_chat(self, messages: list[dict[str, str]], thinking: bool = False) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn; `thinking` where the template has that switch.

        `messages` are {"role", "content"}. The ids are those of the tokenizer's `apply_chat_template`, but that only
        the template's own text may become control tokens: their names in a content are encoded as plain text. A model
        without a template is a base model, which continues text: the contents, with an empty line between them.
        Raises ModelError if the template refuses the conversation or leaves a message of it out.
        """
        messages = [{**m, "content": whole_characters(m["content"])} for m in messages]
        if not self.has_chat_template:
            return self._opening() + self.encode("\n\n".join(m["content"] for m in messages))
        whole, written = self._render(messages, thinking=thinking), stand_ins([m["content"] for m in messages])
        rendered = self._render(_with(messages, written.contents), thinking=thinking)
        text, typed = written.text(rendered)
        if text != whole:  # the template acts upon what a content says
            rendered = self._render_typed(messages, written, thinking) or rendered
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

    def _render(self, messages: list[dict[str, str]], prompt: bool = True, thinking: bool = False) -> str:
        """What the chat template makes of a conversation; `prompt`: ready for the assistant's turn."""
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=prompt, **dict.fromkeys(SWITCHES, thinking)
                )
            )
        except Exception as e:  # it raises where it knows no system turn, for one; its expressions raise anything
            raise ModelError(f"The model's chat template cannot render this conversation ({_one_line(e)}).") from None

    def _render_typed(self, messages: list[dict[str, str]], written: StandIns, thinking: bool) -> str:
        """The rendering in stand-ins that act as what they stand for; empty where the template asks more of them."""
        variables = self.tokenizer.special_tokens_map | dict.fromkeys(SWITCHES, thinking)
        try:
            return written.render(self.tokenizer.get_chat_template(), messages, **variables)
        except Exception:  # of any kind, as above
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


def _with(messages: list[dict[str, str]], contents: list[str]) -> list[dict[str, str]]:
    return [{**m, "content": content} for m, content in zip(messages, contents, strict=True)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
