"""The switch for a thought before the answer, and the thought apart from the answer on the board and in files."""

from urllib.parse import parse_qsl

from dspark_core.models.thoughts import Thought
from dspark_core.playground.conversation import conversation_after
from dspark_core.race.trace import loads

from .steps import copied, said, save
from .tab import replay

ANSWER = ["Hm.", "\n", "Yes", "</think>", "\n\n", "Blue", ",", " of", " course", "."]


def summary(tab, words):
    tab.page.wait_for_function("w => document.querySelector('#settings-summary')?.innerText.includes(w)", arg=words)


def test_thinking_is_asked_for_and_shown_apart(recorded, open_tab):
    recorded.worker.engine = replay(ANSWER)  # without such a switch
    tab = open_tab(recorded.url + "/?lanes=plain,dspark:full&thinking=1")
    summary(tab, "greedy")
    tab.page.get_by_role("button", name="Lanes and settings").click()
    switch = tab.page.get_by_label("Thinking")
    assert not switch.is_visible() and "thinking" not in tab.page.inner_text("#settings-summary")

    recorded.worker.engine = replay(ANSWER, thinks=True, thought=Thought("<think>"))
    tab.load()
    summary(tab, "greedy, thinking")
    tab.page.get_by_role("button", name="Lanes and settings").click()
    assert switch.is_checked() and "fewer of their drafts will be accepted" in tab.page.inner_text("#thinking")
    tab.race("Why?")
    tab.until("done")
    assert tab.page.locator(".pane[data-lane='0'] .part").all_inner_texts() == ["Thought", "Answer"]
    thought = "[...document.querySelectorAll('.pane[data-lane=\"0\"] .tok.thought')].map(t => t.textContent).join('')"
    assert tab.page.evaluate(thought) == "Hm.\nYes</think>"
    assert copied(tab.page, "[aria-label='Copy the answer of plain']") == "Blue, of course."
    trace = loads(save(tab, "json")[1])
    assert trace.race.request.thinking and trace.race.thought == Thought("<think>")
    assert conversation_after(trace).earlier == (("Why?", "Blue, of course."),)
    tab.page.click("[data-keep=link]")
    assert "starts nothing" in said(tab, "Copied")
    link = tab.page.evaluate("navigator.clipboard.readText()")
    assert dict(parse_qsl(link.partition("?")[2]))["thinking"] == "1" and not tab.complaints
