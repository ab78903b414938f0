"""Tiny real models behind the page: golden set A's target with its DSpark drafter and set C's DFlash drafter.

Everything is computed; only the text is made up, since the golden sets have no tokenizer: the prompt is set A's
whatever is typed, and a token is a word of two syllables.
"""

import json
from pathlib import Path

from dspark_core.playground.engine import PresetEngine

GOLDEN = Path(__file__).parents[1] / "golden"
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "no", "pi", "ra", "so", "tu", "va", "we", "yi", "zo")


class Words:
    """Stands where a tokenizer would: ids are words."""

    stop_ids = frozenset()

    def encode_chat(self, messages):
        return json.loads((GOLDEN / "A" / "trace.json").read_text())["prompt_ids"]

    def is_special(self, token_id):
        return False

    def token_bytes(self, token_id):
        return f" {SYLLABLES[token_id // 16]}{SYLLABLES[token_id % 16]}".encode()


class TinyEngine(PresetEngine):
    def __init__(self, progress=lambda _: None):
        from dspark_core.models.checkpoint import load_drafter
        from dspark_core.models.target import load_target
        from dspark_core.race.race import Models

        target = load_target(GOLDEN / "A" / "target")
        target.text = Words()
        target.stop_ids = Words.stop_ids
        drafters = {"DSpark": "A", "DFlash": "C"}
        self._clear()
        self._models = Models(
            target, {m.lower(): load_drafter(GOLDEN / d / "drafter", target) for m, d in drafters.items()}
        )
        self.name, self.precision = "tiny", target.precision
        target.name = "tiny"
        self.stop_ids, self.token_bytes = target.stop_ids, target.token_bytes
