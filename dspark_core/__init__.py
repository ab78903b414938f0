"""DSpark Playground: see, measure and teach speculative decoding on your own machine."""

import os
import resource

__version__ = "0.1.0"

for _stream in range(3):  # a closed one's number goes to the next file, and MLX takes file 0 for none
    try:
        os.fstat(_stream)
    except OSError:
        os.open(os.devnull, os.O_RDWR)
os.environ.pop("MLXLM_USE_MODELSCOPE", None)  # mlx-lm would import a hub's client that is not installed
_set_limit = resource.setrlimit


def _raise_limit(kind: int, limits: tuple[int, int]) -> None:
    """In the place of `resource.setrlimit` until mlx-lm is imported, which sets the limit of open files then to (2048,
    4096): an error where less is allowed, and less than there was where more is (mlx-lm#1589)."""
    if kind != resource.RLIMIT_NOFILE:
        _set_limit(kind, limits)
        return
    resource.setrlimit = _set_limit
    soft, hard = resource.getrlimit(kind)
    endless = resource.RLIM_INFINITY
    wanted = limits[0] if hard == endless else min(limits[0], hard)
    if soft != endless and soft < wanted:
        _set_limit(kind, (wanted, hard))


resource.setrlimit = _raise_limit
