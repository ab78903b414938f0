"""A token, for machines with more than one user: whoever has it is the owner, and nobody else is.

127.0.0.1 is open to every user of a machine, not to its owner alone. With a token, the page answers who opens the
address that was printed, which leaves a cookie in the browser, or sends the token in a header.
"""

import hmac
import html
import os
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

VARIABLE = "DSPARK_TOKEN"  # a token on the command line could be read by every user of the machine
FORM = re.compile(r"[A-Za-z0-9_-]{16,200}")
PEOPLE = range(501 if sys.platform == "darwin" else 1000, 60_000)  # the users that are no services
WORDS = (
    "This page needs its token: open the address that the program printed as it started, or send the header "
    "“Authorization: Bearer TOKEN”.\n"
)


def others_are_here() -> bool:
    """Do programs of other people run on this machine? False also where that cannot be seen."""
    try:
        listed = subprocess.run(["ps", "-axo", "uid="], capture_output=True, text=True, timeout=5).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return False
    return any(int(uid) in PEOPLE and int(uid) != os.getuid() for uid in listed if uid.isdigit())


def chosen_token(wish: bool | None) -> str:
    """The token to ask for; empty for none. `wish`: with one, without, or None, which decides by who is here. Raises
    ValueError, in one sentence."""
    given = os.environ.get(VARIABLE, "")
    if wish is False or (wish is None and not given and not others_are_here()):
        return ""
    if given and not FORM.fullmatch(given):
        raise ValueError(f"{VARIABLE} must be 16 to 200 letters, digits, - and _.")
    return given or secrets.token_urlsafe(24)


def private_link(url: str) -> str:
    """The address of a file that leads to `url`, for a browser: what stands on its command line is no secret."""
    directory = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.mkdtemp())  # both are this user's alone
    file = directory / "open.html"
    file.write_text(f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={html.escape(url)}">', "utf-8")
    return file.as_uri()


class TokenGate:
    """Answers 401 to whoever has no token."""

    def __init__(self, app: ASGIApp, token: str, port: int):
        self.app, self.token = app, token
        self.cookie = f"dspark-token-{port}"  # browsers keep one set of cookies for all ports of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k: v.decode("latin-1") for k, v in scope["headers"]}
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), "")
        if scope["path"] == "/" and self._is_right(given):
            kept = urlencode([(name, value) for name, value in query if name != "token"])
            cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
            place = {"location": f"/{'?' * bool(kept)}{kept}", "set-cookie": cookie, "cache-control": "no-store"}
            await Response(status_code=303, headers=place)(scope, receive, send)
        elif self._in_header(headers) or self._in_cookie(headers):
            await self.app(scope, receive, send)
        else:
            how = {"www-authenticate": "Bearer", "cache-control": "no-store"}
            await PlainTextResponse(WORDS, 401, how)(scope, receive, send)

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _in_header(self, headers: dict[bytes, str]) -> bool:
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_right(given.strip())

    def _in_cookie(self, headers: dict[bytes, str]) -> bool:
        pairs = [pair.strip().partition("=") for pair in headers.get(b"cookie", "").split(";")]
        return any(name == self.cookie and self._is_right(value) for name, _, value in pairs)
