"""A tiny chat model with a tokenizer, random but sharp, as an ordinary Llama directory."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for m in messages %}{{ '<|s|>' + m['role'] + '\n' + m['content'] + '<|e|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|s|>assistant\n' }}{% endif %}"
)


def make_target(directory: Path, template: str | None = TEMPLATE, layers: int = 5, seed: int = 0) -> Path:
    """Hidden size 64, byte vocabulary of 264. Weights are scaled so that greedy text is varied and margins wide."""
    directory.mkdir(parents=True, exist_ok=True)
    V, d, heads, kv, hd, inner = 264, 64, 4, 2, 16, 96
    g = torch.Generator().manual_seed(seed)

    def matrix(rows, cols, scale=1.0):
        return torch.randn(rows, cols, generator=g) * scale / cols**0.5

    t = {"model.embed_tokens.weight": torch.randn(V, d, generator=g), "model.norm.weight": torch.ones(d)}
    t["lm_head.weight"] = torch.randn(V, d, generator=g) * 0.4
    for i in range(layers):
        p = f"model.layers.{i}."
        t[p + "self_attn.q_proj.weight"] = matrix(heads * hd, d)
        t[p + "self_attn.k_proj.weight"] = matrix(kv * hd, d)
        t[p + "self_attn.v_proj.weight"] = matrix(kv * hd, d)
        t[p + "self_attn.o_proj.weight"] = matrix(d, heads * hd, 0.5)
        t[p + "mlp.gate_proj.weight"] = matrix(inner, d)
        t[p + "mlp.up_proj.weight"] = matrix(inner, d)
        t[p + "mlp.down_proj.weight"] = matrix(d, inner, 0.5)
        t[p + "input_layernorm.weight"] = torch.ones(d)
        t[p + "post_attention_layernorm.weight"] = torch.ones(d)
    save_file(t, directory / "model.safetensors", {"format": "pt"})

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|s|>", "<|e|>", "<|r0|>", "<|r1|>", "<|r2|>", "<|r3|>", "<|r4|>"]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(special + alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(directory / "tokenizer.json"))
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|e|>", "pad_token": "<|pad|>"}
    if template:
        words["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(words))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": d, "num_hidden_layers": layers,
        "intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": hd,
        "rms_norm_eps": 1e-5, "vocab_size": V, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    return directory
