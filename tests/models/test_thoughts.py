"""Thoughts before an answer: which tokens are theirs, which prompts begin one, and the switch of chat templates."""

import pytest

from dspark_core.models.target import load_target
from dspark_core.models.text import Text
from dspark_core.models.text_process import ForeignText, TextProcess
from dspark_core.models.thoughts import Thought, ThoughtTags
from tests.models.build import QWEN, QWEN_TOKENS, talking_target, write_tokenizer

# The first letters of what each token is: answer, thought, opened, closed, name.
FOLLOWED = {
    "a thought": (None, ["<think>", "\n", "Hm", "</think>", "\n\n", "Blue"], "ottcaa"),
    "begun by the prompt": (Thought("<think>"), ["Hm", "</", "think", ">", "</think>", "Blue", "<think>"], "ttttcaa"),
    "begun, spelled": (Thought("<think>", True), ["Hm</", "think", ">\n", "Blue"], "ttca"),
    "spelled": (None, ["<", "think", ">Hm", " Ah", "</", "think", ">", "<", "think", ">"], "aaotttcaaa"),
    "tags in the answer": (None, ["Blue", "<think>", "Hm", "</think>"], "aaaa"),
    "a spelled end in a thought of tokens": (None, ["<think>", "</", "think", ">", "</think>", "x"], "otttca"),
    "no tag after all": (None, [" <", "html", ">", "<think>"], "aaaa"),
    "channels": (None, ["Hi", "<|channel>", "thought", "\n", "Hm", "<channel|>", "x", "<|channel>"], "aonntcao"),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_tokens_of_thoughts(case):
    begun, texts, wanted = FOLLOWED[case]
    tags = ThoughtTags(begun)
    assert "".join(tags.add(text)[0] for text in texts) == wanted


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_the_switch_by_either_of_its_names(name, tmp_path):
    """Templates that close an empty thought where it is off, or begin one where it is on, as Qwen3.5's do."""
    off = QWEN.replace("enable_thinking", name)
    on = off.replace("{% endif %}{% endif %}", "{% else %}<think>\n{% endif %}{% endif %}")
    for template, begun in ((off, None), (on, Thought("<think>"))):
        write_tokenizer(tmp_path, QWEN_TOKENS, template, eos_token="<|im_end|>")
        own, foreign = Text(tmp_path, None), ForeignText(TextProcess.shared(), tmp_path, None)
        assert own.thinks and foreign.thinks and own.openings == foreign.openings
        asked = [{"role": "user", "content": "Hi"}]
        assert own.tokenizer.decode(own.encode_chat(asked)).endswith("<think>\n\n</think>\n\n")
        thinking = own.encode_chat(asked, True)
        assert foreign.encode_chat(asked, True) == thinking
        assert own.tokenizer.decode(thinking).endswith("<think>\n" if begun else "assistant\n")
        assert [Thought.begun(o, own.special.values()) for o in own.openings] == [None, begun]
    write_tokenizer(tmp_path, QWEN_TOKENS, "{% for m in messages %}{{ m.content }}{% endfor %}", eos_token="<|im_end|>")
    assert not Text(tmp_path, None).thinks


def test_a_target_knows_the_thought_that_its_prompt_begins(tmp_path):
    path = talking_target(tmp_path)
    assert load_target(path).begun_thought(True) is None
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}<assistant><seed:think>")
    target = load_target(path)
    assert target.begun_thought(False) == Thought("<seed:think>", spelled=True) and not target.text.thinks
    with pytest.raises(ValueError, match="no such tag"):
        Thought("<b>")
