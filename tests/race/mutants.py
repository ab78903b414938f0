"""Mutated races for the loader, fixed seed, in a process that may grow by 500 MB. Prints what became of them.

python tests/race/mutants.py 2000
"""

import json
import random
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dspark_core.errors import TraceError
from dspark_core.playground.saved import board_of
from dspark_core.playground.tabs.compare_tab import ComparedRaces
from dspark_core.race.metrics import metrics, positions, speed_over_time
from dspark_core.race.trace import MAX_BYTES, Trace, dumps, loads
from tests.race.long_trace import long_document

SEED, ROOM = 20, 500_000_000
VALUES = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**53 + 1, -(10**30), 0.5, -0.0, 1e308, 1e-300, [], {}, "", " "),
    *("x", "NaN", "${alert(1)}", "{{z}}", "<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>"),
    *("\u202eabc", "a\u0000b", "\x1e\x1f", "\ud800", "x" * 5000, [0] * 300, [[[[]]]], {"a": {}}, "stop", "plain"),
]


def places(value, found):
    """Every (container, key) of a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            places(value[key], found)
    return found


def change_tree(document: str, dice: random.Random) -> str:
    data = json.loads(document)
    for _ in range(dice.choice((1, 1, 2, 5))):
        found = places(data, [])
        container, key = dice.choice(found)
        other, other_key = dice.choice(found)
        what = dice.randrange(7)
        if what < 3:
            container[key] = dice.choice(VALUES)
        elif what == 3:
            del container[key]
        elif what == 4:
            container[key] = json.loads(json.dumps(other[other_key]))
        elif what == 5 and isinstance(container, dict):
            container[dice.choice(["extra", "__class__", "index", "", "é" * 60])] = dice.choice(VALUES)
        elif isinstance(container[key], int | float) and not isinstance(container[key], bool):
            container[key] += dice.choice((-1, 1, 0.001))
    return json.dumps(data)


def change_bytes(document: str, dice: random.Random) -> bytes:
    data = bytearray(document.encode())
    for _ in range(dice.choice((1, 1, 3, 20))):
        at, size = dice.randrange(len(data)), dice.choice((1, 1, 4, 100))
        what = dice.randrange(5)
        if what == 0:
            data[at] = dice.randrange(256)
        elif what == 1:
            del data[at : at + size]
        elif what == 2:
            data[at:at] = data[dice.randrange(len(data)) :][:size]
        elif what == 3:
            data[at : at + 1] = dice.choice((b"[", b"]", b'"', b"{", b"}", b",", b"\\u0000", b"1e999", b"NaN", b"\xff"))
        else:
            del data[at:]
            break
        if not data:
            return b"{"
    return bytes(data)


def huge(document: str, dice: random.Random) -> bytes:
    """Files near the largest size that fill memory fastest, or repeat what is there."""
    head = document[: document.index('"tokens":{') + 10]
    filler = dice.choice(("[],", "{},", '"",', "0.1,", "999,", "[[[", '{"a":', '"abc",', "1e5,", '"\\ud83d",'))
    if dice.random() < 0.5:
        return (head + '"1":[' + filler * ((MAX_BYTES - len(head) - 20) // len(filler))).encode()[:MAX_BYTES]
    return (head + '"1":[' + (filler * (MAX_BYTES // len(filler) - len(head)))[:-1] + "]}}").encode()[:MAX_BYTES]


def shown(trace: Trace) -> None:
    """What the page does with a trace that was loaded must work too, and what was worked out anew stays as it is."""
    board_of(trace).encode()
    ComparedRaces(trace, trace).value().encode()
    for lane in trace.race.lanes:
        metrics(lane), positions(lane.rounds), speed_over_time(lane.rounds)
    assert loads(dumps(trace)) == trace


def main():
    files, dice = int(sys.argv[1]), random.Random(SEED)
    seeds = [long_document(tokens, sampled, dice.random()) for tokens in (3, 12, 40) for sampled in (False, True)]
    loads(seeds[0])
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    loaded, refusals, slowest = 0, [], 0.0
    for k in range(files):
        change = huge if k % 200 == 0 else change_tree if k % 2 else change_bytes
        document = change(dice.choice(seeds), dice)
        began = time.process_time()  # not the clock: other processes would count
        try:
            trace = loads(document)
        except TraceError as error:
            refusals.append(str(error))
            trace = None
        slowest = max(slowest, time.process_time() - began)
        if trace:
            loaded += 1
            shown(trace)
    for words in refusals:
        assert words.endswith(".") and "\n" not in words and len(words) < 400, words
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "files": files, "loaded": loaded, "refused": len(refusals), "sentences": len(set(refusals)),
        "slowest_s": round(slowest, 2), "peak_mb": round(peak / 1024),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
