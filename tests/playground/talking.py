"""Tiny real models that take and give text: golden set A's target with a tokenizer of single bytes and a chat template
in Qwen3's form, and sets A's and C's drafters. And how to talk to a served endpoint."""

import http.client
import json
import tempfile
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from dspark_core.decode.plain import plain
from dspark_core.decode.rounds import Settings, Start
from dspark_core.playground.engine import PresetEngine
from tests.models.build import GOLDEN, talking_target

NAME = "talking"


@cache
def talking_models():
    """(target, its drafters by id): loaded once."""
    from dspark_core.models.checkpoint import load_drafter
    from dspark_core.models.target import load_target
    from dspark_core.models.text_process import read_text

    with tempfile.TemporaryDirectory() as place:
        directory = talking_target(Path(place))
        target = load_target(GOLDEN / "A" / "target")
        target.text = read_text(directory, None)
    target.stop_ids, target.name = target.text.stop_ids, NAME
    return target, {id_: load_drafter(GOLDEN / d / "drafter", target) for id_, d in (("dspark", "A"), ("dflash", "C"))}


class TalkingEngine(PresetEngine):
    def __init__(self, progress=lambda _: None):
        from dspark_core.race.loaded import Models

        target, drafters = talking_models()
        self._clear()
        self._models = Models(target, dict(drafters))
        self.name, self.precision = NAME, target.precision
        self.stop_ids, self.token_bytes = target.stop_ids, target.token_bytes


USUAL = Settings(24)


def plain_ids(target, prompt, settings=USUAL):
    """Output ids of the plain loop, with nothing kept from before."""
    ids = []
    for event in plain(target, prompt, settings):
        ids += [event.token_id] if isinstance(event, Start) else getattr(event, "committed", ())
    return ids


@contextmanager
def asked(port, path, body=None, headers=None, method=None):
    """The open answer to a request: its status, headers, and what can be read."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), f"/v1{path}", data, headers or {})
        yield connection.getresponse()


def ask(port, path, body=None, headers=None, method=None):
    """(status, headers, document) of a request."""
    with asked(port, path, body, headers, method) as answer:
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(answer.read())


def events(answer):
    """The documents of a stream as they come; the last is "[DONE]" where it ended well."""
    for line in answer:
        if line.startswith(b"data: "):
            data = line.removeprefix(b"data: ").strip()
            yield data.decode() if data == b"[DONE]" else json.loads(data)
