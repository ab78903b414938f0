"""The models of one preset, loaded and raced. Only the thread that owns MLX calls into this.

MLX and mlx-lm are imported inside the functions, so that importing this module stays on the page's thread.
"""

from collections.abc import Callable

from ..presets import Preset


class PresetEngine:
    """A preset's target and drafters. A drafter that cannot be loaded leaves its reason in its place."""

    def __init__(self, preset: Preset, precision: str, progress: Callable[[str], None]):
        from ..models.checkpoint import load_drafter
        from ..models.errors import ModelError
        from ..models.target import load_target
        from ..race.race import Models

        target = load_target(preset.target, precision, lambda step: progress(f"{preset.title}: {step}"))
        loaded = {}
        for entry in preset.drafters:
            progress(f"{preset.title}: the {entry.method} drafter")
            try:
                loaded[entry.method] = load_drafter(entry.path, target, precision)
            except ModelError as error:
                loaded[entry.method] = str(error)
        self.models = Models(target, loaded)
        self.name, self.precision = target.name, target.precision
        self.stop_ids, self.token_bytes = target.stop_ids, target.token_bytes
        self.drafters = {
            method: d if isinstance(d, str) else f"{d.name}, block {d.block_size}, {d.precision}"
            for method, d in loaded.items()
        }

    def race(self, request, cancelled):
        from ..race.race import race

        return race(self.models, request, cancelled)

    def inspect(self, record, lane, index, cancelled, progress):
        from ..race.inspect import inspect

        return inspect(self.models, record, lane, index, cancelled, progress)
