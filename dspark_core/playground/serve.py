"""Serving the page: on this machine only, with every option given.

Who may talk to the page: this machine's own browser, on this page's own origin.

A page on the web can post to 127.0.0.1, and a foreign name can be made to resolve to it (DNS rebinding).
Gradio checks neither, so both are refused here, before it.

The page's type and colours, as far as gradio's own components need them; the rest is assets/page/board.css.
"""

import argparse
import re
import webbrowser
from collections.abc import Callable
from functools import partial

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from ..errors import ApiError, Refused
from ..models.group import Group
from ..presets import load_prompts
from .access import TokenGate, chosen_api_key, chosen_token, private_link
from .api_request import BASE, MAX_BODY_BYTES, TOO_LONG, error_body
from .bodies import Forms
from .channel import SCRIPT, Streams
from .endpoint import Endpoint
from .engine import PresetEngine, unload_lost
from .listening import ADDRESS, PageServer, listening_socket
from .page import build
from .recordings import FirstPicture
from .selection import ModelSources
from .widgets import script, stylesheets
from .worker import MAX_WAITING, Worker


def main(arguments: list[str] | None = None) -> None:
    """The program: opens the page on this machine. `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description="Race plain MLX decoding, DSpark and DFlash on one prompt.")
    parser.add_argument("--port", help="port on 127.0.0.1, 0 for any (default: the first free one from 7860)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    parser.add_argument("--serve", action="store_true", help="no browser window: print what an OpenAI client needs")
    parser.add_argument("--api-key", metavar="KEY", help="ask clients of the endpoint for it (or set DSPARK_API_KEY)")
    parser.add_argument(
        "--token",
        action=argparse.BooleanOptionalAction,
        help="answer only to who has the token in the printed address (default: if others use this machine now)",
    )
    args = parser.parse_args(arguments)
    try:
        port = _free_port(args.port)
        token = chosen_token(args.token)
        api_key = chosen_api_key(args.api_key)
        group = Group.here()
    except (Refused, ValueError) as refusal:
        parser.exit(2, f"{refusal}\n")
    sources = ModelSources()
    if not sources.presets:
        parser.exit(1, f"No preset can be used: {' '.join(sources.bad)}\n")
    preset = next(iter(sources.presets.values()))
    worker = Worker(lambda progress: PresetEngine(preset, "auto", progress), lambda engine: engine.prepare())
    if group is not None:
        worker.may_lose, group.lost = True, partial(unload_lost, worker)

    def ready(url: str) -> None:
        print(f"DSpark Playground runs on {url} (Ctrl+C ends it).", flush=True)
        if args.serve:
            base = url.partition("?")[0].rstrip("/") + BASE
            key = "the key" if api_key else "the token" if token else "anything"
            print(f"OpenAI-compatible: base URL {base}, API key: {key}, models: {base}/models", flush=True)

    serve: Callable[..., None] = partial(launch, token=token) if token else launch
    serve = partial(serve, api_key=api_key) if api_key else serve
    try:
        serve(build(worker, load_prompts(), sources), port, browser=not (args.no_browser or args.serve), ready=ready)
    except Refused as refusal:
        parser.exit(2, f"{refusal}\n")


def _free_port(text: str | None) -> int | None:
    """The port that was asked for, if it can be had. Raises Refused, in one sentence: before anything is loaded."""
    if text is None:
        return None
    try:
        port = int(text)
    except ValueError:
        raise Refused(f"--port takes a number from 0 to 65535, not {text[:40]!r}.") from None
    listening_socket(port).close()
    return port


def launch(
    page: gr.Blocks,
    port: int | None,
    browser: bool,
    block: bool = True,
    ready: Callable[[str], None] = lambda url: None,
    token: str = "",
    api_key: str = "",
) -> None:
    """Serve the page on this machine only, with every option given, and the endpoint on its `worker`, if it has one.
    `ready` is told the address. With a `token`, only to who has it, and the endpoint with an `api_key` likewise. Raises
    Refused, in one sentence, if the port cannot be had."""
    queued = page.queue(
        max_size=4 * MAX_WAITING, api_open=False, status_update_rate="auto", default_concurrency_limit=1
    )
    page.state_session_capacity = 100  # which gradio takes from `Blocks.launch` alone
    listener = listening_socket(port)
    port = listener.getsockname()[1]
    code = f"(() => {{\n{script('channel')}}})();\n"
    worker = getattr(page, "worker", None)
    routes = [
        Route(SCRIPT, lambda request: Response(code, media_type="text/javascript")),
        Route(RUNNING, lambda request: JSONResponse(worker.running if worker else {})),
    ]
    page.endpoint_key = "the key that the program was started with" if api_key else "the token" if token else ""
    before = middleware(token, port, api_key, worker)
    outer = FastAPI(routes=routes, docs_url=None, redoc_url=None, openapi_url=None, middleware=before)
    gr.mount_gradio_app(
        outer,
        queued,
        path="/",
        server_name=ADDRESS,
        server_port=port,
        footer_links=[],
        run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        auth=None,
        auth_message=None,
        auth_dependency=None,
        root_path="",
        allowed_paths=[],
        blocked_paths=[],
        favicon_path=None,
        show_error=False,
        max_file_size="1kb",
        ssr_mode=False,
        node_server_name=None,
        node_port=None,
        enable_monitoring=False,
        pwa=False,
        i18n=None,
        mcp_server=False,
        theme=theme(),
        css=None,
        css_paths=stylesheets(),
        js=None,
        head=None,
        head_paths=None,
    )
    page.app = page.server_app = next(route.app for route in outer.routes if isinstance(route, Mount))
    page.server = PageServer(outer, listener)  # which `page.close` closes
    page.server.start()
    url = f"http://{ADDRESS}:{port}/{f'?token={token}' if token else ''}"
    ready(url)
    if browser:
        webbrowser.open(private_link(url) if token else url)
    if block:
        page.block_thread()


RUNNING = "/running"  # what the engine does, for who looks at the endpoint's panel
HOSTS = re.compile(rb"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
API = "/gradio_api/"
EVENTS = f"{API}queue/join"  # a saved race comes this way, as text inside JSON
MAX_EVENT_BYTES = 30_000_000
# What the page and scripts ask for; a name that ends in / stands for all below it.
PATHS = (
    *(
        "/",
        SCRIPT,
        RUNNING,
        "/config",
        "/config/",
        "/theme.css",
        "/favicon.ico",
        "/robots.txt",
        "/static/",
        "/assets/",
        "/svelte/",
    ),
    *(EVENTS, f"{API}queue/data", f"{API}heartbeat/", f"{API}cancel", f"{API}reset", f"{API}run/", f"{API}call/"),
    *(f"{API}info", f"{API}app_id", f"{API}theme.css", BASE, f"{BASE}/"),
)
UPLOAD = f"{API}upload"  # no form of this page has a file
REFUSED_PATHS = {f"{API}file=": 403, f"{API}proxy=": 400, "/monitoring": 403}  # as gradio refuses them


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
        headers = {k.decode("latin-1"): v for k, v in scope["headers"]}
        refusal = misdirected(scope["headers"]) or refused(scope["method"], scope["path"], headers)
        refusal = refusal or absent(scope["path"])
        if refusal:
            status, words = refusal
            headers = {k.decode(): v.decode() for k, v in HEADERS}
            in_form = f"{scope['path']}/".startswith(f"{BASE}/")  # that clients of the endpoint read
            refuse = JSONResponse(error_body(ApiError(words, status)), status, headers) if in_form else None
            await (refuse or PlainTextResponse(words, status, headers))(scope, receive, send)
            return

        async def send_guarded(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        await self.app(scope, receive, send_guarded)


def misdirected(headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    """(status, words) if a request is for another host, or says twice where it comes from. Names are lower case."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not HOSTS.fullmatch(hosts[0]):
        return 400, "This page answers under the names 127.0.0.1 and localhost only."
    names = [name for name, _ in headers if name == b"origin" or name.startswith(b"sec-fetch-")]
    return (400, "A header that says where this comes from is there twice.") if len({*names}) < len(names) else None


def refused(method: str, path: str, headers: dict[str, bytes]) -> tuple[int, str] | None:
    """(status, words) if a request must not reach the app. Header names are lower case.

    The Host header has been checked before, so an Origin that equals it is this page's own. A body below the endpoint's
    address may come in chunks, which are counted there.
    """
    origin = headers.get("origin")
    if origin is not None and origin.lower() != b"http://" + headers.get("host", b"").lower():
        return 403, "This page answers only to itself."
    site = headers.get("sec-fetch-site", b"none")
    arriving = method == "GET" and headers.get("sec-fetch-mode") == b"navigate" and path == "/"
    if site not in (b"same-origin", b"none") and not arriving:
        return 403, "This page answers only to itself."
    length = headers.get("content-length", b"0")
    if headers.get("content-encoding", b"").strip().lower() not in (b"", b"identity"):
        return 415, "Send the body as it is, without a content encoding."
    if "transfer-encoding" in headers and not path.startswith(f"{BASE}/"):
        return 411, "Say how long it is."
    most = {EVENTS: MAX_EVENT_BYTES, UPLOAD: 1000}.get(path, MAX_BODY_BYTES)
    if not length.isdigit() or len(length) > 12 or int(length) > most:
        asked = path.startswith(f"{BASE}/")
        return 413, TOO_LONG if asked else "That is more than any form of this page sends."
    return None


def absent(path: str) -> tuple[int, str] | None:
    """(status, words) for a path that the page does not use, whatever gradio has there."""
    known = any(path == p or (p.endswith("/") and len(p) > 1 and path.startswith(p)) for p in PATHS)
    if known and path.isprintable():  # gradio makes addresses of it, and fails in the middle of an answer
        return None
    status = next((status for start, status in REFUSED_PATHS.items() if path.startswith(start)), 404)
    return status, "There is nothing here."


def middleware(token: str = "", port: int = 0, api_key: str = "", worker: Worker | None = None) -> list[Middleware]:
    """What stands before the page, from the outside in."""
    gate = [Middleware(TokenGate, token=token, port=port, api_key=api_key)] if token or api_key else []
    endpoint = [Middleware(Endpoint, worker=worker)] if worker else []
    return [Middleware(OriginGuard), *gate, *endpoint, Middleware(Forms), Middleware(FirstPicture), Middleware(Streams)]


def theme() -> gr.themes.Base:
    sans = [gr.themes.utils.fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"]
    mono = [gr.themes.utils.fonts.LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"]
    return gr.themes.Base(font=sans, font_mono=mono, radius_size="md", text_size="md").set(
        body_background_fill="#f7f6f3",
        body_background_fill_dark="#121417",
        body_text_color="#1d2127",
        body_text_color_dark="#e9e6df",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1a1d22",
        block_border_color="#dedbd4",
        block_border_color_dark="#33383f",
        block_label_text_color="#596069",
        block_label_text_color_dark="#a6abb3",
        block_title_text_color="#1d2127",
        block_title_text_color_dark="#e9e6df",
        block_info_text_color="#596069",
        block_info_text_color_dark="#a6abb3",
        input_background_fill="#ffffff",
        input_background_fill_dark="#14171b",
        block_shadow="none",
        input_shadow="none",
        input_border_color="#dedbd4",
        input_border_color_dark="#33383f",
        input_border_width="1px",
        color_accent="#0a6ab5",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_hover="transparent",
        checkbox_label_background_fill_hover_dark="transparent",
        checkbox_label_background_fill_selected="transparent",
        checkbox_label_background_fill_selected_dark="transparent",
        checkbox_label_border_color="#dedbd4",
        checkbox_label_border_color_dark="#33383f",
        checkbox_label_border_width="1px",
        checkbox_background_color_selected="#0a6ab5",
        checkbox_background_color_selected_dark="#2a7fc4",
        slider_color="#0a6ab5",
        slider_color_dark="#5cb0ee",
    )
