"""One browser has six connections to a host. With eight tabs of the page open, Race and Stop get through in each."""

import pytest

from dspark_core.playground.worker import MAX_WAITING

from .tab import replay

# Asked by a timer: tabs in the background draw no frames.
STATE = "state => document.body.dataset.race === state"


@pytest.mark.long
def test_eight_tabs_race_and_stop(recorded, chromium):
    recorded.worker.engine = replay(pace=0.005)  # no race comes to an end by itself
    context = chromium.new_context()
    context.route("**/Plotly*", lambda route: route.abort())  # a second of each tab's start, and nothing to do with it
    pages = [context.new_page() for _ in range(MAX_WAITING)]
    for page in pages:
        page.goto(f"{recorded.url}/?prompt=Say%20hello.", wait_until="commit")
    for page in pages:
        page.wait_for_function("document.querySelector('#prompt textarea')?.value === 'Say hello.'", polling=100)
        page.evaluate("document.querySelector('#race').click()")
    for page in pages:
        page.wait_for_function(STATE, arg="running", polling=100)
    for page in pages:
        page.evaluate("document.querySelector('#stop').click()")
        page.wait_for_function(STATE, arg="stopped", polling=100, timeout=5_000)
    recorded.until_idle()
    context.close()
