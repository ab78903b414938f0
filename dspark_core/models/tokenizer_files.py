"""A model directory's tokenizer, as its files have it: what makes it, its chat templates, the ids that end an answer.

What tokenizer.json says goes before what transformers' classes make of the same vocabulary: its LlamaTokenizer puts a
pipeline of its own in the place of Llama-2's (transformers#47700), and the prompt gets other ids than the model learnt.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

FILES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
# Templates for conversations with tools or documents, which are none of ours: tried last.
SPECIAL_PURPOSE = ("tool_use", "rag")


def has_tokenizer(directory: Path) -> bool:
    return any(all((directory / file).is_file() for file in files) for files in FILES)


def open_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer of a directory, in mlx-lm's wrapper. Raises errors of any kind."""
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    listed = _json(directory / "tokenizer_config.json").get("chat_template")
    _by_name(listed if isinstance(listed, list) else [])  # transformers says less of what is wrong with it
    if not (directory / "tokenizer.json").is_file():
        return TokenizerWrapper(_built(directory))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    if tokenizer.bos_token is None and tokenizer.eos_token is None:  # no file names them
        names = {}
        with suppress(Exception):  # they are the class's own, or the model's
            names = dict(AutoTokenizer.from_pretrained(directory, trust_remote_code=False).special_tokens_map)
        known, config = {i: token for token, i in tokenizer.get_vocab().items()}, _json(directory / "config.json")
        for name in ("bos_token", "eos_token"):
            given = config.get(f"{name}_id")
            first = given[:1] if isinstance(given, list) else [given]
            names.setdefault(name, next((known.get(i) for i in first if isinstance(i, int)), None))
        for name, token in names.items():
            if token in known.values():
                setattr(tokenizer, name, token)
    return TokenizerWrapper(tokenizer)


def _built(directory: Path) -> Any:
    """A tokenizer without tokenizer.json, as its class makes it of the vocabulary."""
    from transformers import AutoTokenizer, GPT2Tokenizer

    sentencepiece = (directory / "tokenizer.model").is_file()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        if sentencepiece or _json(directory / "vocab.json").keys() <= tokenizer.get_vocab().keys():
            return tokenizer
    except Exception:
        if sentencepiece:
            raise
    return GPT2Tokenizer.from_pretrained(directory)  # whose files these two are; the class named does not read them


def chat_templates(directory: Path, tokenizer: Any) -> list[str]:
    """The chat templates of a model, the first to be tried first; none of a base model. Raises ValueError."""
    found = tokenizer.chat_template
    file = directory / "chat_template.json"
    if not found and file.is_file():  # of a processor, which transformers' tokenizers don't read
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content.get("chat_template") if isinstance(content, dict) else content
    named = _by_name(found) if isinstance(found, list | dict) else {"default": found or ""}
    if not all(isinstance(template, str) for template in named.values()):
        raise ValueError("chat_template is no text")
    order = sorted(named, key=lambda name: (name != "default", name in SPECIAL_PURPOSE))
    return [named[name].removeprefix("\ufeff") for name in order if named[name].strip()]


def _by_name(templates: list[Any] | dict[str, Any]) -> dict[str, Any]:
    if isinstance(templates, dict):
        return templates
    if not all(isinstance(t, dict) and isinstance(t.get("name"), str) and "template" in t for t in templates):
        raise ValueError("chat_template is a list, but not of templates with names")
    return {t["name"]: t["template"] for t in templates}


def eos_ids(directory: Path, *given: Any, vocabulary: Mapping[str, int] = MappingProxyType({})) -> frozenset[int]:
    """The ids that end a text by config.json, its text_config, generation_config.json, the tokens that the tokenizer's
    files name and what is `given` together; what is no id among them is none."""
    configs = [_json(directory / name) for name in ("config.json", "generation_config.json")]
    configs += [config.get("text_config") or {} for config in configs]
    listed = [*given, *(config.get("eos_token_id") for config in configs if isinstance(config, dict))]
    named = [_json(directory / name).get("eos_token") for name in ("tokenizer_config.json", "special_tokens_map.json")]
    names = [token.get("content") if isinstance(token, dict) else token for token in named]
    listed += [vocabulary.get(name) for name in names if isinstance(name, str)]
    flat = [i for ids in listed for i in (ids if isinstance(ids, list) else [ids])]
    return frozenset(i for i in flat if type(i) is int and i >= 0)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        found = {}
    return found if isinstance(found, dict) else {}
