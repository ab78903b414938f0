"""axe-core over the inspector and the tour, open, in both themes; nothing excluded."""

from .steps import at_rest, look, shown, violations


def test_no_serious_violation_in_inspector_and_tour(after_race, axe):
    tab, _ = after_race()
    page = tab.page
    page.evaluate(axe)
    look(page, 1, 2)
    shown(page)
    page.click(".alternatives summary")
    page.locator(".pane[data-lane='1'] .round[data-round='2']").first.focus()
    page.wait_for_selector(".token-card:not([hidden])")
    assert violations(tab, "inspector") == []
    page.click(".alternatives summary")
    page.get_by_role("switch", name="Markov bias").click()
    page.click(".tour-start")
    for _ in range(2):
        page.click(".tour-next")
    page.wait_for_selector(".tour-here.inspector-scroll")
    shown(page)
    at_rest(page)
    assert violations(tab, "third step of the tour") == []
    page.click(".tour-leave")
    page.get_by_role("switch", name="Markov bias").click()
