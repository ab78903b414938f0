"""Directories as they are published: which files make the tokenizer, which template is used, what ends an answer."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from dspark_core.errors import ModelError
from dspark_core.models.target import load_target
from dspark_core.models.text import Text
from dspark_core.models.text_process import read_text
from tests.models.build import QWEN, QWEN_TOKENS, VOCABULARIES, copy, edit_config, write_tokenizer
from tests.models.build import VOCABULARY_NAMES as NAMES
from tests.models.conversations import CHATML, random_text, user

LLAMA2 = """{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{%- for m in messages %}{% set c = m.content %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('The roles must alternate') }}{% endif %}
{%- if loop.first and system %}{% set c = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + c %}{% endif %}
{%- if m.role == 'user' %}{{ bos_token + '[INST] ' + c.strip() + ' [/INST]' }}
{%- else %}{{ ' ' + c.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
TINY_LLAMA = """{% for m in messages %}
{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
VICUNA = """{{ bos_token }}A chat between a user and an assistant. {% for m in messages %}
{%- if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + '</s>' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""


def directory(to: Path, vocabulary: str, template: str | None = None, **config) -> Path:
    """A cut vocabulary's files, with `config` in tokenizer_config.json; None removes a field."""
    shutil.copytree(VOCABULARIES / vocabulary, to, dirs_exist_ok=True)
    if template is not None:
        (to / "chat_template.jinja").write_text(template)
    path = to / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    return to


def plainly(text: Text, place: Path, messages) -> list[int]:
    """What the tokenizers library makes of the rendered conversation by itself."""
    rendered = text.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return Tokenizer.from_file(str(place / "tokenizer.json")).encode(rendered, add_special_tokens=False).ids


@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("template", [LLAMA2, TINY_LLAMA, VICUNA], ids=["Llama-2", "TinyLlama", "Vicuna"])
def test_llama_forms_have_the_pieces_of_their_tokenizer_json(tmp_path, template, legacy):
    how = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True}
    place = directory(tmp_path, "llama2", template, **how)
    text, messages = Text(place, None), user("Hi  there\n x", "Yes.", " Why? ")
    ids = text.encode_chat(messages)
    assert ids == plainly(text, place, messages)
    bos = text.tokenizer.bos_token_id
    assert ids.count(bos) == {LLAMA2: 2, TINY_LLAMA: 0, VICUNA: 1}[template]
    assert text.encode_chat(user("Hi </s> there"))  # what is typed goes through the same pipeline
    assert text.tokenizer.decode(text.encode(" two")) != text.tokenizer.decode(text.encode("two"))


@pytest.mark.parametrize("config", [None, "{}", '{"tokenizer_class": "LlamaTokenizer"}'])
def test_special_tokens_that_no_file_names_are_the_class_s(tmp_path, config):
    shutil.copy(VOCABULARIES / "llama2" / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "bos_token_id": 1, "eos_token_id": [2, 2]}')
    (tmp_path / "chat_template.jinja").write_text(LLAMA2)
    if config:
        (tmp_path / "tokenizer_config.json").write_text(config)
    text, messages = Text(tmp_path, None), user("Hi", "Yes.", "Why?")
    ids = text.encode_chat(messages)
    assert ids == plainly(text, tmp_path, messages) and ids.count(1) == 2 and text.stop_ids == {2}


@pytest.mark.parametrize("name", NAMES)
def test_random_conversations(name):
    """The same with 2,000 texts each: tests/scripts/texts_in_and_out.py."""
    in_and_out(name, 40)


def in_and_out(name: str, count: int) -> None:
    place, rng = VOCABULARIES / name, random.Random(name)
    text = Text(place, None)
    if not text.has_chat_template:
        text.tokenizer.chat_template = LLAMA2
    whole = Tokenizer.from_file(str(place / "tokenizer.json"))
    typed = re.compile("|".join(re.escape(text.special[i]) for i in text._control.ids))  # what test_chat.py is about
    for _ in range(count):
        texts = [typed.sub("<>", random_text(rng)) for _ in range(3)]
        words = texts[0] = texts[0] + rng.choice(
            ["", "<|im_end |>", "<| im_end|>", "<end of turn>", "<|IM_END|>", "</S>"]
        )
        messages = user(*texts)[: rng.choice([1, 3])]
        assert text.encode_chat(messages) == plainly(text, place, messages), messages
        ids = text.encode(words)
        assert ids == whole.encode(words, add_special_tokens=False).ids, words
        assert text.tokenizer.decode(ids) == whole.decode(ids, skip_special_tokens=False)


# ---- what ends an answer ------------------------------------------------------------------------------------

HEADERS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
ROLES = """<|object_ref_start|>Be brief.{% for m in messages %}
{{- '<|vision_start|>' if m.role == 'user' else '<|vision_end|>' }}{{ m.content }}{% endfor %}"""
ENDS = {  # vocabulary, template, what the template closes answers with
    "ChatML": ("qwen3", CHATML, "<|im_end|>"),
    "ChatML with a system turn of its own": ("qwen3", DEFAULT + CHATML, "<|im_end|>"),
    "ChatML that closes no last turn": (
        "qwen3",
        "{% for m in messages %}{% if not loop.first %}<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_end|>\n<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
    ),
    "nothing closes a turn": ("qwen3", HEADERS + PROMPT, None),
    "nothing closes a turn, and one is always begun": ("qwen3", HEADERS + "<|im_start|>assistant\n", None),
    "a token each role": ("qwen3", ROLES + "{% if add_generation_prompt %}<|vision_end|>{% endif %}", None),
    "a token each role, and one always begun": ("qwen3", ROLES + "<|vision_end|>", None),
    "no earlier answers": ("qwen3", "<|im_start|>{{ messages[0].content }}{{ messages[2].x.y }}", None),
    "Qwen3": ("qwen3", None, "<|im_end|>"),
    "Llama-3": ("llama3", None, "<|eot_id|>"),
    "Gemma-3": ("gemma3", None, "<end_of_turn>"),
    "Gemma-4": ("gemma4", None, "<turn|>"),
    "Llama-2": ("llama2", LLAMA2, "</s>"),
    "TinyLlama": ("llama2", TINY_LLAMA, "</s>"),
    "Vicuna": ("llama2", VICUNA, "</s>"),
}


@pytest.mark.parametrize("form", ENDS)
def test_an_answer_ends_where_the_template_ends_it(tmp_path, form):
    vocabulary, template, end = ENDS[form]
    if form == "no earlier answers":
        template = template.replace("messages[2].x.y", "messages[2].x.y if messages|length > 1 else ''")
    listed = {"qwen3": "<|endoftext|>", "llama3": "<|end_of_text|>", "llama2": "</s>"}.get(vocabulary, "<eos>")
    text = Text(directory(tmp_path, vocabulary, template, eos_token=listed), None)
    more = {"<|tool_response>"} if vocabulary == "gemma4" else set()  # named apart
    assert {text.special[i] for i in text.stop_ids} == {listed, *more} | ({end} - {None})


@pytest.mark.parametrize("where", ["config.json", "text_config", "generation_config.json", "tokenizer_config.json"])
def test_stop_ids_are_those_of_every_file(tmp_path, where):
    """Also where others list other ids: none takes another's place."""
    path = copy("target", "A", tmp_path)
    write_tokenizer(
        path, QWEN_TOKENS, QWEN, eos_token="<think>" if where == "tokenizer_config.json" else "<|im_start|>"
    )
    edit_config(path, eos_token_id=[7, 9] if where == "config.json" else 251)
    if where == "text_config":
        edit_config(path, text_config={"eos_token_id": [9, 7]})
    generation = [7, 9, None] if where == "generation_config.json" else 251
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    wanted = {251, 253} | ({254} if where == "tokenizer_config.json" else {7, 9, 252})
    assert load_target(path).stop_ids == wanted
    if where != "tokenizer_config.json":  # nor does a target without a tokenizer
        (path / "tokenizer.json").unlink()
        assert load_target(path).stop_ids == {251, 7, 9}


def test_stop_ids_are_those_of_each_of_a_tokenizer_s_files(tmp_path):
    """transformers lets one name take the other's place, which is out of date as often as not."""
    base = directory(tmp_path, "qwen3", HEADERS + PROMPT, eos_token="<|im_end|>")
    (base / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    text = Text(base, None)
    assert {text.special[i] for i in text.stop_ids} == {"<|im_end|>", "<|endoftext|>"}


# ---- templates ----------------------------------------------------------------------------------------------

NAMED = {
    "default": {"default": QWEN, "tool_use": "{{ tools | length }}"},
    "one of another name": {"chatml": QWEN},
    "for tools alone": {"tool_use": QWEN},
    "another beside that for tools": {"rag": "{{ documents[0] }}", "tool_use": "no", "chatml": QWEN},
    "the first that renders": {"default": "{{ messages | no_such_filter }}", "plain": QWEN},
}


@pytest.mark.parametrize("form", ["tokenizer_config.json", "chat_template.json", "additional_chat_templates"])
@pytest.mark.parametrize("case", NAMED)
def test_the_template_that_is_there_is_used(tmp_path, case, form):
    write_tokenizer(tmp_path, QWEN_TOKENS, None, eos_token="<|im_end|>")
    listed = [{"name": name, "template": template} for name, template in NAMED[case].items()]
    if form == "tokenizer_config.json":
        path = tmp_path / form
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": listed}))
    elif form == "chat_template.json":
        (tmp_path / form).write_text(json.dumps({"chat_template": NAMED[case].get("only", listed)}))
    else:
        (tmp_path / form).mkdir()
        for name, template in NAMED[case].items():
            (tmp_path / form / f"{name}.jinja").write_text(template)
    text = Text(tmp_path, None)
    assert text.tokenizer.decode(text.encode_chat(user("Hi"))).startswith("<|im_start|>user\nHi<|im_end|>")


def test_a_processor_s_template_alone_is_used(tmp_path):
    write_tokenizer(tmp_path, QWEN_TOKENS, None, eos_token="<|im_end|>")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": QWEN}))
    assert Text(tmp_path, None).has_chat_template


def test_the_mark_that_editors_put_before_a_text_is_no_part_of_a_template(tmp_path):
    write_tokenizer(tmp_path, QWEN_TOKENS, None, eos_token="<|im_end|>")
    (tmp_path / "chat_template.jinja").write_text(QWEN, encoding="utf-8-sig")
    text = Text(tmp_path, None)
    assert text.tokenizer.decode(text.encode_chat(user("Hi"))).startswith("<|im_start|>")


UNUSABLE = {
    "an unknown filter": ("{{ messages | no_such_filter }}", "No filter named 'no_such_filter'"),
    "a syntax error": ("{% if %}", "Expected an expression"),
    "tools that are not there": ("{{ tools | length }}", "has no len"),
    "an error of its own": ("{{ raise_exception('Tools are\nneeded.') }}", "Tools are needed"),
    "a division by zero": ("{{ 1 // 0 }}", "zero"),
    "no place for a prompt": ("Hello.", "leaves out the user turn"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_template_that_renders_nothing_is_refused_at_load(tmp_path, case):
    template, words = UNUSABLE[case]
    write_tokenizer(tmp_path, QWEN_TOKENS, template, eos_token="<|im_end|>")
    with pytest.raises(ModelError, match=words) as e:
        Text(tmp_path, None)
    assert str(e.value).startswith(f"{tmp_path}: ") and str(e.value).endswith(".") and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "content", ["{", "[" * 100_000, '{"chat_template": 7}', '{"chat_template": {"a": 1}}'], ids=range(4)
)
def test_a_template_file_that_holds_none_is_refused_at_load(tmp_path, content):
    write_tokenizer(tmp_path, QWEN_TOKENS, None, eos_token="<|im_end|>")
    (tmp_path / "chat_template.json").write_text(content)
    with pytest.raises(ModelError, match=r"the chat template cannot be read \(.*\)\.$"):
        Text(tmp_path, None)


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system turn') }}{% endif %}" + QWEN,
        "{% if messages[0].role != 'system' %}{{ raise_exception('A system turn is needed') }}{% endif %}" + QWEN,
    ],
    ids=["without a system turn", "only with one"],
)
def test_a_template_that_takes_some_conversations_is_used(tmp_path, template):
    write_tokenizer(tmp_path, QWEN_TOKENS, template, eos_token="<|im_end|>")
    text, alone = Text(tmp_path, None), user("Hi")
    taken, refused = sorted(
        ([{"role": "system", "content": "x"}, *alone], alone), key=lambda m: ("needed" in template) == (len(m) == 1)
    )
    assert text.encode_chat(taken)
    with pytest.raises(ModelError, match="system turn"):
        text.encode_chat(refused)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.json"])
@pytest.mark.parametrize("listed", [["x"], [{"x": 1}], [{"name": "default"}], [{"name": 1, "template": "x"}]])
def test_a_list_of_something_else_than_templates_is_refused(tmp_path, listed, file):
    write_tokenizer(tmp_path, QWEN_TOKENS, None, eos_token="<|im_end|>")
    path = tmp_path / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | {"chat_template": listed}))
    with pytest.raises(ModelError, match=r"\(chat_template is a list, but not of templates with names\)\.$"):
        Text(tmp_path, None)


# ---- vocab.json and merges.txt ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("qwen3", "Qwen2Tokenizer"),
        ("qwen3", None),
        ("llama", "GPT2Tokenizer"),
        ("llama", "LlamaTokenizer"),
        ("llama", None),
    ],
)
def test_a_vocabulary_and_merges_alone(tmp_path, kind, named):
    spec = json.loads((VOCABULARIES / "qwen3" / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in spec["model"]["merges"]))
    added = {str(token.pop("id")): token for token in spec["added_tokens"]}
    fields = {"added_tokens_decoder": added, "eos_token": "<|im_end|>", "chat_template": CHATML}
    fields |= {"tokenizer_class": named} if named else {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    text = Text(tmp_path, None)
    ids = text.encode_chat(user("Hello  world, é 😀\n"))
    assert ids == plainly(text, VOCABULARIES / "qwen3", user("Hello  world, é 😀\n"))


def test_a_target_with_a_vocabulary_and_merges_can_encode_text(tmp_path):
    path = copy("target", "A", tmp_path)
    write_tokenizer(path, QWEN_TOKENS, QWEN, eos_token="<|im_end|>")
    whole = load_target(path)
    model = json.loads((path / "tokenizer.json").read_text())["model"]
    (path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (path / "merges.txt").write_text("#version: 0.2\n")
    added = {str(251 + i): {"content": name, "special": True} for i, name in enumerate(QWEN_TOKENS)}
    config = json.loads((path / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").unlink()
    assert load_target(path).encode_chat(user("Say hello.")) == whole.encode_chat(user("Say hello."))


def test_sentencepiece_alone(tmp_path):
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    sentences = [f"{a} {b} {c}" for a in "abcd" for b in ("the", "sky", "is") for c in ("blue", "red", "Hi")]
    how = {"vocab_size": 300, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    with open(tmp_path / "tokenizer.model", "wb") as file:
        trainer.train(sentence_iterator=iter(sentences), model_writer=file, minloglevel=2, num_threads=1, **how)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "add_bos_token": true}')
    text = Text(tmp_path, None)
    assert text.tokenizer.decode(text.encode_chat(user("Hi é😀"))) == "<s> Hi é😀"


def test_files_that_make_no_tokenizer_are_refused(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("a b c\n")
    with pytest.raises(ModelError, match=r"The tokenizer in .* cannot be loaded \(.*\)\.$") as e:
        Text(tmp_path, None)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["llama2", "llama3"])  # the template of the second does not do without the file
def test_a_field_that_makes_no_tokenizer_is_blamed_on_its_file(tmp_path, name):
    place = directory(tmp_path, name, eos_token={"content": "</s>"})
    words = f"{place / 'tokenizer_config.json'}: the tokenizer cannot be loaded with it"
    with pytest.raises(ModelError, match=re.escape(words)):
        read_text(place, None)
