"""Use this lane: what other programs are given, under a finished race and on the Models tab. The snippets are run."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

from dspark_core.race.metrics import metrics

from .steps import copied


def listed(page, panel):
    """What it is -> the text, of everything that can be copied."""
    return page.evaluate(
        """id => Object.fromEntries([...document.querySelectorAll(`#${id} dt`)].map(
               dt => [dt.firstChild.textContent, dt.nextElementSibling.textContent]))""",
        panel,
    )


def test_under_a_race_and_on_the_models_tab(after_race, tiny):
    tab, trace = after_race("0")
    page = tab.page
    assert page.text_content("#use-lane summary").startswith("Use this lane")
    page.click("#use-lane summary")
    choices = page.locator("#use-lane option").all_inner_texts()
    names = page.locator("#use-lane option").evaluate_all("all => all.map(option => option.value)")
    assert sorted(names) == ["tiny@dflash:cap=7", "tiny@dspark:full", "tiny@plain"]
    fastest = max(trace.race.lanes, key=lambda lane: metrics(lane).tok_s)
    assert choices[0].startswith(fastest.spec.name) and "tok/s" in choices[0]
    page.wait_for_function("document.querySelector('#use-lane .use-now').textContent === 'Now: nothing runs.'")

    page.select_option("#use-lane select", "tiny@plain")
    texts = listed(page, "use-lane")
    assert (texts["Base URL"], texts["Model"]) == (f"{tiny.url}/v1", "tiny@plain")
    assert copied(page, "#use-lane [aria-label='Copy: curl']") == texts["curl"]
    page.click("#use-lane summary")

    page.get_by_role("tab", name="Models").click()
    page.click("#use-model summary")
    page.wait_for_selector("#use-model select")
    page.select_option("#use-model select", "tiny@dspark")
    assert listed(page, "use-model")["Model"] == "tiny@dspark"
    page.get_by_role("tab", name="Race").click()

    if shutil.which("curl"):
        answer = json.loads(subprocess.check_output(["bash", "-c", texts["curl"]], timeout=300, stderr=-3))
        assert answer["model"] == "tiny@plain" and answer["choices"][0]["message"]["content"]
    if find_spec("openai"):
        said = subprocess.check_output([sys.executable, "-c", texts["openai (Python)"]], timeout=300, text=True)
        assert said.strip("\n").startswith(" ")
