"""The commands one after the other on a tiny target: write data, train, calibrate, export, load in MLX, decode."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

torch = pytest.importorskip("torch")

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from dspark_core.decode.plain import plain  # noqa: E402
from dspark_core.decode.prefill import Request  # noqa: E402
from dspark_core.decode.rounds import Round, Settings, Start, tau  # noqa: E402
from dspark_core.decode.schedule import FullBlock  # noqa: E402
from dspark_core.decode.speculative import speculative  # noqa: E402
from dspark_core.models.checkpoint import load_drafter as load_mlx_drafter  # noqa: E402
from dspark_core.models.config import read_calibration  # noqa: E402
from dspark_core.models.target import load_target as load_mlx_target  # noqa: E402
from dspark_core.training.__main__ import main  # noqa: E402
from dspark_core.training.data import Chat, open_lines  # noqa: E402
from dspark_core.training.evaluate import Answer, summarize, walk_answers  # noqa: E402
from dspark_core.training.torch_drafter import TorchDrafter  # noqa: E402
from dspark_core.training.torch_target import TorchTarget  # noqa: E402

from .tiny import make_target  # noqa: E402

NAMES = ("dspark", "dflash", "zlab-dflash")
STEPS = 24


def command(*words, ok=True):
    """Run the training command on one CPU thread, in this process, for its imports take seconds; returns its output."""
    torch.set_num_threads(1)
    output, code = io.StringIO(), None
    argv = patch("sys.argv", ["training", *map(str, words)])
    with argv, redirect_stdout(output), redirect_stderr(output):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert (not code) == ok, f"{output.getvalue()}{code}"
    return f"{output.getvalue()}{code or ''}"


def lines(place):
    with open_lines(place / "data.jsonl.xz", "r") as f:
        return f.read().splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny target, data it wrote, and three drafters trained on it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("training")
    target = make_target(root / "target")
    (root / "openings.toml").write_text(
        '[a]\nwhole = 0.5\nopen = ["", "Hi"]\nask = ["Count {n}."]\nending = ["", "!"]\n'
    )
    (root / "avoid.txt").write_text("Count 7.\n")
    command(
        "synthesize", target, "--out", root / "data.jsonl.xz", "--tokens", 12000, "--rows", 48, "--length", 128,
        "--openings", root / "openings.toml", "--avoid", root / "avoid.txt", "--seed", 3, "--device", "cpu",
    )  # fmt: skip
    command("train", target, root / "data.jsonl.xz", "--out", root / "run", *train_options(), "--steps", STEPS)
    return root


def train_options():
    # The confidence head and the Markov rank as in the real thing, everything else small.
    return [
        *("--drafter", "dspark:rank=16,layers=2,anchors=8,lr=3e-3,optimizer=muon"),
        *("--drafter", "dflash:layers=2,anchors=8,lr=3e-3", "--drafter", "zlab-dflash:layers=1,anchors=4,lr=3e-3"),
        *("--rows", 8, "--hold-out", 16, "--log-every", 8, "--seed", 5, "--device", "cpu"),
    ]


def test_data_and_record(place):
    record = json.loads((place / "data.json").read_text())
    rows = lines(place)
    assert record["rows"] == len(rows) > 0 and record["seed"] == 3
    chat = Chat.load(place / "target")
    banned = chat.encode("Count 7.")
    for text in rows:
        row = json.loads(text)
        ids = row["ids"]
        assert ids[: len(chat.start)] == chat.start
        assert not any(ids[i : i + len(banned)] == banned for i in range(len(ids)))
        for a, b in row["answers"]:  # every answer follows the template's words
            assert ids[a - len(chat.to_answer) + 1 : a] == chat.to_answer[1:]
            assert b == len(ids) or ids[b - 1] in (1, 2) or b - a > 1


def test_greedy_rows_are_the_targets_own(place):
    target = TorchTarget.load(place / "target")
    for text in lines(place)[:20]:
        row = json.loads(text)
        if row["temperature"] > 0:
            continue
        ids = torch.tensor(row["ids"])
        hidden, _ = target.forward(ids[None])
        best = (hidden[0] @ target.head.T).argmax(-1)
        for a, b in row["answers"]:
            assert torch.equal(best[a - 1 : b - 1], ids[a:b])


def test_training_learns_and_leaves_a_record(place):
    for name in NAMES:
        record = json.loads((place / "run" / name / "run.json").read_text())
        losses = [e["ce"] for e in record["losses"]]
        assert losses[-1] < losses[0]
        assert record["steps"] == STEPS and record["plan"]["seed"] == 5
        assert record["data"]["written_by"][0]["seed"] == 3 and record["versions"]["torch"]


def test_resume_goes_on_as_if_it_had_not_stopped(place):
    half = place / "half"
    target, data = place / "target", place / "data.jsonl.xz"
    script = (
        "import sys, dspark_core.training.train as t\n"
        "from dspark_core.training.__main__ import main\n"
        "save, step = t.Trainer.save, t.Course.step\n"
        "t.Trainer._save_or_warn = lambda self: (save(self), self.step >= 12 and sys.exit('stopped'))\n"
        "main()"
    )
    options = [target, data, "--out", half, *train_options(), "--steps", STEPS, "--save-seconds", 0]

    def started(*words):
        return subprocess.run(
            [sys.executable, *words, "train", *map(str, options)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    stopped, again = started("-c", script), started("-m", "dspark_core.training")
    assert "stopped" in stopped.stderr, stopped.stderr
    assert again.returncode == 1 and "holds a run already" in again.stderr and "Traceback" not in again.stderr
    assert "resumed at step 12" in command("train", *options, "--resume")
    for name in NAMES:
        one = load_file(place / "run" / name / "model.safetensors")
        two = load_file(half / name / "model.safetensors")
        for k in one:
            torch.testing.assert_close(one[k], two[k], rtol=2e-2, atol=2e-3, msg=f"{name} {k}")


def decode(decoder):
    events = list(decoder)
    start = next(e for e in events if isinstance(e, Start))
    rounds = [e for e in events if isinstance(e, Round)]
    tokens = [start.token_id]
    for r in rounds:
        tokens += r.committed
    return tokens, rounds


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["native", "packed"])
def test_export_load_speculate(place, name, form):
    """The exported drafter loads in MLX, and what it speculates is what plain decoding says."""
    out = place / f"{name}-{form}"
    group = ["--group-size", 32] if form == "packed" else []
    command("export", place / "target", place / "run" / name, "--out", out, "--format", form, *group)
    stored = set(load_file(out / "model.safetensors"))
    assert ("embed_tokens.weight" in stored) == (form == "native" and name != "zlab-dflash")
    assert ("fc.scales" in stored) == (form == "packed")
    target = load_mlx_target(place / "target")
    drafter = load_mlx_drafter(out, target, "stored")
    prompt = Chat.load(place / "target").prompt("Count 9.")
    settings = Settings(max_tokens=48)
    said, rounds = decode(speculative(target, drafter, prompt, settings, FullBlock()))
    wanted, _ = decode(plain(target, prompt, settings))
    assert said == wanted
    if name == "dspark":  # the others learn too little in so few steps
        assert len(rounds) < len(wanted) - 1
    # The same rounds as the teacher-forced walk finds.
    beyond, _ = decode(plain(target, prompt, Settings(max_tokens=48 + drafter.info.max_drafts)))
    answer = Answer(prompt + beyond, len(prompt), len(prompt + wanted))
    walked = walk_answers(TorchTarget.load(place / "target"), TorchDrafter.load(out), [answer])[0]
    assert [w.tokens for w in walked] == [len(r.committed) for r in rounds]
    assert [w.length for w in walked] == [r.acceptance_length for r in rounds]


@pytest.mark.parametrize("stop", [None, 14, 15, 16, 17, 20])
@pytest.mark.parametrize("limit", [6, 9, 11, 12, 30])
def test_the_walk_counts_rounds_as_the_engine_does(stop, limit, monkeypatch):
    """Oracle drafts, four a round, of which the k-th is wrong where the position says so; every place of a stop token
    and of the limit in a round."""
    text = list(range(100, 140))  # the target's own text, from the prefill's token on
    drafts, right = 4, [3, 4, 1, 4, 0, 2, 4, 4]
    ids = text[: stop - 10 + 1] if stop else text
    answer = Answer([0] * 10 + ids[: limit + drafts], 10, 10 + min(limit, len(ids)))

    def accepted(target, drafter, answers):
        known = len(answer.ids) - 1 - 10
        return torch.tensor([[min(right[at % 8], known - at) for at in range(known)]]), torch.zeros(1, known, drafts)

    monkeypatch.setattr("dspark_core.training.evaluate.draft_everywhere", accepted)
    drafter = SimpleNamespace(config=SimpleNamespace(confidence=False, drafts=drafts))
    (walked,) = walk_answers(None, drafter, [answer])
    at, produced, engine = 0, 1, []
    request = Request(None, (), frozenset({text[stop - 10]} if stop else ()), limit, "length")
    finish = None
    while not finish and produced < limit:
        k = right[at % 8]
        chosen = text[at + 1 : at + k + 2]
        if stop and at < stop - 10 <= at + k:  # the loop judges no draft behind a stop token
            k = stop - 10 - at
            chosen = [*text[at + 1 : at + k + 1], 7]
        committed, finish = request.cut(chosen, produced)
        last = chosen[-1]
        engine.append(Round(0, at, 0, tuple(chosen[:-1]), drafts, k, last, True, tuple(committed), 0.0, finish))
        at, produced = at + k + 1, produced + len(committed)
    assert [w.length for w in walked] == [r.acceptance_length for r in engine]
    assert summarize([walked], drafts)["tokens_per_round"] == pytest.approx(tau(engine), abs=1e-4)
    if stop and stop - 10 < limit:
        assert sum(w.length for w in walked) == len(ids) - 1


PEER = """
import json, sys
from mlx_dspark import dflash_generate, load_dflash, load_drafter, load_target, speculative_generate

directory, drafter, method, prompt, tokens = sys.argv[1:]
target, tokenizer = load_target(directory, require_tap=True)
rounds = []
common = dict(
    prompt_ids=json.loads(prompt), max_new_tokens=int(tokens), temperature=0.0, max_draft_tokens=None,
    on_round=lambda **r: rounds.append(r["accepted"]),
)
if method == "zlab-dflash":
    model, _ = load_dflash(drafter, quantize=False)
    model.bind(target.model)
    out = dflash_generate(target, tokenizer, model, **common)
else:
    model, _ = load_drafter(drafter, quantize=False)
    out = speculative_generate(target, tokenizer, model, lookup_drafts=False, **common)
print(json.dumps({"ids": [int(t) for t in out.token_ids], "accepted": rounds}))
"""


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_native_export_in_another_implementation(place, name):
    """mlx-dspark, an independent engine, loads the native export and accepts the same drafts in every round."""
    pytest.importorskip("mlx_dspark")
    out = place / f"{name}-peer"
    command("export", place / "target", place / "run" / name, "--out", out, "--format", "native")
    target = load_mlx_target(place / "target")
    prompt = Chat.load(place / "target").prompt("Count 9.")
    drafter = load_mlx_drafter(out, target)
    said, rounds = decode(speculative(target, drafter, prompt, Settings(max_tokens=48), FullBlock()))
    done = subprocess.run(
        [sys.executable, "-c", PEER, place / "target", out, name, json.dumps(prompt), "48"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["ids"][: len(said)] == said
    ours = [r.accepted for r in rounds]
    # The last round may be cut at the limit here and counted whole there.
    assert theirs["accepted"][: len(ours) - 1] == ours[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_torch_and_mlx_agree(place, name):
    """Block hidden states, logits and confidence of the same float32 checkpoint within 1e-4."""
    full = place / f"{name}-f32"
    full.mkdir(exist_ok=True)
    drafter = TorchDrafter.load(place / "run" / name)
    save_file(drafter.state_dict(), full / "model.safetensors")
    (full / "config.json").write_text((place / "run" / name / "config.json").read_text())
    target, mlx_target = TorchTarget.load(place / "target"), load_mlx_target(place / "target")
    mlx_drafter = load_mlx_drafter(full, mlx_target)
    ids = Chat.load(place / "target").prompt("Count 9, then stop.")
    at, anchor = len(ids), 77
    _, taps = target.forward(torch.tensor([ids]), drafter.config.taps)
    row = torch.tensor([[*ids, anchor]])
    padded = torch.cat([taps, torch.zeros(1, 1, taps.shape[-1])], 1)
    with torch.no_grad():
        hidden = drafter(target.embed, padded, row, torch.tensor([[at]]))[0, 0]
    context = mlx_drafter.begin()
    _, mlx_taps = mlx_target.forward(mx.array(ids), mlx_target.new_cache(), mlx_drafter.taps)
    context.extend(mx.array(ids), mlx_taps)
    proposal = context.propose(mx.array([anchor]), drafter.config.drafts, lambda z, _: (z.argmax(-1), None), True)
    np.testing.assert_allclose(np.array(proposal.hidden), hidden.numpy(), atol=1e-4, rtol=0)
    logits = hidden @ target.head.T
    np.testing.assert_allclose(np.array(proposal.base), logits.numpy(), atol=1e-4, rtol=1e-5)
    if drafter.config.markov_rank:
        previous = torch.tensor([anchor, *np.array(proposal.ids).tolist()[:-1]])
        e = drafter.markov_head.markov_w1(previous)
        bias = drafter.markov_head.markov_w2(e)
        np.testing.assert_allclose(np.array(proposal.logits), (logits + bias).detach().numpy(), atol=1e-4, rtol=1e-5)
        sure = drafter.confidence_head.proj(torch.cat([hidden, e], -1)).squeeze(-1)
        np.testing.assert_allclose(np.array(proposal.confidence), sure.detach().numpy(), atol=1e-4, rtol=0)


def test_evaluate_and_calibrate(place):
    (place / "few.jsonl").write_text('{"prompt": "Count 9."}\n{"prompt": "Hello"}\n')
    run = place / "run" / "dspark"
    out = command(
        "evaluate", place / "target", run, "--prompts", place / "few.jsonl", "--new-tokens", 24,
        "--device", "cpu", "--details", place / "details.json",
    )  # fmt: skip
    assert "dspark  few" in out
    result = json.loads((run / "evaluation.json").read_text())["sets"]["few"]
    answers = json.loads((place / "details.json").read_text())["few"]["answers"]
    assert result["tokens"] == sum(len(a["ids"]) - a["start"] - 1 for a in answers)
    command(
        "calibrate", place / "target", run, place / "data.jsonl.xz", "--hold-out", 40, "--new-tokens", 40,
        "--device", "cpu",
    )  # fmt: skip
    found = json.loads((run / "calibration.json").read_text())
    assert len(found["temperatures"]) == 7 and found["rounds"] > 0 and found["bins"] == 20
    run = place / "run" / "dflash"
    command("calibrate", place / "target", run, place / "data.jsonl.xz", "--hold-out", 40, "--device", "cpu")
    found = json.loads((run / "calibration.json").read_text())
    assert len(found["survival"]) == 7 and found["rounds"] > 0
    assert found["survival"] == sorted(found["survival"], reverse=True)
    assert len(found["margin_weights"]) == len(found["margin_biases"]) == 7 and 0 <= found["ece"] <= 1
    assert read_calibration(run, 7).margins[0] == (found["margin_weights"][0], found["margin_biases"][0])
