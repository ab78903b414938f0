"""A proof of exactness as its tab shows it: in words, as cards side by side, as a picture and as tables."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

import plotly.graph_objects as go

from ..chart_style import GREY, point_marker
from ..models.info import DrafterInfo
from ..proof.chi_squared import ALPHA
from ..proof.evidence import (
    ALWAYS,
    BONUS,
    FROM_P,
    NO_BIAS,
    RIGHT,
    SAMPLERS,
    Agreement,
    Check,
    DrawEvidence,
    Pair,
)
from .tabs.charts_tab import blank_figure, nothing_yet, table_value

PAIRS, FEWEST = 12, 5  # in the chart, and how often one of them is drawn or expected
MOST = 3.0  # times as often as exact: what lies beyond stands at the chart's edge
MOST_TIMES = 1e4  # in the table: such a pair can as well be said never to come
SHORT = {  # a sampler in a word or two
    RIGHT: "the real one",
    ALWAYS: "accept every draft",
    FROM_P: "correction from p",
    NO_BIAS: "q before the bias",
    BONUS: "bonus a row early",
}
BADGES = {"identical": "Exact", "divergence": "Caught", "tie": "Not caught", "": "Nothing to compare"}
WHY = {
    ALWAYS: "Every draft is kept, so the text is the drafter’s and not the target’s.",
    FROM_P: "A rejected token is one that the drafter likes better than the target does. Drawing from all of p gives "
    "such tokens a second chance, so they come too often; the residual max(p − q, 0) leaves them out.",
    NO_BIAS: "The drafts were drawn from one distribution and judged by another: p/q balances only if q is what the "
    "draft was really drawn from.",
    BONUS: "Where every draft was accepted, the target adds a token of its own, from what it says after the last "
    "draft. Taken from the row before, it is what the target would have put in the place of that draft.",
}
PAIR_COLUMNS = [
    "sampler",
    "first token",
    "second token",
    "exact",
    "drawn",
    "drawn / exact",
    "drawn times",
    "expected times",
]
AGREEMENT_COLUMNS = [
    *(
        "prompt",
        "verdict",
        "tokens",
        "lane",
        "first differs at token",
        "gap there, logits",
        "needed, logits",
        "rounding, logits",
    ),
    *("closest call, logits", "positions tied"),
]


@dataclass(frozen=True, eq=False)
class Proof:
    """The evidence of a proof with what the page needs to show it, whatever is loaded by then.

    info:  the drafter's
    texts: of every token in it, its blanks made visible
    """

    evidence: DrawEvidence
    info: DrafterInfo
    texts: dict[int, str]

    @classmethod
    def of(cls, evidence: DrawEvidence, info: DrafterInfo, token_bytes: Callable[[int], bytes]) -> "Proof":
        ids = {evidence.anchor, *(token for pair in evidence.pairs for token in (pair.first, pair.second))}
        texts = {i: token_bytes(i).decode(errors="replace") for i in ids if i is not None}
        marks = {i: text.replace("\n", "↵").replace("\t", "⇥") for i, text in texts.items()}
        return cls(evidence, info, {i: t if t.strip() else t.replace(" ", "␣") or "∅" for i, t in marks.items()})

    def text(self, token_id: int | None) -> str:
        """A token's text; None stands for all others."""
        return "any other" if token_id is None else self.texts[token_id]


# ---- in words, figures and tables ------------------------------------------------------------------------


def chance(p: float) -> str:
    """How often that is, in words."""
    if p >= 0.995:
        return "in nearly every such proof"
    if p >= 0.01:
        return f"in {100 * p:.0f} of 100 such proofs"
    if p >= 1e-6:
        return f"once in {1 / p:,.0f} such proofs"
    return "less than once in a million such proofs"


def draw_verdict(e: DrawEvidence, info: DrafterInfo) -> tuple[str, str]:
    """("identical", "tie", "divergence" or "" for nothing to compare, words) of a sampling proof with this drafter."""
    c, right = e.comparison, e.request.sampler == RIGHT
    if e.loop_differs:
        return "divergence", (
            f"Flagged. The race’s own loop drew other tokens in {e.repeated - e.same} of {e.repeated} draws that it "
            "repeated with the same random numbers: that is a fault."
        )
    if not e.freedom and not e.flagged:
        return "", (
            f"Nothing to compare: exact draws come out in one way only, or {c.n:,} are too few to tell (0 degrees of "
            "freedom). Choose a higher temperature or top-k, or draw more."
        )
    away = f"The counts of {c.n:,} draws are {100 * c.distance:.2g} % away from the target’s distribution"
    if not e.flagged:
        luck = f"{away}; exact draws would be {100 * c.noise:.2g} % away, by luck alone."
        often = f"A result at least this uneven comes {chance(e.p_value)}. {comparisons(e)}"
        if right:
            return "identical", f"Exact, as far as these draws can tell. {luck} {often}"
        if e.request.sampler == NO_BIAS and not info.has_bias:
            return (
                "tie",
                f"Nothing to catch: {info.title} has no Markov bias; this is the real sampler. {luck}",
            )
        return "tie", f"Not caught this time: the error is smaller than the luck of the draw. {luck} Draw more."
    worst = e.worst
    if impossible := worst.comparison.impossible:
        often = f"{impossible:,} of them can never come from the target at all."
    else:
        often = f"With exact draws that would come {chance(e.p_value)}."
    if worst.comparison is c:
        luck = f"{away}, where exact draws stay within {100 * c.noise_high:.2g} %. {often}"
    else:
        w = worst.comparison
        luck = (
            f"Of {worst.name}, {w.n:,} were drawn; they are {100 * w.distance:.2g} % away from the target’s "
            f"distribution, where exact draws stay within {100 * w.noise_high:.2g} %. {often}"
        )
    if right:
        return "divergence", (
            f"Flagged. {luck} {comparisons(e)} Exact draws are flagged once in {1 / ALPHA:,.0f} proofs: try another "
            "seed, and if it is flagged again, it is a fault."
        )
    return "divergence", f"Caught. {luck} {comparisons(e)} {WHY[e.request.sampler]}"


def comparisons(e: DrawEvidence) -> str:
    """What was compared, with its degrees of freedom, and what could not be."""
    some = [f"{c.name} ({c.comparison.freedom})" for c in e.checks if c.comparison.freedom or c.comparison.impossible]
    none = [] if e.bonuses else ["No bonus token was drawn."]
    return " ".join([f"Compared, with degrees of freedom: {', '.join(some)}.", *none])


def worst_words(check: Check, all_pairs: bool) -> str:
    """How far what was drawn is from exact, in the worst of a proof's comparisons."""
    c = check.comparison
    away = f"{100 * c.distance:.2g} % away from exact" + ("" if all_pairs else f", {check.name}")
    if c.impossible:
        return f"{away}: {c.impossible:,} can never come from the target"
    return f"{away}; luck alone stays within {100 * c.noise_high:.2g} %"


def shown_check(e: DrawEvidence) -> Check:
    """Which comparison a card tells of: that of the pairs, or the worst where something is wrong, or where pairs can
    come out in one way only and others cannot."""
    pairs = e.checks[0]
    return e.worst if e.flagged or (e.freedom and not pairs.comparison.freedom) else pairs


def draws_made(e: DrawEvidence) -> str:
    made = f"{e.comparison.n:,} of {e.request.n:,} draws"
    return made if e.comparison.n >= e.request.n else f"{made}: time was up"


def cards(proofs: Sequence[Proof]) -> str:
    """One card a sampler, as assets/page/samplers.js reads them."""
    out = []
    for proof in proofs:
        e, sampler = proof.evidence, proof.evidence.request.sampler
        kind, _ = draw_verdict(e, proof.info)
        check = shown_check(e)
        badge = "Flagged" if kind == "divergence" and sampler == RIGHT else BADGES[kind]
        if sampler == NO_BIAS and not proof.info.has_bias:
            badge = "Nothing to catch"
        out.append(
            {
                "title": SHORT[sampler],
                "right": sampler == RIGHT,
                "kind": kind,
                "badge": badge,
                "away": worst_words(check, check is e.checks[0]),
                "p": f"p-value {e.p_value:.2g}: exact draws look like this {chance(e.p_value)}",
                "draws": draws_made(e),
                "why": WHY.get(sampler, "Every draft accepted with min(1, p/q), every correction from the residual."),
            }
        )
    return json.dumps(out)


def row_verdict(proofs: Sequence[Proof]) -> tuple[str, str]:
    """The verdict box's (kind, words) of samplers side by side."""
    kinds = {p.evidence.request.sampler: draw_verdict(p.evidence, p.info)[0] for p in proofs}
    wrong = [k for sampler, k in kinds.items() if sampler != RIGHT]
    caught = f"{wrong.count('divergence')} of {len(wrong)} wrong samplers were caught." if wrong else ""
    real = {
        "identical": "The real sampler is exact, as far as these draws can tell.",
        "divergence": "The real sampler was flagged: try another seed, and if it is flagged again, it is a fault.",
    }.get(kinds.get(RIGHT, ""), "")
    return kinds.get(RIGHT, ""), f"{real} {caught}".strip()


def draw_figure(proofs: Sequence[Proof]) -> go.Figure:
    """Of the likeliest pairs of tokens: how many times as often each sampler drew them as the target would alone, and
    how far from 1 luck takes that."""
    figure = blank_figure("times as often as the target alone (1 is exact)")
    worth: dict[tuple[int, int | None], tuple[float, Pair]] = {}
    for proof in proofs:
        n = max(1, proof.evidence.comparison.n)
        for pair in proof.evidence.pairs:
            share = max(pair.probability, pair.drawn / n)
            if share * n < FEWEST:
                continue
            key = pair.first, pair.second
            worth[key] = max(worth.get(key, (0.0, pair)), (share, pair), key=lambda found: found[0])
    pairs = [pair for _, pair in sorted(worth.values(), key=lambda found: -found[0])[:PAIRS]]
    if not pairs:
        nothing_yet(figure, "nothing drawn yet")
        return figure
    text = replace(proofs[0], texts={i: t for proof in proofs for i, t in proof.texts.items()}).text
    read = [f"{text(p.first)} · {text(p.second)}" for p in pairs]
    # Two tokens may read the same, and a category axis would merge them.
    labels = [escape(label) + " " * read[:i].count(label) for i, label in enumerate(read)]
    fewest = max(1, min(proof.evidence.comparison.n for proof in proofs))
    luck = [3.3 * math.sqrt((1 - p.probability) / (fewest * p.probability)) if p.probability else 0.0 for p in pairs]
    figure.add_bar(
        name="what luck explains",
        y=labels,
        base=[max(0.0, 1 - x) for x in luck],
        x=[min(MOST, 1 + x) - max(0.0, 1 - x) for x in luck],
        orientation="h",
        marker={"color": GREY, "opacity": 0.35},
        hoverinfo="skip",
    )
    for proof in proofs:
        _add_drawn(figure, proof, pairs, labels)
    figure.add_vline(x=1, line={"color": GREY, "width": 2})
    figure.update_layout(
        height=110 + 34 * max(len(pairs), 6),
        yaxis={"autorange": "reversed", "title": None, "type": "category"},
        xaxis={"range": [-0.1, MOST + 0.15], "ticksuffix": " ×", "dtick": 1},
        legend={"y": 1.0, "yanchor": "bottom"},
    )
    return figure


def _add_drawn(figure: go.Figure, proof: Proof, pairs: Sequence[Pair], labels: Sequence[str]) -> None:
    """One sampler's counts, where it has them; those beyond the edge are hollow."""
    e = proof.evidence
    own = {(p.first, p.second): p for p in e.pairs}
    found = [
        (own[p.first, p.second], label) for p, label in zip(pairs, labels, strict=True) if (p.first, p.second) in own
    ]
    times = [p.drawn / (e.comparison.n * p.probability) if p.probability else math.inf for p, _ in found]
    marker = point_marker(4 + SAMPLERS.index(e.request.sampler))  # no lane's colour
    figure.add_scatter(
        name=SHORT[e.request.sampler],
        y=[label for _, label in found],
        x=[min(x, MOST) for x in times],
        customdata=[f"{x:.2f} ×" if math.isfinite(x) else "never exact" for x in times],
        hovertemplate="%{y}: %{customdata}",
        mode="markers",
        marker={**marker, "size": 13, "opacity": 0.9, "line": {"width": [3 if x > MOST else 0 for x in times]}},
    )


def draw_table(proofs: Sequence[Proof]) -> str:
    """Pairs that were drawn, or should have been: most of the likeliest are neither at a low temperature."""
    rows = []
    for proof in proofs:
        n, text = proof.evidence.comparison.n, proof.text
        for p in proof.evidence.pairs:
            expected = round(n * p.probability, 1)
            if not p.drawn and not expected:
                continue
            shares = round(p.probability, 5), round(p.drawn / n, 5)
            times = p.drawn / (n * p.probability) if p.probability else math.inf
            shown = round(times, 2) if times < MOST_TIMES else None
            name = SHORT[proof.evidence.request.sampler]
            rows.append([name, text(p.first), text(p.second), *shares, shown, p.drawn, expected])
    return table_value("proof", "Drawn against exact, the likeliest pairs of tokens", PAIR_COLUMNS, rows)


def span(seconds: float) -> str:
    """A time to come, no finer than it can be foretold."""
    if seconds < 10:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{5 * math.ceil(seconds / 5)} s" if seconds < 90 else f"{math.ceil(seconds / 60)} min"


def agreement_verdict(found: list[Agreement], of: int) -> tuple[str, str]:
    """("identical", "tie", "divergence" or "", words) over all prompts."""
    if not found:
        return "", ""
    counts = {kind: sum(a.kind == kind for a in found) for kind in ("identical", "tie", "divergence")}
    kind = next((k for k in ("divergence", "tie") if counts[k]), "identical")
    tokens = sum(a.tokens for a in found)
    closest = min(a.closest for a in found)
    words = [
        f"{len(found)} of {of} prompts, {tokens:,} tokens each lane, {len(found[0].lanes)} lanes: "
        f"{counts['identical']} identical, {counts['tie']} with a numerical tie, {counts['divergence']} with a real "
        "divergence."
    ]
    tied = sum(a.tied for a in found)
    if tied:
        lanes = []
        for i, lane in enumerate(found[0].lanes):
            reached, lower = (sum(a.lower[i][part] for a in found if i < len(a.lower)) for part in (0, 1))
            there = "all" if reached == tied else f"the {reached} it reached with the same text"
            lanes.append(f"{lane} took the lower id at {there if lower == reached else f'{lower} of {reached}'}")
        at = "One position was an exact tie" if tied == 1 else f"{tied} positions were exact ties"
        words.append(f"{at}: {', '.join(lanes)}.")
    elif kind == "identical":
        words.append(f"The closest call: two best logits {closest:.3g} apart.")
    return kind, " ".join(words)


def agreement_table(found: list[Agreement], titles: dict[str, str]) -> str:
    rows = []
    for a in found:
        name, end = titles.get(a.prompt, a.prompt[:60]), [float(f"{a.closest:.3g}"), a.tied]
        for d in a.differences:
            numbers = [float(f"{x:.3g}") for x in (d.gap, d.needed, d.rounding)]
            kind = "tie" if d.tie else "real divergence"
            rows.append([name, kind, a.tokens, a.lanes[d.lane], d.index + 1, *numbers, *end])
        if not a.differences:
            rows.append([name, a.kind, a.tokens, *[None] * 5, *end])
    return table_value("greedy", "Greedy, by prompt", AGREEMENT_COLUMNS, rows)
