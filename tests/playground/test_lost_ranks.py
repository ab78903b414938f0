"""What the page says when a machine of a group is lost; tests/models/test_sharded.py loses real ones."""

import threading
from itertools import islice
from types import SimpleNamespace

from dspark_core.playground.engine import PresetEngine, unload_lost
from dspark_core.playground.stream import loaded_words, models_status
from dspark_core.playground.worker import MAX_WAITING, Job, Worker

THERE = "Target: a model, bf16, on 2 machines"
LOST = "Rank 1 (mac) has ended, so the model that was on 2 machines is lost: load it again on the Models tab."


def nothing():
    return SimpleNamespace(target=SimpleNamespace(lost=""), infos=(), problems={}, descriptions={})


class Loaded(PresetEngine):
    """With a name, and nothing behind it."""

    def __init__(self, progress):
        self._clear()
        self.name, self.precision = "a model", "bf16, on 2 machines"
        self._models = nothing()


def test_a_page_that_does_nothing_says_so_soon_and_a_race_says_it_too():
    worker = Worker(Loaded)
    worker.may_lose = True
    words, told = [], threading.Event()

    def follow():
        for said in models_status(worker):
            words.append(said)
            if said == LOST:
                told.set()
                return

    following = threading.Thread(target=follow, daemon=True)
    following.start()
    for _ in range(3000):
        assert not told.wait(0.02) and following.is_alive()
        if THERE in words:
            break
    worker.engine._models.target.lost = LOST  # from here on, whoever asks first
    assert loaded_words(worker) == LOST
    unload_lost(worker, LOST)
    assert told.wait(10)
    assert list(worker.events(Job("a page", "race", lambda engine, job: iter(())), to_the_end=True)) is not None
    assert not worker.engine.name and worker.engine.problem == LOST


def test_what_was_loaded_since_stays_and_a_full_queue_is_waited_for():
    worker, go_on = Worker(Loaded), threading.Event()
    while not worker.ready:
        go_on.wait(0.01)
    worker.engine._models.target.lost = LOST

    def other(engine, job):
        go_on.wait(10)
        engine._models = nothing()  # as a load does
        yield from ()

    jobs = [Job(f"page {k}", "load", other) for k in range(1 + MAX_WAITING)]
    assert all(worker.submit(job) for job in jobs)
    telling = threading.Thread(target=unload_lost, args=(worker, LOST), daemon=True)
    telling.start()
    go_on.set()
    telling.join(10)
    assert not telling.is_alive()
    last = Job("a page", "race", lambda engine, job: iter(()))
    assert list(worker.events(last, to_the_end=True)) is not None
    assert worker.engine.name == "a model" and not worker.engine.problem


def test_what_is_shown_as_loaded_can_be_raced_on_at_once(monkeypatch):
    monkeypatch.setattr("dspark_core.playground.stream.LOOK_S", 0.002)
    worker, loaded, go_on = Worker(Loaded), threading.Event(), threading.Event()
    worker.may_lose = True
    status = models_status(worker)
    assert THERE in islice(status, 10_000)

    def load(engine, job):
        engine.name = "another"
        loaded.set()
        go_on.wait(10)
        yield from ()

    worker.submit(Job("a page", "load", load))
    assert loaded.wait(10)
    assert [next(status) for _ in range(3)] == [THERE] * 3
    go_on.set()
    assert any("another" in words for words in islice(status, 10_000))
    assert worker.submit(Job("a page", "race", lambda engine, job: iter(())))


def test_without_a_group_a_page_looks_no_longer_than_it_has_to():
    worker = Worker(Loaded)
    assert list(models_status(worker))[-1] == THERE
