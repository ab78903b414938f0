"""What stands below the board after a race: sentences, one a line, as text and never as markup."""

import json

import gradio as gr

from .controls import Controls
from .cost_tab import advice_on, curve_of
from .race_tab import Raced
from .worker import Worker

SCRIPT = """
const show = () => {
  const list = element.querySelector('ul');
  list.replaceChildren(...JSON.parse(props.value || '[]').map((words) => {
    const item = document.createElement('li');
    item.textContent = words;
    return item;
  }));
  list.hidden = !list.children.length;
};
watch('value', show);
show();
"""


def advice(worker: Worker, ask: Controls, raced: Raced) -> None:
    """The place for advice, filled when a race is over and emptied when the next one begins."""
    place = gr.HTML(
        "[]",
        html_template='<ul class="advice" hidden></ul>',
        js_on_load=SCRIPT,
        apply_default_css=False,
        elem_id="advice",
    )

    def advise(visitor: gr.Request, seen, trace):
        if seen is None or not worker.ready:
            return "[]"
        return json.dumps(advice_on(curve_of(worker, visitor.session_hash), seen, trace, ask.offers()))

    quietly = {"show_progress": "hidden", "api_visibility": "private"}
    ask.start.click(lambda: "[]", None, place, queue=False, **quietly)
    raced.kept.trace.change(advise, [raced.last, raced.kept.trace], place, concurrency_limit=None, **quietly)
