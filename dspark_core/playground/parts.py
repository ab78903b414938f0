"""Small pieces that every part of the page is made of."""

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).resolve().parents[2] / "assets"

TEXT_SCRIPT = """
const show = () => { element.querySelector('p').textContent = props.value || ''; };
watch('value', show);
show();
"""


def board_script() -> str:
    """The board with its replay, as one function body."""
    return "\n".join((ASSETS / name).read_text("utf-8") for name in ("board.js", "replay.js"))


def plain_text(value: str, elem_id: str) -> gr.HTML:
    """A paragraph whose value is text, never markup."""
    return gr.HTML(value, html_template="<p></p>", js_on_load=TEXT_SCRIPT, apply_default_css=False, elem_id=elem_id)


def static(markup: str, script: str | None = None, **where) -> gr.HTML:
    """Markup of the page itself; nothing that a visitor or a model wrote may come here."""
    return gr.HTML("", html_template=markup, js_on_load=script, apply_default_css=False, **where)
