"""How often does a proof of exactness flag each sampler that it offers? 100 seeds of each; three minutes on 2 cores.

    .venv/bin/python -m tests.scripts.prove_sweep

The right sampler is to be flagged at most once in 100 seeds, each wrong one at least 99 times: the exit code is 1
otherwise. The test suite does the same with 5 seeds (tests/proof/test_draws.py).
"""

import argparse
import sys
from collections.abc import Callable, Iterable

from dspark_core.decode.prefill import prefill_once
from dspark_core.decode.rounds import Settings
from dspark_core.proof.chi_squared import ALPHA
from dspark_core.proof.conditionals import Conditionals, ask_models
from dspark_core.proof.draws import PairSampler
from dspark_core.proof.evidence import RIGHT, SAMPLERS, DrawRequest, Step, together
from dspark_core.proof.prove import CountedDraws
from dspark_core.proof.samplers import ACCEPT

from ..conftest import GOLDEN, Golden, load_golden

DRAWS = 2000  # of one proof


def request(sampler: str = RIGHT, n: int = DRAWS, **settings) -> DrawRequest:
    settings = {"temperature": 1.0, "top_k": 8} | settings
    return DrawRequest("x", "dspark", Settings(3, stop_ids=frozenset(), **settings), sampler, n)


def asked(golden: Golden, wanted: DrawRequest) -> Conditionals:
    prefilled = prefill_once(golden.target, golden.trace["prompt_ids"], golden.drafter.taps)
    *steps, found = ask_models(golden.target, golden.drafter, prefilled, wanted, lambda: False)
    assert all(isinstance(step, Step) for step in steps) and isinstance(found, Conditionals)
    return found


def flagged(given: Conditionals, accept: Callable, n: int, seeds: Iterable[int], sampler: str = RIGHT) -> int:
    """In how many of these seeds a proof of n draws flags a sampler, by all the comparisons it makes."""
    found = 0
    for seed in seeds:
        proof = CountedDraws(given, request(sampler, n, seed=seed))
        proof.sampler = PairSampler(given, accept)
        while proof.done < n:
            proof.more()
        found += together(proof.checks()) < ALPHA
    return found


def flagged_when_offered(golden: Golden, sampler: str, seeds: Iterable[int]) -> int:
    """In how many of these seeds a proof flags a sampler that the page offers."""
    return flagged(asked(golden, request(sampler)), ACCEPT[sampler], DRAWS, seeds, sampler)


def main() -> int:
    parser = argparse.ArgumentParser(description="How often a proof of exactness flags each sampler that it offers.")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--golden", default="E", help="golden set, by name")
    args = parser.parse_args()
    golden, wrong = load_golden(GOLDEN / args.golden), False
    for sampler in SAMPLERS:
        found = flagged_when_offered(golden, sampler, range(args.seeds))
        allowed = args.seeds // 100
        wrong |= found > max(1, allowed) if sampler == RIGHT else found < args.seeds - allowed
        print(f"{found:4} of {args.seeds} seeds flagged  {sampler}", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
