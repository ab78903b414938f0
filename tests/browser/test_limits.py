"""Sliders, labels and links go as far as the loaded drafters do."""

import threading

from dspark_core.models.info import DrafterInfo
from tests.playground.serving import served

from .steps import rests
from .tab import replay

B7 = DrafterInfo(id="dflash", method="DFlash", title="dflash-b7", block=7, first_slot=0, max_drafts=7)
B32 = DrafterInfo(id="dflash", method="DFlash", title="dflash-b32", block=32, first_slot=1, max_drafts=31)
SHORT = DrafterInfo(id="dspark", method="DSpark", title="dspark-b5", block=5, first_slot=0, max_drafts=5, has_bias=True)


def engine(name, **info):
    found = replay()
    found.name, found.infos = name, tuple(info.values())
    return found


def summary(tab, words):
    tab.page.wait_for_function("w => document.querySelector('#settings-summary')?.innerText.includes(w)", arg=words)
    return tab.page.inner_text("#settings-summary p")


def cut(tab, words):
    tab.page.wait_for_function("w => document.querySelector('#settings-cut')?.textContent.includes(w)", arg=words)
    return tab.page.inner_text("#settings-cut p")


def slider(tab, lane, label):
    """(minimum, maximum, value) of a lane's slider."""
    box = tab.page.locator(".lane-controls").nth(lane).get_by_label(label, exact=False).locator("visible=true").first
    return int(box.get_attribute("min")), int(box.get_attribute("max")), int(box.input_value())


def test_a_link_that_asks_for_more_gets_all_there_is_and_is_told(recorded, open_tab):
    recorded.worker.engine = engine("first", DFlash=B7, DSpark=SHORT)
    tab = open_tab(recorded.url + "/?lanes=plain,dflash:block=16,dspark:cap=7,dflash:full&prompt=Hi")
    said = cut(tab, "Lane 2: a cap of 16 was asked for; dflash-b7 drafts 7 at most.")
    assert "Lane 3: a cap of 7 was asked for; dspark-b5 drafts 5 at most." in said and "Lane 4" not in said
    summary(tab, "plain, DFlash · cap 7, DSpark · cap 5, DFlash · full block")
    tab.page.get_by_role("button", name="Lanes and settings").click()
    assert slider(tab, 1, "Cap") == (1, 7, 7) and slider(tab, 2, "Cap") == (1, 5, 5)
    tab.page.click("#race")
    tab.until("done")
    heads = [h.replace("\n", " ") for h in tab.page.locator(".pane h3").all_inner_texts()]
    assert heads == ["plain", "DFlash cap 7", "DSpark cap 5", "DFlash full block"]
    assert not tab.complaints


def test_sliders_follow_when_another_model_is_loaded(recorded, open_tab):
    recorded.worker.engine = engine("first", DFlash=B7)
    tab = open_tab(recorded.url + "/?lanes=plain,dflash:full,dflash:block=3,dspark:confidence=0.5&prompt=Hi")
    summary(tab, "plain, DFlash · full block, DFlash · cap 3, DSpark · confidence ≥ 0.50")
    recorded.worker.engine = engine("second", DFlash=B32, DSpark=SHORT)
    tab.race(None)  # another page loaded it: this one is told when its race is over
    tab.until("done")
    told = summary(tab, "DFlash · full block, DFlash · cap 3, DSpark · hardware-aware")
    tab.page.get_by_role("button", name="Lanes and settings").click()
    assert slider(tab, 2, "Cap") == (1, 31, 3)
    assert rests(tab) and summary(tab, "full block") == told
    recorded.worker.engine = engine("third", DFlash=B7)
    tab.race(None)
    tab.until("done")
    summary(tab, "DFlash · full block, DFlash · cap 3")
    assert not tab.complaints


def test_a_setting_that_was_kept_is_cut_too(recorded, open_tab):
    recorded.worker.engine = engine("first", DFlash=B32)
    tab = open_tab(recorded.url + "/?lanes=plain,dflash:block=30")
    summary(tab, "DFlash · cap 29")
    tab.settings(max_tokens=44)  # an edit keeps all settings
    tab.page.wait_for_function("localStorage.getItem('dspark-settings')")
    recorded.worker.engine = engine("second", DFlash=B7)
    tab.load(recorded.url)
    cut(tab, "Lane 2: a cap of 29 was asked for; dflash-b7 drafts 7 at most.")
    summary(tab, "plain, DFlash · cap 7; up to 44 tokens")
    # An example that is for a drafter gets a lane of it, once.
    for _ in range(2):
        tab.page.get_by_role("button", name="Repeat this with one change").click()
        summary(tab, "plain, DFlash · cap 7, Lookup · hardware-aware; up to 44 tokens")
    assert tab.page.input_value("#prompt textarea").startswith("Repeat this code") and not tab.complaints
    recorded.worker.engine = replay()


def test_a_link_is_judged_when_the_models_are_there(open_tab):
    """A page may open while they load; until then nobody knows how long a block is."""
    gate = threading.Event()
    with served(lambda progress: (gate.wait(600), engine("first", DFlash=B7))[1]) as page:
        tab = open_tab(page.url + "/?lanes=plain,dflash:block=12,dflash:full")
        summary(tab, "DFlash · cap 11, DFlash · full block")
        assert not tab.page.inner_text("#settings-cut p")
        gate.set()
        cut(tab, "Lane 2: a cap of 11 was asked for; dflash-b7 drafts 7 at most.")
        summary(tab, "DFlash · cap 7, DFlash · full block")
        assert not tab.complaints
