"""A prompt's prefill, done once and shared: every decode of it is what it would have been."""

from dataclasses import replace
from itertools import zip_longest

import pytest

from dspark_core.decode.plain import plain
from dspark_core.decode.prefill import PREFILL_CHUNK, prefill_once
from dspark_core.decode.rounds import Round, Settings, Start
from dspark_core.decode.schedule import FullBlock
from dspark_core.decode.speculative import Options, speculative
from dspark_core.errors import DecodeError

from .helpers import NEVER, output, plain_output, rounds


def test_shared_prefill_changes_nothing(golden):
    prompt = [i % golden.target.vocab_size for i in range(3, 43)]
    settings = Settings(24, stop_ids=NEVER)
    alone = list(speculative(golden.target, golden.drafter, prompt, settings, FullBlock()))
    done = prefill_once(golden.target, prompt, tuple(sorted({-1, *golden.drafter.taps})))
    for _ in range(2):  # the first decode leaves nothing behind
        events = list(
            speculative(golden.target, golden.drafter, prompt, settings, FullBlock(), Options(prefilled=done))
        )
        assert [replace(r, time_s=0) for r in rounds(events)] == [replace(r, time_s=0) for r in rounds(alone)]
        assert output(plain(golden.target, prompt, settings, prefilled=done)) == output(alone)


@pytest.mark.parametrize("shared", [1, 3])
def test_drafts_of_a_long_prompt_are_what_they_would_be_alone(golden_e, shared):
    """A prompt of several chunks, past a sliding window's length; lanes in turn, on copies of one cache."""
    prompt, settings = (
        [i % golden_e.target.vocab_size for i in range(PREFILL_CHUNK + 90)],
        Settings(20, stop_ids=NEVER),
    )

    def begun(options):
        return speculative(golden_e.target, golden_e.drafter, prompt, settings, FullBlock(), options)

    alone = [replace(r, time_s=0) for r in rounds(begun(Options()))]
    done = prefill_once(golden_e.target, prompt, golden_e.drafter.taps)
    lanes = [begun(Options(prefilled=done)) for _ in range(shared)]
    turns = list(zip_longest(*((e for e in lane if isinstance(e, Round)) for lane in lanes)))
    assert all(replace(r, time_s=0) == own for turn, own in zip(turns, alone, strict=True) for r in turn)


def test_what_is_dropped_leaves_the_lanes_their_copies(golden_e):
    prompt, settings = list(range(3, 60)), Settings(24, stop_ids=NEVER)
    done = prefill_once(golden_e.target, prompt)
    events = plain(golden_e.target, prompt, settings, prefilled=done)
    start = next(e for e in events if isinstance(e, Start))
    assert done.seconds > 0 and start.prefill_s >= done.seconds, "its time counts as the lane's own"
    done.drop()
    assert not done.cache and not done.tapped
    assert [start.token_id, *(r.next_id for r in events)] == plain_output(golden_e.target, prompt, 24)


def test_shared_prefill_longer_than_a_chunk(golden_a):
    prompt = [i % golden_a.target.vocab_size for i in range(PREFILL_CHUNK + 5)]
    done = prefill_once(golden_a.target, prompt)
    shared = plain(golden_a.target, prompt, Settings(8, stop_ids=NEVER), prefilled=done)
    assert output(shared) == plain_output(golden_a.target, prompt, 8)


def test_a_prefill_that_does_not_fit(golden_a):
    done = prefill_once(golden_a.target, [1, 2, 3])
    with pytest.raises(DecodeError, match="another prompt"):
        list(plain(golden_a.target, [1, 2], Settings(4), prefilled=done))
    with pytest.raises(DecodeError, match="did not keep"):
        list(
            speculative(golden_a.target, golden_a.drafter, [1, 2, 3], Settings(4), FullBlock(), Options(prefilled=done))
        )
