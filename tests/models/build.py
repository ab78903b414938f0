"""Builds small model directories for the tests of loading: copies of golden sets with something changed. And what is
said of those that cannot be loaded."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dspark_core.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden"
# Published vocabularies, cut small.
VOCABULARIES = Path(__file__).parent / "vocabularies"
VOCABULARY_NAMES = sorted(path.name for path in VOCABULARIES.iterdir() if path.is_dir())
QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
QWEN = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""


def refusal(load) -> str:
    """The message of the ModelError that `load()` raises: one sentence."""
    with pytest.raises(ModelError) as e:
        load()
    message = str(e.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 500, message
    return message


def copy(kind: str, golden: str, to: Path) -> Path:
    """A writable copy of a golden set's target or drafter."""
    shutil.copytree(GOLDEN / golden / kind, to / kind)
    return to / kind


def edit_config(directory: Path, **changes) -> None:
    """Set fields of config.json; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_weights(directory: Path, change) -> None:
    """Rewrite model.safetensors; `change` takes the dict of tensors and edits it in place."""
    path = directory / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(str(path), weights)


def list_vocabulary(golden, directory: Path, ids: list[int]) -> Path:
    """A golden drafter with draft_vocab.json beside its weights."""
    shutil.copytree(golden.path / "drafter", directory)
    (directory / "draft_vocab.json").write_text(json.dumps({"ids": ids}))
    return directory


def write_tokenizer(directory: Path, special: list[str], template: str | None, **more) -> None:
    """Write a tokenizer of 256 tokens, as the golden targets have: at most 8 `special` ones last, before them single
    bytes but for as many that no UTF-8 text has. `template` is a chat template, if any; `more` names ends, as
    `eos_token=`.
    """
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    never = "".join(map(chr, range(0xF8, 0xF8 + len(special))))  # these bytes stand for themselves
    letters = sorted(set(ByteLevel.alphabet()) - set(never))
    whole = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    whole.pre_tokenizer, whole.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    whole.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=whole, **more)
    fast.chat_template = template
    fast.save_pretrained(directory)


def talking_target(to: Path) -> Path:
    """Golden set A's target with a tokenizer and a chat template in Qwen3's form."""
    path = copy("target", "A", to)
    write_tokenizer(path, QWEN_TOKENS, QWEN, eos_token="<|im_end|>")
    return path


def random_drafter(directory: Path, config: dict, seed: int = 0) -> Path:
    """Write a drafter of any supported configuration with random weights, named as the formats name them."""
    from dspark_core.models.config import parse_config
    from dspark_core.models.drafter import method_module

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    own = (
        {} if config["architectures"] == ["DFlashDraftModel"] else {"embed_tokens.weight": None, "lm_head.weight": None}
    )
    parsed = parse_config(directory, config, own)
    weights = method_module(parsed.method).KIND.weights_type(parsed)
    mx.random.seed(seed)
    tensors = {}
    for name, like in tree_flatten(weights.parameters()):
        norm = "norm" in name or "scalar" in name
        tensors[name] = 1 + 0.1 * mx.random.normal(like.shape) if norm else 0.2 * mx.random.normal(like.shape)
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)
    return directory
