"""A page as one HTML file that needs nothing else: no network, no other file, no program.

Scripts and style stand in it, and what they show stands in it as data. Its content security policy names exactly these
scripts by their hashes and allows no request to anywhere, so that no text of a model or a visitor can become script,
form or request, whatever it says.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence


def offline_page(
    title: str, style: str, body: str, data: tuple[str, object], scripts: Sequence[str], loosened: Sequence[str] = ()
) -> str:
    """`data` is the id under which the scripts find a value, and the value. `body` is markup: texts are escaped by the
    caller. `loosened` are directives of the policy that stand in place of the style's hash, for a script that styles
    what it draws."""
    place, value = data
    ends = ["base-uri 'none'", "form-action 'none'"]
    policy = ["default-src 'none'", f"script-src {' '.join(map(_hash, scripts))}"]
    policy += [*ends, *loosened] if loosened else [f"style-src {_hash(style)}", *ends]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape("; ".join(policy))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="{html.escape(place)}">{inert_json(value)}</script>
{"".join(f"<script>{script}</script>{chr(10)}" for script in scripts)}</body>
</html>
"""


def inert_json(value: object) -> str:
    """JSON in which no tag can begin or end."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
