"""One browser has six connections to a host. With eight tabs of the page open, Race and Stop get through in each; and a
click is heard at whatever moment it comes, also just when what ran before has ended."""

import pytest

from dspark_core.playground.worker import MAX_WAITING

from .steps import rests
from .tab import PATIENCE_S, endless, replay

# Asked by a timer: tabs in the background draw no frames.
STATE = "state => document.body.dataset.race === state"


@pytest.mark.long
def test_eight_tabs_race_and_stop(recorded, profile):
    recorded.worker.engine = endless()
    pages = [profile.new_page() for _ in range(MAX_WAITING)]
    try:
        for page in pages:
            page.set_default_timeout(1000 * PATIENCE_S)  # eight pages begin at once
            network = profile.new_cdp_session(page)  # a route would do without the browser's cache
            network.send("Network.enable")
            network.send("Network.setBlockedURLs", {"urls": ["*/Plotly*"]})  # a second of each start, for nothing here
            page.goto(f"{recorded.url}/?prompt=Say%20hello.", wait_until="commit")
        for page in pages:
            page.wait_for_function("document.querySelector('#prompt textarea')?.value === 'Say hello.'", polling=100)
            page.evaluate("document.querySelector('#race').click()")
        for page in pages:
            page.wait_for_function(STATE, arg="running", polling=100)
        for page in pages:
            page.evaluate("document.querySelector('#stop').click()")
            page.wait_for_function(STATE, arg="stopped", polling=100)
    finally:
        for page in pages:
            page.close()
        recorded.worker.engine = replay()
        recorded.until_idle()


# A stream of gradio's ends with the last event that runs. What is asked for between that end and the moment when the
# page hears of it has no stream, unless the page waits for that moment: here, Race is clicked in that very gap, and the
# gap is as long as it takes. A click that is not heard would be the last, since no stream ends any more.
CLICK_IN_THE_GAP = """
const real = window.fetch, text = new TextDecoder(), bytes = new TextEncoder();
let joined = () => {};
const late = { async transform(part, stream) {
    const all = text.decode(part, { stream: true }), end = all.indexOf('data: {"msg":"close_stream"');
    const gap = end >= 0 && window.armed;
    if (gap) {
        window.armed = false;
        stream.enqueue(bytes.encode(all.slice(0, end)));
        const heard = new Promise((resolve) => { joined = resolve; });
        document.querySelector('#race').click();
        await heard;
    }
    stream.enqueue(bytes.encode(gap ? all.slice(end) : all));
} };
window.fetch = async (input, init) => {
    const answer = await real(input, init), url = input instanceof Request ? input.url : String(input);
    if (url.includes('queue/join')) setTimeout(() => joined(), 1500);
    if (!url.includes('queue/data') || !answer.body) return answer;
    return new Response(answer.body.pipeThrough(new TransformStream(late)), answer);
};
"""
# As if three other tabs were at work: then a page holds no stream, and asks for what has come.
NONE_TO_HOLD = """
for (const k of [0, 1, 2]) navigator.locks.request('dspark-connection-' + k, () => new Promise(() => {}));
"""


@pytest.mark.parametrize("held", [True, False])
def test_a_click_while_a_stream_ends_is_heard(recorded, open_tab, held):
    recorded.worker.engine = replay([" a", " b"])
    tab = open_tab(f"{recorded.url}/?prompt=Say%20hello.", CLICK_IN_THE_GAP + ("" if held else NONE_TO_HOLD))
    tab.page.wait_for_function("document.querySelector('#prompt textarea').value === 'Say hello.'")
    assert rests(tab)
    tab.page.evaluate(
        "window.armed = true; document.querySelector('[data-keep=link]').click()"
    )  # one event, and none more
    tab.until("done")
    assert not tab.complaints
