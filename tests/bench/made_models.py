"""Tiny real models and prompts, so that the commands run on them as on any."""

import json
import shutil

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ..conftest import GOLDEN

HOSTILE = "</script></pre><img src=x onerror=alert(1)><script>alert(2)</script> {{7*7}} ${alert(3)} & |"
TEMPLATE = "{% for m in messages %}{{ '<s>' + m['content'] }}{% endfor %}"


def make_models(place):
    """Golden set A's target with a tokenizer of bytes and a chat template."""
    shutil.copytree(GOLDEN / "A" / "target", place / "target")
    special = ["<pad>", "<e>", "<s>", "<u>"]
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set("üýþÿ"))
    words = Tokenizer(models.BPE({c: i for i, c in enumerate(special + alphabet)}, [], unk_token="<u>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.add_special_tokens(special)
    words.save(str(place / "target" / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<e>", "chat_template": TEMPLATE}
    (place / "target" / "tokenizer_config.json").write_text(json.dumps(told))
    for name, texts in {"one": [HOSTILE, "Count to nine."], "two": ["Name three primes.", "Hello?"]}.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))


def models_of(tiny):
    drafters = {"dspark": GOLDEN / "A" / "drafter", "dflash": GOLDEN / "C" / "drafter"}
    return ["--target", str(tiny / "target"), *(w for k, v in drafters.items() for w in (f"--{k}", str(v)))]
