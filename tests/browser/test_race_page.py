"""Races in the browser, from recorded rounds: what stands on the page, Stop, tabs, lanes, keyboard."""

import threading
from dataclasses import replace

import pytest

from dspark_core.decode.rounds import Round, tau
from dspark_core.playground.tabs.charts_tab import TITLES
from dspark_core.race.metrics import metrics
from dspark_core.race.records import LaneRecord, LaneSpec, Verdict
from tests.playground.replay import STOP, recorded_rounds
from tests.playground.serving import served

from .steps import HOSTILE, copied
from .tab import PATIENCE_S, WINDOW, endless, replay


def expected_text(engine, lane):
    data = b""
    for event in engine.rounds[lane]:
        for token in getattr(event, "committed", None) or (getattr(event, "token_id", None),):
            if token:
                data += engine.pieces.bytes(token)
    return data.decode(errors="replace").replace("\x1e", "").replace("\x1f", "")


def test_text_and_figures_in_the_panes_are_the_engines(recorded, tab):
    engine = recorded.worker.engine = replay([f" w{k}" + "\n" * (k % 7 == 0) for k in range(300)])
    tab.race()
    tab.until("done")
    for i in range(3):
        assert tab.answer(i) == expected_text(engine, i)
        lane = LaneRecord(LaneSpec("x"))
        for event in engine.rounds[i]:
            lane.add(event)
        m = metrics(lane)
        figures = tab.page.locator(f".pane[data-lane='{i}'] dd").all_inner_texts()
        assert figures[0] == f"{m.tok_s:.1f}"
        assert float(figures[2]) == pytest.approx(m.tokens_per_round, abs=0.006)
        assert figures[3] == (f"{100 * m.acceptance:.0f} %" if m.acceptance is not None else "–")
        rejected = tab.page.locator(f".pane[data-lane='{i}'] del.tok").count()
        assert rejected == sum(r.proposed - r.accepted for r in lane.rounds)
    assert "Identical output" in tab.page.inner_text(".board-verdict")
    assert not tab.outside and not tab.complaints


def test_a_stop_token_inside_the_draft_counts_as_the_metrics_count_it(recorded, tab):
    engine = recorded.worker.engine = replay([f" w{k}" for k in range(40)])
    for i, lane in enumerate(engine.rounds):
        last = lane[-1]
        if i:  # the stop token is the second of the accepted drafts
            drafts = (last.anchor_id, STOP, last.anchor_id, *last.draft_ids[3:])
            lane[-1] = replace(last, draft_ids=drafts, accepted=2, bonus=True, committed=drafts[:2], finish="stop")
        else:
            lane[-1] = replace(last, next_id=STOP, committed=(STOP,), finish="stop")
    tab.race()
    tab.until("done")
    for i in range(3):
        wanted = tau([e for e in engine.rounds[i] if isinstance(e, Round)])
        shown = tab.page.locator(f".pane[data-lane='{i}'] dd").nth(2).inner_text()
        assert float(shown) == pytest.approx(wanted, abs=0.006)


def test_a_board_that_missed_records_has_them_all_at_the_end(recorded, tab, monkeypatch):
    monkeypatch.setattr("dspark_core.playground.stream.WINDOW", 200)
    engine = recorded.worker.engine = replay([f" w{k}" for k in range(300)])
    tab.race()
    tab.until("done")
    assert [tab.answer(i) for i in range(3)] == [expected_text(engine, i) for i in range(3)]


def test_hostile_text_is_shown_verbatim_and_runs_nothing(recorded, tab):
    engine = recorded.worker.engine = replay(HOSTILE * 3)
    tab.race("${alert(3)} {{x}} <img src=x onerror=alert(4)>")
    tab.until("done")
    for i in range(3):
        assert tab.answer(i) == expected_text(engine, i)
    assert tab.page.locator(".text img, .text script").count() == 0
    tab.page.locator(".pane[data-lane='1'] .round").nth(3).hover()
    assert "drafted" in tab.page.inner_text(".board-details")
    assert not tab.dialogs and not tab.complaints


def test_the_stop_token_is_a_mark_not_text(recorded, tab):
    engine = replay(["Hi", " there"])
    ids = [*engine.pieces.ids(["Hi", " there"]), STOP]
    engine.rounds = [recorded_rounds(ids, finish="stop"), recorded_rounds(ids, 7, (2,), 1, finish="stop")] * 2
    recorded.worker.engine = engine
    tab.race()
    tab.until("done")
    assert tab.answer(0) == tab.answer(1) == "Hi there"
    assert tab.page.locator(".pane[data-lane='0'] .tok.e").count() == 1
    assert "ended its answer" in tab.page.inner_text(".pane[data-lane='0'] .note")


def test_copy_gives_the_answer_alone(recorded, tab):
    engine = recorded.worker.engine = replay()
    tab.race()
    tab.until("done")
    assert copied(tab.page, ".pane[data-lane='1'] .copy") == expected_text(engine, 1)


def test_hovering_a_round_lights_the_same_text_in_every_pane(recorded, tab):
    recorded.worker.engine = replay()
    tab.race()
    tab.until("done")
    tab.page.locator(".pane[data-lane='1'] .round").nth(1).hover()  # the first round: tokens 2 to 5
    for i in (0, 2):
        lit = tab.page.locator(f".pane[data-lane='{i}'] .tok.lit").all_inner_texts()
        assert [t.strip() for t in lit] == ["word1", "word2", "word3", "word4"]
    words = tab.page.inner_text(".board-details")
    assert words.startswith("DSpark · hardware-aware, round 1, tokens 2 to 5. 7 drafted, all sent, 3 accepted:")
    assert "“ WRONG” rejected, the target’s correction is “ word4”" in words


def test_rejected_drafts_can_be_hidden(recorded, tab):
    recorded.worker.engine = replay()
    tab.race()
    tab.until("done")
    pane = tab.page.locator(".pane[data-lane='1']")
    assert pane.locator("del.r").first.is_visible() and pane.locator("del.d").first.is_visible()
    tab.page.select_option(".pick-rejected", "first")
    assert pane.locator("del.r").first.is_visible() and not pane.locator("del.d").first.is_visible()
    tab.page.select_option(".pick-rejected", "none")
    assert not pane.locator("del.r").first.is_visible()
    tab.page.select_option(".pick-rejected", "all")


def test_a_lane_that_does_not_speculate_says_why(recorded, open_tab):
    engine = replay(pause=1.0)
    engine.rounds[1] = recorded_rounds(engine.pieces.ids([f" word{k}" for k in range(40)]), round_s=0.05)
    recorded.worker.engine = engine
    tab = open_tab(recorded.url)
    tab.race()
    why = "by the costs measured on this machine, plain steps are expected to be faster"
    tab.page.wait_for_function(
        "w => document.querySelector('.pane[data-lane=\"1\"] .note')?.textContent === w", arg=f"not drafting: {why}"
    )
    engine.go.set()
    tab.until("done")
    assert f"Nothing drafted in 39 of 39 rounds: {why}." in tab.page.inner_text(".pane[data-lane='1'] .note")
    assert "Nothing" not in tab.page.inner_text(".pane[data-lane='2'] .note")
    assert tab.page.inner_text(".board-outcome").startswith("DSpark first: 40 tokens in 2.0 s, plain 3.9 s: 2.00 ×")
    tab.page.get_by_role("button", name="Draft anyway").click()
    tab.page.wait_for_function(
        """document.querySelector('#settings-summary').innerText.includes(
            'plain, DSpark · full block, DFlash · cap 7')"""
    )
    tab.page.wait_for_function(
        "document.body.dataset.race === 'done' && document.querySelector('.pane h3 small').innerText === 'full block'"
    )


def test_nothing_moves_for_who_asked_for_less_motion(recorded, open_tab):
    recorded.worker.engine = replay(hold=600.0)
    tab = open_tab(recorded.url, reduced_motion="reduce")
    tab.race()
    tab.page.wait_for_selector(".pane[data-state=busy]")
    moving = """() => {
        const style = (node, pseudo) => getComputedStyle(node, pseudo).animationName;
        return [...document.querySelectorAll('body *')].filter(n =>
            [null, '::before', '::after'].some(pseudo => style(n, pseudo) !== 'none')).length;
    }"""
    assert tab.page.evaluate(moving) == 0
    tab.page.emulate_media(reduced_motion="no-preference")
    assert tab.page.evaluate(moving) > 0  # the dot that pulses while a lane reads the prompt
    tab.page.click("#stop")
    tab.until("stopped")


def test_two_clicks_are_one_race(recorded, tab, monkeypatch):
    worker, engine = recorded.worker, replay(pause=0.05)
    worker.engine = engine
    running, queued, runs, submit = [], [], worker.runs, worker.submit
    monkeypatch.setattr(worker, "runs", lambda *asked: running.append(runs(*asked)) or running[-1])
    monkeypatch.setattr(worker, "submit", lambda job: queued.append(submit(job)) or queued[-1])
    tab.page.fill("#prompt textarea", "twice")
    tab.page.evaluate("document.body.dataset.race = ''")
    tab.page.evaluate("() => { const b = document.querySelector('#race'); b.click(); b.click(); }")
    for _ in range(50 * PATIENCE_S):
        if len(running) < 2 or len(queued) < running.count(False):  # both were heard, and what came of them is known
            tab.page.wait_for_timeout(20)
    engine.go.set()
    tab.until("done")
    assert len(running) == 2 and queued.count(True) == 1
    assert tab.page.locator(".pane").count() == 3


def test_before_a_race_the_lanes_that_would_run_are_shown(recorded, open_tab):
    recorded.worker.engine = replay()
    tab = open_tab(recorded.url)
    tab.until("idle")
    assert "binary search" in tab.page.input_value("#prompt textarea"), "one click starts a race"
    assert tab.page.locator(".pane").count() == 3 and "measured against it" in tab.page.inner_text(
        ".pane[data-lane='0']"
    )
    tab.page.get_by_role("button", name="Lanes and settings").click()
    choose(tab, "Lane 4", "DSpark")
    tab.page.wait_for_function("document.querySelectorAll('.pane').length === 4")
    choose(tab, "Lane 4", "off")
    tab.page.wait_for_function("document.querySelectorAll('.pane').length === 3")
    tab.race()
    tab.until("done")
    settings = tab.page.get_by_role("button", name="Lanes and settings")
    assert settings.get_attribute("aria-expanded") == "false", "they fold at Race"
    assert tab.board_in_view()
    settings.click()
    choose(tab, "Lane 4", "DSpark")
    tab.page.wait_for_function(
        "document.querySelector('#settings-summary').innerText.includes('DSpark · hardware-aware;')"
    )
    tab.page.wait_for_timeout(200)
    assert tab.page.locator(".pane").count() == 3 and tab.answer(0)  # a finished race stays
    four_lanes_with_their_own_settings(tab)


def test_the_verdict_of_sampled_lanes_leads_to_the_proof(recorded, tab):
    engine = recorded.worker.engine = replay()
    race = engine.race

    def sampled(request, cancelled):
        for lane, event in race(request, cancelled):
            yield lane, Verdict("sampled", "Sampled.") if isinstance(event, Verdict) else event

    engine.race = sampled
    tab.race()
    tab.until("done")
    tab.page.get_by_role("button", name="See the proof").click()
    tab.page.get_by_role("tab", name="Prove it", selected=True).wait_for()
    tab.page.get_by_text("Sampling: does it draw what the target would draw?").wait_for()
    tab.page.get_by_role("tab", name="Race", exact=True).click()


def test_an_empty_prompt_is_answered_in_words(recorded, tab):
    recorded.worker.engine = replay()
    tab.race("")
    tab.until("failed")
    assert "Type a prompt" in tab.page.inner_text(".board-status")
    tab.race()
    tab.until("done")
    tab.race("")
    tab.until("failed")
    assert tab.answer(0)  # what was there stays
    tab.race()
    tab.until("done")


def test_a_second_race_starts_afresh(recorded, tab):
    recorded.worker.engine = replay()
    tab.race()
    tab.until("done")
    recorded.worker.engine = replay([" other"] * 3)
    tab.race()
    tab.until("done")
    assert tab.answer(0) == " other other other"


STOPPED_AFTER = """() => {
    let asked = 0
    window.stoppedAfter = null
    for (const kind of ["pointerdown", "keydown"])
        addEventListener(kind, () => { asked = performance.now() }, {capture: true, once: true})
    new MutationObserver((_, seen) => {
        if (document.body.dataset.race !== "stopped") return
        seen.disconnect()
        const stopped = performance.now()
        fetch("/robots.txt", {cache: "no-store"}).then(() => {
            window.stoppedAfter = stopped - asked - 2 * (performance.now() - stopped)
        })
    }).observe(document.body, {attributes: true, attributeFilter: ["data-race"]})
}"""


@pytest.mark.parametrize("key", ["click", "Escape"])
def test_stop_while_decoding(recorded, tab, key):
    """Stopped within 300 ms by the page's own clock and what the machine takes for two small files just then, the best
    of eight: the browser shares slow cores with others."""
    recorded.worker.engine = endless(0.1)
    took = []
    while len(took) < 8 and min(took, default=1000.0) > 300:
        tab.race()
        tab.until("running")  # till then the last race's rounds are there
        tab.page.wait_for_function("document.querySelectorAll('.round').length > 4")
        tab.page.evaluate(STOPPED_AFTER)
        tab.page.click("#stop") if key == "click" else tab.page.keyboard.press("Escape")
        tab.until("stopped")
        took.append(tab.page.wait_for_function("window.stoppedAfter !== null && [window.stoppedAfter]").json_value()[0])
        recorded.until_idle()
    assert min(took) <= 300, took
    rounds = tab.page.locator(".round").count()
    tab.page.wait_for_timeout(300)
    assert tab.page.locator(".round").count() == rounds
    assert tab.page.inner_text(".board-verdict") == ""


def test_stop_in_prefill(recorded, tab):
    recorded.worker.engine = replay(hold=600.0)
    tab.race()
    tab.page.wait_for_function("document.querySelector('.note')?.textContent.includes('prompt')")
    tab.page.click("#stop")
    tab.until("stopped")  # it would read the prompt for ten minutes
    recorded.until_idle()
    for key in ("click", "Escape"):  # at once, before the server has heard of the race
        tab.page.evaluate(OVERTAKING, key)
        tab.until("stopped")
        recorded.until_idle()
    tab.race("")
    tab.until("failed")
    tab.page.click("#stop")  # of no race: the next one is not stopped by it
    recorded.worker.engine = replay()
    tab.race()
    tab.until("done")


# Race's request is slower than Stop's, as on a busy machine.
OVERTAKING = """async key => {
    const fetched = window.fetch;
    window.fetch = async (url, ...more) => {
        if (String(url).includes('queue/join')) await new Promise(go => setTimeout(go, 400));
        return fetched(url, ...more);
    };
    document.body.dataset.race = '';  // what the race before left there
    document.querySelector('#race').click();
    if (key === 'click') document.querySelector('#stop').click();
    else document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
    await new Promise(go => setTimeout(go, 500));
    window.fetch = fetched;
}"""


def test_stop_while_loading_and_progress_is_shown(open_tab):
    gate = threading.Event()

    def load(progress):
        progress("the weights")
        gate.wait(600)
        return replay()

    with served(load) as page:
        tab = open_tab(page.url)
        tab.page.wait_for_function("document.querySelector('#models').innerText.includes('the weights')")
        tab.race()
        tab.page.wait_for_function(
            "document.querySelector('.board-status').textContent.includes('Loading: the weights')"
        )
        tab.page.click("#stop")
        tab.until("stopped")
        gate.set()
        tab.page.wait_for_function("document.querySelector('#models').innerText.includes('a recording')")
        tab.race()
        tab.until("done")


def test_closing_the_tab_frees_the_engine(recorded, open_tab):
    engine = recorded.worker.engine = endless()
    tab = open_tab(recorded.url)
    tab.race()
    tab.page.wait_for_function("document.querySelectorAll('.round').length > 2")
    assert engine.running.is_set()
    tab.page.close()
    recorded.until_idle()


def test_a_second_tab_waits_in_sight(recorded, tab, open_tab):
    recorded.worker.engine = endless()
    first, second = tab, open_tab(recorded.url)
    first.race()
    first.until("running")
    first.page.wait_for_function("document.querySelectorAll('.round').length > 2")
    second.race()
    second.page.wait_for_function("document.querySelector('.board-status').textContent.includes('Waiting: 1 race')")
    recorded.worker.engine = replay()
    first.page.click("#stop")
    second.until("done")


def test_a_failing_lane_says_why_and_the_others_finish(recorded, tab):
    recorded.worker.engine = replay(fails={1: 4})
    tab.race()
    tab.until("done")
    assert tab.page.inner_text(".pane[data-lane='1'] .note") == "This lane failed: it was told to."
    assert len(tab.answer(0)) == len(tab.answer(2)) > len(tab.answer(1)) > 0


def choose(tab, label, option):
    tab.page.get_by_role("listbox", name=label).or_(tab.page.get_by_label(label, exact=True)).first.click()
    choice = tab.page.get_by_role("option", name=option, exact=True)
    choice.wait_for()
    in_sight = """node => { const { left, top, width, height } = node.getBoundingClientRect();
        return node.contains(document.elementFromPoint(left + width / 2, top + height / 2)); }"""
    tab.page.wait_for_function(in_sight, arg=choice.element_handle())  # it flies in
    choice.click()


def four_lanes_with_their_own_settings(tab):
    choose(tab, "Lane 4", "DFlash")
    fourth = tab.page.locator(".lane-controls").nth(3)
    fourth.get_by_label("Sent to verification").click()
    tab.page.get_by_role("option", name="fixed cap", exact=True).click()
    boxes = fourth.locator("input[type=number]")
    boxes.first.wait_for(state="visible")
    boxes.first.fill("5")
    boxes.first.blur()
    tab.race()
    tab.until("done")
    heads = [t.replace("\n", " ") for t in tab.page.locator(".pane h3").all_inner_texts()]
    assert heads == ["plain", "DSpark hardware-aware", "DFlash hardware-aware", "DFlash cap 5"]


@pytest.mark.parametrize("wait", [0, pytest.param(100, marks=pytest.mark.sweep)])
def test_an_edit_right_after_unfolding_stays(open_tab, wait):
    gate = threading.Event()

    def load(progress):
        for step in range(200):
            progress(f"step {step}")  # something on the page changes ten times a second
            if gate.wait(0.1):
                break
        return replay()

    edit = """async wait => {
        document.querySelector('#settings-head button').click();
        await new Promise(done => setTimeout(done, wait));
        for (const [selector, value] of [['#max-tokens', '33'], ['#temperature', '0.5']]) {
            const box = document.querySelector(selector + ' input[type=number]');
            box.value = value;
            for (const kind of ['input', 'change', 'blur']) box.dispatchEvent(new Event(kind, { bubbles: true }));
        }
    }"""
    with served(load) as page:
        tab = open_tab(page.url)
        tab.page.evaluate(edit, wait)
        tab.page.wait_for_function(
            "document.querySelector('#settings-summary').innerText.includes('up to 33 tokens, temperature 0.5')"
        )
        tab.page.wait_for_timeout(600)
        assert tab.page.locator("#max-tokens input[type=number]").input_value() == "33"
        assert "up to 33 tokens, temperature 0.5" in tab.page.inner_text("#settings-summary")
        gate.set()


def test_by_keyboard_alone_from_prompt_to_verdict(recorded, open_tab):
    recorded.worker.engine = replay()
    tab = open_tab(recorded.url)
    keys = tab.page.keyboard

    def tab_to(selector, limit=60):
        for _ in range(limit):
            keys.press("Tab")
            if tab.page.evaluate("s => document.activeElement.matches(s)", selector):
                outline = tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{selector} shows no focus"
                return
        pytest.fail(f"{selector} cannot be reached by Tab")

    for _ in range(10):
        keys.press("Tab")
        if tab.page.evaluate("document.activeElement.tagName") == "TEXTAREA":
            break
    keys.type("Say hello.")
    keys.press("Control+Enter")
    tab.until("done")
    assert "Identical" in tab.page.inner_text(".board-verdict")
    tab_to(".pane[data-lane='1'] .text")
    keys.press("Home")
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    assert "round 2" in tab.page.inner_text(".board-details")
    assert "round 2" in tab.page.evaluate("document.activeElement.getAttribute('aria-label')")
    keys.press("ArrowLeft")
    assert "round 1" in tab.page.inner_text(".board-details")
    assert tab.page.locator(".pane[data-lane='0'] .lit").count() == 4
    tab_to(".pane[data-lane='2'] .text")
    keys.press("ArrowRight")  # begins where the other pane was being read
    assert "DFlash" in tab.page.inner_text(".board-details") and tab.page.locator(".pane[data-lane='1'] .lit").count()


def test_the_end_is_announced_once_and_nothing_while_it_streams(recorded, open_tab):
    recorded.worker.engine = replay(pace=3.0)
    tab = open_tab(recorded.url)
    tab.page.evaluate("""() => {
        window.said = [];
        const live = node => node?.closest('[aria-live], [role=status], [role=alert], [role=log]');
        new MutationObserver(changes => {
            for (const { target } of changes) {
                const region = live(target.nodeType === 1 ? target : target.parentElement);
                if (region && region.getAttribute('aria-live') !== 'off' && region.textContent.trim())
                    window.said.push(region.textContent);
            }
        }).observe(document.body, { childList: true, characterData: true, subtree: true });
    }""")
    tab.race()
    tab.until("done")
    tab.page.wait_for_timeout(300)  # what comes after a race: advice, the list of kept races
    said = tab.page.evaluate("window.said")
    assert len(said) == 1 and said[0].startswith("Race finished. plain:")
    live = tab.page.evaluate(
        "[...document.querySelectorAll('.board [aria-live], .board [role=status], .board [role=log]')]"
        ".filter(n => n.getAttribute('aria-live') !== 'off').length"
    )
    assert live == 1


def test_charts_tables_and_downloads(recorded, open_tab):
    recorded.worker.engine = replay([f" w{k}" for k in range(120)])
    tab = open_tab(recorded.url)
    tab.race()
    tab.until("done")
    tab.page.get_by_role("tab", name="Charts").click()
    tab.page.wait_for_selector("#plot-time .js-plotly-plot .main-svg")
    assert tab.page.locator(".js-plotly-plot").count() == 7
    tab.page.locator("#tools-speed summary").click()
    assert "DFlash · hardware-aware" in tab.page.inner_text("#tools-speed table")
    starts = {"csv": b"lane,", "json": b"{", "png": b"\x89PNG"}
    for name in TITLES:
        assert (
            tab.page.locator(f"#tools-{name} details .chart-table").get_attribute("aria-label").endswith(TITLES[name])
        )
        for kind in starts if name == "speed" else ["csv"]:  # Chromium lets through ten in a row
            with tab.page.expect_download() as download:
                tab.page.locator(f"#tools-{name} button[data-save={kind}]").click()
            with open(download.value.path(), "rb") as file:
                assert file.read().startswith(starts[kind])
            assert download.value.suggested_filename == f"{name}.{kind}"
    tab.page.click("#profile")
    tab.page.wait_for_function("document.querySelector('#profiled').innerText.includes('Measured')")
    assert not tab.outside and not tab.complaints


def test_charts_are_drawn_while_other_lanes_still_run(recorded, open_tab):
    recorded.worker.engine = replay(pause=2.5)  # between the end of DSpark's lane and of the plain one
    tab = open_tab(recorded.url)
    tab.race()
    tab.page.get_by_role("tab", name="Charts").click()
    tab.page.wait_for_function("document.querySelector('#tools-speed table')?.textContent.includes('DSpark')")
    assert tab.page.evaluate("document.body.dataset.race") == "running"
    recorded.worker.engine.go.set()
    tab.until("done")
    rounds = len(recorded.worker.engine.rounds[2]) - 1
    tab.page.wait_for_function(
        "n => document.querySelector('#tools-speed tr:last-child td:last-child').textContent === n", arg=str(rounds)
    )


def test_themes_and_text_size_are_kept_and_a_projectors_text_is_large(recorded, open_tab):
    tab = open_tab(recorded.url)
    tab.page.click(".pick-theme")
    tab.page.select_option(".pick-size", "projector")
    tab.load()
    tab.page.wait_for_function("document.body.classList.contains('dark')")
    of_the_system = open_tab(recorded.url, color_scheme="dark").page
    assert of_the_system.evaluate("document.body.classList.contains('dark')")
    assert tab.page.get_attribute(".board", "data-size") == "projector"
    recorded.worker.engine = replay()
    tab.race()
    tab.until("done")
    sizes = "s => [...document.querySelectorAll(s)].map(n => parseFloat(getComputedStyle(n).fontSize))"
    assert min(tab.page.evaluate(sizes, ".pane .text, .board-verdict, .figures dd, .pane h3")) >= 24
    assert min(tab.page.evaluate(sizes, ".pane .note, .figures dt, .legend li")) >= 18


def test_at_760_pixels_nothing_is_cut_off(recorded, tab):
    recorded.worker.engine = replay()
    tab.page.set_viewport_size({"width": 760, "height": 900})
    tab.race()
    tab.until("done")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 760
    for i in range(3):
        box = tab.page.locator(".pane").nth(i).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 760
    tab.page.set_viewport_size(WINDOW)


def test_settings_count_when_they_are_folded_away_again(recorded, open_tab):
    engine = recorded.worker.engine = replay()
    asked = []
    race = engine.race
    engine.race = lambda request, cancelled: (asked.append(request), race(request, cancelled))[1]
    tab = open_tab(recorded.url)
    tab.settings(max_tokens=33)
    tab.page.get_by_role("button", name="Lanes and settings").click()
    tab.page.get_by_role("button", name="Binary search").click()
    tab.page.click("#race")
    tab.until("done")
    assert asked[0].settings.max_tokens == 33
    assert "binary search" in asked[0].prompt
