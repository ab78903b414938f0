"""Start app.py in one odd environment after the other, and race in each: `python -m tests.scripts.odd_environments`.

Every line must end in "races". Some need root, to become a user with less; without it they are left out.
"""

import ctypes
import http.client
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 200
SCRATCH = Path(tempfile.mkdtemp(prefix="odd-environments-"))
NOWHERE = "/nowhere/at/all"
PROXY = "http://127.0.0.1:9"

ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "as it is": {},
    "HTTP_PROXY": {"HTTP_PROXY": PROXY, "http_proxy": PROXY, "HTTPS_PROXY": PROXY},
    "ALL_PROXY, socks5": {"ALL_PROXY": "socks5://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"},
    "ALL_PROXY, socks5, NO_PROXY": {"ALL_PROXY": "socks5h://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1,::1"},
    "a proxy that is no address": {"HTTP_PROXY": "::::", "ALL_PROXY": "nonsense"},
    "stale certificates": {"SSL_CERT_FILE": NOWHERE, "SSL_CERT_DIR": NOWHERE, "REQUESTS_CA_BUNDLE": NOWHERE},
    "certificates that are none": {"SSL_CERT_FILE": __file__, "CURL_CA_BUNDLE": __file__},
    "keys of connections": {"SSLKEYLOGFILE": NOWHERE},
    "GRADIO_TEMP_DIR": {"GRADIO_TEMP_DIR": "/proc/nothing"},
    "GRADIO_SERVER_PORT": {"GRADIO_SERVER_PORT": "1", "GRADIO_NUM_PORTS": "0", "GRADIO_SERVER_NAME": "0.0.0.0"},
    "GRADIO_SERVER_PORT, a word": {"GRADIO_SERVER_PORT": "web", "GRADIO_NUM_PORTS": "many"},
    "GRADIO_ROOT_PATH": {"GRADIO_ROOT_PATH": "/elsewhere", "GRADIO_SHARE": "True", "GRADIO_ANALYTICS_ENABLED": "x"},
    "GRADIO_SSR_MODE": {"GRADIO_SSR_MODE": "True", "GRADIO_MCP_SERVER": "True", "GRADIO_WATCH_DIRS": "/"},
    "GRADIO_ALLOWED_PATHS": {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_DEBUG": "1", "GRADIO_HOT_RELOAD": "true"},
    "MLXLM_USE_MODELSCOPE": {"MLXLM_USE_MODELSCOPE": "True"},
    "no HOME": {"HOME": None},
    "HOME that is not there": {"HOME": NOWHERE},
    "XDG_CACHE_HOME, HF_HOME": {"XDG_CACHE_HOME": "/proc/x", "HF_HOME": "/proc/y"},
    "TMPDIR that is not there": {"TMPDIR": NOWHERE},
    "empty HOME and TMPDIR": {"HOME": "", "TMPDIR": ""},
    "LANG=C, ascii": {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "uvicorn's variables": {"WEB_CONCURRENCY": "4", "FORWARDED_ALLOW_IPS": "*", "UVICORN_PORT": "1"},
    "the hub's timeouts": {"HF_HUB_DOWNLOAD_TIMEOUT": "never", "HF_HUB_ETAG_TIMEOUT": "0.5"},
    "PYTHONSAFEPATH": {"PYTHONSAFEPATH": "1"},
    "warnings": {"PYTHONWARNINGS": "error::DeprecationWarning"},
    "a space of the hub": {"SYSTEM": "spaces", "SPACE_ID": "a/b"},
}


def limited(files: int) -> Callable[[], None]:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    return limit


def without_a_directory() -> None:
    gone = tempfile.mkdtemp()
    os.chdir(gone)
    os.rmdir(gone)


def without_privileges(files: int = 0) -> Callable[[], None]:
    """As root, with what other users may do: no higher limits, no files of others."""

    def drop() -> None:
        if files:
            limited(files)()
        for capability in (1, 2, 24):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_RESOURCE
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)

    return drop


BEFORE: dict[str, Callable[[], None]] = {
    "no directory": without_a_directory,
    "stdin closed": lambda: os.close(0),
}
UNPRIVILEGED: dict[str, Callable[[], None]] = {
    "1024 files": without_privileges(1024),
    "256 files": without_privileges(256),
    "another's /tmp/gradio": without_privileges(),
}


def outcome(environment: dict[str, str | None], before: Callable[[], None] | None = None) -> str:
    """How a start ends: "races", or the last that it said."""
    base = os.environ | {"HOME": str(SCRATCH)} | environment
    variables = {name: value for name, value in base.items() if value is not None}
    command = [sys.executable, str(ROOT / "app.py"), "--no-browser"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, env=variables, preexec_fn=before, text=True, errors="replace", **pipes)
    said: list[str] = []
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + SECONDS
        while (line := lines.get(timeout=max(0.1, deadline - time.monotonic()))) is not None:
            said.append(line.strip())
            if "http://127.0.0.1:" in line:
                port = int(line.split("127.0.0.1:")[1].split("/")[0].split()[0])
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as connection:
                    return raced(connection)
        return f"ENDS: {' | '.join(said[-1:])[:200]}"
    except (queue.Empty, OSError, ValueError, http.client.HTTPException) as error:
        return f"FAILS: {error!r} {' | '.join(said[-2:])}"
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        if process.stdout and not reader.is_alive():
            process.stdout.close()


def raced(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/")
    page = connection.getresponse()
    page.read()
    if page.status != 200:
        return f"GET / gives {page.status}"
    asked = {"data": ["Hi", "plain,dspark:cap=2", 4, 0, 0, 1, 0, "", False]}
    connection.request("POST", "/gradio_api/call/race", json.dumps(asked), {"Content-Type": "application/json"})
    event = json.loads(connection.getresponse().read())["event_id"]
    connection.request("GET", f"/gradio_api/call/race/{event}")
    answer = connection.getresponse().read().decode()
    return "races" if "event: complete" in answer and '"verdict"' in answer else f"race: {answer[-300:]}"


def main() -> None:
    wanted = sys.argv[1:]
    for name, environment in ENVIRONMENTS.items():
        if not wanted or name in wanted:
            print(f"{name:32} {outcome(environment)}", flush=True)
    temporary = SCRATCH / "tmp"
    (temporary / "gradio").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(temporary / "gradio", 65534, 65534)
        (temporary / "gradio").chmod(0o700)
    for name, before in (BEFORE | (UNPRIVILEGED if os.geteuid() == 0 else {})).items():
        if not wanted or name in wanted:
            print(f"{name:32} {outcome({'TMPDIR': str(temporary)}, before)}", flush=True)


if __name__ == "__main__":
    main()
