"""A system turn and a conversation of two turns on tiny models that compute; what is kept, what is not, Start over."""

import pytest

from dspark_core.playground.engine import PresetEngine
from dspark_core.presets import Preset, PresetDrafter
from tests.conftest import GOLDEN
from tests.models.build import talking_target
from tests.playground.serving import served

from .steps import kept
from .tab import endless

LINK = "/?lanes=plain,dspark:full&tokens=24&system=Be%20%3Cb%3Ebrief%3C/b%3E."
OVER = """() => {
    window.over = false;
    document.querySelector('.board').addEventListener('race-over', () => { window.over = true; }, { once: true });
}"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    target = talking_target(tmp_path_factory.mktemp("tiny"))
    preset = Preset("tiny", "Tiny", target, (PresetDrafter("DSpark", GOLDEN / "A" / "drafter"),))
    with served(lambda progress: PresetEngine(preset, "auto", progress)) as page:
        yield page


def told(tab, words):
    tab.page.wait_for_function("w => document.querySelector('#talk-told p')?.textContent.includes(w)", arg=words)


def race(tab, prompt):
    tab.page.evaluate(OVER)  # so short a race may begin and end between two looks
    tab.race(prompt)
    tab.page.wait_for_function("window.over")
    return tab.page.inner_text(".board-verdict")


def test_a_conversation_of_two_turns_and_a_new_start(tiny, open_tab):
    asked, engine = [], None
    tab = open_tab(tiny.url + LINK)
    tab.page.wait_for_function("document.querySelector('#settings-summary')?.innerText.includes('with a system turn')")
    tab.page.wait_for_function("document.querySelector('#models').innerText.includes('DSpark: ')")
    engine = tiny.worker.engine
    run = engine.race
    engine.race = lambda request, cancelled: (asked.append(request), run(request, cancelled))[1]
    assert not tab.page.is_visible("#talk")
    assert "Identical output" in race(tab, "Say hello.")
    answer = tab.answer(0)
    tab.page.click("#take")
    told(tab, "1 exchange")
    tab.page.click("#take")  # once more changes nothing
    assert "Identical output" in race(tab, "And goodbye?")
    first, second = asked
    assert first.messages == [
        {"role": "system", "content": "Be <b>brief</b>."},
        {"role": "user", "content": "Say hello."},
    ]
    assert [m["role"] for m in second.messages] == ["system", "user", "assistant", "user"]
    assert second.messages[1]["content"] == "Say hello." and second.messages[3]["content"] == "And goodbye?"
    kept = second.messages[2]["content"]
    assert kept and kept == answer.replace("\ufffd", "").strip()
    tab.page.click("#take")
    told(tab, "2 exchanges")
    tab.page.click("#talk summary")
    assert tab.page.locator("#talk dt").all_inner_texts() == ["Say hello.", "And goodbye?"]
    tab.page.click("#over")
    tab.page.wait_for_function("document.querySelector('#talk-told p').textContent === ''")
    assert tab.page.evaluate("document.activeElement.matches('#prompt textarea')")
    race(tab, "Say hello.")
    assert asked[2].messages == first.messages
    assert not tab.complaints


def test_a_stopped_race_is_not_kept(recorded, open_tab):
    recorded.worker.engine = endless()
    tab = open_tab(recorded.url)
    tab.race()
    tab.page.wait_for_function("document.querySelectorAll('.round').length > 3")
    assert not tab.page.is_visible("#take")
    tab.page.click("#stop")
    tab.until("stopped")
    kept(tab)
    tab.page.click("#take")
    told(tab, "This race was stopped before its end, so its answer is not kept.")
    assert not tab.page.is_visible("#over") and not tab.complaints
