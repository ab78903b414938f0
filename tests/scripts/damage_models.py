"""Damages every file of a small model directory in every way, loads the result as the page does, and lists what ends
in anything but a load or one sentence that names the damaged file.

    python -m tests.scripts.damage_models [--kind target|drafter] [--every N] [--only PATTERN] [--look]

With --look nothing is loaded: each directory is listed and reported as the Models tab does it.
"""

import argparse
import json
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dspark_core.catalog import local
from dspark_core.catalog.hub import Hub
from dspark_core.errors import Refused
from dspark_core.machine import mlx_device
from dspark_core.playground.engine import Choice, PresetEngine
from dspark_core.playground.selection import OWN_MODELS, ModelForm, ModelSources, report
from tests.models.build import GOLDEN, copy, talking_target

# The text of each stands in a JSON file as it is: 1e999 is a number there, and infinity in Python.
VALUES = {
    "null": "null",
    "list": "[]",
    "list of lists": '[["x", {}], 3]',
    "dict": "{}",
    "dict of odd": '{"a": [1], "type": 7}',
    "text": '"text"',
    "empty text": '""',
    "false": "false",
    "true": "true",
    "infinity": "1e999",
    "-1": "-1",
    "0": "0",
    "half": "0.5",
    "huge": "1" + "0" * 400,
    "long": "1" + "0" * 5000,
    "2**40": str(2**40),
}
WHOLE = {
    "missing": lambda p: p.unlink(),
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "cut by one": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "not JSON": lambda p: p.write_bytes(b"\x00\x01 not what it should be"),
    "not UTF-8": lambda p: p.write_bytes(b'{"a": "\xff\xfe"}'),
    "nested": lambda p: p.write_bytes(b"[" * 200_000),
    "a pipe": lambda p: (p.unlink(), os.mkfifo(p)),
    "a directory": lambda p: (p.unlink(), p.mkdir()),
    "zeros for ever": lambda p: (p.unlink(), p.symlink_to("/dev/zero")),
    "a link to nothing": lambda p: (p.unlink(), p.symlink_to("/nowhere/at/all")),
    "a link to itself": lambda p: (p.unlink(), p.symlink_to(p)),
    "10 GB of nothing": lambda p: os.truncate(p, 10_000_000_000),
} | {f"JSON: {name}": lambda p, text=text: p.write_text(text) for name, text in VALUES.items()}
HOLE = "\ue000hole"
Damage = Callable[[Path], Any]


def paths_of(value: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside a JSON value; of a list those of its first two."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in [*inside][:40] if depth else ():
        yield (key,)
        yield from ((key, *rest) for rest in paths_of(inner, depth - 1))


def with_value(text: str, place: tuple[Any, ...], written: str | None) -> str:
    """A JSON text with another value at a place, or without it."""
    whole = json.loads(text)
    *outer, last = place
    inner = whole
    for key in outer:
        inner = inner[key]
    if written is None:
        del inner[last]
    else:
        inner[last] = HOLE
    return json.dumps(whole).replace(json.dumps(HOLE), written or "")


def header_change(change: Callable[[str], str]) -> Damage:
    """The JSON header of a safetensors file changed, its data as they were."""

    def apply(path: Path) -> None:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = change(data[8:end].decode()).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])

    return apply


def damages(directory: Path) -> Iterator[tuple[str, str, Damage]]:
    """(file, what is done to it, how)."""
    for path in sorted(directory.iterdir()):
        yield from ((path.name, name, change) for name, change in WHOLE.items())
        text = ""
        if path.suffix == ".json":
            text = path.read_text()
        elif path.suffix == ".safetensors":
            data = path.read_bytes()
            text = data[8 : 8 + int.from_bytes(data[:8], "little")].decode()
        places = [*paths_of(json.loads(text))] if text else []
        if path.suffix == ".safetensors":
            places = places[:14]
        for place in places:
            for name, written in {"gone": None, **VALUES}.items():
                changed = with_value(text, place, written)
                change = (
                    header_change(lambda _, changed=changed: changed)
                    if path.suffix == ".safetensors"
                    else lambda p, changed=changed: p.write_text(changed)
                )
                yield path.name, f"{'.'.join(map(str, place))} = {name}", change


def build(kind: str, root: Path) -> Path:
    """A good directory of a kind, with every file that loading looks at."""
    if kind == "drafter":
        directory = copy("drafter", "A", root)
        numbers = {"temperatures": [1.0] * 7, "survival": [0.5] * 7}
        (directory / "calibration.json").write_text(json.dumps(numbers))
        return directory
    directory = talking_target(root)
    (directory / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    header = (directory / "model.safetensors").read_bytes()
    names = [n for n in json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")]) if n != "__metadata__"]
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def faults_of(message: str, directory: Path, file: str) -> str:
    """What is wrong with a sentence about a damaged file; empty if nothing is."""
    wrong = []
    if "\n" in message or "\r" in message:
        wrong.append("more than one line")
    if not message.endswith("."):
        wrong.append("no full stop")
    if len(message) > 700:
        wrong.append(f"{len(message)} characters")
    if re.search(
        r"\w(Error|Exception|Panic)\b|Traceback|site-packages|dspark_core/|\.py\b|<class|object at 0x", message
    ):
        wrong.append("a class or a path of our source")
    if file == "chat_template.jinja" and message.startswith("The model's chat template "):  # of a prompt, not at load
        return ", ".join(wrong)
    stem = "model*.safetensors" if file.endswith(".safetensors") else file
    if not any(str(directory / name) in message for name in (file, stem)):
        wrong.append("the wrong file")
    return ", ".join(wrong)


def outcome(engine: PresetEngine, kind: str, directory: Path, file: str) -> tuple[str, str]:
    """(how loading it ended, what is wrong with that)."""
    target = directory if kind == "target" else GOLDEN / "A" / "target"
    drafter = directory if kind == "drafter" else GOLDEN / "A" / "drafter"
    try:
        engine.load(Choice("Damaged", target, {"dspark": drafter}))
        if kind == "target" and engine.models.target.text:
            engine.models.target.encode_chat([{"role": "user", "content": "Hello"}])
            engine.token_bytes(65)
        return "loaded", ""
    except Refused as error:
        message = str(error).removesuffix(" No model is loaded.")
        return message, faults_of(message, directory, file)
    except BaseException as error:  # tokenizers panic with one
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}", "raw"
    finally:
        engine.unload()


def look(kind: str, directory: Path) -> tuple[str, str]:
    """(what the Models tab says of it, what is wrong with that)."""
    nowhere = directory.parent / "nowhere"
    sources = ModelSources([], (), Hub("http://127.0.0.1:9", nowhere, False, nowhere / "record.json", nowhere))
    pair = [GOLDEN / "A" / "target", GOLDEN / "A" / "drafter"]
    pair[kind == "drafter"] = directory
    try:
        lines = [local.describe(directory).sort.words]
        chosen = sources.selection(ModelForm(OWN_MODELS, own_target=str(pair[0]), own_drafters=[str(pair[1])]))
        lines += [row["words"] for row in report(chosen, sources.locate(chosen), mlx_device())["lines"]]
    except Exception as error:
        return f"{type(error).__name__}: {error}", "raw"
    return " ".join(lines), "a line is two" if any("\n" in line or not line for line in lines) else ""


def run(
    kind: str, every: int = 1, offset: int = 0, only: str = "", load: bool = True
) -> Iterator[tuple[str, str, str, str, float]]:
    """(file, damage, outcome, fault, seconds) of every damage, or of each `every`-th."""
    engine = PresetEngine.__new__(PresetEngine)
    engine.machine = mlx_device()
    engine._clear()
    with tempfile.TemporaryDirectory() as temporary:
        good = build(kind, Path(temporary) / "good")
        chosen = [d for d in damages(good) if re.search(only, f"{d[0]} {d[1]}")][offset::every]
        for i, (file, name, change) in enumerate(chosen):
            directory = shutil.copytree(good, Path(temporary) / f"{i}" / good.name)
            change(directory / file)
            start = time.monotonic()
            words, fault = outcome(engine, kind, directory, file) if load else look(kind, directory)
            yield file, name, words.replace(str(directory), "…"), fault, time.monotonic() - start
            shutil.rmtree(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="target")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--all", action="store_true", help="list every outcome")
    parser.add_argument("--look", action="store_true")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a size that fills memory ends here, not the machine
    count, wrong = 0, 0
    for file, name, words, fault, seconds in run(given.kind, given.every, given.offset, given.only, not given.look):
        count, wrong = count + 1, wrong + bool(fault)
        if fault or given.all or seconds > 5:
            print(f"{file} | {name} | {fault or 'ok'} | {seconds:.2f} s | {words[:400]}", flush=True)
    print(f"{count} damages, {wrong} wrong")


if __name__ == "__main__":
    main()
