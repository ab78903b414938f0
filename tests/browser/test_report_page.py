"""The bench's report in a real browser: its charts are drawn from the one file, and texts stay texts."""

import pytest

pytest.importorskip("plotly")

from tests.bench.made_report import NOISE, made

from .tab import PATIENCE_S


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 760)])
def test_charts_are_drawn_and_nothing_else_happens(chromium, tmp_path, scheme, width):
    file = tmp_path / "report.html"
    file.write_text(made(), encoding="utf-8")
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab, said, asked = context.new_page(), [], []
    tab.set_default_timeout(1000 * PATIENCE_S)
    tab.on("console", lambda m: said.append(m.text))
    tab.on("pageerror", lambda e: said.append(str(e)))
    tab.on("dialog", lambda d: (said.append(d.message), d.dismiss()))
    tab.on("request", lambda r: asked.append(r.url))
    tab.goto(file.as_uri())
    tab.wait_for_function("document.querySelectorAll('.js-plotly-plot .plot-container').length === 6")
    drawn = tab.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.querySelectorAll('.trace').length)"
    )
    assert all(drawn) and len(drawn) == 6
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.locator("#every-prompt .legendtext").all_text_contents() == ["code", "chat <i>"]
    for fold in tab.query_selector_all("summary"):
        fold.click()
    assert tab.locator("pre").first.inner_text() == NOISE
    assert tab.locator("main img").count() == 0
    assert said == [] and [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()
