"""The product under `mlx.launch`, the embedded model on three ranks: a race, a rank that dies in one, and another."""

import os
import signal
import time

import pytest

from tests.playground.launched import LaunchedApp

pytestmark = pytest.mark.sweep  # seven processes


@pytest.fixture
def three():
    app = LaunchedApp(3)
    try:
        app.wait_until_served()
        yield app
    finally:
        app.end()


def test_a_race_on_three_ranks_a_rank_that_dies_and_a_race_again(three, open_tab):
    tab = open_tab(three.url)
    # What is lost was on 3 machines, too.
    loaded = "document.querySelector('#models').innerText.includes(', on 3 machines')"
    tab.page.wait_for_function(loaded, timeout=240_000)
    tab.settings(max_tokens=8)
    tab.race()
    tab.until("done", 300)
    assert "Identical output: 3 lanes" in tab.page.inner_text(".board-verdict")
    tab.settings(max_tokens=200)
    tab.race("Tell me a long story.")
    tab.until("running")  # till then the last race's rounds are there
    tab.page.wait_for_function("document.querySelectorAll('.round').length > 3", timeout=300_000)
    shown = tab.answer(0)
    os.kill(three.rank_process(1), signal.SIGKILL)
    began = time.monotonic()
    tab.page.wait_for_function(
        "document.querySelector('#board').innerText.includes('is lost: load it')", timeout=60_000
    )
    assert time.monotonic() - began < 10
    assert shown and tab.answer(0).startswith(shown)
    tab.page.wait_for_function(
        "document.querySelector('#models').innerText.includes('is lost: load it')", timeout=60_000
    )
    tab.page.get_by_role("tab", name="Models").click()
    tab.page.click("#load")
    tab.page.wait_for_function(loaded, timeout=240_000)
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    tab.page.evaluate("document.body.dataset.race = ''")  # what the race before left there
    tab.settings(max_tokens=8)
    tab.race()
    tab.until("done", 300)
    assert "Identical output: 3 lanes" in tab.page.inner_text(".board-verdict")
