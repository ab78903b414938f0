"""The product as it starts, with the embedded model, from the prompt to the verdict."""

import pytest

from dspark_core.playground.stream import LaneText

pytestmark = pytest.mark.long


def test_from_prompt_to_verdict(product, open_tab):
    tab = open_tab(product.url)
    tab.page.wait_for_function("document.querySelector('#models').innerText.includes('bf16')", timeout=120_000)
    tab.settings(max_tokens=10)
    seen = []
    engine = product.worker.engine
    race = engine.race

    def watched(request, cancelled):
        for item in race(request, cancelled):
            seen.append(item)
            yield item

    engine.race = watched
    try:
        tab.page.get_by_role("button", name="Binary search").click()
        tab.page.wait_for_function("document.querySelector('#prompt textarea').value.includes('binary search')")
        tab.page.click("#race")
        tab.until("done", 180)
    finally:
        del engine.race
    assert "Identical output: 3 lanes, 10 tokens each" in tab.page.inner_text(".board-verdict")
    record = seen[0][1]
    for i, lane in enumerate(record.lanes):
        text = LaneText(engine.token_bytes, engine.stop_ids)
        told = [text.committed(t, "") for t in lane.output if t not in engine.stop_ids]
        assert tab.answer(i) == "".join(told) + text.tail()
        assert tab.page.locator(f".pane[data-lane='{i}'] dd").first.inner_text() != "–"
    assert not tab.outside and not tab.complaints


def test_stop_while_decoding_frees_the_engine(product, open_tab):
    tab = open_tab(product.url)
    tab.page.wait_for_function("document.querySelector('#models').innerText.includes('bf16')", timeout=120_000)
    tab.race("Tell me a long story.")
    tab.page.wait_for_function("document.querySelectorAll('.round').length > 3", timeout=120_000)
    tab.page.click("#stop")
    tab.until("stopped", 5)
    product.until_idle(5)  # the round in flight, on slow cores
