"""Text of models that are not this project's own, between text and ids: in a process of its own, within limits.

A chat template and a tokenizer are programs that come with a model: a template can go round for ever or write without
end, a normalizer can multiply what it is given, a regular expression can go back for hours, and the library that runs
them can end whatever thread it is called on. So a second process loads them, tries them and is asked from then on; one
that takes too long or too much, or is not waited for any more, is ended and another one started.

It is an interpreter of its own, no copy of this one (MLX does not survive a fork), and it ends when this one does.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.util import find_spec
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, ModelError, reason
from ..paths import assets
from .files import tokenizer_error
from .tokenizer_files import open_tokenizer

if TYPE_CHECKING:
    from .text import Text

LOAD_S, CALL_S, BYTES_S = 30, 10, 3  # of computing, for an answer
PATIENCE = 6  # times as long by the clock: a busy machine is slow
START_S = 300.0  # by the clock
MEMORY = 2 << 30  # bytes that it may take beyond what it takes empty
ANSWER = 64 << 20  # bytes of one answer
ALWAYS_TAKEN = 4096  # bytes that a pipe holds on every system
POLL_S = 0.05  # between two looks at whether the answer is still waited for
LOOK_AT_MEMORY_S = 0.25
TEXTS = 2  # that it holds at a time
CHECK = [{"role": "user", "content": "Hello there, 1 + 1 = 2."}]  # what every template and tokenizer is tried with
UNREADABLE = "\ufffd".encode()

_cancelled: ContextVar[Callable[[], bool]] = ContextVar("cancelled", default=lambda: False)


@contextmanager
def interruptible(cancelled: Callable[[], bool]) -> Iterator[None]:
    """What waits for the process inside, on this thread, raises Cancelled soon after `cancelled()` is true."""
    token = _cancelled.set(cancelled)
    try:
        yield
    finally:
        _cancelled.reset(token)


def open_text(directory: Path, eos_token_id: int | list[int] | None) -> "Text | ForeignText":
    """The text of a model directory, which has been tried. Raises ModelError, in one sentence.

    This package's own models are known to be harmless and are read in this process. So are all others where no second
    process can be started, and then nothing limits them: `unlimited` of the Text says why."""
    if not is_foreign(directory):
        return read_text(directory, eos_token_id)
    try:
        return ForeignText(TextProcess.shared(), directory, eos_token_id)
    except OSError as error:
        text = read_text(directory, eos_token_id)
        text.unlimited = f"No process could be started for its tokenizer ({reason(error)}), so nothing limits that."
        return text


def read_text(directory: Path, eos_token_id: int | list[int] | None) -> "Text":
    """The text of a directory, read in this process. Raises ModelError that names the file to blame."""
    from .text import Text

    def load(place: Path) -> "Text":
        return Text(place, eos_token_id)

    try:
        return load(directory)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as e:  # the tokenizers library panics with one
        if isinstance(e, ModelError) and e.__cause__ is None:  # it says which file it is about
            raise
        # Where the tokenizer itself is at fault, a template that does without it says nothing.
        raise tokenizer_error(directory, e.__cause__ or e, open_tokenizer if isinstance(e, ModelError) else load) from e


def is_foreign(directory: Path) -> bool:
    return not directory.resolve().is_relative_to(assets().resolve())


class ForeignText:
    """`Text` of a directory, in the process. Its methods raise ModelError if it does not answer within the limits, and
    Cancelled (see `interruptible`)."""

    def __init__(self, process: "TextProcess", directory: Path, eos_token_id: int | list[int] | None):
        self._process, self.directory = process, directory
        self._loading = {"directory": os.path.abspath(directory), "eos": eos_token_id}
        facts = process.load(self, anew=True)  # raises OSError if there is no process
        self.stop_ids = frozenset(facts["stop_ids"])
        self.special = {int(i): name for i, name in facts["special"].items()}
        self.has_chat_template = bool(facts["has_chat_template"])
        self.openings = tuple(map(str, facts["openings"]))
        self.thinks = bool(facts["thinks"])
        self.token_bytes = ForeignTokenBytes(self, bool(facts["clean_up"]))
        self.ask("check", CALL_S)

    def encode(self, text: str) -> list[int]:
        return list(self.ask("encode", CALL_S, text))

    def encode_text(self, text: str) -> list[int]:
        return list(self.ask("encode_text", CALL_S, text))

    def encode_chat(self, messages: list[dict[str, str]], thinking: bool = False) -> list[int]:
        return list(self.ask("encode_chat", CALL_S, messages, thinking))

    def vocabulary(self) -> dict[str, int]:
        return dict(self.ask("vocabulary", LOAD_S))

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special

    def ask(self, method: str, seconds: int, *args: Any) -> Any:
        try:
            return self._process.ask(self, method, seconds, *args)
        except OSError as error:
            raise ModelError(f"No process can be started for the tokenizer in {self.directory} ({error}).") from error


class ForeignTokenBytes:
    """`TokenBytes` of a ForeignText. A token whose bytes do not come is U+FFFD; after three of those, all others are
    too, so that no page waits for each of them."""

    def __init__(self, text: ForeignText, clean_up: bool):
        self._text, self.clean_up = text, clean_up
        self._known: dict[int, tuple[bytes, bytes, bool]] = {}
        self._failed = 0

    def __call__(self, token_id: int) -> bytes:
        return self._of(int(token_id))[0]

    def at_start(self, token_id: int) -> bytes:
        return self._of(int(token_id))[1]

    def is_byte(self, token_id: int) -> bool:
        return self._of(int(token_id))[2]

    def _of(self, token_id: int) -> tuple[bytes, bytes, bool]:
        if token_id not in self._known:
            unreadable = UNREADABLE, UNREADABLE, False
            if self._failed >= 3:
                return unreadable
            try:
                after, first, is_byte = self._text.ask("token", BYTES_S, token_id)
                self._known[token_id] = bytes.fromhex(after), bytes.fromhex(first), bool(is_byte)
            except ModelError:
                self._failed += 1
                self._known[token_id] = unreadable
        return self._known[token_id]


class TextProcess:
    """The process, for any thread; one question at a time."""

    _shared: "TextProcess | None" = None
    _starting = threading.Lock()

    @classmethod
    def shared(cls) -> "TextProcess":
        """The one of this interpreter. Raises OSError if none can be started."""
        with cls._starting:
            if cls._shared is None:
                cls._shared = cls()
                atexit.register(cls._shared.kill)
            return cls._shared

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sender: threading.Thread | None = None
        self._start()

    def _start(self) -> None:
        """Start it; it is `ready` later. Raises OSError."""
        self._ready = False
        here, there = Pipe()
        run = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({there.fileno()})"
        try:
            if not sys.executable:
                raise OSError("this interpreter does not know its own program")
            nowhere = subprocess.DEVNULL
            self._process = subprocess.Popen(
                [sys.executable, "-c", run],
                pass_fds=[there.fileno()],
                stdin=nowhere,
                stdout=nowhere,
                stderr=nowhere,
            )
        finally:
            there.close()
        self._connection = here

    @classmethod
    def end_at_once(cls) -> None:
        """End the shared one, if there is one, whoever holds its lock: for a signal's handler."""
        if cls._shared is not None:
            process = cls._shared._process
            with suppress(OSError, subprocess.TimeoutExpired):
                process.kill()
                process.wait(0.5)

    def kill(self) -> None:
        """End it, whatever it does."""
        with suppress(OSError):
            self._process.kill()
            self._process.wait()

    def _restart(self) -> None:
        self.kill()
        if self._sender:
            self._sender.join(1.0)  # which has nobody left to write to
        self._connection.close()
        self._start()

    def load(self, text: ForeignText, anew: bool = False) -> Any:
        """Have it read the files of `text`, `anew` also if it has. Returns what is known of them."""
        return self._answer(text, {"load": id(text), "anew": anew, **text._loading}, LOAD_S)

    def ask(self, text: ForeignText, method: str, seconds: int, *args: Any) -> Any:
        with self._lock:
            question = {"of": id(text), "method": method, "args": args}
            answer = self._answer(text, question, seconds)
            if answer == MISSING:  # it was started again, or had others to hold
                self.load(text)
                answer = self._answer(text, question, seconds)
            return answer

    def _answer(self, text: ForeignText, question: dict[str, Any], seconds: int) -> Any:
        """Raises ModelError and Cancelled, and OSError if it cannot be started."""
        with self._lock:
            self._need_ready()
            try:
                self._send(json.dumps(question | {"seconds": seconds}).encode())
                answer = self._wait(PATIENCE * seconds)
            except BaseException as error:
                words = self._overrun(error, seconds)
                with suppress(OSError):  # which the next question meets again; to this one it is no answer
                    self._restart()
                if words is None:
                    raise
                raise ModelError(f"The chat template or the tokenizer in {text.directory} {words}.") from None
            if "error" in answer:
                raise ModelError(answer["error"])
            return answer["value"]

    def _need_ready(self) -> None:
        if self._process.poll() is not None:
            self._restart()
        if self._ready:
            return
        try:
            self._wait(START_S)
        except Cancelled:
            raise
        except Exception as error:
            self.kill()
            raise OSError(f"it did not start: {reason(error)}, status {self._process.returncode}") from error
        self._ready = True

    def _send(self, data: bytes) -> None:
        """Send a question; what a pipe may not hold from beside, as a process that was suspended does not take it."""
        connection = self._connection

        def send() -> None:
            with suppress(OSError):  # it has ended, which who waits for its answer learns
                connection.send_bytes(data)

        if len(data) > ALWAYS_TAKEN:
            self._sender = threading.Thread(target=send, daemon=True)
            self._sender.start()
        else:
            connection.send_bytes(data)

    def _wait(self, seconds: float) -> Any:
        """Its next message. Raises what `_overrun` has words for, and Cancelled."""
        until, look = time.monotonic() + seconds, time.monotonic() + LOOK_AT_MEMORY_S
        while not self._connection.poll(POLL_S):
            now = time.monotonic()
            if _cancelled.get()():
                raise Cancelled
            if now > until:
                raise TimeoutError
            if now > look:
                look = now + LOOK_AT_MEMORY_S
                if resident(self._process.pid) > MEMORY + (1 << 29):
                    raise MemoryError
        message = json.loads(self._connection.recv_bytes(ANSWER))
        if "failed" in message:
            raise MemoryError if message["failed"] == MemoryError.__name__ else RuntimeError(message["failed"])
        return message

    def _overrun(self, error: BaseException, seconds: int) -> str | None:
        """What it did, in words; None where it did nothing wrong."""
        if isinstance(error, EOFError | ConnectionError):
            self.kill()
            if self._process.returncode == -signal.SIGXCPU:
                error = TimeoutError()
        if isinstance(error, TimeoutError):
            return f"did not come to an end within {seconds} s of computing"
        if isinstance(error, MemoryError):
            return f"took more than {MEMORY >> 30} GB of memory"
        if isinstance(error, RuntimeError):
            return f"failed ({error})"
        if isinstance(error, EOFError | ConnectionError):
            return f"ended the process that it ran in (status {self._process.returncode})"
        return "made a text without end" if isinstance(error, OSError) else None


def resident(pid: int) -> int:
    """Bytes of memory that a process takes; 0 where that cannot be told."""
    with suppress(OSError, ValueError, IndexError, subprocess.SubprocessError):
        if os.path.exists("/proc/self/statm"):
            with open(f"/proc/{pid}/statm") as f:
                return int(f.read().split()[1]) * resource.getpagesize()
        asked = ["ps", "-o", "rss=", "-p", str(pid)]
        return int(subprocess.run(asked, capture_output=True, timeout=5, check=True).stdout) * 1024
    return 0


# ---- inside the process ------------------------------------------------------------------------------------

MISSING = "missing"


def serve(fd: int) -> None:
    """The process: answer what comes, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl+C is the other process's to hear
    connection = Connection(fd)
    questions: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        try:
            while True:
                questions.put(connection.recv_bytes())
        finally:  # the other process has ended
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    # transformers would import these where they are, and mlx-lm's package MLX: seconds, and MLX for CUDA reserves more
    # addresses than this process may have. What is needed of mlx-lm does without.
    sys.modules["torch"] = sys.modules["mlx"] = None  # type: ignore[assignment]
    spec, part = find_spec("mlx_lm"), ModuleType("mlx_lm")
    part.__path__ = list((spec and spec.submodule_search_locations) or ())
    sys.modules["mlx_lm"] = part
    from .text import Text

    limit_memory()
    texts: dict[int, Text] = {}
    connection.send_bytes(b"{}")
    while True:
        question = json.loads(questions.get())
        limit_time(question["seconds"])
        try:
            answer = {"value": answer_to(question, texts)}
        except ModelError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"failed": MemoryError.__name__}
        except BaseException as error:
            answer = {"failed": reason(error)}
        connection.send_bytes(json.dumps(answer).encode())


def answer_to(question: dict[str, Any], texts: "dict[int, Text]") -> Any:
    """What a Text gives, or what is known of one that is loaded; `texts` holds the newest."""

    if "load" in question:
        key = question["load"]
        if question["anew"]:
            texts.pop(key, None)
        while len(texts) >= TEXTS:
            del texts[next(iter(texts))]
        texts[key] = text = read_text(Path(question["directory"]), question["eos"])
        return {
            "stop_ids": sorted(text.stop_ids),
            "special": {str(i): name for i, name in text.special.items()},
            "has_chat_template": text.has_chat_template,
            "clean_up": text.token_bytes.clean_up,
            "openings": text.openings,
            "thinks": text.thinks,
        }
    if question["of"] not in texts:
        return MISSING
    text, args = texts[question["of"]], question["args"]
    match question["method"]:
        case "check":
            with suppress(ModelError):  # which a race says when it comes to it
                for token_id in text.encode_chat(CHECK)[:256]:
                    text.token_bytes(token_id)
        case "token":
            is_byte = text.token_bytes.is_byte
            return text.token_bytes(*args).hex(), text.token_bytes.at_start(*args).hex(), is_byte(*args)
        case "vocabulary":
            return text.vocabulary()
        case "encode":
            return text.encode(*args)
        case "encode_text":
            return text.encode_text(*args)
        case "encode_chat":
            return text.encode_chat(*args)


def limit_memory() -> None:
    """Where the system can: elsewhere, and as well, the other process looks at how much this one takes."""
    _limit(resource.RLIMIT_CORE, 0)
    with suppress(OSError):
        with open("/proc/self/statm") as f:
            now = int(f.read().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, now + MEMORY)


def limit_time(seconds: int) -> None:
    """The system ends this process if one answer takes it longer: also where nobody is left to do so."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def _limit(kind: int, soft: int) -> None:
    hard = resource.getrlimit(kind)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
