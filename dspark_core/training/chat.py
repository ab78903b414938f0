"""The target's tokenizer and the ids its chat template puts around turns."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from . import TrainingError

HOLES = ("\ue000one\ue001", "\ue000two\ue001", "\ue000three\ue001")  # private use: no template looks for them


@dataclass(frozen=True)
class Chat:
    """`start`: before the first user turn; `to_answer`: between a user turn and its answer; `to_user`: between an
    answer and the next user turn. The latter two begin with the token that ends a turn."""

    tokenizer: Tokenizer
    start: list[int]
    to_answer: list[int]
    to_user: list[int]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, text: str) -> list[int]:
        """Ids of a first user turn, ready for the answer."""
        return self.start + self.encode(text.strip()) + self.to_answer


def load_chat(directory: str | Path) -> Chat:
    """The chat of a model directory, thinking off. Raises TrainingError if it has no chat template."""
    from transformers import AutoTokenizer

    hf = AutoTokenizer.from_pretrained(directory)
    if not hf.chat_template:
        raise TrainingError(
            f"{directory} has no chat template: it is a base model, and drafters are trained on its own chats."
        )

    def render(messages: list[dict], answer: bool) -> str:
        return hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer, enable_thinking=False)

    one, two, three = HOLES
    user, answer, again = (
        {"role": "user", "content": one},
        {"role": "assistant", "content": two},
        {"role": "user", "content": three},
    )
    start, to_answer = render([user], True).split(one)
    try:
        to_user = render([user, answer, again], False).split(two)[1].split(three)[0]
    except (IndexError, ValueError) as e:
        raise TrainingError(f"{directory}: the chat template drops a turn of a conversation ({e}).") from None
    backend = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        return backend.encode(text, add_special_tokens=False).ids

    return Chat(backend, ids(start), ids(to_answer), ids(to_user))
