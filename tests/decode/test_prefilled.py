"""A prompt's prefill, done once and shared: every decode of it is what it would have been."""

import pytest

from dspark_core.decode.plain import plain
from dspark_core.decode.prefill import PREFILL_CHUNK, prefill_once
from dspark_core.decode.rounds import Settings
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
        assert [r.committed for r in rounds(events)] == [r.committed for r in rounds(alone)]
        assert output(plain(golden.target, prompt, settings, prefilled=done)) == output(alone)


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
