"""Preset files: the shipped ones are whole, broken ones are refused in one sentence."""

import collections

import pytest

from dspark_core.catalog.names import HubName
from dspark_core.errors import PresetError
from dspark_core.models import drafters
from dspark_core.models.info import drafter_ids
from dspark_core.playground.tabs.models_tab import PresetMenu
from dspark_core.presets import load_presets, load_prompts, read_presets


def test_embedded_preset_is_there():
    preset = load_presets()[0]
    assert preset.name == "smollm2-135m" and (preset.target / "config.json").is_file()
    assert [d.method for d in preset.drafters] == ["DSpark", "DFlash", "DFlash2", "DFlash2"]
    assert [*preset.first_drafters] == ["dspark", "dflash"], "the default race has three lanes"
    assert [*preset.on_request] == ["dflash2", "dflash2-2"]
    assert all((d.path / "model.safetensors").is_file() for d in preset.drafters)


def test_the_published_targets_each_with_their_drafters():
    presets = {p.name: p for p in load_presets()}
    z_lab = {
        "gemma-4-12b": "gemma4-12B-it-DFlash",
        "qwen3-4b": "Qwen3-4B-DFlash-b16",
        "qwen3-8b": "Qwen3-8B-DFlash-b16",
    }
    for name in ("gemma-4-12b", "qwen3-4b", "qwen3-8b", "qwen3-14b"):
        preset, key = presets[name], name.replace("-4-", "4_").replace("-", "_")
        assert [t.precision for t in preset.targets] == ["8-bit", "4-bit", "bf16"] and all(
            t.note for t in preset.targets
        )
        assert preset.target == preset.targets[0].path and preset.target.repo.startswith("mlx-community/")
        assert preset.targets[2].path.repo == preset.trained_with and preset.drafter_precision == "4-bit"
        assert preset.first_drafters["dspark"].path == HubName(f"deepseek-ai/dspark_{key}_block7")
        flashes = [f"z-lab/{z_lab[n]}" for n in z_lab if n == name] + [f"deepseek-ai/dflash_{key}_block7"]
        assert [d.path.repo for d in preset.of("DFlash")] == flashes
    small = {"minicpm5-2b": {"DSpark"}, "llama-3.2-1b": {"DSpark"}}
    small |= {"lfm2.5-1.2b": {"DSpark"}, "lfm2.5-2.6b": {"DSpark"}}
    small |= {"qwen3.8-27b": {"DSpark", "DFlash2"}, "qwen3.6-35b-a3b": {"DSpark"}}
    both = {"DSpark", "DFlash", "DFlash2"}
    wanted = {"qwen3-4b": both, "smollm2-135m": both} | small
    for name, preset in presets.items():
        assert {d.method for d in preset.drafters} == wanted.get(name, {"DSpark", "DFlash"}), name


def test_four_ways_on_one_target():
    """DeepSeek's and Red Hat's DSpark, z-lab's DFlash and Red Hat's DFlash 2; at first one of each method is chosen."""
    preset = next(p for p in load_presets() if p.name == "qwen3-4b")
    ids = dict(zip(drafter_ids(d.method for d in preset.drafters), preset.drafters, strict=True))
    assert [ids[i].path.repo for i in ("dspark", "dspark-2", "dflash", "dflash2")] == [
        "deepseek-ai/dspark_qwen3_4b_block7",
        "RedHatAI/Qwen3-4B-speculator.dspark",
        "z-lab/Qwen3-4B-DFlash-b16",
        "RedHatAI/Qwen3-4B-speculator.dflash2",
    ]
    assert list(preset.first_drafters) == ["dspark", "dflash", "dflash2"]


def test_the_licence_of_every_download_is_shown_before_it():
    for preset in load_presets():
        downloads = [p for p in (*preset.targets, *preset.drafters) if isinstance(p.path, HubName)]
        assert all(p.licence for p in downloads), preset.name
        for target in preset.targets if downloads else ():
            words = PresetMenu(preset).about(target.precision)
            assert f"{preset.title}, {target.precision}: {target.licence}" in words
            assert all(f"{d.title}: {d.licence}" in words for d in preset.drafters)


def test_the_size_of_every_download_is_known_without_a_network():
    for preset in load_presets():
        downloads = [p for p in (*preset.targets, *preset.drafters) if isinstance(p.path, HubName)]
        assert all(p.sizes for p in downloads), preset.name
        assert all(t.sizes.token_bytes and t.sizes.stored == t.precision for t in preset.targets if t.sizes)


def test_presets_stand_in_the_order_of_their_numbers():
    names = [p.name for p in load_presets() if p.name.startswith("qwen3-")]
    assert names == ["qwen3-4b", "qwen3-8b", "qwen3-14b"]


def test_no_note_says_that_it_works_with_what_was_never_opened():
    unopened = ("RedHatAI/", "openbmb/", "rasyosef/", "LiquidAI/", "incoai/", "Koopah/")
    for preset in load_presets():
        if any(d.path.repo.startswith(unopened) for d in preset.drafters if isinstance(d.path, HubName)):
            assert "never run" in preset.note, preset.name


def test_another_engine_s_figures_say_that_they_need_its_kernels():
    """Its gains come from verify kernels that MLX does not have: no note may promise them for this page."""
    notes = [(p.name, note) for p in load_presets() for note in (p.note, *(t.note for t in p.targets))]
    quoted = [(name, note) for name, note in notes if "mlx-dspark" in note]
    assert len(quoted) == 18
    assert all("own" in note and "kernels" in note for _, note in quoted), quoted
    figures = [name for name, note in notes if "×" in note and ("mlx-dspark" not in note or "kernels" not in note)]
    assert not figures


def test_demo_prompts():
    counts = collections.Counter(p.kind for p in load_prompts())
    assert set(counts) == {"chat", "code", "math", "rewriting"}
    assert min(n for kind, n in counts.items() if kind != "rewriting") >= 4
    # Who chooses the one where a drafter that every target has does best gets a lane of it.
    assert {p.drafter for p in load_prompts() if p.drafter} <= {m.lower() for m in drafters.marked("EVERYWHERE")}
    assert [p.drafter for p in load_prompts() if p.kind == "rewriting"] == ["lookup"]
    titles = [p.title for p in load_prompts()]
    assert len(titles) == len(set(titles))
    told = {(p.kind, p.lead, p.why) for p in load_prompts()}  # who is expected to lead, and why: one of each a kind
    assert len(told) == 4 and all(lead and why for _, lead, why in told)


TARGET = 'title = "T"\n[[target]]\nprecision = "8-bit"\nhub = "a/b"\n'
DRAFTER = '[[drafter]]\nmethod = "DSpark"\nhub = "a/c"\n'
BROKEN = {
    "a size that is none": (TARGET + "bytes = -5\n" + DRAFTER, "target 1: bytes must be a number of bytes"),
    "a size in words": (TARGET + 'bytes = "4 GB"\n' + DRAFTER, "target 1: bytes must be a whole number"),
    "a size without end": (TARGET + DRAFTER + f"bytes = {10**30}\n", "drafter 1: bytes must be"),
    "a doubt in words": (TARGET + 'assumed = "yes"\n' + DRAFTER, "target 1: assumed must be true or false"),
    "a cache that is none": ("token_bytes = -1\n" + TARGET + DRAFTER, "token_bytes must be a number of bytes"),
    "not TOML": ("title = ", "TOML"),
    "unknown field": ("colour = 1\n" + TARGET + DRAFTER, "colour"),
    "unknown field of a target": (TARGET + "bits = 8\n" + DRAFTER, "bits"),
    "wrong kind": (TARGET.replace('"T"', "3") + DRAFTER, "title"),
    "wrong kind in a drafter": (TARGET + DRAFTER.replace('"a/c"', "[1]"), "hub must be of type str"),
    "no target": ('title = "T"\n' + DRAFTER, "target"),
    "target is no list": ('title = "T"\ntarget = "x"\n' + DRAFTER, "target must be of type list"),
    "the same precision twice": (TARGET + TARGET.partition("\n")[2] + DRAFTER, "the same precision"),
    "no drafter": (TARGET, "drafter"),
    "drafter without a place": (TARGET + '[[drafter]]\nmethod = "DSpark"', "path or a hub name"),
    "drafter with two places": (TARGET + DRAFTER + 'path = "x"', "path or a hub name"),
    "unknown method": (TARGET + DRAFTER.replace("DSpark", "Eagle"), "Eagle"),
    "drafter is no table": ("drafter = [1]\n" + TARGET, "table"),
    "unknown precision": ('drafter_precision = "3-bit"\n' + TARGET + DRAFTER, "3-bit"),
    "hub name that is a path": (TARGET.replace("a/b", "../../etc/passwd") + DRAFTER, "is not a hub name"),
    "nested deeply": ("note = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    "nested deeply by keys": ("a" + ".a" * 20_000 + " = 1", "nested too deeply"),
    "nested deeply by a head": ("['a'" + " . a" * 20_000 + "]", "nested too deeply"),
    "50,000 keys": ("\n".join(f"k{i} = 1" for i in range(50_000)), "more than 100,000 bytes"),
    "50,000 digits": ("title = " + "9" * 50_000, "TOML"),
    "a title as long as a book": (TARGET.replace('"T"', f'"{"T" * 9000}"') + DRAFTER, "at most 2,000 characters"),
    "a thousand drafters": (TARGET + DRAFTER * 1000, "shorter"),
    "trained with a path": ('trained_with = "/etc"\n' + TARGET + DRAFTER, "is not a hub name"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_presets(tmp_path, fault):
    text, words = BROKEN[fault]
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PresetError) as e:
        load_presets(tmp_path)
    assert words in str(e.value) and "p.toml" in str(e.value) and "\n" not in str(e.value)


def test_a_broken_preset_leaves_the_others(tmp_path):
    for name in ("b", "smollm2-135m", "a"):
        (tmp_path / f"{name}.toml").write_text(TARGET + DRAFTER)
    (tmp_path / "bad.toml").write_text(TARGET)
    presets, bad = read_presets(tmp_path)
    assert [p.name for p in presets] == ["smollm2-135m", "a", "b"]
    assert len(bad) == 1 and "bad.toml" in bad[0]


def test_prompt_of_an_unknown_kind(tmp_path):
    path = tmp_path / "prompts.toml"
    path.write_text('[[prompt]]\nkind = "poem"\ntitle = "a"\ntext = "b"')
    with pytest.raises(PresetError, match="poem"):
        load_prompts(path)


def test_an_expectation_without_a_reason(tmp_path):
    path = tmp_path / "prompts.toml"
    path.write_text('[[kind]]\nkind = "chat"\nlead = "DSpark"')
    with pytest.raises(PresetError, match="why is missing"):
        load_prompts(path)
    path.write_text('[[kind]]\nkind = "poem"\nlead = "DSpark"\nwhy = "so"')
    with pytest.raises(PresetError, match="poem"):
        load_prompts(path)
