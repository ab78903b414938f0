"""A drafting method that nobody here has heard of: one file, one preset line, and the page offers it."""

import shutil

import pytest
from gradio_client import Client

from dspark_core.machine import Device
from dspark_core.models import drafters
from dspark_core.playground.engine import PresetEngine
from dspark_core.playground.limits import menu
from dspark_core.playground.page import RaceCall
from dspark_core.playground.race_request import offers_of
from dspark_core.playground.selection import ModelForm, ModelSources, report
from dspark_core.presets import PresetError, load_presets

from ..conftest import GOLDEN
from .serving import served
from .tiny import Words

METHOD = '''
"""Echo: the token of eight positions ago, and the seven after it."""

import mlx.core as mx

from dspark_core.models.drafter import Proposal
from dspark_core.models.info import DrafterInfo


def open_drafter(place, target, precision):
    return Echo()


class Echo:
    taps = ()
    info = DrafterInfo(
        id="echo",
        method="Echo",
        title="Echo",
        about="Says again what was said.",
        block=6,
        max_drafts=6,
        has_bias=True,
        needs_taps=False,
        needs_weights=False,
    )

    def begin(self):
        return Text()


class Text:
    state = ()

    def __init__(self):
        self.ids = []

    def extend(self, ids, taps):
        self.ids += ids.tolist()

    def propose(self, anchor, n, pick, confidence=False, look=None):
        return Proposal(mx.array(self.ids[-8:][:n], dtype=mx.int32))

    def rollback(self, n):
        del self.ids[len(self.ids) - n :]
'''
PRESET = """
title = "Echoes"
[[target]]
precision = "f32"
path = "{target}"
[[drafter]]
method = "Echo"
[[drafter]]
method = "DSpark"
path = "{drafter}"
[[drafter]]
method = "Echo"
title = "the second echo"
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    methods, presets = tmp_path_factory.mktemp("methods"), tmp_path_factory.mktemp("presets")
    (methods / "echo.py").write_text(METHOD)
    text = PRESET.format(target=GOLDEN / "A" / "target", drafter=GOLDEN / "A" / "drafter")
    drafters.__path__.append(str(methods))
    (presets / "echoes.toml").write_text(text)
    yield load_presets(presets)[0]
    drafters.__path__.remove(str(methods))
    shutil.rmtree(methods)


def loaded(preset, progress=lambda step: None) -> PresetEngine:
    engine = PresetEngine(preset, "auto", progress)
    assert not engine.problem
    target = engine.models.target
    target.text = Words()
    target.stop_ids = engine.stop_ids = Words.stop_ids
    engine.token_bytes = target.text.token_bytes
    return engine


def test_before_anything_is_loaded_the_page_offers_it(preset):
    sources = ModelSources([preset])
    offers = offers_of(None, sources.start_infos())
    assert menu(offers, 1) == [("plain", "plain"), ("Echo", "echo"), ("DSpark", "dspark"), ("Lookup", "lookup")]
    chosen = sources.selection(ModelForm(preset.name, drafters=["echo", "echo-2"]))
    parts = sources.locate(chosen)
    rows = report(chosen, parts, Device("CPU", "this machine", 16_000_000_000))["rows"]
    assert rows[1] == ["Echo", "Echo", "Echo drafter without weights.", "part of this program", "nothing"]
    choice = sources.choice(chosen, parts)
    assert {id_: d for id_, d in choice.drafters.items() if not isinstance(d, str)} == {"echo": None, "echo-2": None}
    assert choice.titles == {"echo": "Echo", "echo-2": "the second echo"}


def test_two_of_it_are_loaded_and_named_in_lanes(preset):
    assert [i.id for i in loaded(preset).infos] == ["echo", "dspark", "lookup"]
    sources = ModelSources([preset])
    chosen = sources.selection(ModelForm(preset.name, drafters=["echo", "echo-2"]))
    both = PresetEngine(preset, "auto", lambda step: None)
    assert both.load(sources.choice(chosen, sources.locate(chosen))).changed
    assert [(i.id, i.title) for i in both.infos][:2] == [("echo", "Echo"), ("echo-2", "the second echo")]
    request, cut = RaceCall("hi", "plain,echo-2:cap=9").asked(offers_of(both))
    assert request.lanes[1].name == "Echo · #2, cap 6" and "drafts 6 at most" in cut[0]


def test_a_script_races_it(preset):
    with served(lambda progress: loaded(preset, progress), ModelSources([preset])) as page:
        client = Client(page.url, verbose=False)
        race = client.predict("hi", "plain,echo:cap=3,dspark:cap=2", 20, api_name="/race")["race"]
    assert race["verdict"]["kind"] == "identical"
    assert [lane["spec"].get("label", "") for lane in race["lanes"]] == ["", "cap 3", "cap 2"]
    assert any(r["proposed"] == 3 for r in race["lanes"][1]["rounds"])


def test_a_method_that_is_no_file_is_refused_by_name(preset, tmp_path):
    text = PRESET.format(target=GOLDEN / "A" / "target", drafter=GOLDEN / "A" / "drafter")
    (tmp_path / "p.toml").write_text(text.replace('"Echo"', '"Eco"'))
    with pytest.raises(
        PresetError, match="method 'Eco' is not known; there are dflash, dflash2, dspark, echo, lookup, small-model"
    ):
        load_presets(tmp_path)
