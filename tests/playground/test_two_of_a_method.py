"""Two drafters of one method at once: the embedded DFlash 2 of block 16 and of block 8, by their ids everywhere."""

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from gradio_client import Client

from dspark_core.playground.engine import PresetEngine
from dspark_core.playground.links import from_link, link_of
from dspark_core.playground.page import RaceCall
from dspark_core.playground.race_request import RaceForm, form_of, offers_of, read_form, request_of
from dspark_core.playground.saved import traced
from dspark_core.playground.selection import OWN_MODELS, ModelForm, ModelSources
from dspark_core.presets import Preset, PresetDrafter, load_presets
from dspark_core.race.lane_spec import lane_text, read_lanes
from dspark_core.race.race import race
from dspark_core.race.records import RaceRecord
from dspark_core.race.trace import dumps, loads

from ..conftest import GOLDEN
from .serving import served
from .tiny import TinyEngine

ASSETS = GOLDEN.parents[1] / "assets" / "models"
LANES = "plain,dflash2:block=16,dflash2-2:block=5,dflash2-2:full"


@pytest.fixture(scope="module")
def engine():
    """What the Models tab loads for two drafters that were typed in."""
    names = [str(ASSETS / f"dflash2-smollm2-135m-b{n}") for n in (16, 8)]
    sources = ModelSources(load_presets()[:1])
    form = ModelForm(OWN_MODELS, own_target=str(ASSETS / "smollm2-135m-instruct"), own_drafters=names)
    chosen = sources.selection(form)
    start = Preset("a", "A", GOLDEN / "A" / "target", (PresetDrafter("DSpark", GOLDEN / "A" / "drafter"),))
    engine = PresetEngine(start, "auto", lambda step: None)
    assert engine.load(sources.choice(chosen, sources.locate(chosen))).changed
    return engine


@pytest.mark.sweep  # test_a_script_races_both does the same on tiny models
def test_they_race_are_saved_and_open_again(engine):
    infos = offers_of(engine).infos
    assert [(i.id, i.block, i.name) for i in infos if i.needs_weights] == [
        ("dflash2", 16, "dflash2-smollm2-135m-b16"),
        ("dflash2-2", 8, "dflash2-smollm2-135m-b8"),
    ]
    form = RaceForm("Count from 1 to 9.", 8, lanes=tuple(map(form_of, read_lanes(LANES, infos))))
    request = request_of(form, infos)
    assert [lane.name for lane in request.lanes] == [
        "plain",
        "DFlash 2 · cap 15",
        "DFlash 2 · #2, cap 4",
        "DFlash 2 · #2, full block",
    ]
    events = [event for _, event in race(engine.models, replace(request, together=False))]
    (record,) = [event for event in events if isinstance(event, RaceRecord)]
    assert [lane.error for lane in record.lanes] == [None] * 4 and record.verdict.kind in ("identical", "tie")
    sent = [max((r.proposed for r in lane.rounds), default=0) for lane in record.lanes]
    assert sent[1] <= 15 and sent[2] == 4 and 4 < sent[3] <= 7
    trace = traced(record)
    assert trace.drafters["DFlash2"].startswith("dflash2-smollm2-135m-b16, block 16")
    assert trace.drafters["dflash2-2"].startswith("dflash2-smollm2-135m-b8, block 8")
    opened = loads(dumps(trace))
    assert dumps(opened) == dumps(trace)
    assert [lane.spec for lane in opened.race.lanes] == list(request.lanes)
    assert [lane_text(lane.spec) for lane in opened.race.lanes] == [
        "plain",
        "dflash2:cap=15",
        "dflash2-2:cap=4",
        "dflash2-2:full",
    ]


def test_a_link_brings_both_back(engine):
    infos = offers_of(engine).infos
    request, cut = RaceCall("Hi", "plain,dflash2:block=3,dflash2-2:block=9").asked(offers_of(engine))
    assert cut == ["Lane 3: block 9 was asked for; dflash2-smollm2-135m-b8 has a block of 8."]
    form = RaceForm("Hi", lanes=tuple(map(form_of, read_lanes("plain,dflash2:block=3,dflash2-2:block=9", infos))))
    link = link_of(form, infos)
    assert "lanes=plain,dflash2:cap=2,dflash2-2:cap=7&" in link
    again = read_form(from_link(dict(parse_qsl(link[1:], keep_blank_values=True)), infos))
    assert request_of(again, infos) == request
    everything, _ = RaceCall("Hi").asked(offers_of(engine))
    assert [lane.drafter_id for lane in everything.lanes] == ["plain", "dflash2"], "the first of each method"


def test_a_script_races_both():
    """Golden models: set C's drafter twice beside set A's."""

    def load(progress):
        engine = TinyEngine()
        engine.models.drafters["dflash-2"] = engine.models.drafters["dflash"]
        return engine

    with served(load) as page:
        asked = "plain,dflash:block=3,dflash-2:block=5"
        race = Client(page.url, verbose=False).predict("hi", asked, 8, api_name="/race")["race"]
    specs = [lane["spec"] for lane in race["lanes"]]
    assert [(s.get("label", ""), s.get("drafter", "")) for s in specs] == [
        ("", ""),
        ("cap 3", ""),
        ("#2, cap 5", "dflash-2"),
    ]
    assert race["verdict"]["kind"] == "identical"
