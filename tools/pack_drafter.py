"""Pack a drafter's linears and Markov tables to 8 or 4 bits (group 64), as assets/models/ ships them.

    python tools/pack_drafter.py SOURCE_DIR OUT_DIR [--bits 8]

Norms, the confidence head and whatever does not divide into groups keep their dtype. embed_tokens and lm_head
are left out: the loader takes the target's.
"""

import argparse
import json
from pathlib import Path

import mlx.core as mx

GROUP_SIZE = 64
LEFT_OUT = ("embed_tokens.weight", "lm_head.weight")


def pack(source: Path, out: Path, bits: int) -> None:
    weights = {}
    for file in sorted(source.glob("model*.safetensors")):
        weights |= mx.load(str(file))
    packed = {}
    for name, w in weights.items():
        if name in LEFT_OUT:
            continue
        if w.ndim == 2 and w.shape[1] % GROUP_SIZE == 0 and "confidence" not in name:
            q, scales, biases = mx.quantize(w, GROUP_SIZE, bits)
            stem = name.removesuffix(".weight")
            packed |= {name: q, f"{stem}.scales": scales, f"{stem}.biases": biases}
        else:
            packed[name] = w
    config = json.loads((source / "config.json").read_text())
    config["quantization"] = {"group_size": GROUP_SIZE, "bits": bits}
    out.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(out / "model.safetensors"), packed, metadata={"format": "mlx"})
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(f"{out}: {sum(w.nbytes for w in packed.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--bits", type=int, default=8, choices=(4, 8))
    a = p.parse_args()
    pack(a.source, a.out, a.bits)
