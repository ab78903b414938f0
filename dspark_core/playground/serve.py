"""Serving the page: on this machine only, with every option given."""

import os
from collections.abc import Callable

import gradio as gr

from .guard import middleware
from .tabs.race_tab import MAX_WAITING
from .theme import theme
from .widgets import stylesheets

KEPT_VARIABLES = ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR")


def drop_options() -> None:
    """Options in the environment are dropped: gradio takes an empty `allowed_paths`, for one, as not given,
    and would let GRADIO_ALLOWED_PATHS open this machine's files."""
    for name in [n for n in os.environ if n.startswith("GRADIO_") and n not in KEPT_VARIABLES]:
        del os.environ[name]


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
