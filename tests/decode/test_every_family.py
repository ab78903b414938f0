"""Greedy speculation gives plain decoding's text on targets of every family, whatever is drafted, sent and rejected."""

import random
from itertools import zip_longest

import mlx.core as mx
import pytest

from dspark_core.decode.measure import measure
from dspark_core.decode.plain import plain
from dspark_core.decode.prefill import prefill_once
from dspark_core.decode.rounds import Settings
from dspark_core.decode.sampling import Greedy
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.models.drafter import Proposal
from dspark_core.models.drafters.small_model import SmallModel
from dspark_core.models.info import DrafterInfo
from dspark_core.models.target import Target, load_target
from tests.models.families import SWEPT, saved

from .helpers import NEVER, Turns, output, plain_output, rounds


class Script:
    """A drafter that knows the text after the prompt, and drafts so many right tokens as `chance` says, then random
    ones; of up to 16."""

    taps = ()
    info = DrafterInfo(
        id="script",
        method="Script",
        title="Script",
        about="Drafts the text itself, up to a point.",
        block=16,
        max_drafts=16,
        needs_taps=False,
        needs_weights=False,
    )
    state = ()

    def __init__(self, text: list[int], chance: random.Random, vocabulary: int):
        self.text, self.chance, self.vocabulary = text, chance, vocabulary
        self.read = 0

    def begin(self):
        self.read = 0
        return self

    def extend(self, ids, taps):
        self.read += ids.size

    def propose(self, anchor, n, pick, confidence=False, look=None):
        right = self.chance.choice([0, 0, 1, 2, 5, 16])
        ahead = self.text[self.read + 1 :][:right]
        drafts = ahead + [self.chance.randrange(self.vocabulary) for _ in range(16 - len(ahead))]
        return Proposal(mx.array(drafts[: self.chance.randint(0, n)], dtype=mx.int32))

    def rollback(self, n):
        self.read -= n


@pytest.fixture(scope="module", params=SWEPT)
def target(request, tmp_path_factory) -> Target:
    pytest.importorskip("torch")
    return load_target(saved(request.param, tmp_path_factory.mktemp("family")), "stored")


def compare(target: Target, seed: int, n: int, schedule=FullBlock, **options) -> None:
    chance = random.Random(seed)
    prompt = [chance.randrange(target.vocab_size) for _ in range(chance.choice([1, 5, 70]))]
    expected = plain_output(target, prompt, n)
    script = Script([*prompt, *expected], chance, target.vocab_size)
    settings = Settings(n, stop_ids=NEVER)
    events = list(speculative(target, script, prompt, settings, schedule(), Options(**options)))
    assert output(events) == expected
    assert n < 100 or {r.proposed - r.accepted for r in rounds(events)} >= {0, 1}


def test_scripted_and_random_rejections(target):
    compare(target, 0, 120)


def test_lanes_by_turns_from_one_prefill_with_rounds_that_draft_nothing(target):
    prompt = [7, 3, 9, 1]
    prefilled = prefill_once(target, prompt)
    settings, expected = Settings(40, stop_ids=NEVER), plain_output(target, prompt, 40)

    def lane(strict: float):
        script = Script([*prompt, *expected], random.Random(3), target.vocab_size)
        options = Options(prefilled=prefilled, strict=strict)
        return speculative(target, script, prompt, settings, Turns([0, 3, 1], 9, False), options)

    lanes = [lane(0.0), lane(1e9), plain(target, prompt, settings, prefilled=prefilled)]
    by_lane = list(zip(*zip_longest(*lanes), strict=True))
    assert [output(events) for events in by_lane] == [expected] * 3


def test_it_drafts_for_itself(target):
    """As a small model does, in a cache of its own, which it also goes back in: full blocks, and such as are cut."""
    drafter, prompt = SmallModel(target, target), [7, 3, 9, 1]
    for schedule, options in ((FullBlock(), Options()), (Turns([0, 3, 1], 5, False), Options(strict=1e9))):
        events = [*speculative(target, drafter, prompt, Settings(30, stop_ids=NEVER), schedule, options)]
        assert output(events) == plain_output(target, prompt, 30)
        assert all(r.accepted == r.proposed for r in rounds(events))
    context = drafter.begin()
    context.extend(mx.array(prompt * 5), None)
    first = context.propose(mx.array([5]), 3, Greedy()).ids.tolist()
    context.extend(mx.array([5, first[0], (first[1] + 1) % target.vocab_size]), None)
    context.propose(mx.array([5]), 3, Greedy())
    context.rollback(3)
    assert context.propose(mx.array([5]), 3, Greedy()).ids.tolist() == first


def test_costs_can_be_measured(tmp_path):
    pytest.importorskip("torch")
    target = load_target(saved("qwen3_5", tmp_path), "stored")
    assert min(list(measure(target, {}, quick=True))[-1].costs[0].verify) == 1


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(10))
def test_over_400_tokens(target, seed):
    compare(target, seed, 400)
    compare(target, seed, 400, strict=1e9)
