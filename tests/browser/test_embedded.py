"""The product as it starts, with the embedded model (test_teach.py goes from the prompt to the verdict)."""

import pytest

pytestmark = pytest.mark.long


def test_stop_while_decoding_frees_the_engine(product, open_tab):
    tab = open_tab(product.url + "/?tokens=512")  # minutes
    tab.page.wait_for_function("document.querySelector('#models').innerText.includes('bf16')")
    tab.race("Tell me a long story.")
    tab.page.wait_for_function("document.querySelectorAll('.round').length > 3")
    tab.page.click("#stop")
    tab.until("stopped", 60)
    product.until_idle(60)  # the round in flight, on slow cores


def test_dflash_2_is_one_click_away(product, open_tab):
    tab = open_tab(product.url)
    summary = tab.page.locator("#settings-summary")
    assert "DFlash 2" not in summary.inner_text(), "the default race has three lanes"
    before, further = summary.inner_text(), tab.page.locator("#further")
    for clicks in range(3):  # a second click takes it away
        further.click()
        tab.page.wait_for_function(
            "([was, sign]) => document.querySelector('#further').innerText === sign + ' DFlash 2'"
            " && (document.querySelector('#settings-summary').innerText === was) === (sign === '+')",
            arg=[before, "−+"[clicks % 2]],
        )
        assert further.evaluate("node => node === document.activeElement"), "it keeps the focus"
    assert "DFlash · hardware-aware, DFlash 2 · " in summary.inner_text()
    tab.page.wait_for_function("document.querySelectorAll('.pane').length === 4")
