"""A lane: one decode with its own clock, run in slices."""

import logging
import time
from collections.abc import Callable, Iterator

from ..decode.rounds import DecodeError, Prefill, Round, Start
from .records import Failed

SLICE_S = 0.2  # own time of one slice; it always holds at least one event

Event = Prefill | Start | Round | Failed


class Clock:
    """Seconds that pass only between `resume` and `pause`."""

    def __init__(self, source: Callable[[], float] = time.perf_counter):
        self._source = source
        self._own = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        return self._own if self._since is None else self._own + self._source() - self._since

    def resume(self) -> None:
        self._since = self._source()

    def pause(self) -> None:
        self._own, self._since = self(), None


class Lane:
    """Runs `decode(clock)`, a generator of Prefill, Start and Round, a slice at a time.

    `synchronize` waits for the device. Decoding is pipelined inside a slice; at its end the lane waits,
    on its own time, for what it put on the device, so that the next lane finds the device idle.
    """

    def __init__(
        self,
        decode: Callable[[Clock], Iterator[Event]],
        synchronize: Callable[[], None],
        clock: Clock | None = None,
    ):
        self.clock = clock or Clock()
        self.done = False
        self._events = decode(self.clock)
        self._synchronize = synchronize

    def slice(self, seconds: float = SLICE_S) -> Iterator[Event]:
        """Events of about `seconds` of own time, at least one. A failure is an event, not an exception."""
        until = self.clock() + seconds
        self.clock.resume()
        try:
            for event in self._events:
                yield event
                if self.clock() >= until:
                    break
            else:
                self.done = True
            self._synchronize()
        except DecodeError as error:
            yield self._fail(str(error))
        except Exception as error:  # the other lanes must be able to finish
            logging.exception("a lane failed")
            yield self._fail(f"This lane failed: {type(error).__name__}: {error}")
        finally:
            self.clock.pause()

    def close(self) -> None:
        """End the decode where it stands."""
        self.done = True
        self._events.close()

    def _fail(self, message: str) -> Failed:
        self.done = True
        return Failed(message)
