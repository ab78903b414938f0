"""A drafting method is one file and one preset line: a toy that has neither weights nor taps nor logits, and that
drafts fewer tokens than it is asked for, or none.

Everything here finds it by its name. Nothing of the project is edited or patched but the list of directories in which
methods are looked for.
"""

import math

import mlx.core as mx
import pytest

from dspark_core.decode import measure as measuring
from dspark_core.decode.measure import load_curve, measure, save_curve
from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.sampling import Uniforms, probabilities
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.errors import ModelError
from dspark_core.models import drafters
from dspark_core.models.checkpoint import load_drafter
from dspark_core.proof.agreement import agreement
from dspark_core.proof.evidence import Agreement, AgreementRequest
from dspark_core.race.inspector import Inspector
from dspark_core.race.loaded import Models
from dspark_core.race.race import race
from dspark_core.race.records import CAP, HARDWARE, PLAIN, LaneSpec, RaceRecord, RaceRequest

METHOD = '''
"""Recall: what followed the last occurrence of the newest two tokens in the text so far."""

import mlx.core as mx

from dspark_core.models.drafter import Proposal
from dspark_core.models.info import DrafterInfo


def open_drafter(place, target, precision):
    return Recall()


class Recall:
    taps = ()
    info = DrafterInfo(
        id="recall",
        method="Recall",
        title="Recall",
        about="Drafts what came after the same two tokens the last time. It costs nothing, and often finds nothing.",
        block=5,
        max_drafts=5,
        needs_taps=False,
        needs_weights=False,
    )

    def begin(self):
        return Text()


class Text:
    state = ()

    def __init__(self):
        self.ids = []

    def extend(self, ids, taps):
        assert taps is None
        self.ids += ids.tolist()

    def propose(self, anchor, n, pick, confidence=False, look=None):
        text = [*self.ids, anchor.item()]
        before = [i for i in range(len(text) - 2) if text[i : i + 2] == text[-2:]]
        return Proposal(mx.array(text[before[-1] + 2 :][:n] if before else [], dtype=mx.int32))

    def rollback(self, n):
        del self.ids[len(self.ids) - n :]
'''
PRESET = """
[[drafter]]
method = "Recall"
"""
PROMPT = [3, 9, 4, 17, 3, 9, 4, 22, 3, 9]  # 3 9 was followed by 4 before
LANES = (
    LaneSpec(PLAIN),
    LaneSpec("Recall", label="full block"),
    LaneSpec("Recall", CAP, cap=2, label="cap 2"),
    LaneSpec("Recall", HARDWARE, label="hardware-aware"),
    LaneSpec("DSpark", label="full block"),
    LaneSpec("Recall", label="full block", drafter="recall-2"),
)
NEVER = frozenset()


@pytest.fixture(scope="module", autouse=True)
def recall(tmp_path_factory):
    """The method's one file, where methods are looked for."""
    directory = tmp_path_factory.mktemp("methods")
    (directory / "recall.py").write_text(METHOD)
    drafters.__path__.append(str(directory))
    yield
    drafters.__path__.remove(str(directory))


@pytest.fixture
def models(golden_a, monkeypatch, tmp_path):
    monkeypatch.setattr(golden_a.target, "encode_chat", lambda messages: PROMPT)
    monkeypatch.setattr(measuring, "QUICK_S", 0.3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (load_drafter(None, golden_a.target, method="Recall") for _ in range(2))
    return Models(golden_a.target, {"recall": first, "dspark": golden_a.drafter, "recall-2": second})


def raced(models, settings, lanes=LANES, **more) -> RaceRecord:
    events = [event for _, event in race(models, RaceRequest("x", lanes, settings, together=True, **more))]
    record = next(e for e in events if isinstance(e, RaceRecord))
    assert [lane.error for lane in record.lanes] == [None] * len(lanes)
    return record


def test_it_loads_by_its_name_alone(golden_a):
    assert load_drafter(None, golden_a.target, method="recall").info.method == "Recall"
    with pytest.raises(
        ModelError, match=r"no drafting method 'Look'; there are dflash, dflash2, dspark, lookup, recall, small-model"
    ):
        load_drafter(None, golden_a.target, method="Look")
    with pytest.raises(ModelError, match="A DSpark drafter needs a directory"):
        load_drafter(None, golden_a.target, method="DSpark")


def test_two_of_a_method_have_ids_and_titles_of_their_own(models):
    assert [(i.id, i.method, i.title) for i in models.infos] == [
        ("recall", "Recall", "Recall"),
        ("dspark", "DSpark", "DSpark"),
        ("recall-2", "Recall", "Recall 2"),
    ]
    assert models.descriptions["Recall"] == models.descriptions["recall-2"] == "Recall, block 5"


def test_it_races_exactly(models):
    record = raced(models, Settings(60, stop_ids=NEVER))
    assert record.verdict.kind == "identical" and len({tuple(lane.output) for lane in record.lanes}) == 1
    rounds = record.lanes[1].rounds
    assert any(r.accepted for r in rounds) and any(r.accepted < r.proposed for r in rounds)
    assert {len(r.draft_ids) for r in rounds} >= {0, 5} and len({len(r.draft_ids) for r in rounds}) > 2
    assert [r.draft_ids for r in rounds] == [r.draft_ids for r in record.lanes[5].rounds]
    assert max(len(r.draft_ids) for r in record.lanes[2].rounds) == 2


def test_it_races_strictly(models):
    """Every choice a close call: all are decided again, by plain decoding's own numbers."""
    settings = Settings(60, stop_ids=NEVER)
    plain = raced(models, settings, LANES[:1]).lanes[0].output
    events = speculative(
        models.target, models.drafters["recall"], PROMPT, settings, FullBlock(), Options(strict=math.inf)
    )
    decoded = [e for e in events if isinstance(e, Start | Round)]
    assert [decoded[0].token_id, *(t for r in decoded[1:] for t in r.committed)] == plain
    assert any(r.again for r in decoded[1:])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_round_is_inspected(models, temperature):
    """Also of sampled races: what a round drew follows from how many tokens were drafted, not from how many were asked
    for."""
    record = raced(models, Settings(40, temperature=temperature, top_k=8, stop_ids=NEVER), LANES[:3])
    inspector = Inspector(models)
    for lane in record.lanes:
        for i, r in enumerate(lane.rounds):
            found = inspector.inspect(PROMPT, lane, i, record.request.settings)
            assert found.agrees, (lane.spec.name, i)
            assert found.without is None and [s.q for s in found.block.slots] == [1.0] * len(r.draft_ids)
    assert any(r.draft_ids for r in record.lanes[1].rounds)


def test_sampled_tokens_follow_the_target(models):
    """Three tokens after the first one, drawn 200 times, top-k 2: their joint distribution is the exact one."""
    settings, numbers, n = Settings(4, temperature=8.0, top_k=2, stop_ids=NEVER), Uniforms(5), 200
    # A text that repeats itself by now, so that there is something to be found.
    prompt = [*PROMPT, *raced(models, Settings(60, stop_ids=NEVER), LANES[:1]).lanes[0].output]
    counts: dict[tuple[int, ...], int] = {}
    lengths = set()
    for _ in range(n):
        drafter = models.drafters["recall"]
        events = speculative(models.target, drafter, prompt, settings, FullBlock(), uniforms=numbers)
        start, *rounds = [e for e in events if isinstance(e, Start | Round)]
        lengths |= {(r.proposed, r.accepted) for r in rounds}
        key = (start.token_id, *(t for r in rounds for t in r.committed))
        counts[key] = counts.get(key, 0) + 1
    exact: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(4):
        exact = {
            (*before, token): mass * chance
            for before, mass in exact.items()
            for token, chance in enumerate(after(models.target, [*prompt, *before], settings))
            if chance > 0
        }
    assert (0, 0) in lengths and {a > 0 for n, a in lengths if n} == {True, False}
    assert set(counts) <= set(exact) and len(exact) == 16
    statistic = sum((counts.get(k, 0) - n * p) ** 2 / (n * p) for k, p in exact.items())
    assert statistic < 41.3  # chi-squared, 15 degrees of freedom, 0.03 %


def after(target, ids, settings):
    hidden, _ = target.forward(mx.array(ids), target.new_cache())
    return probabilities(target.head(hidden[-1:]), settings)[0].tolist()


def test_it_is_measured_and_the_curve_is_found_again(models, tmp_path):
    *_, curve = measure(models.target, models.loaded, quick=True)
    assert curve.knows("recall") and curve.knows("recall-2") and curve.draft_s("recall", 5, 100) > 0
    save_curve(curve, tmp_path)
    assert load_curve(models.target, models.loaded, tmp_path) == curve
    assert load_curve(models.target, {"recall": models.drafters["recall"]}, tmp_path) is None
    assert list(models.measure_curve(quick=True))[-1] == models.curve


def test_its_lanes_are_warm_before_they_are_timed(models):
    raced(models, Settings(8, stop_ids=NEVER), LANES[:3])
    warm = {spec for spec, *_ in models.warm}
    assert warm == set(LANES[:3])


def test_it_is_proven(models):
    asked = AgreementRequest(("x",), 30)
    models.target.stop_ids, before = NEVER, models.target.stop_ids
    try:
        found = [e for _, e in agreement(models, asked) if isinstance(e, Agreement)]
    finally:
        models.target.stop_ids = before
    assert [a.kind for a in found] == ["identical"]
    assert found[0].lanes == ("plain", *(f"{i.method} · full block" for i in models.infos))


def test_a_drafter_that_gives_more_than_it_is_asked_for_fails_alone(models, monkeypatch):
    drafter = models.drafters["recall"]
    context = drafter.begin()
    monkeypatch.setattr(drafter, "begin", lambda: context, raising=False)
    propose = context.propose
    monkeypatch.setattr(context, "propose", lambda anchor, n, *more: propose(anchor, n + 1, *more))
    events = race(models, RaceRequest("x", LANES[:3], Settings(40, stop_ids=NEVER)))
    record = next(e for _, e in events if isinstance(e, RaceRecord))
    list(events)
    assert record.lanes[0].error is None and record.lanes[2].error == "Recall drafted 3 tokens where 2 were asked for."


# ---- the page, links and bench: PRESET is the one line that they need --------------------------------------
