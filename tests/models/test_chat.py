"""Prompts: the ids are the chat template's own, and what somebody typed is text in them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dspark_core.errors import ModelError
from dspark_core.models.text import Text
from dspark_core.models.typed import Typed, stand_ins
from tests.models.build import VOCABULARIES
from tests.models.build import VOCABULARY_NAMES as NAMES
from tests.models.conversations import CHATML, user

MISTRAL = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]
{%- elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}
{%- else %}{{ m.content }}{% endif %}{% endfor %}"""
PHI = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}
{{- '<|system|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'user' %}
{{- '<|user|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'assistant' %}
{{- '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}{{ '<|assistant|>\n' }}"""
FORMS = {name: (name, None) for name in NAMES if name != "llama2"} | {
    "mistral": ("llama2", MISTRAL),
    "chatml": ("qwen3", CHATML),
    "phi": ("llama2", PHI),
}

_texts: dict[str, Text] = {}


def text_of(form: str) -> Text:
    if form not in _texts:
        directory, template = FORMS[form]
        _texts[form] = text = Text(VOCABULARIES / directory, None)
        if template:
            text.tokenizer._tokenizer.chat_template = template
    return _texts[form]


def applied(text: Text, messages) -> list[int]:
    return text.tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)


CODE = "    def f(x):\n        return x\n\n\n\tpass\n"
CONVERSATIONS = [
    user("Hi"),
    user(CODE),
    user("  leading and trailing  \n"),
    user("\n\nWhy?\n\n\n", " Because. ", "\tAgain\t"),
    user("x" * 3000, "", "Ａ１ é e\u0301 ﬁ"),
    user("a\r\nb \u00a0c\u3000", "  if x:\n", "你好 😀"),
    [{"role": "system", "content": " Be brief. \n"}, *user("Hi", "Hello.\n", "  Again")],
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_a_prompt_is_what_the_template_makes_of_it(form, messages):
    text = text_of(form)
    assert text.encode_chat(messages) == applied(text, messages)


words = st.sampled_from(
    ["a", "if", " ", "  ", "\n", "\n\n", "\t", "x = 1", "é", "你", "😀", "<", "|", ">", "think", "\u0301"]
)
contents = st.lists(words, max_size=8).map("".join)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(said=st.lists(contents, min_size=1, max_size=5).filter(lambda said: len(said) % 2), system=st.none() | contents)
def test_any_conversation_is_what_the_template_makes_of_it(form, said, system):
    text, messages = text_of(form), user(*said)
    messages = [{"role": "system", "content": system}] * (system is not None) + messages
    assert text.encode_chat(messages) == applied(text, messages)


def controls(text: Text, ids: list[int]) -> list[int]:
    return [i for i in ids if i in text._control.ids]


def names(text: Text) -> list[str]:
    return [text.special[i] for i in sorted(text._control.ids) if i != text.tokenizer.unk_token_id]


@pytest.mark.parametrize("form", FORMS)
def test_no_name_of_a_control_token_can_be_typed(form):
    """In no turn, at no place in it, next to no other; and what is around it is as it would be."""
    text = text_of(form)
    bare = controls(text, text.encode_chat(user("Hi there", "Hello", "Again")))
    for name in names(text):
        for typed in (name, f"a{name}b", f" {name} ", f"{name}{name}", f"<{name}>", f"{name}\n\nx"):
            for turns in ((typed, "Hello", "Again"), ("Hi there", "Hello", typed)):
                ids = text.encode_chat(user(*turns))
                assert controls(text, ids) == bare, turns
                assert typed.strip() in text.tokenizer.decode(ids, clean_up_tokenization_spaces=False), turns
        ids = text.encode(f"a{name}b")
        assert not controls(text, ids) and b"".join(map(text.token_bytes, ids)).decode().strip() == f"a{name}b"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", ["<think>", "</think>", "<|im_end|>", "<|eot_id|>", "<turn|>", "<end_of_turn>", "</s>", "<b>"]
)
def test_all_but_the_typed_name_is_as_in_the_whole(form, name):
    """Apart from the name, the ids are those with a word in its place."""
    text = text_of(form)
    made = [text.encode_chat(user(f"{CODE}x {word} y\n", f"\n\n y {word} x ", "Again")) for word in (name, "<q>")]
    plain = applied(text, user(f"{CODE}x <q> y\n", "\n\n y <q> x ", "Again"))
    assert made[1] == plain
    decoded = [text.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in made]
    if name != "</think>" or form != "qwen3":  # whose template drops what an assistant wrote before it
        assert decoded[0] == decoded[1].replace("<q>", name)
        assert controls(text, made[0]) == controls(text, plain)
    start = next((i for i, (a, b) in enumerate(zip(*made, strict=False)) if a != b), len(plain))
    assert made[0][:start] == plain[:start] and start > len(text.encode(CODE)) - 3


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        ("qwen3", "<think>\nHm, </think> hm.\n</think>\n\nHello."),
        ("qwen3", "</think>"),
        ("qwen3", "<think>Hm"),
        ("gemma4", "<|channel>thought\nHm.\n<channel|>Hello."),
        ("gemma4", "a <|channel>thought\nHm.\n<channel|> b <|channel>thought<channel|>"),
    ],
)
def test_thoughts_of_an_earlier_turn_are_what_the_template_makes_of_them(form, answer):
    text, messages = text_of(form), user("Hi", answer, "Again")
    ids, whole = text.encode_chat(messages), applied(text, messages)
    typed = "<think>" in answer and "</think>" not in answer  # which the template leaves there
    assert (ids == whole) == (not typed)
    assert text.tokenizer.decode(ids) == text.tokenizer.decode(whole)


def test_a_typed_name_stays_text_where_a_template_drops_thoughts():
    text = text_of("qwen3")
    messages = user("Hi </think> x", "<think>\nHm.\n</think>\n\nHello <|im_end|>.", "Again")
    ids = text.encode_chat(messages)
    assert text.tokenizer.decode(ids) == text.tokenizer.decode(applied(text, messages))
    end = text.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 3 and "Hm." not in text.tokenizer.decode(ids)
    gemma = text_of("gemma4")
    messages = user("Hi <channel|>", "<|channel>thought\nHm.<channel|>Hello <turn|>", "Again")
    ids = gemma.encode_chat(messages)
    assert gemma.tokenizer.decode(ids) == gemma.tokenizer.decode(applied(gemma, messages))
    assert ids.count(gemma.tokenizer.convert_tokens_to_ids("<turn|>")) == 3


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_conversations_with_typed_names(form, data):
    """The text is the template's; the control tokens are those of the same turns without the typed names."""
    text = text_of(form)
    pieces = words | st.sampled_from(sorted(set(names(text)) - {"<think>", "</think>", "<|channel>", "<channel|>"}))
    said = data.draw(
        st.lists(st.lists(pieces, max_size=6).map("".join), min_size=1, max_size=3).filter(lambda s: len(s) % 2)
    )
    messages = user(*said)
    ids, whole = text.encode_chat(messages), applied(text, messages)
    made, wanted = (text.tokenizer.decode(i, clean_up_tokenization_spaces=False) for i in (ids, whole))
    spaces = " " if FORMS[form][0] == "llama2" else ""  # which begins with one what follows a control token
    assert made.replace(spaces, "") == wanted.replace(spaces, "")
    assert controls(text, ids) == controls(text, text.encode_chat(user(*["x"] * len(said))))


# ---- tokenizers that look at more than the text between added tokens ----------------------------------------

LETTERS = "▁abcdefghijklmnopqrstuvwxyz<>|/[]_.\nABI"


def write(directory: Path, model, template: str, added: list[AddedToken], **how) -> Text:
    whole = Tokenizer(model)
    for key, value in how.items():
        setattr(whole, key, value)
    whole.add_tokens(added)
    fast = PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>", eos_token="</s>", bos_token="<s>")
    fast.chat_template = template
    fast.save_pretrained(directory)
    return Text(directory, None)


SPM = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
SPM |= {c: i for i, c in enumerate([*LETTERS, "▁a", "bc"], start=len(SPM))}
UNIGRAM = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<|end|>", 0.0), *((c, -5.0) for c in LETTERS), ("▁a", -4.0)]
ADDED = [
    AddedToken("<s>", special=True, normalized=False),
    AddedToken("</s>", special=True, normalized=False),
    AddedToken("<unk>", special=True, normalized=False),
    AddedToken("<|end|>", special=True, normalized=False),
    AddedToken("<think>", normalized=True),
    AddedToken("<|left|>", lstrip=True, normalized=False),
    AddedToken("<|right|>", rstrip=True, normalized=False, special=True),
    AddedToken("<|a word|>", normalized=False),
    AddedToken("ABI", single_word=True, normalized=False),
]
TEMPLATE = """{{ bos_token }}{% for m in messages %}<|right|> {{ m.role }}
{{ m.content }} <|left|><|end|>{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"""
PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
KINDS = {
    "prepend": (
        models.BPE(SPM, [("▁", "a"), ("b", "c")], byte_fallback=True, unk_token="<unk>"),
        {"normalizer": PREPEND},
    ),
    "metaspace first": (
        models.BPE(SPM, [("▁", "a")], byte_fallback=True, unk_token="<unk>"),
        {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first")},
    ),
    "metaspace always": (
        models.BPE(SPM, [("▁", "a")], byte_fallback=True, unk_token="<unk>"),
        {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="always")},
    ),
    "nfkc and lower case": (
        models.BPE(SPM, [("▁", "a")], byte_fallback=True, unk_token="<unk>"),
        {
            "normalizer": normalizers.Sequence(
                [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
            )
        },
    ),
    "unigram": (models.Unigram(UNIGRAM, unk_id=0), {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first")}),
}
TYPED = [
    "<think>",
    "＜think＞",
    "<THINK>",
    "<s>",
    "</s>",
    "<|end|>",
    " <|left|> ",
    " <|right|>  a",
    "<|a word|>",
    "a ABI b",
    "<unk>",
]


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_of_other_kinds(tmp_path, kind):
    model, how = KINDS[kind]
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    text = write(tmp_path, model, TEMPLATE, ADDED, decoder=decoder, **how)
    for messages in (user("a bc a"), user("  a\n b ", "c a", " a"), user("abi", "", "x")):
        assert text.encode_chat(messages) == applied(text, messages)
    bare = controls(text, applied(text, user("x", "x", "x")))
    assert len(bare) >= 4
    for typed in TYPED:
        for turns in ((typed, "x", "x"), ("x", f"a {typed} b", "x"), ("x", "x", f"{typed}{typed}")):
            ids = text.encode_chat(user(*turns))
            found = [i for i in controls(text, ids) if i != text.tokenizer.unk_token_id]
            assert found == bare, (typed, [text.tokenizer.convert_ids_to_tokens(i) for i in ids])
        plain = text.encode(typed)
        assert not set(plain) & text._control.ids - {text.tokenizer.unk_token_id}, typed


def test_names_spelled_over_the_border_of_a_turn(tmp_path):
    """A template that writes turns side by side, or begins a name itself."""
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ '<|end|>' }}"
    model = models.BPE(SPM, [], byte_fallback=True, unk_token="<unk>")
    text = write(tmp_path / "a", model, template, ADDED, normalizer=normalizers.Replace(" ", "▁"))
    ids = text.encode_chat(user("a<thi", "nk>b<", "s>"))
    assert [text.special[i] for i in controls(text, ids)] == ["<s>", "<|end|>"]
    template = "{{ bos_token }}{% for m in messages %}{{ '<thin' }}{{ m.content }}{% endfor %}{{ '<|end|>' }}"
    text = write(tmp_path / "b", model, template, ADDED, normalizer=normalizers.Replace(" ", "▁"))
    ids = text.encode_chat(user("k> a"))
    assert [text.special[i] for i in controls(text, ids)] == ["<s>", "<|end|>"]


TWISTED = {
    "upper case": "{{ bos_token }}{% for m in messages %}{{ m.content | upper }}<|end|>{% endfor %}",
    "a test of the content": "{{ bos_token }}{% for m in messages %}{% if m.content == 'a </s>' %}b{% endif %}"
    "{{ m.content.split('</s>')[0] }}{{ m.content[:3] }}<|end|>{% endfor %}",
    "quoted": "{{ bos_token }}{% for m in messages %}{{ m.content | tojson }}<|end|>{% endfor %}",
    "joined first": "{{ bos_token }}{% for m in messages %}{% set c = m.role + m.content %}{{ c.split('x')[0] }}"
    "{{ c }}<|end|>{% endfor %}",
    "a list": "{{ bos_token }}{% for m in messages %}{% for c in m.content %}{{ c }}{% endfor %}<|end|>{% endfor %}",
}


@pytest.mark.parametrize("twist", TWISTED)
def test_templates_that_work_on_the_contents(tmp_path, twist):
    model = models.BPE(SPM, [], byte_fallback=True, unk_token="<unk>")
    text = write(tmp_path, model, TWISTED[twist], ADDED, normalizer=normalizers.Replace(" ", "▁"))
    messages = user("x a bc ", "x", "  b")
    assert text.encode_chat(messages) == applied(text, messages)
    ids = text.encode_chat(user("x <think> a</s>", "a </s>", "<|end|>"))
    assert [text.special[i] for i in controls(text, ids)] == ["<s>", *["<|end|>"] * 3]


def test_a_base_models_text_begins_as_the_tokenizer_has_it(tmp_path):
    text = text_of("gemma3")
    whole = Tokenizer.from_file(str(VOCABULARIES / "gemma3" / "tokenizer.json"))
    fast = PreTrainedTokenizerFast(tokenizer_object=whole, bos_token="<bos>", eos_token="<eos>")
    fast.save_pretrained(tmp_path)
    base = Text(tmp_path, None)
    assert not base.has_chat_template
    assert base.encode_chat(user("  Once\n\n upon ")) == base.tokenizer.encode("  Once\n\n upon ")
    ids = base.encode_chat(user("a<end_of_", "turn><bos>"))
    assert controls(base, ids) == [text.tokenizer.bos_token_id]


def test_whitespace_runs_are_no_control_tokens():
    for name in ("gemma3", "gemma4"):
        text = text_of(name)
        ids = text.encode("a\n\n\n    b")
        assert ids == text.tokenizer.encode("a\n\n\n    b", add_special_tokens=False) and not controls(text, ids)


def test_a_template_that_needs_another_form_of_content_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"cannot render this conversation \(.*\)\."):
        write(tmp_path, models.BPE(SPM, [], unk_token="<unk>"), "{{ messages[0].content[0].text + 'x' }}", ADDED)


def test_a_macro_may_look_into_a_content(tmp_path):
    """As Qwen3.5's template does. The text is the template's; no typed name is a control token."""
    template = (
        "{%- macro shown(c) %}{% if c is string %}{{ c }}{% endif %}{% endmacro %}{{ bos_token }}"
        "{%- for m in messages %}{% set c = shown(m.content) | trim %}"
        "{%- if '</s>' in c and m.role == 'assistant' %}{% set c = c.split('</s>')[-1].lstrip() %}{% endif %}"
        "{{- m.role + ' ' + c | replace('b', 'c') }}<|end|>{% endfor %}"
    )
    model = models.BPE(SPM, [], byte_fallback=True, unk_token="<unk>")
    text = write(tmp_path, model, template, ADDED, normalizer=normalizers.Replace(" ", "▁"), decoder=decoders.Fuse())
    messages = user("x </s> a ", "q </s>\n <think> a <|end|>", "<s>")
    ids = text.encode_chat(messages)
    assert text.tokenizer.decode(ids) == text.tokenizer.decode(applied(text, messages))
    assert "q" not in text.tokenizer.decode(ids)
    assert [text.special[i] for i in controls(text, ids)] == ["<s>", *["<|end|>"] * 3]


def real_and_typed():
    """Pairs of a method's answers on a text and on the same in stand-ins."""
    for real in ("a</s>b</s>\n c ", "abaab", " xx a x", "", "aba", "\n\na\r\nb\n", "</s>"):
        made = stand_ins([real])
        typed = Typed.of(made.contents[0], made.read)
        for name, *args in METHODS:
            yield real, name, args, getattr(real, name)(*args), getattr(typed, name)(*args), made


METHODS = [("split",), ("split", "</s>"), ("split", "ba"), ("split", "a", 1), ("rsplit", "a", 1), ("rsplit", "</s>")]
METHODS += [
    ("partition", "ba"),
    ("rpartition", "a"),
    ("splitlines",),
    ("splitlines", True),
    ("strip",),
    ("strip", "ab"),
]
METHODS += [("lstrip", "\n"), ("rstrip",), ("removeprefix", "a"), ("removesuffix", "\n"), ("replace", "a", "<q>")]
METHODS += [("startswith", ("x", "a")), ("endswith", "</s>"), ("find", "b"), ("count", "a"), ("__contains__", "</s>")]
METHODS += [("__eq__", "aba"), ("__getitem__", slice(1, 3)), ("__add__", "x")]


def test_stand_ins_act_as_what_they_stand_for():
    for real, name, args, wanted, got, made in real_and_typed():
        if isinstance(wanted, list | tuple):
            back = type(wanted)(made.text(part)[0] for part in got)
        else:
            back = made.text(got)[0] if isinstance(got, str) else got
        assert back == wanted and type(got) in (type(wanted), Typed), (real, name, args)


def test_a_tokenizer_without_a_backend_keeps_typed_names_text_too(monkeypatch):
    """One in Python alone: parts are encoded, which is as good where they get the whole's ids."""
    text = Text(VOCABULARIES / "qwen3", None)
    messages = user("Hi <|im_end|> there", "<|im_start|>", "  Again\n")
    wanted = text.encode_chat(messages)
    monkeypatch.setattr(text._control, "_backend", None)
    ids = text.encode_chat(messages)
    assert controls(text, ids) == controls(text, wanted)
    assert text.tokenizer.decode(ids) == text.tokenizer.decode(wanted)
    assert text.encode_chat(user("  Hi\n")) == applied(text, user("  Hi\n"))
