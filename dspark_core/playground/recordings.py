"""Recorded races: what the page shows before any race was run on it, already while it is being made ready.

A recording is a saved race (race/trace.py) in assets/races/, in the order of the files' names; one more file there is
one more on the page. All of them stand as data in the HTML that is served, with the board's own script in front of
gradio's: assets/page/first.js plays one at once, and recorded.js goes on with it on the board.
"""

import re
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import TraceError
from ..machine import device_of
from ..offline_page import inert_json
from ..paths import assets
from ..presets import load_prompts
from ..race.outcome import outcome
from ..race.records import exact
from ..race.trace import Trace, loads
from .saved import board_of, moment, one_line, prompt_words
from .widgets import BOARD_SCRIPTS, page_file, script, stylesheets

CODE = "/static/first.js"
MANIFEST = re.compile(rb'<link rel="manifest"[^>]*>')
BODY = re.compile(rb"<body[^>]*>")


@cache
def recordings(directory: Path | None = None) -> tuple[dict[str, str], ...]:
    """Those of a directory, each as recorded.js reads it; files that are no saved races are left out."""
    found = []
    for file in sorted((directory or assets() / "races").glob("*.json")):
        try:
            found.append(_recording(loads(file.read_bytes())))
        except (TraceError, OSError):
            continue
    return tuple(found)


def _recording(trace: Trace) -> dict[str, str]:
    race = trace.race
    texts = {p.text: p.title for p in load_prompts()}
    device = device_of(trace.machine)
    where = ", ".join(filter(None, (device, trace.machine.get("processor", ""))))
    cores = trace.machine.get("cores", "")
    lanes = ", ".join(lane.spec.name for lane in race.lanes)
    how = race.request.settings
    settings = (
        f"{lanes}; {how.max_tokens} tokens, {'greedy' if how.greedy else f'temperature {exact(how.temperature)}'}"
    )
    on = f"{one_line(race.target)}, {one_line(race.precision)}"
    pays = outcome(race).paid
    return {
        "title": texts.get(race.request.prompt, prompt_words(trace, 24)),
        "device": device.partition(",")[0],
        "pays": "" if pays is not False else "does not pay",
        "where": one_line(f"{where}, {cores} cores" if cores else where),
        "settings": f"{on}; {one_line(settings)}",
        "made": moment(trace)[:10],
        "prompt": race.request.prompt,
        "records": board_of(trace),
    }


class FirstPicture:
    """Puts the recordings into the page, and answers for the script that plays the first of them."""

    def __init__(self, app: ASGIApp):
        self.app, self.picture, self.code = app, b"", b""
        if shown := recordings():
            self.code = f"(() => {{\n{script('first', *BOARD_SCRIPTS, 'recorded')}}})();\n".encode()
            self.picture = self._picture(shown, sha256(self.code).hexdigest()[:12]).encode()

    @staticmethod
    def _picture(shown: tuple[dict[str, str], ...], version: str) -> str:
        """What stands at the beginning of the page's body."""
        style = "\n".join(file.read_text("utf-8") for file in stylesheets())
        markup = (
            page_file("first.html").replace("HEAD", page_file("head.html")).replace("BOARD", page_file("board.html"))
        )
        data = f'<script type="application/json" id="recordings">{inert_json(shown)}</script>'
        return f'<style>{style}</style>{markup}{data}<script src="{CODE}?{version}"></script>'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "GET" and scope["path"]
        if asked != "/" and not (asked == CODE and self.code):
            await self.app(scope, receive, send)
            return
        if asked == CODE:
            cached = {"cache-control": "max-age=31536000, immutable"}  # its address names its content
            await Response(self.code, media_type="text/javascript", headers=cached)(scope, receive, send)
            return
        start: dict[str, Any] = {}

        async def send_changed(message: dict[str, Any]) -> None:
            """The page comes in one piece."""
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body = MANIFEST.sub(b"", message.get("body", b""))  # which is not there, and an ordinary window asks for
            body = BODY.sub(lambda tag: tag[0] + self.picture, body, count=1)
            sized = [(k, str(len(body)).encode() if k == b"content-length" else v) for k, v in start["headers"]]
            await send({**start, "headers": sized})
            await send({**message, "body": body})

        await self.app(scope, receive, send_changed)
