"""Who may talk to the page: this machine's own browser, on this page's own origin.

A page on the web can post to 127.0.0.1, and a foreign name can be made to resolve to it (DNS rebinding).
Gradio checks neither, so both are refused here, before it.
"""

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

HOSTS = ["127.0.0.1", "localhost", "[::1]"]
MAX_BODY_BYTES = 2_000_000
EVENTS = "/gradio_api/queue/join"  # a saved race comes this way, as text inside JSON
MAX_EVENT_BYTES = 30_000_000

# 'unsafe-eval': gradio makes a function of a component's script. Inline styles: its page needs them.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class OriginGuard:
    """Refuses requests that another origin's page caused, and bodies that no form of this page sends."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = refused(scope["method"], scope["path"], {k.decode("latin-1"): v for k, v in scope["headers"]})
        if refusal:
            await _answer(send, *refusal)
            return

        async def send_guarded(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        await self.app(scope, receive, send_guarded)


def refused(method: str, path: str, headers: dict[str, bytes]) -> tuple[int, str] | None:
    """(status, words) if a request must not reach the app. Header names are lower case.

    The Host header has been checked before, so an Origin that equals it is this page's own.
    """
    origin = headers.get("origin")
    if origin is not None and origin.lower() != b"http://" + headers.get("host", b"").lower():
        return 403, "This page answers only to itself."
    site = headers.get("sec-fetch-site", b"none")
    arriving = method == "GET" and headers.get("sec-fetch-mode") == b"navigate" and path == "/"
    if site not in (b"same-origin", b"none") and not arriving:
        return 403, "This page answers only to itself."
    length = headers.get("content-length", b"0")
    if "transfer-encoding" in headers:
        return 411, "Say how long it is."
    if not length.isdigit() or int(length) > (MAX_EVENT_BYTES if path == EVENTS else MAX_BODY_BYTES):
        return 413, "That is more than any form of this page sends."
    return None


async def _answer(send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


def middleware() -> list[Middleware]:
    return [Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS), Middleware(OriginGuard)]
