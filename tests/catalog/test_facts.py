"""Names, facts, pairs and what is on this machine: every fault is one sentence, and nothing is loaded."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dspark_core.catalog import facts, local
from dspark_core.catalog.names import HubName, parse
from dspark_core.paths import assets

from ..models.build import GOLDEN, copy, edit_config, refusal

EMBEDDED = assets() / "models"
PAIRS = ["A", "B_rnn", "C", "D", "E"]


def golden(kind, name):
    return facts.Facts.read(GOLDEN / name / kind)


# ---- names -----------------------------------------------------------------------------------------------


def test_names():
    assert parse(" Qwen/Qwen3-4B ") == HubName("Qwen/Qwen3-4B")
    assert parse("Qwen/Qwen3-4B@v1.0") == HubName("Qwen/Qwen3-4B", "v1.0")
    for address in ("https://huggingface.co/Qwen/Qwen3-4B", "hf.co/Qwen/Qwen3-4B/tree/main"):
        assert parse(address) == HubName("Qwen/Qwen3-4B")
    assert parse(str(EMBEDDED)) == EMBEDDED


NO_NAMES = ["", None, "gpt2", "a/b/c", "a\\b", "C:\\models\\x", "org/..", "a b/c", "\0", "@main", "org/name@../../x"]
NO_NAMES += ["/no/such/place", "~nobody-here/x", "/" + "x" * 5000, "/x\0y", "https://example.com/a/b", "x" * 10_000]


@pytest.mark.parametrize("text", NO_NAMES, ids=lambda t: repr(t)[:20])
def test_what_is_no_name(text):
    refusal(lambda: parse(text))


@pytest.mark.parametrize("repo", ["../../etc/passwd", "/etc/passwd", "..", "~/x", "a/../b", ""])
def test_a_hub_name_that_is_a_path(repo):
    assert "hub name" in refusal(lambda: HubName(repo))


# ---- facts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_targets_and_drafters_are_told_apart(name):
    assert facts.sort_of(golden("target", name)).kind == facts.TARGET
    assert facts.sort_of(golden("drafter", name)).kind == facts.DRAFTER


@pytest.mark.parametrize("field", ["jetspec_config", "speculators_config"])
def test_a_drafter_of_another_format_is_no_target(field):
    known = golden("drafter", "D")
    config = {k: v for k, v in known.config.items() if k not in ("block_size", "dflash_config")} | {field: {"x": 1}}
    sort = facts.sort_of(replace(known, config=config))
    assert sort.kind == facts.OTHER and f"has {field}: " in sort.words


def test_the_embedded_models():
    found = {f.name: f for f in local.find([EMBEDDED], Path("/none"), Path("/none"))}
    target = found["smollm2-135m-instruct"]
    assert (target.sort.kind, target.sort.family, target.stored, target.source) == (
        "target",
        "Llama",
        "4-bit",
        local.DIRECTORY,
    )
    methods = {f.sort.family for f in found.values() if f.sort.kind == "drafter"}
    assert methods == {"DSpark", "DFlash", "DFlash2"}


BROKEN = {
    "a config of 100 MB": (lambda d: (d / "config.json").write_bytes(b" " * 100_000_000), "larger than 10 MB"),
    "deep JSON": (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json"),
    "a list": (lambda d: (d / "config.json").write_text("[]"), "JSON object"),
    "another family": (lambda d: edit_config(d, model_type="mamba"), "'mamba'"),
    "code": (lambda d: edit_config(d, model_file="../x.py"), "never run"),
    "no sizes": (lambda d: edit_config(d, hidden_size="big"), "hidden_size"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "no model*.safetensors"),
    "a shard missing": (
        lambda d: (d / facts.INDEX).write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}})),
        "1 of 1 weight files are missing",
    ),
    "a path out": (
        lambda d: (d / facts.INDEX).write_text(json.dumps({"weight_map": {"a": "/etc/passwd"}})),
        "not a file of its own directory",
    ),
    "an odd index": (lambda d: (d / facts.INDEX).write_text('{"weight_map": {"a": 1}}'), "weight_map"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_broken_is_listed_with_the_reason(tmp_path, fault):
    change, words = BROKEN[fault]
    change(copy("target", "A", tmp_path))
    (found,) = local.find([tmp_path], Path("/none"), Path("/none"))
    assert found.sort.kind == facts.OTHER and words in found.sort.words, found.sort.words
    assert found.sort.words.endswith(".") and len(found.sort.words) < 500


def test_a_reduced_vocabulary_is_said():
    assert facts.sort_of(golden("drafter", "formats/S5_dflash")).words.endswith(", drafts 96 of 256 tokens, f32.")


def test_drafters_that_are_not_supported(tmp_path):
    drafter = copy("drafter", "A", tmp_path)
    edit_config(drafter, architectures=["DFlash2DraftModel"], model_type="qwen3")
    assert "DFlash 2" in facts.sort_of(facts.Facts.read(drafter)).words
    for odd in ({"rope_parameters": "x"}, {"num_hidden_layers": 10**9}, {"architectures": [[]]}, {"layer_types": 7}):
        edit_config(drafter, **({"architectures": ["Qwen3DSparkModel"]} | odd))
        sort = facts.sort_of(facts.Facts.read(drafter))
        assert sort.kind == facts.OTHER and sort.words.endswith("."), sort


# ---- what is on this machine -----------------------------------------------------------------------------


def test_lm_studios_folder_is_where_its_settings_say(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert local.lm_studio_models() == tmp_path / ".cache" / "lm-studio" / "models"
    (tmp_path / ".lmstudio" / "models").mkdir(parents=True)
    assert local.lm_studio_models() == tmp_path / ".lmstudio" / "models"
    (tmp_path / "disk").mkdir()
    (tmp_path / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "disk")}))
    assert local.lm_studio_models() == tmp_path / "disk"
    copy("target", "A", tmp_path / "disk" / "org")
    (found,) = local.find(cache=Path("/none"))
    assert (found.name, found.source) == ("org/target", local.LM_STUDIO)


def test_looking_needs_no_network_and_neither_mlx_nor_gradio():
    script = (
        "import socket\n"
        "def no(*a): raise AssertionError('a connection was tried')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "import sys; from pathlib import Path; from dspark_core.catalog import facts, hub, local\n"
        f"assert len(local.find([Path({str(EMBEDDED)!r})])) >= 3\n"
        "print(sorted({'mlx.core', 'gradio', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "[]", run.stderr


# ---- pairs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_that_fit(name):
    assert facts.check_pair(golden("target", name), golden("drafter", name)).block_size in (7, 16)


def test_pairs_that_do_not(tmp_path):
    target, drafter = golden("target", "A"), golden("drafter", "A")
    assert "hidden_size is 48" in refusal(lambda: facts.check_pair(target, golden("drafter", "E")))
    assert "is a drafter, not a target" in refusal(lambda: facts.check_pair(drafter, drafter))
    assert "is a target, not a drafter" in refusal(lambda: facts.check_pair(target, target))
    other = copy("drafter", "A", tmp_path)
    edit_config(other, num_target_layers=36)
    assert "made for a target of 36 layers" in refusal(lambda: facts.check_pair(target, facts.Facts.read(other)))


def target(name, has_template, hidden=64, layers=4):
    config = {"model_type": "qwen3", "hidden_size": hidden, "vocab_size": 256, "num_hidden_layers": layers}
    return facts.Facts(name, Path(name), config, {}, has_template)


def test_base_models_are_warned_of_with_the_right_link():
    warning = facts.base_warning(target("Qwen/Qwen3-8B-Base", True, 4096, 36))
    assert "47 % instead of 82 %" in warning.words and "mlx-dspark" in warning.words
    assert warning.link == "https://huggingface.co/Qwen/Qwen3-8B" and "Qwen/Qwen3-8B." in warning.words
    assert facts.base_warning(target("google/gemma-4-12B", True, 3840, 48)).link.endswith("google/gemma-4-12B-it")
    nameless = facts.base_warning(target("my-model", False))
    assert "no chat template" in nameless.words and nameless.link == ""
    for name in ("Qwen/Qwen3-8B", "mlx-community/gemma-4-12B-it-8bit", "database-tuned", "Llama-3.2-1B-Instruct"):
        assert facts.base_warning(target(name, True)) is None
