"""Cost curves made of numbers, for tests that must not depend on the machine."""

from dspark_core.decode.cost_curve import CostCurve, Costs, Timing


def at(ms: float) -> Timing:
    return Timing(ms / 1e3, ms / 1e3, ms / 1e3, 3)


def curve(short: dict[int, float], long: dict[int, float] | None = None, draft=10.0, row=2.0, rows=15) -> CostCurve:
    """Milliseconds by width at contexts 100 and 1100; plain is width 1; drafting costs draft + row * rows."""
    drafts = {method: {n: at(draft + row * n) for n in range(rows + 1)} for method in ("DSpark", "DFlash")}
    costs = [Costs(100, at(short[1]), {w: at(ms) for w, ms in short.items()}, drafts)]
    if long:
        costs.append(Costs(1100, at(long[1]), {w: at(ms) for w, ms in long.items()}, drafts))
    return CostCurve({"target": "t"}, "2026-01-01T00:00:00+00:00", 1.0, tuple(costs))


TAXI = curve({1: 130, 2: 163, 17: 780}, draft=45, row=12)  # every verified token costs: the embedded model on a CPU
BUS = curve({1: 6.2, 2: 11.5, 4: 12.2, 17: 12.4}, draft=1.0, row=0.05)  # a step at width 2, then free: a large GPU
