"""A race as one HTML file that replays by itself, without this program and without a network.

The board's own script and style stand in it with the race's records as data. Its content security policy names
exactly these two by their hashes and allows nothing else, so that no text of a race can become script, style, form
or request, whatever it says.
"""

import base64
import hashlib
import html
import json

from ..race.records import exact
from ..race.trace import Trace
from .saved import board_of, title
from .widgets import page_file, script

STYLE = """
:root { --font-mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
body { margin: 0 auto; max-width: 1560px; padding: 20px 28px 40px; font: 15px system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 2px; }
.asked { margin: 0 0 14px; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 9em; overflow: auto; }
.facts { color: var(--soft); font-size: 13px; margin: 18px 0 0; overflow-wrap: anywhere; }
"""


def saved_page(trace: Trace) -> str:
    code = "(() => {\n" + script("offline", "replay") + "})();\n"
    style = STYLE + page_file("board.css") + page_file("saved.css")
    race = trace.race
    words = {
        "h1": f"A race on {title(trace)}",
        ".asked": "\n\n".join(m["content"] for m in race.request.messages),
        ".facts": _facts(trace),
    }
    data = _data({"records": board_of(trace), "words": words})
    policy = (
        f"default-src 'none'; script-src {_hash(code)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>A race</title>
<style>{style}</style>
</head>
<body>
<main>
<h1></h1>
<p class="asked"></p>
<div id="board">{page_file("board.html")}</div>
<p class="facts"></p>
</main>
<script type="application/json" id="race">{data}</script>
<script>{code}</script>
</body>
</html>
"""


def _facts(trace: Trace) -> str:
    request = trace.race.request
    how = request.settings
    told = [
        f"{trace.race.prompt_tokens} prompt tokens, at most {how.max_tokens} new ones, "
        f"temperature {exact(how.temperature)}",
        *(f"{method}: {text}" for method, text in trace.drafters.items()),
        *(f"{name} {text}" for name, text in trace.machine.items()),
        *(f"{name} {text}" for name, text in trace.versions.items()),
        "made by DSpark Playground",
    ]
    return " · ".join(told)


def _data(value) -> str:
    """JSON in which no tag can begin or end."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
