"""Preset files: the shipped ones are whole, broken ones are refused in one sentence."""

import collections

import pytest

from dspark_core.presets import PresetError, load_presets, load_prompts


def test_embedded_preset_is_there():
    preset = load_presets()[0]
    assert preset.name == "smollm2-135m" and (preset.target / "config.json").is_file()
    assert [d.method for d in preset.drafters] == ["DSpark", "DFlash"]
    assert all((d.path / "model.safetensors").is_file() for d in preset.drafters)


def test_demo_prompts():
    counts = collections.Counter(p.kind for p in load_prompts())
    assert set(counts) == {"chat", "code", "math"} and min(counts.values()) >= 4
    titles = [p.title for p in load_prompts()]
    assert len(titles) == len(set(titles))
    told = {(p.kind, p.lead, p.why) for p in load_prompts()}  # who is expected to lead, and why: one of each a kind
    assert len(told) == 3 and all(lead and why for _, lead, why in told)


GOOD = 'title = "T"\ntarget = "x"\n'
BROKEN = {
    "not TOML": ("title = ", "TOML"),
    "unknown field": (GOOD + "colour = 1", "colour"),
    "wrong kind": ('title = 3\ntarget = "x"', "title"),
    "no target": ('title = "T"', "target"),
    "drafter without a path": (GOOD + '[[drafter]]\nmethod = "DSpark"', "path"),
    "unknown method": (GOOD + '[[drafter]]\nmethod = "Eagle"\npath = "x"', "Eagle"),
    "drafter is no table": (GOOD + "drafter = [1]", "table"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_presets(tmp_path, fault):
    text, words = BROKEN[fault]
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PresetError) as e:
        load_presets(tmp_path)
    assert words in str(e.value) and "p.toml" in str(e.value)


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
