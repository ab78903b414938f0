"""Starts the page on a free port of this machine, with any engine, for tests."""

import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch
from urllib.request import urlopen

from dspark_core.playground.page import build
from dspark_core.playground.serve import launch
from dspark_core.playground.worker import Worker
from dspark_core.presets import load_prompts


@dataclass
class Served:
    url: str
    port: int
    worker: Worker

    def until_idle(self, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not self.worker.idle:
            assert time.monotonic() < deadline, "the engine is still busy"
            time.sleep(0.005)

    def until_ready(self, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not self.worker.ready:
            assert time.monotonic() < deadline, "the engine is still loading"
            time.sleep(0.05)


@contextmanager
def served(load, sources=None, recorded=False):
    """Serve a page whose worker loads its engine by `load(progress)`; `sources`: the models that can be chosen;
    `recorded`: with the recordings that the product has."""
    worker = Worker(load)
    page = build(worker, load_prompts(), sources)
    with nullcontext() if recorded else patch("dspark_core.playground.recordings.recordings", tuple):
        launch(page, 0, browser=False, block=False)  # one that nobody else can have by then
        port = page.server.listener.getsockname()[1]
        with urlopen(f"http://127.0.0.1:{port}/robots.txt"):  # the first request makes what stands before the page
            pass
    try:
        yield Served(f"http://127.0.0.1:{port}", port, worker)
    finally:
        page.close(verbose=False)
