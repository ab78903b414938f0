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

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import ApiError
from .api_request import BASE, error_body

VARIABLE = "DSPARK_TOKEN"  # a token on the command line could be read by every user of the machine
KEY_VARIABLE = "DSPARK_API_KEY"  # and so can the endpoint's key, where it is not given in this
FORM = re.compile(r"[A-Za-z0-9_-]{16,200}")
PEOPLE = range(501 if sys.platform == "darwin" else 1000, 60_000)  # the users that are no services
WORDS = (
    "This page needs its token: open the address that the program printed as it started, or send the header "
    "“Authorization: Bearer TOKEN”.\n"
)


KEY_WORDS = (
    "This endpoint needs its key: send the header “Authorization: Bearer KEY” with the program's --api-key, or "
    "with the token of the address that it printed as it started."
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


def chosen_api_key(given: str | None) -> str:
    """The key that clients of the endpoint must send; empty for none. Raises ValueError, in one sentence."""
    key = os.environ.get(KEY_VARIABLE, "") if given is None else given
    if (key or given is not None) and not re.fullmatch(r"[!-~]{8,200}", key):
        raise ValueError(f"--api-key and {KEY_VARIABLE} take 8 to 200 letters, digits and signs, without spaces.")
    return key


def private_link(url: str) -> str:
    """The address of a file that leads to `url`, for a browser: what stands on its command line is no secret."""
    directory = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.mkdtemp())  # both are this user's alone
    file = directory / "open.html"
    file.write_text(f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={html.escape(url)}">', "utf-8")
    return file.as_uri()


class TokenGate:
    """Answers 401 to whoever has no token; below the endpoint's address, to whoever has neither it nor `api_key`."""

    def __init__(self, app: ASGIApp, token: str, port: int, api_key: str = ""):
        self.app, self.token, self.api_key = app, token, api_key
        self.cookie = f"dspark-token-{port}"  # browsers keep one set of cookies for all ports of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k: v.decode("latin-1") for k, v in scope["headers"]}
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), "")
        asked = f"{scope['path']}/".startswith(f"{BASE}/")
        known = self._in_header(headers, self.token) or self._in_cookie(headers)
        if scope["path"] == "/" and self._is_right(given, self.token):
            kept = urlencode([(name, value) for name, value in query if name != "token"])
            cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
            place = {"location": f"/{'?' * bool(kept)}{kept}", "set-cookie": cookie, "cache-control": "no-store"}
            await Response(status_code=303, headers=place)(scope, receive, send)
        elif known or (self._in_header(headers, self.api_key) if asked and self.api_key else not self.token):
            await self.app(scope, receive, send)
        else:
            how = {"www-authenticate": "Bearer", "cache-control": "no-store"}
            error = ApiError(KEY_WORDS, 401, code="invalid_api_key")
            refusal = JSONResponse(error_body(error), 401, how) if asked else PlainTextResponse(WORDS, 401, how)
            await refusal(scope, receive, send)

    @staticmethod
    def _is_right(given: str, secret: str) -> bool:
        return bool(secret) and hmac.compare_digest(given.encode(), secret.encode())

    def _in_header(self, headers: dict[bytes, str], secret: str) -> bool:
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_right(given.strip(), secret)

    def _in_cookie(self, headers: dict[bytes, str]) -> bool:
        pairs = [pair.strip().partition("=") for pair in headers.get(b"cookie", "").split(";")]
        return any(name == self.cookie and self._is_right(value, self.token) for name, _, value in pairs)
