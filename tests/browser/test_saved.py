"""Races that are kept: saved, opened by button and by drop, replayed, scrubbed, stepped, saved as a page."""

import json

import pytest

from dspark_core.race.trace import dumps, loads
from tests.race.long_trace import long_trace

from .steps import HOSTILE, expected, open_file, said, save, seek, standing
from .tab import PATIENCE_S, endless, replay

NOISE = ["${alert(1)}", "{{value}}", "</script><script>alert(2)</script>", "<img src=x onerror=alert(3)>", "\u202e‮"]


def test_a_race_is_saved_opened_again_and_the_same(recorded, open_tab):
    engine = recorded.worker.engine = replay(HOSTILE * 3)
    tab = open_tab(recorded.url)
    saves = "[data-keep=json], [data-keep=page]"
    assert tab.page.locator(saves).evaluate_all("all => all.map(n => n.ariaDisabled)") == ["true", "true"]
    tab.page.press("[data-keep=json]", "Enter")
    assert said(tab, "no finished race")
    tab.race("${alert(1)} <b>")
    tab.until("done")
    before = standing(tab.page)
    name, document = save(tab, "json")
    assert tab.page.locator(saves).evaluate_all("all => all.map(n => n.ariaDisabled)") == ["false", "false"]
    trace = loads(document)
    assert name.startswith("race-a-recording-bf16-") and name.endswith(".json")
    assert [lane.output for lane in trace.race.lanes] == [
        [engine.rounds[i][0].token_id, *(t for r in engine.rounds[i][1:] for t in r.committed)] for i in range(3)
    ]
    assert {"processor", "cores", "system"} <= trace.machine.keys() and "mlx" in trace.versions
    assert dumps(trace) == document

    other = open_tab(recorded.url)
    open_file(other, document)
    assert "Opened: a recording, bf16" in said(other, "Opened")
    other.until("done")
    assert standing(other.page) == before
    assert other.page.inner_text(".board-verdict").startswith("Identical output: 3 lanes, ")
    other.page.get_by_role("tab", name="Charts").click()
    other.page.wait_for_function("document.querySelector('#tools-speed table')?.textContent.includes('DFlash')")
    assert save_is(other, document)
    assert not tab.complaints and not other.complaints and not other.outside


def save_is(tab, document):
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    return save(tab, "json")[1] == document


def test_a_race_is_opened_by_drop(tab):
    document = dumps(long_trace(30))
    transfer = tab.page.evaluate_handle(
        """text => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([text], 'race.json', { type: 'application/json' }));
            return transfer;
        }""",
        document,
    )
    tab.page.dispatch_event("#title", "dragenter", {"dataTransfer": transfer})
    assert tab.page.evaluate("document.body.classList.contains('keep-drop')")
    tab.page.dispatch_event("#title", "drop", {"dataTransfer": transfer})
    assert not tab.page.evaluate("document.body.classList.contains('keep-drop')")
    said(tab, "Opened")
    tab.until("done")
    assert standing(tab.page) == expected(long_trace(30), 1e9)


FILES = [
    (b"", "This file is empty."),
    (dumps(long_trace(9))[:-40], "This file is cut off"),
    (dumps(long_trace(9)).replace('"version":1', '"version":2'), "a newer DSpark Playground"),
    ('{"a": "<img src=x onerror=alert(1)>"}', "not a race that DSpark Playground saved"),
    (b"x" * 50_000_000, "This file has 50.0 MB; a race has at most 20 MB."),
    ("x" * 19_000_000, "This file is not JSON"),
]


def test_files_that_are_refused_leave_the_board_as_it_was(tab):
    open_file(tab, dumps(long_trace(12)))
    said(tab, "Opened")
    tab.until("done")
    before = standing(tab.page)
    for document, words in FILES:
        open_file(tab, document)
        said(tab, words)
        assert standing(tab.page) == before
    assert not tab.complaints


def hostile_trace():
    """Every text of a race says something hostile."""
    data = json.loads(dumps(long_trace(40, sampled=True)))

    def poison(value, path=()):
        if isinstance(value, dict):
            return {k: poison(v, (*path, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, path) for v in value]
        kept = {"format", "made", "method", "schedule", "kind", "finish"}
        return value if not isinstance(value, str) or path[-1] in kept else "".join(NOISE)

    poisoned = poison(data)
    for key in ("machine", "versions", "drafters"):
        poisoned[key] = dict.fromkeys(NOISE, NOISE[0])
    poisoned["race"]["lanes"][2]["error"] = "".join(NOISE)
    del poisoned["race"]["lanes"][2]["rounds"][-1]["finish"]  # a lane that came to its end did not fail
    for lane in [*poisoned["race"]["lanes"], {"spec": poisoned["race"]["request"]["lanes"][1]}]:
        lane["spec"]["method"] = "".join(NOISE) if lane["spec"]["method"] != "plain" else "plain"
    poisoned["race"]["request"]["lanes"] = [lane["spec"] for lane in poisoned["race"]["lanes"]]
    return json.dumps(poisoned)


def test_hostile_text_in_every_field_is_shown_and_runs_nothing(tab, chromium, tmp_path):
    open_file(tab, hostile_trace())
    said(tab, "Opened")
    tab.until("done")
    assert NOISE[2] in tab.page.inner_text(".pane[data-lane='1'] h3")
    assert NOISE[3] in tab.page.inner_text(".pane[data-lane='2'] .note")
    words = tab.page.inner_text(".board-verdict")  # the page's own, whatever the file says
    assert words.startswith("Sampled at temperature 0.7: ") and "1 lane failed and took no part." in words
    assert tab.answer(0) == "".join(NOISE) * 40
    for name in ("Charts", "Compare"):
        if tab.page.get_by_role("tab", name=name).count():
            tab.page.get_by_role("tab", name=name).click()
            tab.page.wait_for_timeout(400)
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    name, page = save(tab, "page")
    assert name.endswith(".html") and "/" not in name and "<" not in name
    file = tmp_path / "race.html"
    file.write_text(page, "utf-8")
    context = chromium.new_context(offline=True)
    alone = context.new_page()
    alone.set_default_timeout(1000 * PATIENCE_S)
    complaints, dialogs = [], []
    alone.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    alone.on("console", lambda message: complaints.append(message.text))
    alone.on("pageerror", lambda error: complaints.append(str(error)))
    alone.goto(file.as_uri())
    alone.wait_for_selector("body[data-race=done]")
    assert NOISE[2] in alone.inner_text("h1") and NOISE[3] in alone.inner_text(".facts")
    assert NOISE[3] in alone.inner_text(".asked")
    assert standing(alone) == standing(tab.page)
    assert alone.locator("img, iframe, object").count() == 0 and alone.locator("script").count() == 2
    context.close()
    assert not dialogs and not complaints and not tab.dialogs and not tab.complaints


def test_the_saved_page_replays_alone_and_its_policy_stops_what_was_slipped_in(tab, chromium, tmp_path):
    trace = long_trace(60, seconds=3.0)
    open_file(tab, dumps(trace))
    said(tab, "Opened")
    file = tmp_path / "race.html"
    _, page = save(tab, "page")
    probe = "<script>document.title = 'ran'</script><img src='https://example.org/x.png' onerror='document.title = 1'>"
    file.write_text(page.replace("<main>", "<main>" + probe), "utf-8")
    context = chromium.new_context(offline=True)
    alone, loaded, refusals = context.new_page(), [], []
    alone.set_default_timeout(1000 * PATIENCE_S)
    alone.on("requestfinished", lambda request: loaded.append(request.url))
    alone.on("console", lambda message: refusals.append(message.text))
    alone.goto(file.as_uri())
    alone.wait_for_selector("body[data-race=done]")
    assert alone.title().startswith("A race on") and loaded == [file.as_uri()]
    assert len(refusals) == 3 and all("Content Security Policy" in words for words in refusals), refusals
    assert standing(alone) == expected(trace, 1e9)
    outcome, verdict = (alone.locator(f".board-{part}").bounding_box() for part in ("outcome", "verdict"))
    assert outcome["y"] + outcome["height"] <= verdict["y"] and outcome["x"] == verdict["x"], "nothing is beside it"
    seek(alone, 1.5)
    assert standing(alone) == expected(trace, 1.5)
    alone.select_option(".replay-speed", "1")
    assert alone.evaluate(PLAY) == "Pause"
    alone.wait_for_selector(".replay-play[aria-label=Play]")
    assert standing(alone) == expected(trace, 1e9)
    a_round_is_gone_through_phase_by_phase(alone, trace)
    the_passes_add_up(alone, trace)
    context.close()


def a_round_is_gone_through_phase_by_phase(page, trace):
    """From the first token on: no step shows how the prompt is read."""
    lane, seen = trace.race.lanes[1], []
    assert page.eval_on_selector(".replay-lane", "pick => pick.selectedOptions[0].text") == lane.spec.name
    for _ in range(3):
        page.click("#step")
        pending = page.locator(".pane[data-lane='1'] .pending")
        phase = pending.get_attribute("data-phase") if pending.count() else None
        seen.append((phase, standing(page)[1][0], page.inner_text(".board-announce")))
        if phase:
            texts = [trace.tokens[t].decode().strip() for t in lane.rounds[0].draft_ids]
            assert [t.strip() for t in pending.locator(".draft").all_inner_texts()] == [t or "↵" for t in texts]
    assert [(phase, rounds) for phase, rounds, _ in seen] == [("draft", 1), ("check", 1), (None, 2)]
    before, checking, over = (words for *_, words in seen)
    assert "before it is checked" in before and "being checked: one pass of the target" in checking
    assert "round 1, token" in over and page.locator(".pane[data-lane='1'] .round[data-round='1'].lit").count()
    seek(page, 1e9)
    assert not page.locator(".pending").count() and standing(page) == expected(trace, 1e9)


# Said at once: a busy machine looks again when a short replay is over.
PLAY = """() => {
    const play = document.querySelector('.replay-play');
    play.click();
    return play.ariaLabel;
}"""


def the_passes_add_up(page, trace):
    """Bars and waiting of a lane to its clock, as they are drawn; and a replay runs along in them."""
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('#passes .passes-row')].map(row => {
            const parts = [...row.querySelectorAll('path[class]:not(.part-gap)')].map(path => path.getAttribute('d'));
            const widths = parts.flatMap(d => [...d.matchAll(/h([0-9.]+)/g)].map(found => Number(found[1])));
            return [widths.reduce((a, b) => a + b, 0), row.querySelector('.passes-sum').textContent];
        })"""
    )
    for lane, (seconds, words) in zip(trace.race.lanes, drawn, strict=True):
        assert seconds == pytest.approx(lane.rounds[-1].time_s, rel=0.01)
        assert words.startswith(f"{len(lane.rounds)} pass")
    seek(page, 1.25)
    assert page.eval_on_selector(".passes-ahead", "ahead => Number(ahead.getAttribute('x'))") == pytest.approx(1.0)
    seek(page, 1e9)
    # A card at the token, without a model and without a wait.
    page.locator(".pane[data-lane='1'] .round .tok.r").first.hover()
    page.wait_for_selector(".token-card:not([hidden])")
    assert ", rejected" in page.inner_text(".token-title") and page.inner_text(".token-place").count(", draft ")
    page.keyboard.press("Escape")
    assert page.is_hidden(".token-card")


def test_replay_scrub_and_steps_show_every_moment_as_it_was(tab):
    trace = long_trace(700, seconds=30.0)
    open_file(tab, dumps(trace))
    said(tab, "Opened")
    tab.until("done")
    page = tab.page
    end = standing(page)
    for moment in (0, 0.1, 0.25, 0.4, 29.0, 11.7, 3.3, 30.2, 18.01, 0.3, 0, 100):
        seek(page, moment)
        assert standing(page) == expected(trace, moment), moment
        assert page.is_visible(".board-verdict") == (moment == 100)
    assert standing(page) == end
    moments = sorted(
        {round(lane.start.prefill_s, 4) + t for lane in trace.race.lanes for t in (0, *(r.time_s for r in lane.rounds))}
    )
    seek(page, 0)
    for k in range(6):
        page.click(".replay-next")
        assert standing(page) == expected(trace, moments[k] + 1e-9)
    assert "round" in page.inner_text(".board-details") and page.locator(".lit").count()
    for k in (4, 3, 2):
        page.click(".replay-previous")
        assert standing(page) == expected(trace, moments[k] + 1e-9)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "replay-at"
    page.keyboard.press("End")
    assert standing(page) == end
    assert not tab.complaints


@pytest.mark.parametrize("speed", ["4", "0.1"])
def test_a_replay_runs_at_the_speed_that_was_chosen(tab, speed):
    trace = long_trace(200, seconds=20.0)
    open_file(tab, dumps(trace))
    said(tab, "Opened")
    tab.until("done")
    tab.page.select_option(".replay-speed", speed)
    seek(tab.page, 5)
    told = tab.page.evaluate(
        """() => new Promise(resolve => {
            const at = () => Number(document.querySelector('.replay-at').value);
            document.querySelector('.replay-play').click();
            let began = 0, from = at(), before = from;
            (function look() {  // from one picture to another, half a second later at least
                const now = performance.now(), moved = at() !== before;
                before = at();
                if (moved && !began) [began, from] = [now, at()];
                else if (moved && now > began + 500) {
                    document.querySelector('.replay-play').click();
                    return resolve([at() - from, (now - began) / 1000]);
                }
                requestAnimationFrame(look);
            })();
        })"""
    )
    assert told[0] / told[1] == pytest.approx(float(speed), rel=0.35)
    tab.load()
    tab.page.wait_for_selector(".replay-speed", state="attached")
    assert tab.page.evaluate("document.querySelector('.replay-speed').value") == speed


def test_nothing_is_opened_or_saved_while_a_race_runs(recorded, tab):
    recorded.worker.engine = endless()
    tab.race()
    tab.until("running")
    tab.page.wait_for_function("document.querySelectorAll('.round').length > 2")
    open_file(tab, dumps(long_trace(9)))
    assert said(tab, "A race is running")
    tab.page.click("[data-keep=json]", force=True)  # dead to who cannot see why, and yet it says so
    assert said(tab, "A race is running")
    assert not tab.page.is_visible(".replay")
    tab.page.click("#stop")
    tab.until("stopped")
    assert loads(save(tab, "json")[1]).race.stopped
