"""Random requests of two clients at once while races run: no wrong answer, no mixed-up stream, nothing that grows.

    python tests/scripts/endpoint_soak.py [--requests 200] [--seed 0] [--embedded] [--no-races]

Lengths, temperatures, stops, lanes, conversations and cancellations at random times. Greedy answers are held against
plain decoding's, sampled ones against the same request by itself afterwards; of cut ones what came must be a beginning.
On tiny models, or with --embedded on the embedded one, where it takes about an hour.
"""

import argparse
import gc
import http.client
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from dspark_core.decode.rounds import Settings  # noqa: E402
from dspark_core.playground.engine import PresetEngine  # noqa: E402
from dspark_core.playground.worker import Job, race_job  # noqa: E402
from dspark_core.presets import load_presets  # noqa: E402
from dspark_core.race.answer import AnswerText  # noqa: E402
from dspark_core.race.lane_spec import read_lane  # noqa: E402
from dspark_core.race.records import RaceRequest  # noqa: E402
from tests.playground.serving import served  # noqa: E402
from tests.playground.talking import TalkingEngine, asked, events, plain_ids  # noqa: E402

LANES = ("plain", "dspark", "dspark:cap=1", "dspark:cap=3", "dspark:full", "dflash", "dflash:block=4")
LEARNING = ("dspark", "dflash")
WORDS = [
    "What",
    "do",
    "you",
    "see?",
    "Say",
    "more,",
    "count",
    "to",
    "ten,",
    "name",
    "a",
    "colour.",
    "Über",
    "漢字",
    "😀,",
    "please",
    "<think>",
    "it",
    "over.",
]


class Soak:
    def __init__(self, page, seed: int):
        self.page, self.rng, self.lock = page, random.Random(seed), threading.Lock()
        self.said: list[tuple[dict, str, list[int], bool]] = []  # request, text, ids, was it cut by the client?
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()

    def body(self, rng: random.Random, talk: list[dict]) -> dict:
        """A request of random settings."""
        body = {"model": rng.choice(LANES), "messages": talk, "max_tokens": rng.choice((1, 2, 7, 20, 48))}
        body |= {"stream": rng.random() < 0.7, "return_token_ids": True}
        if rng.random() < 0.3:
            body |= {"temperature": rng.choice((0.5, 1.0, 1.5)), "seed": rng.randrange(1000)}
            body |= {"top_p": rng.choice((1.0, 0.9)), "top_k": rng.choice((0, 40))}
        if rng.random() < 0.4:
            body["stop"] = [rng.choice(("a", "+", "t@", "e", " the", "\n", "é")) for _ in range(rng.randrange(1, 3))]
        if rng.random() < 0.2:
            body["stop_token_ids"] = [rng.randrange(200)]
        return body

    def client(self, number: int, requests: int) -> None:
        rng = random.Random(f"{self.rng.random()} {number}")
        talk: list[dict] = []
        for _ in range(requests):
            if not talk or len(talk) > 6 or rng.random() < 0.3:
                talk = [{"role": "system", "content": "Be brief."}] if rng.random() < 0.5 else []
            words = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 12)))
            body = self.body(rng, [*talk, {"role": "user", "content": words}])
            cut = rng.random() < 0.3 and rng.random() * 0.3
            if rng.random() < 0.1:
                self.leave(body, rng.random() * 0.5)
            try:
                text, ids, whole = self.send(body, cut)
            except Exception as error:  # whatever it is, it is a fault
                self.faults.append(f"{type(error).__name__}: {error} of {body}")
                continue
            if text is None:  # the context was full, or a queue
                talk = []
                continue
            with self.lock:
                self.said.append((body, text, ids, not whole))
            if whole:
                talk = [*body["messages"], {"role": "assistant", "content": text}]

    def leave(self, body: dict, after: float) -> None:
        """Send a request and close the connection, whatever it has come to."""
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body | {"max_tokens": 200}))
        time.sleep(after)
        connection.close()
        self.counts["left"] += 1

    def send(self, body: dict, cut: float | bool) -> tuple[str | None, list[int], bool]:
        """Text, ids, and whether it came to its end; `cut`: seconds after which the connection is closed."""
        texts, ids, done = [], [], False
        with asked(self.page.port, "/chat/completions", body) as answer:
            self.counts[str(answer.status)] += 1
            if answer.status != 200:
                words = answer.read()
                if answer.status == 400 and b"context" in words:
                    return None, [], False
                raise ValueError(f"{answer.status} {words[:300]}")
            if not body["stream"]:
                (choice,) = json.loads(answer.read())["choices"]
                return choice["message"]["content"], choice["token_ids"], True
            until, names = time.monotonic() + cut if cut else float("inf"), set()
            for event in events(answer):
                done = event == "[DONE]"
                if done:
                    break
                names.add(event["id"])
                texts.append(event["choices"][0]["delta"].get("content", ""))
                ids += event["choices"][0].get("token_ids", [])
                if time.monotonic() > until:
                    break
            if len(names) > 1 or not (done or cut):
                raise ValueError(f"a stream of {len(names)} answers, ended: {done}")
        self.counts["streams cut by the client"] += not done
        return "".join(texts), ids, done

    def races(self, over: threading.Event) -> None:
        """One race after another, some of them stopped."""
        rng = random.Random(5)
        while not over.is_set():
            models = self.page.worker.engine.infos
            lanes = tuple(read_lane(lane, models).spec for lane in rng.sample(LANES, 2))
            job = race_job("a page", RaceRequest("Race.", lanes, Settings(24)))
            if not self.page.worker.submit(job):
                time.sleep(0.05)
                continue
            stop_at = time.monotonic() + rng.random()
            while not job.over:
                job.read(0.05)
                if time.monotonic() > stop_at and rng.random() < 0.05:
                    self.page.worker.stop("a page")
            self.counts["races"] += 1
            time.sleep(0.1)

    def check(self) -> None:
        """Every answer against what it must be, on the thread that owns MLX."""

        def work(engine, job):
            target = engine.models.target
            for body, text, ids, cut in self.said:
                prompt = target.encode_chat(body["messages"])
                stops = target.stop_ids | frozenset(body.get("stop_token_ids", ()))
                if body.get("temperature") and body["model"] in LEARNING:
                    continue  # how much it drafts, and so which numbers it draws, follows the costs that races measure
                if body.get("temperature"):
                    expected = self.sampled(engine, body)
                else:
                    expected = plain_ids(target, prompt, Settings(body["max_tokens"], stop_ids=stops))
                out, sent, used = AnswerText(target.token_bytes, body.get("stop", ())), "", []
                for token in expected:
                    if not out.stopped:
                        used.append(token)
                        sent += "".join(t for t, _ in out.add(token, False)) if token not in stops else ""
                sent += "".join(t for t, _ in out.end())
                right = (sent.startswith(text) and used[: len(ids)] == ids) if cut else (text, ids) == (sent, used)
                if not right:
                    self.faults.append(f"{body}: {text!r} {ids} in the place of {sent!r} {used}")
            yield -1, None

        for _, event in self.page.worker.events(Job("check", "check", work), to_the_end=True):
            if event is not None and not hasattr(event, "words"):
                self.faults.append(str(event))

    @staticmethod
    def sampled(engine, body: dict) -> list[int]:
        """The same lane's answer with nothing kept from before: all of it, whatever its stops."""
        from dspark_core.decode.rounds import Start
        from dspark_core.decode.speculative import Options
        from dspark_core.race.race import Clock, decode

        models = engine.models
        stops = models.target.stop_ids | frozenset(body.get("stop_token_ids", ()))
        settings = Settings(
            body["max_tokens"], body["temperature"], body["top_k"], body["top_p"], body["seed"], stop_ids=stops
        )
        prompt, spec = models.target.encode_chat(body["messages"]), read_lane(body["model"], models.infos).spec
        ids: list[int] = []
        for event in decode(models, spec, prompt, settings, Clock(), Options()):
            ids += [event.token_id] if isinstance(event, Start) else getattr(event, "committed", ())
        return ids


def held() -> dict[str, int]:
    """What must not grow: resident kB, threads, open files."""
    gc.collect()
    with open("/proc/self/status") as f:
        lines = dict(line.split(":", 1) for line in f)
    files = len(os.listdir("/proc/self/fd"))
    return {"kB": int(lines["VmRSS"].split()[0]), "threads": int(lines["Threads"]), "files": files}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--requests", type=int, default=200)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--embedded", action="store_true")
    p.add_argument("--no-races", action="store_true")
    a = p.parse_args()
    preset = load_presets()[0]
    load = (lambda progress: PresetEngine(preset, "auto", progress)) if a.embedded else TalkingEngine
    with served(load) as page:
        while not page.worker.ready:
            time.sleep(0.1)
        soak, over = Soak(page, a.seed), threading.Event()
        racing = threading.Thread(target=soak.races, args=(over,))
        if not a.no_races:
            racing.start()
        before: dict[str, int] = {}
        for part in range(4):
            clients = [threading.Thread(target=soak.client, args=(n, a.requests // 8)) for n in (0, 1)]
            for thread in clients:
                thread.start()
            for thread in clients:
                thread.join()
            before = before or held()
            print(part, len(soak.said), "answers", held(), dict(soak.counts), flush=True)
        over.set()
        with suppress(RuntimeError):
            racing.join()
        page.until_idle(60)
        after = held()
        soak.check()
    grown = {name: after[name] - before[name] for name in after}
    print(f"{len(soak.said)} answers, {len(soak.faults)} faults, grown since the first quarter: {grown}")
    for fault in soak.faults[:10]:
        print(fault[:1500])
    sys.exit(bool(soak.faults) or grown["threads"] > 2 or grown["files"] > 4 or grown["kB"] > 60_000)


if __name__ == "__main__":
    main()
