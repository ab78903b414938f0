"""The product as it starts, with the embedded model (test_teach.py goes from the prompt to the verdict)."""

import pytest

pytestmark = pytest.mark.long


def test_stop_while_decoding_frees_the_engine(product, open_tab):
    tab = open_tab(product.url)
    tab.page.wait_for_function("document.querySelector('#models').innerText.includes('bf16')", timeout=120_000)
    tab.race("Tell me a long story.")
    tab.page.wait_for_function("document.querySelectorAll('.round').length > 3", timeout=120_000)
    tab.page.click("#stop")
    tab.until("stopped", 20)
    product.until_idle(20)  # the round in flight, on slow cores
