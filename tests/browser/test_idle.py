"""Before any race the page says what the loaded drafters do."""


def test_an_idle_board_follows_what_is_loaded(tiny, open_tab):
    page = open_tab(tiny.url).page
    page.wait_for_function("document.querySelector('.board').innerText.includes('filling in blanks')", timeout=20_000)
    text = page.inner_text(".board")
    assert "measured against it" in text and "a small head then settles it" in text
