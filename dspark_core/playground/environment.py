"""What the environment may not decide: it was set for other programs, and gradio and its libraries read it unasked.

Proxies stay as they are, for downloads; the page itself makes no request to anything.
"""

import contextlib
import os
import re
import ssl
import sys
from pathlib import Path

from ..store import RunDirectories

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
KEYS = "SSLKEYLOGFILE"  # where programs that watch a network have the keys of connections written
SECONDS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
TEMPORARY = "GRADIO_TEMP_DIR"


def drop_options() -> None:
    """Options of gradio in the environment are dropped: it takes an empty `allowed_paths`, for one, as not given, and
    would let GRADIO_ALLOWED_PATHS open this machine's files. Its temporary files are this program's own."""
    for name in [n for n in os.environ if n.startswith("GRADIO_") and n != TEMPORARY]:
        del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in ("SYSTEM", "SPACE_ID"):  # by which gradio knows a machine of the hub, and opens itself up
        os.environ.pop(name, None)


def set_up_environment() -> None:
    """Everything that a start needs of its surroundings, and gradio itself."""
    _need_utf8_path()
    drop_options()
    try:
        os.getcwd()
    except OSError:  # deleted under the terminal's feet; gradio asks for it as it is imported
        os.chdir("/")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, which not every library that writes there thinks of
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        with contextlib.suppress(AttributeError, ValueError):  # a test's own
            getattr(sys, name).reconfigure(errors="backslashreplace")
    for name in CERTIFICATES:
        if (place := os.environ.get(name)) and not _certificates(place):
            del os.environ[name]  # or no address could be asked at all, the hub's included
            print(f"{name} is ignored: there are no certificates in {place}.", file=sys.stderr)
    if (place := os.environ.get(KEYS)) and not _can_append(place):
        del os.environ[KEYS]
        print(f"{KEYS} is ignored: {place} cannot be written.", file=sys.stderr)
    for name in SECONDS:  # huggingface_hub fails as it is imported
        if not re.fullmatch(r"\s*\d{1,9}\s*", os.environ.get(name, "0"), re.ASCII):
            print(f"{name} is ignored: {os.environ.pop(name)[:40]!r} is no whole number of seconds.", file=sys.stderr)
    for name in ("TMPDIR", "TEMP", "TMP"):  # MLX fails where it is told of a directory that is not there
        if name in os.environ and not os.path.isdir(os.environ[name]):  # nor of none: a Path("") is this one
            del os.environ[name]
    _own_directory()
    # gradio opens a client as it is imported, and fails for a proxy that it has no library for, or cannot read.
    proxies = {name: os.environ.pop(name) for name in [*os.environ] if name.lower().endswith("_proxy")}
    try:
        import gradio  # noqa: F401
    finally:
        os.environ.update(proxies)


def _certificates(place: str) -> bool:
    """Is it a directory, or a file that holds certificates?"""
    if Path(place).is_dir():
        return True
    try:
        ssl.create_default_context(cafile=place)
    except (OSError, ValueError):  # an ssl.SSLError is an OSError
        return False
    return True


def _need_utf8_path() -> None:
    """gradio makes UTF-8 of where its components lie."""
    try:
        __file__.encode()
    except UnicodeEncodeError:
        place = os.fsencode(Path(__file__).parents[2]).decode("utf-8", "replace")
        sys.exit(f"{ascii(place)[1:-1]}: the name of this directory is no UTF-8; rename it, or set PYTHONUTF8=1.")


def _can_append(place: str) -> bool:
    try:
        os.close(os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600))
    except (OSError, ValueError):
        return False
    return True


def _own_directory() -> None:
    """gradio's files go into a new directory that only this user can open, until the program ends. Its own default is
    one for all users of a machine: the first to come owns it."""
    chosen = os.environ.pop(TEMPORARY, None)
    for parent in (chosen, None):
        with contextlib.suppress(OSError):
            os.environ[TEMPORARY] = RunDirectories.new(parent)
            return
    sys.exit("There is no directory for temporary files that can be written: set TMPDIR to one.")  # gradio needs it
