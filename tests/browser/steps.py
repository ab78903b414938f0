"""What several tests of the page do on it, as a visitor does, and what they read off it."""

import tempfile
from decimal import ROUND_HALF_UP, Decimal

from dspark_core.decode.rounds import tau
from dspark_core.race.trace import loads


def kept(tab):
    """Wait until the page has the record of the race that ended: the board says that it did a moment before."""
    tab.page.wait_for_selector("[data-keep=json][aria-disabled=false]")


def save(tab, what):
    kept(tab)
    with tab.page.expect_download() as download:
        tab.page.click(f"[data-keep={what}]")
    with open(download.value.path(), encoding="utf-8") as file:
        return download.value.suggested_filename, file.read()


FILES_DIRECTORY = tempfile.TemporaryDirectory()  # a chosen file is read after the choice, so it stays until the end


# What was said of the last file, and the last race's state, which are none of this file.
FORGET = """() => {
    document.querySelector('.keep-said').textContent = '';
    if (document.body.dataset.race !== 'running') document.body.dataset.race = '';
}"""


def open_file(tab, document):
    data = document if isinstance(document, bytes) else document.encode()
    with tempfile.NamedTemporaryFile(dir=FILES_DIRECTORY.name, suffix=".json", delete=False) as file:
        file.write(data)
    tab.page.evaluate(FORGET)
    tab.page.set_input_files(".keep-file", file.name)


def said(tab, words):
    tab.page.wait_for_function("w => document.querySelector('.keep-said')?.textContent.includes(w)", arg=words)
    return tab.page.inner_text(".keep-said")


WATCH = """place => {
    const button = document.querySelector(place);
    window.copied = '';
    new MutationObserver(() => { window.copied ||= button.textContent; })
        .observe(button, { childList: true, characterData: true, subtree: true });
}"""


def copied(page, button):
    """Press a button that copies, and hear that it did, which it says for a moment only; what was copied."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(WATCH, button)
    page.click(button)
    page.wait_for_function("window.copied === 'Copied'")
    return page.evaluate("navigator.clipboard.readText()")


HOSTILE = [
    *("${alert(1)}", " {{z}}", "`", "<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "&amp;"),
    *("\u202eabc\u202c", "a\u200bb", "\\n", "\n", "\t", "  ", " \u00e9", b" \xf0\x9f", b"\x98\x80", " {{{value}}}"),
    *("${value}", "'\"", "\x1eRS\x1fUS"),
]


FULL = "/?lanes=plain,dspark:full,dflash:block=16&tokens=40"  # of every speculative lane, all drafts are sent


def raced(tab):
    tab.page.wait_for_function("document.querySelector('#settings-summary')?.innerText.includes('up to 40 tokens')")
    tab.race()
    tab.until("done")
    return loads(save(tab, "json")[1])


def shown(page, state="done"):
    """What the panel shows once it has come to an end: a slot's cells in the order they stand."""
    page.wait_for_selector(f".inspector[data-state={state}] .slot")
    return page.evaluate(
        """() => {
            const labels = [...document.querySelectorAll('.slot-labels span')].map(n => n.textContent).slice(4);
            return [...document.querySelectorAll('.slot')].map(slot => ({
                text: slot.querySelector('.tok').textContent,
                fate: slot.querySelector('.slot-fate').textContent,
                was: slot.querySelector('.slot-was')?.textContent,
                ...Object.fromEntries([...slot.querySelectorAll('.slot-value')]
                    .map((n, k) => [labels[k], n.textContent])),
            }));
        }"""
    )


def look(page, lane, at):
    """Open the lane's round `at` (1 is the first that was drafted) by a click, as a visitor does."""
    page.locator(f".pane[data-lane='{lane}'] .round[data-round='{at}'] .tok").first.click()


def rests(tab, seconds=1.0):
    """Whether the page comes to ask for nothing for so long; what it was given to do, it may do first."""
    asked = []

    def heard(request):
        asked.append(request.url)

    tab.page.on("request", heard)
    try:
        for _ in range(12):
            asked.clear()
            tab.page.wait_for_timeout(1000 * seconds)
            if not asked:
                return True
        return False
    finally:
        tab.page.remove_listener("request", heard)


def at_rest(page):
    """Wait until nothing scrolls, moves or changes its size, for five frames (or for ten seconds in vain)."""
    page.evaluate(
        """async () => {
            const look = () => JSON.stringify([...document.querySelectorAll('body, .inspector, svg, [role=tabpanel]')]
                .map(n => { const r = n.getBoundingClientRect(); return [r.x, r.y, r.width, r.height, n.scrollTop]; }));
            const until = performance.now() + 10000;
            for (let same = 0, before = ''; same < 5 && performance.now() < until;) {
                await new Promise(requestAnimationFrame);
                const now = look();
                same = now === before ? same + 1 : 0;
                before = now;
            }
        }"""
    )


WIDTHS = (1440, 760, 390)
AXE = "asked => axe.run(document, { resultTypes: ['violations'], preload: false, ...asked })"
COLOURS = {"runOnly": ["color-contrast"]}
# Colours are looked at as they stay: on a busy machine they are still on their way when axe comes.
SETTLED = "*, *::before, *::after { transition: none !important; animation: none !important; }"
SHAPE = {"rules": {"color-contrast": {"enabled": False}}}


def violations(tab, where, narrow=False):
    """What axe finds, and anything that makes the page wider than the window at any width. A theme changes colours
    alone and a width none, and contrasts are most of the work: both themes' are looked at wide, all else in light, wide
    and, where what is there has another shape then, `narrow`. axe has to be there."""
    found, settled = [], tab.page.add_style_tag(content=SETTLED)
    for theme, widths in (("dark", {1440: COLOURS}), ("light", {1440: {}, 760: None, 390: SHAPE if narrow else None})):
        tab.page.evaluate("document.querySelector('.pick-theme').click()")
        tab.page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=theme == "dark")
        found += _found(tab, f"{where}, {theme}", widths)
    settled.evaluate("style => style.remove()")
    return found


def _found(tab, where, widths):
    found = []
    for width, asked in widths.items():
        tab.page.set_viewport_size({"width": width, "height": 1000})
        at_rest(tab.page)  # charts fit themselves to the new width
        if (wide := tab.page.evaluate("document.documentElement.scrollWidth")) > width:
            found.append(f"{where} is {wide} pixels wide in a window of {width}")
        for v in tab.page.evaluate(AXE, asked)["violations"] if asked is not None else ():
            if v["impact"] in ("serious", "critical"):
                found += [
                    f"{where}, {width}: {v['impact']} {v['id']}: {node['html'][:120]} {node['failureSummary'][:260]}"
                    for node in v["nodes"]
                ]
    tab.page.set_viewport_size({"width": WIDTHS[0], "height": 1000})  # in a narrow one, tabs are in a menu
    tab.page.wait_for_function("document.querySelectorAll('#tabs > .tab-wrapper [role=tablist] [role=tab]').length > 5")
    return found


def seek(page, moment):
    page.evaluate(
        """moment => {
            const slider = document.querySelector('.replay-at');
            slider.value = moment;
            slider.dispatchEvent(new Event('input'));
        }""",
        moment,
    )


def standing(page):
    """Per lane: rounds to be seen (the prompt's token included), the text, tok/s, tokens per round, accepted."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.pane')].map(pane => {
            const seen = [...pane.querySelectorAll('.text .round')].filter(n => !n.hidden && !n.parentNode.hidden);
            const tail = pane.querySelector('.tail');
            return [
                new Set(seen.map(n => n.dataset.round)).size,
                seen.flatMap(n => [...n.querySelectorAll('span.tok:not(.e)')]).map(n => n.textContent).join('')
                    + (tail && !tail.hidden ? tail.textContent : ''),
                ...['speed', 'perRound', 'rate'].map(f => pane.querySelector('.figure-' + f + ' dd').textContent),
            ];
        })"""
    )


def fixed(x, digits):
    """As JavaScript's toFixed writes it: halves go up, where Python's go to the even digit."""
    return str(Decimal(x).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def expected(trace, moment):
    """The same, worked out from the trace."""
    told = []
    for lane in trace.race.lanes:
        start = lane.start.prefill_s
        if moment < start:
            told.append([0, "", "–", "–", "–"])
            continue
        rounds = [r for r in lane.rounds if round(start, 4) + round(r.time_s, 4) <= moment]
        ids = [lane.start.token_id, *(t for r in rounds for t in r.committed)]
        text = b"".join(trace.tokens[i] for i in ids if i not in trace.stop_ids).decode()
        tokens, seconds = len(ids) - 1, rounds[-1].time_s if rounds else 0
        speed = tokens / seconds if seconds else 0
        accepted, proposed = sum(r.accepted for r in rounds), sum(r.proposed for r in rounds)
        plain = not lane.spec.speculative
        share = "–" if plain or not rounds else f"{fixed(100 * accepted / proposed, 0)} %"
        per_round = "–" if not rounds else "1" if plain else fixed(tau(rounds), 2)
        told.append([len(rounds) + 1, text, fixed(speed, 1 if speed < 100 else 0) if speed else "–", per_round, share])
    return told
