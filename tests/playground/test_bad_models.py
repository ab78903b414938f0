"""Model directories that are broken, foreign or hostile: one clear sentence, and the previous model stays and races."""

import json
import pickle

import pytest

from dspark_core.catalog import facts
from dspark_core.errors import ModelError
from dspark_core.machine import mlx_device
from dspark_core.playground.engine import Choice, PresetEngine

from ..models.build import GOLDEN, QWEN, copy, edit_config, refusal, talking_target
from .golden_choices import choice, races


@pytest.fixture(scope="module")
def engine():
    engine = PresetEngine.__new__(PresetEngine)  # without a first preset
    engine.machine = mlx_device()
    engine._clear()
    engine.load(choice("A"))
    return engine


def huge_config(directory):
    with open(directory / "config.json", "r+b") as f:
        f.truncate(100_000_000)


def pickles_only(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def a_pickle_in_disguise(directory):
    (directory / "model.safetensors").write_bytes(pickle.dumps({"weights": list(range(1000))}))


def an_index_that_leads_out(directory):
    (directory / facts.INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "../../secret.safetensors"}}))


FAULTS = {
    huge_config: "config.json is larger than 10 MB, which no model configuration is.",
    pickles_only: "holds no model*.safetensors file, and pytorch_model.bin is of a format that is not loaded.",
    a_pickle_in_disguise: "is not a whole safetensors file",
    an_index_that_leads_out: "is not a file of its own directory",
}


@pytest.mark.parametrize("kind", ["target", "drafter"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_what_cannot_be_loaded_leaves_the_previous_model(engine, tmp_path, fault, kind):
    directory = copy(kind, "A", tmp_path)
    fault(directory)
    wrong = choice("A", **({"target": directory} if kind == "target" else {"drafters": {"dspark": directory}}))
    refused(engine, wrong, FAULTS[fault])


# By golden set of a drafter: what is changed at the top of its config.json, and how it is refused.
NAMED = {
    "JetSpec": ("D", {"jetspec_config": {"block_size": 8, "causal_head": True}}, "jetspec_config: JetSpec drafters"),
    "attention sinks": ("A", {"attention_sink_bias": True}, "attention sinks, as Nemotron's"),
    "xPress": ("A", {"speculators_model_type": "xpress"}, "xPress drafters are not supported"),
    "LiLiCorr": ("D", {"projector_type": "lilicorr"}, "LiLiCorr drafters are not supported"),
    "Eagle3": ("A", {"architectures": ["LlamaForCausalLMEagle3"]}, "Eagle3 drafters are not supported"),
    "Eagle3 of speculators": ("A", {"speculators_model_type": "eagle3"}, "Eagle3 drafters are not supported"),
    "DeepSeek-V4": ("A", {"model_type": "deepseek_v4", "dspark_stages": 3}, "DeepSeek-V4's heads"),
    "Domino": ("D", {"projector_type": "domino"}, "Domino drafters are not supported"),
    "an unknown projector": ("D", {"projector_type": "mixer"}, "projector_type 'mixer' may change"),
    "interleaved rope": ("A", {"rope_is_neox_style": False}, "rope_is_neox_style False may change"),
}


@pytest.mark.parametrize("name", NAMED)
def test_methods_that_are_not_supported_are_refused_by_name(engine, tmp_path, name):
    which, changes, words = NAMED[name]
    directory = copy("drafter", which, tmp_path)
    edit_config(directory, **changes)
    refused(engine, choice("A", drafters={"dspark": directory}), words)
    sort = facts.sort_of(facts.Facts.read(directory))
    assert sort.kind == facts.OTHER and words in sort.words  # nor is it taken for a target


def test_a_gguf_drafter(engine, tmp_path):
    (tmp_path / "drafter-Q4_K_M.gguf").write_bytes(b"GGUF")
    refused(engine, choice("A", drafters={"dspark": tmp_path}), "GGUF files are not loaded")


def refused(engine, wrong: Choice, words: str) -> None:
    before = engine.models.target
    with pytest.raises(ModelError) as e:
        engine.load(wrong)
    message = str(e.value)
    assert words in message and message.endswith(" A stays loaded.") and "\n" not in message, message
    assert engine.models.target is before
    assert races(engine)


def test_a_drafter_for_another_target(engine):
    refused(engine, choice("A", drafters={"dspark": GOLDEN / "E" / "drafter"}), "the drafter's hidden_size is 48, that")
    refused(engine, choice("A", drafters={"dspark": GOLDEN / "A" / "target"}), "architecture 'Qwen3ForCausalLM'")


def test_code_that_comes_with_a_model_is_never_run(engine, tmp_path):
    """Loading ignores auto_map and the files it names, as z-lab's repositories have them; a model that cannot do
    without its code is refused."""
    ran = tmp_path / "ran"
    for kind in ("target", "drafter"):
        directory = copy(kind, "D", tmp_path)
        edit_config(
            directory, auto_map={"AutoModel": "dflash.Evil", "AutoConfig": "dflash.Evil"}, trust_remote_code=True
        )
        for name in ("dflash.py", "__init__.py", "modeling.py"):
            (directory / name).write_text(f"open({str(ran)!r}, 'w')")
    safe = choice("D", target=tmp_path / "target", drafters={"dflash": tmp_path / "drafter"})
    assert engine.load(safe).changed and races(engine)
    engine.load(choice("A"))
    edit_config(tmp_path / "target", model_file="modeling.py")
    refused(engine, safe, "asks to run code from 'modeling.py'; code of a model is never run.")
    assert not ran.exists()


def a_token_that_no_row_stands_for(tokenizer):
    token = {"content": "<far>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["model"]["vocab"]["<far>"] = 100_000_000
    tokenizer["added_tokens"].append({"id": 100_000_000, "special": True, **token})


def a_normalizer_that_leaves_nothing(tokenizer):
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[\\s\\S]"}, "content": ""}


@pytest.mark.parametrize(
    ("change", "template", "words"),
    [
        (a_token_that_no_row_stands_for, f"<far>{QWEN}", "makes the token id 100000000 of this conversation, and its "),
        (a_normalizer_that_leaves_nothing, "{{ messages[0].content }}", "make no tokens of this conversation"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_ids_that_the_model_has_no_rows_for_never_reach_it(tmp_path, change, template, words):
    """MLX would read what lies behind the table, or end the program."""
    directory = talking_target(tmp_path)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    change(tokenizer)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "chat_template.jinja").write_text(template)
    engine = PresetEngine.__new__(PresetEngine)
    engine.machine = mlx_device()
    engine._clear()
    assert engine.load(choice("A", target=directory)).changed
    asked = [{"role": "user", "content": "Hello."}]
    assert words in refusal(lambda: engine.models.target.encode_chat(asked))
