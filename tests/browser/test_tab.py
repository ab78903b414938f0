"""What a test's tab takes for a complaint: not what gradio says of requests that leaving the page cut off."""

from .tab import Tab

PAGE = """<button id=race></button><div class=board><div class=panes></div></div>
<script>addEventListener('beforeunload', () => console.error('AbortError: signal is aborted'))</script>"""
ERROR = "console.error('AbortError: signal is aborted')"


def test_a_request_that_leaving_cut_off_is_none_and_any_other_is(chromium):
    context = chromium.new_context()
    context.route("**", lambda route: route.fulfill(content_type="text/html", body=PAGE))
    tab = Tab(context, "http://left.test/")
    try:
        for leave in (
            lambda: tab.page.reload(),
            lambda: tab.page.goto("http://left.test/other"),
            lambda: tab.page.evaluate("location.href = 'http://left.test/link'"),
        ):
            leave()
            tab.page.wait_for_function("document.readyState === 'complete'")
        tab.load()
        assert tab.complaints == []
        tab.page.evaluate(ERROR)
        assert len(tab.complaints) == 1, "the page stayed"
        tab.load()
        assert len(tab.complaints) == 1, "and was left later"
        tab.page.evaluate("dispatchEvent(new Event('beforeunload'))")
        assert len(tab.complaints) == 2, "it was asked to leave, and stayed"
    finally:
        context.close()
