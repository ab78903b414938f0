"""Ends the program by Ctrl+C, SIGTERM or SIGHUP in each state; prints how long it took, its exit status and its words.

    python tests/scripts/ends_of_life.py [STATE ...]

Every state is a run of app.py of its own with the embedded models; the last but one loads a model whose chat template
has no end, so that its process is at work. A fault makes the script end with status 1.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from gradio_client import Client

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 2.0
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ENDLESS = """
import os
from pathlib import Path
from dspark_core.playground import serve
from dspark_core.playground.engine import Choice
from dspark_core.playground.program import main
class Engine(serve.PresetEngine):
    def __init__(self, preset, precision, progress):
        super().__init__(preset, precision, progress)
        self.load(Choice("Endless", Path(os.environ["ENDLESS"]), {}))
serve.PresetEngine = Engine
main()
"""


class App:
    def __init__(self, *start: str):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        asked = ["--no-browser", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, *(start or ["app.py"]), *asked], cwd=ROOT, stdout=-1, stderr=-1, text=True
        )

    def serves(self) -> None:
        assert "runs on" in self.process.stdout.readline()

    def loaded(self) -> None:
        """Until a race has run: the first one waits for the model."""
        self.serves()
        self.call("/race", "hi", "plain,dspark", 2)

    def children(self) -> list[str]:
        asked = ["ps", "-o", "pid=", "--ppid", str(self.process.pid)]
        return subprocess.run(asked, capture_output=True, text=True).stdout.split()

    def tokenizes(self) -> None:
        self.serves()
        while not self.children():
            time.sleep(0.1)
        time.sleep(5)

    def call(self, name: str, *values):
        return Client(f"http://127.0.0.1:{self.port}", verbose=False).predict(*values, api_name=name)

    def behind(self, name: str, *values, seconds: float = 4.0) -> None:
        """Ask for something that goes on for long, and wait until it is under way."""

        def ask() -> None:
            with contextlib.suppress(Exception):  # the program ends below it
                self.call(name, *values)

        threading.Thread(target=ask, daemon=True).start()
        time.sleep(seconds)

    def idle_page(self) -> None:
        self.loaded()
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/")
        connection.getresponse().read()


def endless(directory: Path) -> App:
    sys.path.insert(0, str(ROOT))
    from tests.models.build import QWEN_TOKENS, copy, write_tokenizer

    write_tokenizer(copy("target", "A", directory), QWEN_TOKENS, LOOP, eos_token="<|im_end|>")
    os.environ["ENDLESS"] = str(directory / "target")
    return App("-c", ENDLESS)


def racing(app: App) -> None:
    app.loaded()
    app.behind("/race", "Write a long story.", "plain,dspark", 500)


def proving(app: App) -> None:
    app.loaded()
    app.behind("/prove_greedy", 128)


STATES = {
    "starting": lambda app: time.sleep(0.15),
    "importing": lambda app: time.sleep(1.5),
    "loading": App.serves,
    "measuring": lambda app: (app.loaded(), app.behind("/race", "Hi", "plain,dspark:schedule=hardware", 200)),
    "racing": racing,
    "proving": proving,
    "tokenizing": App.tokenizes,
    "idle": App.idle_page,
}


def main() -> None:
    good = True
    for state in sys.argv[1:] or STATES:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with tempfile.TemporaryDirectory() as directory:
                app = endless(Path(directory)) if state == "tokenizing" else App()
                try:
                    STATES[state](app)
                    children = app.children()
                    began = time.monotonic()
                    app.process.send_signal(number)
                    app.process.wait(60)
                    took = time.monotonic() - began
                    time.sleep(0.2)
                    left = [pid for pid in children if os.path.exists(f"/proc/{pid}")]
                finally:
                    app.process.kill()
            said = app.process.stderr.read()
            fine = took < LIMIT_S and app.process.returncode == 128 + number and said.count("\n") == 2 and not left
            good &= fine
            result = {"state": state, "signal": number.name, "seconds": round(took, 2)}
            result |= {"status": app.process.returncode, "said": said[-200:], "children": len(children), "left": left}
            print(json.dumps(result | {"fine": fine}), flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
