"""What the endpoint costs: tok/s of a streamed answer, as a client on this machine sees it, over the lane's alone; and
the time to the first token of a conversation's second turn over its first turn's.

    python tests/scripts/endpoint_cost.py [--pairs 24] [--tokens 32] [--lane dspark:cap=3] [--turns 3]

Pairs are alternated, and the ratio of each is taken. The client is a process of its own. On the embedded model. Where
something else runs beside it, the ratio of the program's processor time says more than the clock does.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from dspark_core.playground.engine import PresetEngine  # noqa: E402
from dspark_core.playground.worker import Job  # noqa: E402
from dspark_core.presets import load_presets, load_prompts  # noqa: E402
from dspark_core.race.lane_spec import read_lane  # noqa: E402
from tests.playground.serving import served  # noqa: E402


def client() -> None:
    """A line of standard input is (port, body): its tokens, and seconds to the first and from it to the last."""
    for line in sys.stdin:
        port, body = json.loads(line)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        first = last = usage = None
        text = ""
        for data in connection.getresponse():
            if data.startswith(b"data: {"):
                chunk = json.loads(data[6:])
                usage = chunk.get("usage") or usage
                if chunk["choices"] and (piece := chunk["choices"][0]["delta"].get("content")):
                    last = time.perf_counter()
                    first = first or last
                    text += piece
        connection.close()
        print(json.dumps([usage, first - began, last - first, text]), flush=True)


def alone(page, messages, lane, tokens) -> float:
    """tok/s of a lane by its own clock, as in a race."""

    def work(engine, job):
        from dspark_core.decode.rounds import Round, Settings
        from dspark_core.decode.speculative import Options
        from dspark_core.race.race import Clock, decode

        models = engine.models
        clock = Clock()
        clock.resume()
        prompt, settings = models.target.encode_chat(messages), Settings(tokens, stop_ids=frozenset())
        rounds = [r for r in decode(models, read_lane(lane, models.infos).spec, prompt, settings, clock, Options())]
        rounds = [r for r in rounds if isinstance(r, Round)]
        yield -1, (sum(len(r.committed) for r in rounds), rounds[-1].time_s)

    job = Job("script", "measurement", work)
    events = [event for _, event in page.worker.events(job, to_the_end=True)]
    count, seconds = next(event for event in events if isinstance(event, tuple))
    return count / seconds


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pairs", type=int, default=24)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--lane", default="dspark:cap=3")
    p.add_argument("--turns", type=int, default=3, help="conversations of two turns")
    p.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.client:
        return client()
    prompts = [prompt.text for prompt in load_prompts()]
    preset = load_presets()[0]
    other = subprocess.Popen([sys.executable, __file__, "--client"], stdin=-1, stdout=-1, text=True)
    with served(lambda progress: PresetEngine(preset, "auto", progress)) as page, other:

        def ask(messages, **more):
            body = {"model": a.lane, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
            print(json.dumps([page.port, body | {"max_tokens": a.tokens} | more]), file=other.stdin, flush=True)
            return json.loads(other.stdout.readline())

        ask([{"role": "user", "content": "Hello."}])
        ratios, inner, processor = [], [], []

        def timed(work):
            before = time.process_time()
            return work(), time.process_time() - before

        for n in range(a.pairs):
            messages = [{"role": "user", "content": prompts[n % len(prompts)]}]

            def streamed(messages=messages):
                usage, _, seconds, _ = ask(messages)
                # What came with the first chunk was there when the clock began.
                tokens = usage["completion_tokens"] - 1
                return tokens / seconds, usage["speculation"]["tokens_per_second"]

            def plainly(messages=messages):
                return alone(page, messages, a.lane, a.tokens)

            page.worker.engine.models.prefixes._kept.clear()  # each prefills its whole prompt
            both = [timed(work) for work in ((plainly, streamed) if n % 2 else (streamed, plainly))]
            (by_itself, alone_s), ((seen, own), seen_s) = both if n % 2 else both[::-1]
            ratios.append(seen / by_itself)
            inner.append(own / by_itself)
            processor.append(seen_s / alone_s)
            print(f"{n}: alone {by_itself:.2f}, streamed {seen:.2f} tok/s, ratio {ratios[-1]:.3f}", flush=True)
        if ratios:
            medians = [statistics.median(values) for values in (ratios, inner, processor)]
            print("median ratio of tok/s: client {:.3f}, engine {:.3f}; of processor time: {:.3f}".format(*medians))
        shares = []
        for n in range(a.turns):
            words = " ".join(prompts[(n + k) % len(prompts)] for k in range(24))
            talk = [{"role": "user", "content": f"{n}. {words[: 2600 + n]}"}]
            usage, first, _, text = ask(talk, max_tokens=24)
            talk += [{"role": "assistant", "content": text}, {"role": "user", "content": "And in one sentence?"}]
            again, second, _, _ = ask(talk, max_tokens=8)
            shares.append(second / first)
            cached = again["prompt_tokens_details"]["cached_tokens"]
            print(
                f"first turn {usage['prompt_tokens']} tokens {first:.2f} s; second {again['prompt_tokens']}, "
                f"{cached} of them known, {second:.2f} s: {shares[-1]:.3f}"
            )
        other.stdin.close()
    print(f"second turn over the first, median {statistics.median(shares):.3f}" if shares else "")


if __name__ == "__main__":
    main()
