"""One browser has six connections to a host. With eight tabs of the page open, Race and Stop get through in each."""

from dspark_core.playground.worker import MAX_WAITING

from .tab import replay


def test_eight_tabs_race_and_stop(recorded, open_tab):
    recorded.worker.engine = replay(hold=60)  # of each tab, as no race comes to an end by itself
    first = open_tab(recorded.url)
    pages = [first.page, *(first.context.new_page() for _ in range(MAX_WAITING - 1))]
    for page in pages[1:]:
        page.goto(recorded.url, wait_until="commit")
    for page in pages:
        page.wait_for_function("document.querySelector('.board .panes')", timeout=15_000)
        page.fill("#prompt textarea", "Say hello.")
        page.click("#race")
        page.wait_for_function("document.body.dataset.race === 'running'", timeout=15_000)
    for page in pages:
        page.click("#stop")
        page.wait_for_function("document.body.dataset.race === 'stopped'", timeout=5_000)
    recorded.until_idle()
    assert not first.complaints and not first.outside
