"""The program's front door: what ends it is heard from the first moment on, before anything large is imported."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from ..models.group import take_place
from ..models.ranks import RankProcess


def main(arguments: list[str] | None = None) -> None:
    """Run the program; `arguments` as on the command line. Ctrl+C, SIGTERM and SIGHUP (its terminal was closed) end it
    at once and in one sentence, whatever it does, with the exit status that a shell gives to such an end: 130, 143 and
    129. Where SIGHUP is ignored, as `nohup` has it, it stays so."""
    take_place()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    from .serve import main as serve

    serve(arguments)


def end(number: int, frame: FrameType | None) -> None:
    """Leave without winding up: another thread may be at work in MLX, which does not survive that. Files are written
    so that a kill harms none."""
    how = "Ctrl+C" if number == signal.SIGINT else signal.Signals(number).name
    RankProcess.kill_all()
    try:
        with suppress(OSError):  # of a terminal that is gone
            os.write(2, f"\nDSpark Playground has ended ({how}).\n".encode())
        for stream in (1, 2):  # what another thread says while this one ends is of no interest any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if text_process := sys.modules.get("dspark_core.models.text_process"):
            text_process.TextProcess.end_at_once()
        if store := sys.modules.get("dspark_core.store"):
            store.RunDirectories.remove()
    finally:
        os._exit(128 + number)
