"""A report of the bench as HTML, made of invented rounds."""

import random
from dataclasses import replace

from dspark_core.bench.figures import figures
from dspark_core.bench.log import Header, Log, Row
from dspark_core.bench.plan import SetPrompt, plan_lanes
from dspark_core.bench.report_html import report_page
from dspark_core.decode.rounds import Round

from ..decode.curves import TAXI

CURVE = replace(TAXI, costs=tuple(replace(c, draft={k.lower(): v for k, v in c.draft.items()}) for c in TAXI.costs))
NOISE = "</script></pre><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}${alert(3)}"


def made(prompts: int = 8) -> str:
    """A report of two sets; set names are as hostile as the texts."""
    lanes = plan_lanes("plain,dspark,dflash", extra="dspark:best,peer:mlx-dspark", extra_limit=2)
    header = Header("target <b>", "bf16", {"DSpark": NOISE}, 96, 0.0, 0, {}, {}, "2026-01-01", peers={"x": NOISE})
    log, rng = Log(None, header, CURVE), random.Random(0)
    asked = [SetPrompt(name, i, NOISE) for name in ("code", "chat <i>") for i in range(prompts)]
    for p in asked:
        for lane in lanes:
            if not lane.runs_on(p):
                continue
            rounds, at = [], 0.0
            for k in range(24):
                kept = 0 if lane.name == "plain" else rng.choice((0, 1, 2, 3))
                at += 0.13 if lane.name == "plain" else 0.3
                drafts = (7,) * (0 if lane.name == "plain" else 3)
                committed = (7,) * kept + (8,)
                rounds.append(Round(k, 60 + k, 0, drafts, len(drafts), kept, 8, kept == 3, committed, at))
            out = (1, *(t for r in rounds for t in r.committed))
            for turn in range(2):
                speed = (len(out) - 1) / at * rng.uniform(0.98, 1.02)
                row = Row(p.set, p.index, lane.name, turn, 0, speed, at, out, tuple(rounds), 1.5)
                log.rows[row.key] = row
    return report_page(header, CURVE, figures(log, lanes), asked)
