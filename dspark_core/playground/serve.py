"""Serving the page: on this machine only, with every option given.

Who may talk to the page: this machine's own browser, on this page's own origin.

A page on the web can post to 127.0.0.1, and a foreign name can be made to resolve to it (DNS rebinding).
Gradio checks neither, so both are refused here, before it.

The page's type and colours, as far as gradio's own components need them; the rest is assets/page/board.css.
"""

import argparse
from collections.abc import Callable

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..presets import load_prompts
from .engine import PresetEngine
from .page import build
from .selection import ModelSources
from .widgets import stylesheets
from .worker import MAX_WAITING, Worker


def main(arguments: list[str] | None = None) -> None:
    """The program: opens the page on this machine. `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description="Race plain MLX decoding, DSpark and DFlash on one prompt.")
    parser.add_argument("--port", type=int, help="port on 127.0.0.1 (default: the first free one from 7860)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    args = parser.parse_args(arguments)
    sources = ModelSources()
    if not sources.presets:
        parser.exit(1, f"No preset can be used: {' '.join(sources.bad)}\n")
    preset = next(iter(sources.presets.values()))
    worker = Worker(lambda progress: PresetEngine(preset, "auto", progress))
    launch(
        build(worker, load_prompts(), sources),
        args.port,
        browser=not args.no_browser,
        ready=lambda url: print(f"DSpark Playground runs on {url} (Ctrl+C ends it).", flush=True),
    )


def launch(
    page: gr.Blocks,
    port: int | None,
    browser: bool,
    block: bool = True,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the page on this machine only, with every option given. `ready` is told the address."""
    queued = page.queue(
        max_size=4 * MAX_WAITING, api_open=False, status_update_rate="auto", default_concurrency_limit=1
    )
    _, url, _ = queued.launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        share_server_address=None,
        share_server_protocol=None,
        share_server_tls_certificate=None,
        quiet=True,
        debug=False,
        show_error=False,
        inline=False,
        width="100%",
        height=500,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        allowed_paths=[],
        blocked_paths=[],
        max_file_size="1kb",
        root_path="",
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        strict_cors=True,
        node_server_name=None,
        node_port=None,
        num_workers=None,
        max_threads=40,
        state_session_capacity=100,
        ssl_keyfile=None,
        ssl_certfile=None,
        ssl_keyfile_password=None,
        ssl_verify=True,
        auth=None,
        auth_message=None,
        auth_dependency=None,
        i18n=None,
        favicon_path=None,
        js=None,
        head=None,
        head_paths=None,
        css=None,
        theme=theme(),
        css_paths=stylesheets(),
        app_kwargs={"middleware": middleware(), "docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    ready(url)
    if block:
        page.block_thread()


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
