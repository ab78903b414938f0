"""Small pieces that every part of the page is made of.

A progress line and a verdict box; their values are JSON, and words reach the page as text, never as markup.
"""

import json
import re
from pathlib import Path

import gradio as gr

from ..paths import assets

# A script of the page is a module, so that it can be checked and tested alone; gradio takes the bodies of functions, in
# which nothing can be imported or exported. Comments stay here: they would be sent with every small script.
IMPORT = re.compile(r"^import \{[^}]*\} from '\./(\w+)\.js';\n", re.MULTILINE)
LEFT_OUT = re.compile(r"^import [^;]*;\n|^export |^ *//.*\n|^ */\*\*[\s\S]*?\*/\n", re.MULTILINE)


def page_file(name: str) -> str:
    """The text of a file of the page's front end."""
    return (assets() / "page" / name).read_text("utf-8")


def script(*names: str) -> str:
    """The page's scripts of these names as the body of one function, each after the scripts that it imports."""
    bodies: dict[str, str] = {}

    def add(name: str) -> None:
        text = page_file(f"{name}.js")
        for found in IMPORT.finditer(text):
            if found[1] not in bodies:
                add(found[1])
        bodies[name] = LEFT_OUT.sub("", text)

    for name in names:
        add(name)
    return "\n".join(bodies.values())


def stylesheets() -> list[Path]:
    """Every style sheet of the page."""
    return sorted((assets() / "page").glob("*.css"))


def plain_text(value: str, elem_id: str) -> gr.HTML:
    """A paragraph whose value is text, never markup."""
    return gr.HTML(value, html_template="<p></p>", js_on_load=script("text"), apply_default_css=False, elem_id=elem_id)


def static(markup: str, script: str | None = None, **where) -> gr.HTML:
    """Markup of the page itself; nothing that a visitor or a model wrote may come here."""
    return gr.HTML("", html_template=markup, js_on_load=script, apply_default_css=False, **where)


def progress(elem_id: str) -> gr.HTML:
    return gr.HTML(
        progressed(0, ""),
        html_template='<p></p><div class="bar" hidden><i></i></div>',
        js_on_load=script("progress"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="progress",
    )


def progressed(share: float, words: str) -> str:
    """The value of a progress line; at share 1 only its words are left."""
    return json.dumps({"share": round(share, 3), "words": words})


def verdict_box(elem_id: str) -> gr.HTML:
    return gr.HTML(
        decided("", ""),
        html_template='<p class="board-verdict" role="status"></p><p class="more"></p>',
        js_on_load=script("verdict"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="verdict",
    )


def decided(kind: str, words: str, more: str = "") -> str:
    """The value of a verdict box: "identical", "tie", "divergence" or "" for its looks, the verdict, small print."""
    return json.dumps({"kind": kind, "words": words, "more": more})
