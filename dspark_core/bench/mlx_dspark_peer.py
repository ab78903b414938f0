"""mlx-dspark behind the line protocol of peers.py, in a process of its own.

    python -m dspark_core.bench.mlx_dspark_peer TARGET DRAFTER --mode METHOD --curves DIR

Engines: "default" is its speculative_generate as called without options (cap 2, lookup drafts on), "auto" the same
with its automatic cap (its own measured curves; a new controller for each decode, as its command line has it), "full"
the same with the full block. Weights stay as they are on disk. A prompt's prefill is done once and kept for
the next request.
"""

import argparse
import contextlib
import copy
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


class Served:
    """mlx-dspark with one target and one drafter. `mode` is its name of the method, `curves` where it keeps its
    cost curves."""

    def __init__(self, target: Path, drafter: Path, mode: str, curves: Path):
        import mlx.core as mx
        from mlx_dspark import load_drafter, load_target
        from mlx_dspark.calibrate import apply_multirow_attn, apply_sdpa_split, apply_small_m

        self.names = {"target_repo": str(target), "drafter_repo": str(drafter)}
        self.target, self.tokenizer = load_target(str(target), require_tap=True)
        self.drafter, _ = load_drafter(str(drafter), quantize=False)
        self.mode, self.curves = mode, curves
        if mx.metal.is_available():  # its kernels, in the order in which its command line installs them
            apply_small_m(self.target, self.drafter, **self.names)
            apply_sdpa_split(self.target, target_repo=str(target))
            apply_multirow_attn(self.target, self.drafter)
        self.prompt: list[int] | None = None
        self.caches: tuple = ()

    def decode(self, engine: str, ids: list[int], tokens: int) -> dict:
        """One greedy decode; the fields of the protocol. Tokens that its last round puts beyond the limit are not
        counted, as they are not in this project's loops."""
        if ids != self.prompt:
            self._prefill(ids)
        cache, context = copy.deepcopy(self.caches)
        rounds = []
        answer = self._generate(
            ids,
            tokens,
            cache=cache,
            ctx_caches=context,
            reuse_len=len(ids) - 1,
            on_round=lambda **r: rounds.append(r["committed"]),
            **self._options(engine),
        )
        out = [int(t) for t in answer.token_ids[:tokens]]
        seconds = answer.decode_seconds
        return {
            "engine": engine,
            "tokens": len(out),
            "tok_s": (len(out) - 1) / seconds,
            "seconds": seconds,
            "tokens_per_round": sum(rounds) / len(rounds) if rounds else 1.0,
            "ids": out,
        }

    def _options(self, engine: str) -> dict:
        if engine == "default":
            return {}
        if engine == "full":
            return {"max_draft_tokens": None}
        if engine == "auto":
            from mlx_dspark.calibrate import calibrate

            controller = calibrate(
                self.target, self.drafter, mode=self.mode, cache_dir=str(self.curves), verbose=False, **self.names
            )
            return {"max_draft_tokens": None, "cap_controller": controller}
        raise ValueError(f"mlx-dspark has no lane {engine!r}: use default, auto or full")

    def _prefill(self, ids: list[int]) -> None:
        """Keep its caches as they are before the prompt's last token, with which every decode then begins."""
        self.caches = (self.target.make_cache(), self.drafter.make_ctx_cache())
        if len(ids) > 1:

            def store(cache, context, position):
                if position == len(ids) - 1:
                    self.caches = copy.deepcopy((cache, context))

            self._generate(ids, 1, prefill_marks=[len(ids) - 1], on_prefill=store)
        self.prompt = ids

    def _generate(self, ids: list[int], tokens: int, **options):
        from mlx_dspark import speculative_generate

        return speculative_generate(
            self.target, self.tokenizer, self.drafter, prompt_ids=ids, max_new_tokens=tokens, temperature=0.0, **options
        )


def answer_requests() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("target", type=Path)
    p.add_argument("drafter", type=Path)
    p.add_argument("--mode", required=True)
    p.add_argument("--curves", type=Path, required=True)
    a = p.parse_args()
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # its notices are not answers
        served = Served(a.target, a.drafter, a.mode, a.curves)
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = served.decode(request["engine"], request["ids"], request["tokens"])
            except ValueError as e:
                answer = {"error": str(e)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    answer_requests()
