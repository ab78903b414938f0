"""Small pieces that every part of the page is made of."""

from pathlib import Path

import gradio as gr

from ..paths import assets

TEXT_SCRIPT = """
const show = () => { element.querySelector('p').textContent = props.value || ''; };
watch('value', show);
show();
"""


def page_file(name: str) -> str:
    """The text of a file of the page's front end."""
    return (assets() / "page" / name).read_text("utf-8")


def script(*names: str) -> str:
    """The page's scripts of these names, as one function body."""
    return "\n".join(page_file(f"{name}.js") for name in names)


def stylesheets() -> list[Path]:
    """Every style sheet of the page."""
    return sorted((assets() / "page").glob("*.css"))


def plain_text(value: str, elem_id: str) -> gr.HTML:
    """A paragraph whose value is text, never markup."""
    return gr.HTML(value, html_template="<p></p>", js_on_load=TEXT_SCRIPT, apply_default_css=False, elem_id=elem_id)


def static(markup: str, script: str | None = None, **where) -> gr.HTML:
    """Markup of the page itself; nothing that a visitor or a model wrote may come here."""
    return gr.HTML("", html_template=markup, js_on_load=script, apply_default_css=False, **where)
