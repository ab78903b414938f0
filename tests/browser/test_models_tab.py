"""The Models tab in the browser, with a small model on a local hub: look up, download, cancel, go on, load, race, a
wrong pair, unload; names of models are text."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dspark_core.catalog.hub import Hub
from dspark_core.playground.engine import PresetEngine
from dspark_core.playground.selection import NOT_CHOSEN, ModelSources
from dspark_core.presets import PRESETS, Preset, PresetDrafter, load_presets, read_presets
from tests.catalog.hub_server import FakeHub, Repo, serving
from tests.models.build import GOLDEN, random_drafter
from tests.playground.serving import served

from .steps import copied

TINY = """
title = "Tiny ${alert(1)} <img src=x onerror=alert(1)>"
note = "A note with <b>markup</b> and {{value}}."
[[target]]
precision = "8-bit"
hub = "org/tiny"
[[target]]
precision = "bf16"
hub = "org/tiny-base"
note = "As trained."
[[drafter]]
method = "DFlash"
title = "block 16"
hub = "org/dflash"
"""


def a_small_llama(path: Path) -> Path:
    """Random weights of 6 MB with the embedded model's tokenizer."""
    from mlx_lm.models.llama import Model, ModelArgs

    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    config = shape | {"model_type": "llama", "num_hidden_layers": 4, "intermediate_size": 128, "vocab_size": 49152}
    config |= {"rms_norm_eps": 1e-6, "tie_word_embeddings": True, "eos_token_id": 2}
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(model.parameters())))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(load_presets()[0].target / name, path)
    drafter = shape | {"architectures": ["DFlashDraftModel"], "num_hidden_layers": 1, "num_target_layers": 4}
    drafter |= {"intermediate_size": 128, "vocab_size": 49152, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    drafter |= {"block_size": 16, "dflash_config": {"mask_token_id": 49151, "target_layer_ids": [0, 2]}}
    random_drafter(path.parent / "dflash", drafter)
    return path


def read(path: Path) -> Repo:
    return Repo({f.name: f.read_bytes() for f in path.iterdir()})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(served page, its hub, a directory of the visitor's)"""
    root = tmp_path_factory.mktemp("models")
    target = a_small_llama(root / "tiny")
    base = read(target)
    base.files = {n: d for n, d in base.files.items() if "tokenizer" not in n}
    fake = FakeHub()
    fake.repos = {"org/tiny": read(target), "org/dflash": read(root / "dflash"), "org/tiny-base": base}
    (root / "presets").mkdir()
    (root / "presets" / "tiny.toml").write_text(TINY)
    (root / "presets" / "bad.toml").write_text('title = "<b>bad</b>"')
    shutil.copy(PRESETS / "qwen3-14b.toml", root / "presets")
    shutil.copytree(GOLDEN / "A" / "target", root / "mine" / "<img src=x onerror=alert(2)>")
    start = Preset("a", "A", GOLDEN / "A" / "target", (PresetDrafter("DSpark", GOLDEN / "A" / "drafter"),))
    with serving(fake) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr("dspark_core.store.cache_directory", lambda: root / "store")
        hub = Hub(url, root / "hub", False, root / "record.json", root / "lm")
        sources = ModelSources(*read_presets(root / "presets"), hub)
        with served(lambda progress: PresetEngine(start, "auto", progress), sources) as page:
            yield page, fake, root


def models_page(open_tab, page, link=""):
    tab = open_tab(page.url + link)
    tab.page.get_by_role("tab", name="Models").click()
    return tab


def text(tab, place, words, seconds=60):
    """The text of a place once it has `words`."""
    script = "([p, w]) => document.querySelector(p)?.innerText.includes(w)"
    tab.page.wait_for_function(script, arg=[place, words], timeout=1000 * seconds)
    return tab.page.inner_text(place)


def choose(tab, label, option):
    tab.page.get_by_label(label, exact=True).click()
    tab.page.get_by_role("option", name=option).click()


def race(tab):
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    tab.race("Hi")
    tab.until("done")
    return tab.page.locator(".pane").all_inner_texts()


def test_from_the_hub_to_a_race_and_back(models, open_tab):
    page, fake, _ = models
    link = "/?preset=tiny&lanes=plain,dspark:cap=3,dflash:block=4&tokens=8"
    tab = models_page(open_tab, page, link)
    assert "not looked up" in text(tab, "#shelf-report", "org/tiny")
    assert not tab.page.is_visible("#stop-loading") and not tab.page.is_visible("#cancel-download")
    assert not fake.requests, "the page asked the hub by itself"
    tab.page.click("#look-up")
    assert "it fits" in text(tab, "#shelf-report", "To download: ") and "7 MB" in tab.page.inner_text("#shelf-report")
    assert not fake.gets("tokenizer.json"), "looking up downloads nothing"

    fake.pace = 0.04
    tab.page.click("#download")
    text(tab, "#shelf-progress", "MB/s")
    tab.page.wait_for_function("parseFloat(document.querySelector('#shelf-progress i').style.width) > 0")
    tab.page.click("#cancel-download")
    text(tab, "#shelf-verdict", "what has arrived is kept")
    fake.pace = 0.0
    assert "is here already" in _again(tab)
    tab.page.click("#download")
    text(tab, "#shelf-verdict", "Press Load")
    ranges = fake.gets("tokenizer.json") + fake.gets("model.safetensors")
    assert any(r and not r.startswith("bytes=0-") for r in ranges), "it began anew"
    text(tab, "#shelf-report", "All of it is on this machine.")

    tab.page.click("#load")
    text(tab, "#shelf-verdict", "8-bit is loaded.")
    assert "org/dflash, block 16" in text(tab, "#models", "org/tiny, bf16")
    plain, dspark, dflash = race(tab)
    assert f"DSpark is not running: {NOT_CHOSEN}" in dspark and "not running" not in plain + dflash
    answer = tab.answer(0)
    assert len(answer) > 5 and tab.answer(2) == answer

    tab.page.get_by_role("tab", name="Models").click()
    choose(tab, "Model", "Your own")
    for label, value in (("Target", "org/tiny"), ("Drafter", str(GOLDEN / "E" / "drafter"))):
        tab.page.get_by_label(label, exact=True).fill(value)
        tab.page.get_by_label(label, exact=True).press("Enter")
    text(tab, "#shelf-report", "hidden_size is 48")  # after the target alone, which is a choice too
    tab.page.click("#load")
    assert "hidden_size is 48" in text(tab, "#shelf-verdict", "8-bit stays loaded.")
    race(tab)
    assert tab.answer(0) == answer

    tab.page.get_by_role("tab", name="Models").click()
    tab.page.click("#unload")
    text(tab, "#models", "No model is loaded")
    tab.page.get_by_role("tab", name="Cost model").click()
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    tab.race("Hi")
    tab.until("failed")
    assert "No model is loaded: choose one first." in tab.page.inner_text(".board")
    assert not tab.complaints and not tab.dialogs


def _again(tab):
    tab.page.click("#look-up")
    return text(tab, "#shelf-report", "is here already")


def by_its_card(tab):
    """Unload and load what a card stands for, by keyboard, the focus staying where it is; then its other precision."""
    card, button = tab.page.locator("[data-card=tiny]"), tab.page.locator("[data-card=tiny] .card-action button")
    said = "[data-card=tiny] .card-said"
    text(tab, "[data-card=tiny] .card-badges", "loaded")
    assert card.locator("h4").inner_text().startswith("Tiny ${alert(1)} <img") and "hub" in card.inner_text()
    for pressed, then in (("Unload", "No model is loaded"), ("Load", "bf16 is loaded.")):
        text(tab, "[data-card=tiny] .card-action", pressed)
        button.focus()
        tab.page.keyboard.press("Enter")
        text(tab, said, then)
        assert tab.page.evaluate("document.activeElement.closest('.card-action') !== null"), "the focus went away"
    card.locator("input[value='8-bit']").check()
    tab.page.wait_for_function("!document.querySelector('[data-card=tiny] .card-badges').innerText.includes('loaded')")
    card.locator("summary").click()
    assert copied(tab.page, "[data-card=tiny] [aria-label^='Copy: mlx-dspark']").startswith("mlx-dspark")


def test_names_are_text_and_a_base_target_warns(models, open_tab):
    page, _, root = models
    tab = models_page(open_tab, page)
    assert "bad.toml" in tab.page.inner_text("#bad-presets")
    assert tab.page.get_by_label("Model", exact=True).input_value().startswith("Qwen3-14B")
    choose(tab, "Model", "Tiny ${alert(1)} <img src=x onerror=alert(1)>")
    assert "<b>markup</b> and {{value}}" in text(tab, "#shelf-note", "A note")
    tab.page.get_by_label("Also look in this directory").fill(str(root / "mine"))
    tab.page.click("#list-models")
    assert "target of" in text(tab, "#shelf-found", "<img src=x onerror=alert(2)>")
    choose(tab, "Precision", "bf16")
    text(tab, "#shelf-note", "bf16: As trained.")
    text(tab, "#shelf-report", "org/tiny-base")
    tab.page.click("#download")
    text(tab, "#shelf-verdict", "Press Load")
    assert "47 % instead of 82 %" in text(tab, "#shelf-report", "org/tiny-base is named as a base model")
    tab.page.click("#load")
    text(tab, "#shelf-verdict", "is loaded.")
    by_its_card(tab)
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    text(tab, "#base-notice", "47 % instead of 82 %")
    other = models_page(open_tab, page, "/?preset=../../etc")
    text(other, "#models", "org/tiny-base")
    assert other.page.get_by_label("Model", exact=True).input_value().startswith("Qwen3-14B")
    assert tab.page.locator("#models-tab img").count() == 0
    assert not tab.complaints and not tab.dialogs and not other.complaints
