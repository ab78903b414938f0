"""The bench's report on tiny real models: what is measured, what is said of it, and a page that no text can open."""

import base64
import hashlib
import json
import statistics
import sys
from html.parser import HTMLParser
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dspark_core.bench import peers
from dspark_core.bench.__main__ import main
from dspark_core.bench.figures import bootstrap
from dspark_core.bench.plan import SetPrompt, alternations, excess, plan_lanes
from dspark_core.models.checkpoint import load_drafter
from dspark_core.models.target import load_target
from dspark_core.race.loaded import Models
from dspark_core.race.race import schedule_of

from ..conftest import GOLDEN, load_golden
from .made_models import HOSTILE, models_of

PEER = Path(__file__).parents[1] / "fixtures" / "line_peer.py"


def asked(tiny, out, *more):
    sets = [f"{name}={tiny / name}.jsonl" for name in ("one", "two")]
    return [*models_of(tiny), "--prompts", *sets, "--tokens", "20", "--repeat", "2", "--out", str(out), *more]


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """Arguments of a whole report, and the directory that it left."""
    out = tmp_path_factory.mktemp("report") / "new"
    lanes = ["--lanes", "plain,mlx-lm,dspark:full,dspark:hardware,dflash:cap=2", "--together", "one+two"]
    extra = ["--extra-lanes", "dspark:best,peer:theirs", "--extra-limit", "1", "--against", f"{sys.executable} {PEER}"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(out / "cache"))
        main(["report", *asked(tiny, out, *lanes, *extra)])
    return asked(tiny, out, *lanes, *extra), out


def rows_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()[1:]]


def test_every_lane_on_every_prompt_and_extra_lanes_on_the_first(measured):
    rows = rows_of(measured[1])
    seen = {(r["set"], r["prompt"], r["lane"], r["turn"]) for r in rows}
    assert len(seen) == len(rows) == 4 * 2 * 5 + 2 * 2 * 2
    assert {r["prompt"] for r in rows if r["lane"] in ("dspark:best", "peer:theirs")} == {0}
    for r in rows:
        if r["lane"] != "peer:theirs":
            plain = next(p for p in rows if (p["set"], p["prompt"], p["lane"]) == (r["set"], r["prompt"], "plain"))
            assert r["ids"] == plain["ids"], r["lane"]


def test_the_figures_are_those_of_the_log(measured):
    told, rows = json.loads((measured[1] / "report.json").read_text()), rows_of(measured[1])
    speed = {(r["set"], r["prompt"], r["lane"], r["turn"]): r["tok_s"] for r in rows}
    for p in told["prompts"]:
        key = p["set"], p["prompt"]
        pairs = [speed[*key, p["lane"], t] / speed[*key, "plain", t] for t in range(2)]
        assert p["times_plain"] == pytest.approx(statistics.median(pairs))
    for f in told["lanes"]:
        of = [p["times_plain"] for p in told["prompts"] if p["lane"] == f["lane"] and f["set"] in (p["set"], "all")]
        if f["set"] in ("one", "two", "all"):
            assert f["below_95"] == sum(r < 0.95 for r in of) and f["below_97"] == sum(r < 0.97 for r in of)
            assert f["times_plain"]["median"] == pytest.approx(statistics.median(of)) and f["prompts"] == len(of)
    assert {f["set"] for f in told["lanes"]} == {"one", "two", "one + two", "all"}
    (against,) = [
        v for v in told["versus"] if (v["set"], v["lane"], v["other"]) == ("all", "dspark:full", "peer:theirs")
    ]
    theirs = [statistics.median(speed[s, 0, "dspark:full", t] / 2.0 for t in range(2)) for s in ("one", "two")]
    assert against["ratio"]["median"] == pytest.approx(statistics.median(theirs)) and against["ratio"]["n"] == 2
    full = [s for s in told["slots"] if s["lane"] == "dspark:full"]
    assert full[0]["reached"] >= full[1]["reached"] and all(0 <= s["accepted"] <= s["reached"] for s in full)


def test_what_came_out_is_said_for_every_lane(measured):
    text = (measured[1] / "report.md").read_text()
    said = [line for line in text.splitlines() if line.startswith("- ") and "× plain (median" in line]
    lanes = ["dspark:full", "dspark:hardware", "dflash:cap=2", "dspark:best", "peer:theirs"]
    assert [line.split(",")[0] for line in said] == [f"- {lane}" for _ in ("one + two", "all") for lane in lanes]
    assert "below 0.95" in said[1] and "of its time" in said[1] and "best fixed cap" in said[1]
    assert "× peer:theirs (2 prompts)" in said[1] and "2 outputs differ" in said[4]


def test_the_same_command_goes_on_and_measures_nothing_twice(measured, capsys):
    arguments, out = measured
    whole = (out / "log.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (out / "log.jsonl").write_text("".join(lines[:-2]) + lines[-2][:40])  # as if it had been stopped there
    main(["report", *arguments])
    again = (out / "log.jsonl").read_text()
    assert again.startswith("".join(lines[:-2])) and len(again.splitlines()) == len(lines)
    main(["report", *arguments, "--from-log"])
    assert (out / "log.jsonl").read_text() == again
    with pytest.raises(SystemExit, match="another tokens"):
        main(["report", *arguments, "--tokens", "9"])
    with pytest.raises(SystemExit, match="There is no"):
        main(["report", *arguments, "--from-log", "--out", str(out / "nowhere")])


def test_a_log_with_methods_in_place_of_ids_gives_the_same_report(measured, tmp_path):
    arguments, out = measured
    first, *rest = (out / "log.jsonl").read_text().splitlines(keepends=True)
    top = json.loads(first)
    for costs in top["curve"]["costs"]:
        costs["draft"] = {{"dspark": "DSpark", "dflash": "DFlash"}[k]: v for k, v in costs["draft"].items()}
    (tmp_path / "log.jsonl").write_text(json.dumps(top) + "\n" + "".join(rest))
    main(["report", *arguments, "--from-log", "--out", str(tmp_path)])
    assert (tmp_path / "report.md").read_text() == (out / "report.md").read_text()


class Seen(HTMLParser):
    """Tags with their attributes, and the texts of scripts and of `pre`."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._in = [], {"script": [], "pre": []}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag if tag in self.texts else None
        if self._in:
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in:
            self.texts[self._in][-1] += data


def test_the_page_is_one_file_that_no_text_can_open(measured):
    text = (measured[1] / "report.html").read_text()
    page = Seen(text)
    assert HOSTILE in page.texts["pre"] and HOSTILE not in text
    assert not {tag for tag, _ in page.tags} & {"img", "link", "iframe", "object", "form", "base"}
    assert not [a for _, a in page.tags if {"src", "href", "onerror", "action"} & set(a)]
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy and "script-src 'unsafe" not in policy and "http" not in policy
    data, *scripts = page.texts["script"]
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    drawn, places = json.loads(data), {a["id"] for t, a in page.tags if t == "div" and "id" in a}
    assert set(drawn) == places and len(drawn) == 6
    assert [t["name"] for t in drawn["speed"]["data"]][:2] == ["plain", "mlx-lm"]
    assert all(t["error_y"]["array"] for t in drawn["speed"]["data"])
    assert len(drawn["every-prompt"]["data"][0]["x"]) == 2 * 4 + 2  # mlx-lm and three of its own on two, extra on one


@pytest.mark.long
def test_mlx_dspark_decodes_the_same_weights(tiny, tmp_path):
    """A process of its own, on what peers.py writes: its greedy outputs are ours."""
    pytest.importorskip("mlx_dspark")
    lanes = "plain,dspark:full,peer:mlx-dspark,peer:mlx-dspark=full,peer:mlx-dspark=auto"
    main(["report", *asked(tiny, tmp_path, "--lanes", lanes, "--limit", "1")])
    rows = rows_of(tmp_path)
    for s in ("one", "two"):
        assert len({tuple(r["ids"]) for r in rows if r["set"] == s}) == 1
    theirs = [r for r in rows if r["lane"].startswith("peer:")]
    assert len(theirs) == 12 and all(r["tok_s"] > 0 and len(r["ids"]) == 20 for r in theirs)
    assert all(r["tokens_per_round"] > 1 for r in theirs if "auto" not in r["lane"])  # which may draft nothing


def test_a_packed_drafter_is_written_dense(golden_a, tmp_path):
    packed = load_drafter(golden_a.path / "drafter", golden_a.target, "8-bit")
    weights = peers.write_target(golden_a.target, golden_a.path / "target", tmp_path / "t")
    peers.write_drafter(packed, golden_a.path / "drafter", weights, tmp_path / "d")
    told = dict(tree_flatten(load_drafter(tmp_path / "d", golden_a.target).weights.parameters()))
    as_it_was = dict(tree_flatten(golden_a.drafter.weights.parameters()))
    assert set(told) == set(as_it_was)
    for name, w in as_it_was.items():
        assert mx.abs(told[name] - w).max().item() <= 0.02 * mx.abs(w).max().item(), name


def test_a_drafter_without_an_embedding_gets_the_targets(tmp_path):
    golden = load_golden(GOLDEN / "D")
    weights = peers.write_target(golden.target, golden.path / "target", tmp_path / "t")
    peers.write_drafter(golden.drafter, golden.path / "drafter", weights, tmp_path / "d")
    told = mx.load(str(tmp_path / "d" / "model.safetensors"))
    ids = mx.arange(5)
    assert mx.array_equal(told["embed_tokens.weight"][ids], golden.target.embed(ids))
    own = {n for n, _ in tree_flatten(golden.drafter.weights.parameters())}
    assert set(told) == own | {"embed_tokens.weight", "lm_head.weight"} and "lm_head.weight" not in own


def test_a_quantized_target_is_not_compared(tmp_path):
    target = load_target(GOLDEN / "A" / "target", "8-bit")
    with pytest.raises(ValueError, match="dense weights only"):
        peers.write_target(target, GOLDEN / "A" / "target", tmp_path / "t")


# ---- the plan --------------------------------------------------------------------------------------------


def test_extra_lanes_run_on_the_first_prompts():
    lanes = plan_lanes("plain,dspark", "hardware", "dspark:best,peer:mlx-dspark=auto", 2)
    assert [lane.name for lane in lanes] == ["plain", "dspark:hardware", "dspark:best", "peer:mlx-dspark=auto"]
    assert [lane.runs_on(SetPrompt("s", 2, "")) for lane in lanes] == [True, True, False, False]
    assert all(lane.runs_on(SetPrompt("s", 1, "")) for lane in lanes)
    assert (lanes[-1].peer, lanes[-1].asks) == ("mlx-dspark", "auto")


def test_every_lane_comes_first_equally_often_and_the_best_cap_once_it_is_known():
    lanes = plan_lanes("plain,dspark,dspark:best")
    order = [(turn, lane.name) for turn, lane in alternations(lanes, 1, 4)]
    assert [name for turn, name in order if turn == 0][-1] == "dspark:best"
    firsts = [next(name for t, name in order if t == turn) for turn in (1, 2, 3)]
    assert sorted(firsts) == sorted(lane.name for lane in lanes)


@pytest.mark.parametrize(
    ("name", "asked", "sent"), [("C", 6, 6), ("C", 7, 7), ("D", 6, 5), ("D", 16, 15), ("D", 99, 15)]
)
def test_a_block_lane_sends_what_its_drafter_s_slots_predict(name, asked, sent):
    """Set C's anchor slot predicts, set D's does not."""
    golden = load_golden(GOLDEN / name)
    models = Models(golden.target, {"dflash": golden.drafter})
    *_, lane = plan_lanes(f"plain,dflash:block={asked}")
    schedule = schedule_of(lane.spec, models, golden.drafter)
    assert schedule.drafts(golden.drafter.info.max_drafts, 30) == sent
    words = excess([lane], models.infos)
    assert words == (["dflash:block=99: block 99 was asked for; drafter has a block of 16."] if asked == 99 else [])


def test_a_cap_beyond_the_drafter_is_said():
    *_, cap, full = plan_lanes("plain,dspark:cap=9,dspark:full")
    known = [load_golden(GOLDEN / "A").drafter.info]
    assert excess([cap, full], known) == ["dspark:cap=9: a cap of 9 was asked for; drafter drafts 7 at most."]


@pytest.mark.parametrize(
    ("lanes", "extra", "words"),
    [
        ("dspark", "", "plain must be"),
        ("plain,dspark:often", "", "no setting 'often'"),
        ("plain,peer:mlx-dspark=wide", "", "no lane"),
        ("plain,dspark", "dspark:hardware", "named twice"),
        ("plain,dflash", "dspark:best", "needs another lane"),
        ("plain,dspark:cap=x", "", "not a number"),
    ],
)
def test_lanes_that_make_no_sense_are_refused(lanes, extra, words):
    with pytest.raises(ValueError, match=words):
        plan_lanes(lanes, extra=extra, extra_limit=1)


def test_bootstrap_intervals_hold_the_median_and_narrow():
    few, many = (bootstrap([1 + k / n for k in range(n)]) for n in (5, 200))
    assert few.low <= few.median <= few.high and many.low <= many.median <= many.high
    assert many.high - many.low < few.high - few.low
    assert bootstrap([2.0]).low == 2.0 and bootstrap([]) is None


# ---- one object a line -----------------------------------------------------------------------------------


def lines(tiny, capsys, monkeypatch, *more):
    arguments = ["bench", *models_of(tiny), "--prompts", str(tiny / "two.jsonl"), "--tokens", "16", "--limit", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, *more])
    main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("schedule", "most"),
    [
        (["--schedule", "full"], 8),
        (["--schedule", "cap", "--cap", "2"], 3),
        (["--cap", "1"], 2),
        (["--schedule", "confidence", "--threshold", "1.1"], 1),
        (["--schedule", "hardware"], 8),
    ],
)
def test_schedules_change_rounds_and_never_the_output(schedule, most, tiny, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plain, dspark = lines(tiny, capsys, monkeypatch, "--lanes", "plain,dspark", *schedule)
    assert plain["ids"] == dspark["ids"] and len(plain["ids"]) == 16
    assert 1 <= dspark["tokens_per_round"] <= most
    assert list(tmp_path.rglob("*.json")) or "hardware" not in schedule, "no curve was measured"


def test_raced_and_fair_are_the_same(tiny, capsys, monkeypatch):
    models = [*models_of(tiny), "--prompts", str(tiny / "two.jsonl"), "--tokens", "8", "--limit", "1"]
    raced = lines(tiny, capsys, monkeypatch, "--lanes", "plain,dspark", "--tokens", "8", "--raced")
    main(["fair", *models, "--lanes", "plain,dspark"])
    fair = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(row) for row in raced] == [sorted(row) for row in fair] and len(fair) == 4
    assert fair[-1]["lane"].startswith("DSpark") and fair[-1]["raced_over_alone"] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        ["--schedule", "cap"],
        ["--schedule", "full", "--threshold", "0.5"],
        ["--lanes", "x"],
        ["--prompts", "nowhere.jsonl"],
        ["--lanes", "plain", "--raced", "--tokens", "1"],
    ],
)
def test_what_cannot_be_measured_is_one_line(wrong, tiny, capsys, monkeypatch):
    with pytest.raises(SystemExit, match="error: "):
        lines(tiny, capsys, monkeypatch, *wrong)


# ---- drafters --------------------------------------------------------------------------------------------


def test_a_second_drafter_of_a_method_is_a_lane_of_its_own(tiny, capsys, monkeypatch):
    more = ["--drafter", f"dspark-2={GOLDEN / 'A' / 'drafter'}", "--drafter", f"wide={GOLDEN / 'D' / 'drafter'}"]
    rows = lines(tiny, capsys, monkeypatch, *more, "--cap", "2")
    assert [r["engine"] for r in rows] == ["plain", "dspark", "dflash", "dspark-2", "wide"]
    assert len({tuple(r["ids"]) for r in rows}) == 1 and all(r["tokens_per_round"] > 1 for r in rows[1:2])
    assert rows[1]["tokens_per_round"] == rows[3]["tokens_per_round"]
    chosen = lines(
        tiny, capsys, monkeypatch, *more[:2], "--lanes", "plain,dspark-2:cap=1,dspark-2:full", "--repeat", "1"
    )
    assert [r["engine"] for r in chosen if "engine" in r] == ["plain", "dspark-2:cap=1", "dspark-2:full"]
    assert chosen[1]["tokens_per_round"] <= 2


def test_a_report_says_which_drafter_each_lane_had(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    more = ["--drafter", f"dspark-2={GOLDEN / 'A' / 'drafter'}", "--limit", "1", "--repeat", "1", "--schedule", "full"]
    main(["report", *asked(tiny, tmp_path, *more), "--lanes", "plain,dspark,dspark-2,dspark-2:best"])
    found = json.loads((tmp_path / "report.json").read_text())
    assert set(found["header"]["drafters"]) == {"DSpark", "dspark-2"}
    assert {p["lane"] for p in found["prompts"]} == {"plain", "dspark:full", "dspark-2:full", "dspark-2:best"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere", "takes ID=DIR"),
        ("plain=somewhere", "takes ID=DIR"),
        ("A b=somewhere", "takes ID=DIR"),
        ("x=nowhere", "nowhere"),
    ],
)
def test_a_drafter_that_cannot_be_a_lane_is_one_line(given, words, tiny, capsys, monkeypatch):
    with pytest.raises(SystemExit, match=f"error: .*{words}"):
        lines(tiny, capsys, monkeypatch, "--drafter", given)


@pytest.mark.parametrize("lane", ["peer:theirs", "dspark:best"])
def test_lanes_of_a_report_are_named_as_such(lane, tiny, capsys, monkeypatch):
    with pytest.raises(SystemExit, match="bench report --lanes"):
        lines(tiny, capsys, monkeypatch, "--lanes", f"plain,{lane}")
