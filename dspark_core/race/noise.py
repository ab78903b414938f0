"""The width noise of a target on this device: known, kept on disk, or measured now."""

from contextlib import suppress

import mlx.core as mx

from ..decode.noise import Noise, load_noise, measure_noise, save_noise
from .models import Models


def known_noise(models: Models) -> Noise | None:
    """From this run or from disk; None if it was never measured."""
    if models.noise is None:
        models.noise = load_noise(models.target)
    return models.noise


def rounding_noise(models: Models) -> Noise:
    """What a verdict goes by: known, or measured now; on MLX's CPU backend, where the width changes no logit, none."""
    if known_noise(models) is None and exact_device():
        return Noise(0.0, 0.0)
    return measured_noise(models)


def exact_device() -> bool:
    """True where logits do not depend on how many rows are computed together: MLX's CPU backend."""
    return mx.default_device() == mx.Device(mx.cpu)


def measured_noise(models: Models) -> Noise:
    """Known, or measured now (some seconds) and kept."""
    if known_noise(models) is None:
        models.noise = measure_noise(models.target)
        with suppress(OSError):  # a cache that cannot be written costs a measurement at the next start
            save_noise(models.target, models.noise)
    return models.noise
