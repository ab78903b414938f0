"""What users bring that is broken: each gets one clear sentence, and nothing good is lost."""

import itertools
import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from dspark_core.training import TrainingError, train  # noqa: E402
from dspark_core.training.__main__ import main  # noqa: E402
from dspark_core.training.data import Chat, Rows, open_lines, repeats, write_atomic  # noqa: E402
from dspark_core.training.evaluate import answers_by_side, read_prompts  # noqa: E402
from dspark_core.training.synthesize import Avoid, SynthesisPlan, pick, read_texts, synthesize, top_k  # noqa: E402
from dspark_core.training.torch_target import TorchTarget, dequantize  # noqa: E402
from dspark_core.training.train import CHECKPOINT, Recipe, Trainer, TrainingPlan  # noqa: E402

from .tiny import make_target  # noqa: E402


def good(n, start=0):
    return [
        json.dumps({"ids": [(start + i + j) % 200 for j in range(40)], "answers": [[10, 40]], "temperature": 0})
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    torch.set_num_threads(1)
    return make_target(tmp_path_factory.mktemp("bad") / "target")


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(good(12)))
    return Rows.read([file], 264)


def test_broken_lines_are_skipped_and_told(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join([*good(200), '{"ids": [1, 2', *good(3)]))
    told = []
    assert len(Rows.read([file], 264, notify=told.append)) == 203
    assert "skipped 1 broken lines of 204" in told[0] and "line 201" in told[0]


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "7", "{}", '{"ids": "!!"}', '{"ids": [1, 999], "answers": []}', '{"ids": [1, "a"], "answers": []}',
        '{"ids": [1, 2, 3], "answers": [[0, 2]]}', '{"ids": [1, 2, 3], "answers": [[1, 9]]}', '{"ids": [1, 2, 3]}',
        '{"ids": [1, 2, 3], "answers": [[1, 2]], "temperature": "hot"}', "\x00\ufffd",
    ],
)  # fmt: skip
def test_a_file_of_broken_lines_is_refused(tmp_path, line):
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join([line] * 5))
    with pytest.raises(TrainingError, match=r"data\.jsonl has 5 broken lines of 5 \(line 1: "):
        Rows.read([file], 264)


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_an_empty_file_is_refused(tmp_path, text):
    file = tmp_path / "data.jsonl"
    file.write_text(text)
    with pytest.raises(TrainingError, match=r"data\.jsonl is empty"):
        Rows.read([file], 264)
    with pytest.raises(TrainingError, match=r"data\.jsonl is empty"):
        read_prompts(file)


def test_a_cut_off_compressed_file_is_refused(tmp_path):
    file = tmp_path / "data.jsonl.xz"
    with open_lines(file, "w") as f:
        f.write("\n".join(good(300)))
    assert len(Rows.read([file], 264)) == 300
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(TrainingError, match=r"data\.jsonl\.xz cannot be read"):
        Rows.read([file], 264)


def test_a_broken_prompt_line_is_named(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(TrainingError, match="line 2: expected"):
        read_prompts(file)


def test_missing_files(tmp_path):
    for read in (lambda f: Rows.read([f], 264), read_prompts, read_texts):
        with pytest.raises(TrainingError, match=r"nothing\.jsonl cannot be read"):
            read(tmp_path / "nothing.jsonl")
    with pytest.raises(TrainingError, match="is not a model directory"):
        TorchTarget.load(tmp_path)


def test_target_without_chat_template(tmp_path):
    with pytest.raises(TrainingError, match="has no chat template: it is a base model"):
        Chat.load(make_target(tmp_path / "base", template=None))


def test_other_family_and_missing_tensor(tmp_path, target):
    directory = make_target(tmp_path / "other")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(TrainingError, match="model_type 'mamba'"):
        TorchTarget.load(directory)
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 9}))
    with pytest.raises(TrainingError, match=r"has no tensor model\.layers\.5\."):
        TorchTarget.load(directory)


@pytest.mark.parametrize(
    ("text", "word"),
    [("eagle", "no method 'eagle'"), ("dspark:color=red", "no setting 'color'"), ("dspark:layers=two", "layers='two'")],
)
def test_bad_recipes(text, word):
    with pytest.raises(TrainingError, match=word):
        Recipe.parse(text)


def trainer(target, rows, out, notify=print, **plan):
    recipe = Recipe.parse("dspark:rank=8,layers=1,anchors=2")
    plan = TrainingPlan(**({"steps": 4, "rows": 2, "log_every": 1} | plan))
    return Trainer(TorchTarget.load(target), rows, [recipe], plan, out, 3, notify=notify)


def test_nan_stops_and_keeps_the_last_good_checkpoint(target, rows, tmp_path):
    run = trainer(target, rows, tmp_path / "run", save_seconds=0)
    batch = run.batch

    def poisoned(step):
        b = batch(step)
        if step == 2:
            b.hidden[:] = float("nan")
        return b

    run.batch = poisoned
    with pytest.raises(TrainingError, match=r"dspark is not finite before step 3.*checkpoint of step 2 is kept"):
        run.run()
    state = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(t).all() for t in state["courses"][0]["drafter"].values())


def test_full_disk_keeps_the_checkpoint_whole(target, rows, tmp_path, monkeypatch):
    told = []
    run = trainer(target, rows, tmp_path / "run", told.append)
    run.save()
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    real = torch.save

    def full(state, path):
        real(state, path)
        Path(path).write_bytes(Path(path).read_bytes()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    run.step = 3
    run._save_or_warn()
    assert told == ["The checkpoint of step 3 could not be saved (No space left on device); that of step 0 is kept."]
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before
    assert os.listdir(tmp_path / "run") == [CHECKPOINT]


@contextmanager
def disk_with_room_for(size):
    """The kernel refuses to write files past `size` bytes, as a full disk refuses them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_during_a_run(target, rows, tmp_path):
    """torch calls it a RuntimeError; the run ends with a sentence, and goes on from the whole checkpoint later."""
    told = []
    run = trainer(target, rows, tmp_path / "run", told.append, save_seconds=0)
    run.save()
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    with disk_with_room_for(len(before) // 2), pytest.raises(TrainingError, match=r"step 4 could not.*--resume"):
        run.run()
    assert sum("could not be saved" in t and "that of step 0 is kept" in t for t in told) == 4
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before
    assert os.listdir(tmp_path / "run") == [CHECKPOINT]
    again = trainer(target, rows, tmp_path / "run")
    again.resume()
    again.run()
    assert again.saved_step == 4


def test_a_full_disk_while_exporting(target, rows, tmp_path, monkeypatch):
    """The command ends with one sentence, and an export made before stays whole."""
    run = trainer(target, rows, tmp_path / "run")
    (made,) = run.write_drafters({})
    for form in ("native", "packed"):
        out = tmp_path / form
        words = ["export", target, made, "--out", out, "--format", form, "--group-size", "32"]
        monkeypatch.setattr("sys.argv", ["training", *map(str, words)])
        main()
        before = (out / "model.safetensors").read_bytes()
        with disk_with_room_for(len(before) // 2), pytest.raises(SystemExit, match=r"(?i)model\.safetensors|large"):
            main()
        assert (out / "model.safetensors").read_bytes() == before
        assert not list(out.glob("*.part*"))


def test_a_checkpoint_is_taken_every_minute(target, rows, tmp_path, monkeypatch):
    """Steps of 20 s by the clock, at the default settings: what an interruption can cost is a minute at most."""
    now, saved = [0.0], [0.0]
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: now[0]))
    run = trainer(target, rows, tmp_path / "run", steps=14)
    batch, save = run.batch, run.save

    def slow(step):
        now[0] += 20.0
        return batch(step)

    def noted():
        saved.append(now[0])
        save()

    run.batch, run.save = slow, noted
    run.run()
    assert len(saved) >= 5 and max(b - a for a, b in itertools.pairwise(saved)) <= 60.0


def test_resume_needs_the_same_run(target, rows, tmp_path):
    run = trainer(target, rows, tmp_path / "run")
    with pytest.raises(TrainingError, match="to resume from"):
        run.resume()
    run.save()
    with pytest.raises(TrainingError, match="other drafters or another seed"):
        trainer(target, rows, tmp_path / "run", seed=1).resume()


def test_write_atomic_leaves_no_litter(tmp_path):
    def broken(path):
        path.write_text("half")
        raise OSError("disk")

    (tmp_path / "f").write_text("whole")
    with pytest.raises(OSError):
        write_atomic(tmp_path / "f", broken)
    assert (tmp_path / "f").read_text() == "whole" and os.listdir(tmp_path) == ["f"]


def test_held_out_rows_share_no_prompt(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*good(10), *good(2), *good(3, start=50)]))
    rows = Rows.read([file], 264)
    training, held = rows.split(5)
    assert len(training) == 10 and len(held) == 3  # two of the five repeat a training prompt
    with pytest.raises(TrainingError, match="only 15"):
        rows.split(15)


def test_fit_and_judgement_of_a_calibration_share_no_prompt(tmp_path):
    file = tmp_path / "rows.jsonl"
    asked = [{"ids": [i, i + 1, i + 2, *range(20)], "answers": [[3, 23]], "temperature": 0} for i in range(40)]
    file.write_text("\n".join(json.dumps(row) for row in [*asked, *asked[::-1]]))
    rows = Rows.read([file], 264)
    fitted, judged = ({tuple(a.ids[: a.start]) for a in side} for side in answers_by_side(rows, 12))
    assert len(fitted) > 5 and len(judged) > 5 and not fitted & judged
    assert all(a.end - a.start == 12 for side in answers_by_side(rows, 12) for a in side)


def test_a_seed_fixes_the_data(target, tmp_path):
    openings = tmp_path / "openings.toml"
    openings.write_text('[a]\nwhole = 0.5\nopen = ["", "Hi"]\nask = ["Count {n}."]\n')

    def written(seed):
        file = tmp_path / "rows.jsonl"
        chat, plan = Chat.load(target), SynthesisPlan(tokens=1, rows=6, length=40, seed=seed)
        synthesize(TorchTarget.load(target), chat, file, plan, Avoid(chat, []), openings, told.append)
        return file.read_text()

    told = []
    assert written(4) == written(4) != written(5)
    assert len(told) == 3 and "tokens/s" in told[0]


def test_repeats_are_found():
    ids = torch.tensor([[*range(30), *([7, 8, 9] * 20)], list(range(90))])
    found = repeats(ids)
    assert not found[1].any() and not found[0, :60].any() and found[0, 70:].all()


def test_pick_is_greedy_at_zero_and_stays_in_the_top_k():
    torch.manual_seed(0)
    logits = torch.randn(64, 128 * 128)
    logits[0, [5, 900]] = 50.0
    zero = torch.zeros(64)
    assert torch.equal(pick(logits, zero), logits.argmax(-1)) and pick(logits, zero)[0] == 5
    top, index = top_k(logits, 50)
    wanted = logits.topk(50)
    assert torch.equal(top, wanted.values) and torch.equal(logits.gather(1, index), wanted.values)
    sampled = pick(logits, torch.ones(64))
    assert (sampled.unsqueeze(1) == index).any(1).all()


def test_protected_texts_are_found(target):
    chat = Chat.load(target)
    text = "Write a short poem about the sea and the wind."
    refuse = Avoid(chat, [text])
    near = chat.encode("Please write a long poem on mountains, rivers!")
    inside = chat.encode("I said: " + text)
    width = max(len(near), len(inside))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in (near, inside)])
    assert refuse(ids).tolist() == [False, True]


@pytest.mark.parametrize("bits", [4, 8])
def test_dequantize_matches_mlx(bits):
    mx = pytest.importorskip("mlx.core")
    import numpy as np

    w = mx.random.normal((6, 128), key=mx.random.key(1))
    packed, scales, biases = mx.quantize(w, group_size=32, bits=bits)
    mine = dequantize(*(torch.from_numpy(np.array(t)) for t in (packed, scales, biases)), 32)
    wanted = np.array(mx.dequantize(packed, scales, biases, group_size=32, bits=bits))
    np.testing.assert_allclose(mine.numpy(), wanted, atol=1e-6)
