"""Templates, turns and random texts for the tests of text in and out."""

import random

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
WORDS = [
    "the",
    "sky",
    "Ġ",
    "Déjà",
    "naïve",
    "Zażółć",
    "ñ",
    "ß",
    "café",
    "你好",
    "世界。",
    "日本語",
    "안녕",
    "Привет",
    "Κόσμε",
]
WORDS += ["مرحبا", "नमस्ते", "สวัสดี", "def f(x):", "return", "x_1", "!=", "{}", "//", "3.14", "<table>", "</td>", "0x0A"]
WORDS += [
    "😀",
    "👩‍🔬",
    "🇩🇪",
    "👍🏽",
    "❤️",
    "e\u0301",
    "a\u0323\u0308",
    "\u200b",
    "\ufeff",
    "▁",
    "\ufffd",
    "\U00020000",
    "ﬁ",
    "Ａ",
]
WORDS += ["<0x0A>", "<0xE4>", "##ing", "</w>", "\x00", "\x7f", "\u202e", ".", ",", "'s", "n't"]
GAPS = ["", "", " ", " ", " ", "  ", "    ", "\n", "\n\n", "\n\n\n", "\t", "\r\n", "\u00a0", "\u3000"]


def user(*contents: str) -> list[dict[str, str]]:
    """A conversation whose turns are the user's and the assistant's in turn."""
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": c} for i, c in enumerate(contents)]


def random_text(rng: random.Random) -> str:
    words = [
        rng.choice(WORDS) if rng.random() < 0.9 else chr(rng.randrange(0x20, 0xD7FF)) for _ in range(rng.randrange(12))
    ]
    return rng.choice(GAPS) + "".join(word + rng.choice(GAPS) for word in words)
