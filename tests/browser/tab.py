"""A browser tab with the page in it, as tests and scripts use it."""

import os

import pytest

from tests.playground.replay import ReplayEngine, three_lanes

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# The page's policy blocks gradio's own inline scripts, which it does without; nothing else may be reported.
ALLOWED = "Executing inline script violates the following Content Security Policy directive"
# What gradio says of its requests that are under way when the page is left, and what says that it is.
CUT_OFF = ("AbortError", "Connection errored out", "Failed to fetch")
LEAVING = "this page is being left"
SAY_LEAVING = f"addEventListener('beforeunload', () => console.debug({LEAVING!r}), {{ capture: true }})"


def missing(why):
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


# To look for races between a test and its page: PAGE_SLOWER=3 has a page's scripts take three times as long.
SLOWER = float(os.environ.get("PAGE_SLOWER", "1"))
PATIENCE_S = 180  # for what comes on a quiet machine within ten seconds
WINDOW = {"width": 1440, "height": 1000}


class Tab:
    """A page with what it asked for, said and threw; in a context of its own where it is given a browser, in the one
    given, emptied of what earlier pages left, where it is given that (which has the scripts compiled already).
    `script` runs before the page's own."""

    def __init__(self, browser, url, script="", **options):
        shared = not hasattr(browser, "new_context")
        self.context = browser if shared else browser.new_context(viewport=WINDOW, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        if shared:
            self.context.clear_permissions()
            origin = "/".join(url.split("/")[:3])
            asked = {"origin": origin, "storageTypes": "local_storage,cookies,indexeddb"}
            self.context.new_cdp_session(self.page).send("Storage.clearDataForOrigin", asked)
        if script:
            self.page.add_init_script(script)
        # Nothing plays by itself, but where a test is about that.
        self.page.add_init_script("""try {
            if (!localStorage.getItem('dspark-replay-auto')) localStorage.setItem('dspark-replay-auto', 'off');
        } catch { /* no page yet */ }""")
        self.close = self.page.close if shared else self.context.close
        self.page.add_init_script(f"if (window === top) {SAY_LEAVING};")
        self.url, self.outside, self.complaints, self.dialogs, self._left_at = url, [], [], [], None
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.on("console", self._console)
        self.page.on("domcontentloaded", self._arrived)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if SLOWER > 1:
            self.context.new_cdp_session(self.page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
        try:
            self.load(url)
        except BaseException:
            self.close()
            raise

    def load(self, url=None):
        """Load `url`, or the same page again."""
        if url:
            self.page.goto(url)
        else:
            self.page.reload()
        self.page.wait_for_selector("#race")
        self.page.wait_for_function("document.querySelector('.board .panes')")

    def _request(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)

    def _dialog(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _arrived(self, _):
        """Another document is there: requests that leaving the last one cut off are nothing to complain about. What
        the browser says comes in order, so no word of the last one comes later."""
        if self._left_at is not None:
            late = [said for said in self.complaints[self._left_at :] if not any(text in said for text in CUT_OFF)]
            self.complaints[self._left_at :], self._left_at = late, None

    def _console(self, message):
        if message.text == LEAVING:
            self._left_at = len(self.complaints)
        elif message.type == "error" and ALLOWED not in message.text:
            self.complaints.append(message.text)

    def settings(self, **values):
        """Set the numbers of the settings by element id."""
        self.page.get_by_role("button", name="Lanes and settings").click()
        for name, value in values.items():
            box = self.page.locator(f"#{name.replace('_', '-')} input[type=number]")
            box.fill(str(value))
            box.blur()

    def race(self, prompt="Say hello."):
        """Click Race, with this prompt or (None) with what stands there. What the race before left is no state of this
        one: until the page has heard of it there is none."""
        if prompt is not None:
            self.page.fill("#prompt textarea", prompt)
        self.page.evaluate("document.body.dataset.race = ''")
        self.page.click("#race")

    def until(self, state, seconds=PATIENCE_S):
        self.page.wait_for_function(f"document.body.dataset.race === '{state}'", timeout=1000 * seconds)

    def board_in_view(self, lines=3):
        """Whether the top of every pane of a row and some lines of its answer are within the window."""
        return self.page.evaluate(
            """lines => [...document.querySelectorAll('#board .pane .text')].slice(0, 2).every(text => {
                const { top, bottom } = text.getBoundingClientRect();
                const seen = Math.min(bottom, innerHeight) - Math.max(top, 0);
                return text.closest('.pane').getBoundingClientRect().top >= 0
                    && seen >= lines * parseFloat(getComputedStyle(text).lineHeight) * 0.9;
            })""",
            lines,
        )

    def answer(self, lane):
        """What stands in a pane: every token that was not rejected, without the stop token's mark."""
        script = """i => [...document.querySelectorAll(`.pane[data-lane="${i}"] .text :is(span.tok:not(.e), .tail)`)]
                    .map(node => node.textContent).join('')"""
        return self.page.evaluate(script, lane)


def endless(pace=0.05):
    """A race that is stopped before it comes to an end, on however busy a machine: it would take half an hour."""
    return replay([f" word{k}" for k in range(900)], pace=pace)


def replay(tokens=None, **kwargs):
    pieces, rounds = three_lanes(tokens or [f" word{k}" for k in range(40)])
    return ReplayEngine(pieces, rounds, **kwargs)
