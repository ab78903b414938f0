"""Links fill the page and start nothing; settings outlast a reload; two races are compared."""

from dspark_core.race.trace import dumps
from tests.race.long_trace import long_trace

from .steps import open_file, rests, said
from .tab import replay


def summary(tab, words):
    tab.page.wait_for_function("w => document.querySelector('#settings-summary')?.innerText.includes(w)", arg=words)
    return tab.page.inner_text("#settings-summary p")


def test_a_link_fills_the_page_and_starts_nothing(recorded, open_tab):
    recorded.worker.engine = replay()
    lanes = "plain,dflash:block=6,dspark:cap=2"
    tab = open_tab(
        f"{recorded.url}/?preset=smollm2-135m&prompt=Hi%20%3Cb%3E%24%7Balert(1)%7D&lanes={lanes}&tokens=33&what-if=cap:2"
    )
    assert "up to 33 tokens" in summary(tab, "plain, DFlash · cap 5, DSpark · cap 2")
    assert tab.page.input_value("#prompt textarea") == "Hi <b>${alert(1)}"
    assert tab.page.evaluate("document.body.dataset.race") == "idle" and recorded.worker.idle
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.page.click("[data-keep=link]")
    assert "starts nothing" in said(tab, "Copied")
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert copied.endswith("&what-if=cap:2"), "what the sliders of the Cost model tab are set to"
    other = open_tab(copied)
    same = summary(tab, "plain, DFlash · cap 5, DSpark · cap 2")  # while it is filled in, parts of it show
    assert summary(other, same) == same
    assert other.page.input_value("#prompt textarea") == "Hi <b>${alert(1)}"
    other.page.click("#race")
    other.until("done")
    assert [h.replace("\n", " ") for h in other.page.locator(".pane h3").all_inner_texts()] == [
        "plain",
        "DFlash cap 5",
        "DSpark cap 2",
    ]
    assert not tab.complaints and not other.complaints


def test_a_page_at_rest_asks_for_nothing(recorded, open_tab):
    recorded.worker.engine = replay()
    tab = open_tab(recorded.url + "/?lanes=plain,dspark:cap=2,dflash:block=6&tokens=33&prompt=Hi")
    summary(tab, "plain, DSpark · cap 2, DFlash · cap 5; up to 33 tokens")
    assert rests(tab), "filled by a link"
    tab.page.get_by_role("button", name="Lanes and settings").click()
    tab.page.locator(".lane-controls").nth(1).get_by_label("Lane 2").click()
    tab.page.get_by_role("option", name="DFlash", exact=True).click()
    summary(tab, "plain, DFlash · cap 2, DFlash · cap 5; up to 33 tokens")
    assert rests(tab), "after an edit"
    tab.page.click("#race")
    tab.until("done")
    for name in ("Charts", "Cost model", "Models"):
        tab.page.get_by_role("tab", name=name, exact=True).click()
    assert rests(tab), "after a race, other tabs seen"


def test_a_link_with_nonsense_leaves_the_page_as_it_is(recorded, tab, open_tab):
    before = summary(tab, "plain")
    nonsense = "/?lanes=x,%3Cscript%3E&tokens=many&temperature=nan&seed=-1&prompt=&preset=..%2F..%2Fetc&unknown=1"
    other = open_tab(recorded.url + nonsense)
    other.page.wait_for_function("document.querySelector('#link-doubts')?.innerText.includes('no lane')")
    doubts = other.page.inner_text("#link-doubts")
    assert summary(other, "plain") == before
    assert "binary search" in other.page.input_value("#prompt textarea") and not other.complaints
    assert "no lane 'x'" in doubts and "no preset '../../etc'" in doubts and "'many' is not a number" in doubts
    assert not tab.page.locator("#link-doubts").is_visible()


def test_settings_outlast_a_reload_and_a_link_goes_first(recorded, open_tab):
    tab = open_tab(recorded.url)
    tab.settings(max_tokens=44)
    summary(tab, "up to 44 tokens")
    tab.page.wait_for_function("localStorage.getItem('dspark-settings')")
    tab.load()
    summary(tab, "up to 44 tokens")
    tab.load(recorded.url + "/?lanes=plain,dspark:cap=2")
    told = summary(tab, "DSpark · cap 2")
    assert "up to 44 tokens" in told and "DFlash" not in told
    tab.page.get_by_role("button", name="Lanes and settings").click()
    before = tab.page.evaluate("localStorage.getItem('dspark-settings')")
    tab.page.fill("#system textarea", "Be brief.")
    summary(tab, "with a system turn")
    tab.page.locator("#system textarea").blur()
    tab.page.wait_for_function("before => localStorage.getItem('dspark-settings') !== before", arg=before)
    tab.load()
    assert "up to 44 tokens" in summary(tab, "with a system turn")
    tab.page.get_by_role("button", name="Lanes and settings").click()
    tab.page.get_by_role("button", name="Back to the defaults").click()
    assert "system" not in summary(tab, "up to 96 tokens, greedy")
    tab.load()
    assert "system" not in summary(tab, "up to 96 tokens, greedy")
    tab.page.evaluate("localStorage.setItem('dspark-settings', 'not what it was')")
    tab.load(recorded.url)
    summary(tab, "up to 96 tokens")


def test_two_races_are_compared_and_either_can_be_put_back_on_the_board(recorded, tab):
    recorded.worker.engine = replay([f" w{k}" for k in range(30)])
    tab.race()
    tab.until("done")
    tab.page.get_by_role("tab", name="Compare").click()
    assert "Race twice" in tab.page.inner_text(".compared-notes")
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    trace = long_trace(50)
    trace.race.target, trace.race.precision = "another <b>target", "8 bit"
    open_file(tab, dumps(trace))
    said(tab, "Opened: another <b>target")
    tab.until("done")
    tab.page.get_by_role("tab", name="Compare").click()
    tab.page.wait_for_selector(".compared table")
    heads = tab.page.locator(".compared thead th").all_inner_texts()
    assert heads[0].startswith("a recording, bf16") and heads[1].startswith("another <b>target, 8 bit")
    rows = dict(
        zip(
            tab.page.locator(".compared tbody:nth-of-type(2) th[scope=row]").all_inner_texts(),
            tab.page.locator(".compared tbody:nth-of-type(2) tr:has(td)").all_inner_texts(),
            strict=True,
        )
    )
    assert rows["tok/s"].split("\t")[1] == "10.0" and rows["tokens"].split("\t")[1:3] == ["29", "49"]
    assert "The prompts differ" in tab.page.inner_text(".compared-notes")
    tab.page.get_by_label("Left").click()
    tab.page.get_by_role("option").nth(1).click()
    tab.page.wait_for_function("document.querySelector('.compared thead th')?.textContent.startsWith('another')")
    assert "the same on both sides" in tab.page.inner_text(".compared-answers")
    tab.page.get_by_role("tab", name="Race", exact=True).click()
    tab.page.select_option(".keep-races select", index=0)
    tab.page.wait_for_function("document.querySelector('.pane .text')?.textContent.startsWith(' w0')")
    assert not tab.complaints
