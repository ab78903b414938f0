"""A trained drafter as a directory that engines load: native (bf16) or packed (MLX affine).

Packing uses MLX, so this is the one file here that imports it, and only when asked to pack.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import TrainingError
from .data import write_atomic
from .torch_drafter import DEEPSPEC_ARCHITECTURE, DRAFT_VOCABULARY
from .torch_target import TorchTarget

RECORDS = ("run.json", "calibration.json", "evaluation.json")


def export(source: Path, out: Path, target: TorchTarget | None, form: str, bits: int = 8, group_size: int = 64) -> Path:
    """Write `source` (a directory that training left) to `out` as 'native' or 'packed'.

    native: bf16; DeepSpec's formats get the target's embedding and head, z-lab's have neither.
    packed: every linear, both Markov tables and the selector's codebooks in `bits` and groups of `group_size`; norms,
    convolution kernels and the confidence head
    stay bf16; embedding and head are left to the target. A matrix whose rows don't divide into groups stays bf16.
    Raises TrainingError if source is not a drafter or the target does not fit.
    """
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(source / "model.safetensors")
    except OSError as e:
        raise TrainingError(f"{source} is not a trained drafter: {e}.") from None
    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.to(torch.bfloat16) for k, v in tensors.items()}
    if form == "native":
        if config["architectures"][0] == DEEPSPEC_ARCHITECTURE:
            if target is None or target.hidden_size != config["hidden_size"]:
                raise TrainingError("A native export of this format holds the target's embedding: give its target.")
            tensors["embed_tokens.weight"] = target.embed.to("cpu", torch.bfloat16)
            # Two tensors even where the target ties them: the format stores both.
            tensors["lm_head.weight"] = target.head.to("cpu", torch.bfloat16).clone()
        config["dtype"] = "bfloat16"
        write_atomic(out / "model.safetensors", lambda path: save_file(tensors, path, {"format": "pt"}))
    elif form == "packed":
        config["quantization"] = {"group_size": group_size, "bits": bits}
        write_atomic(out / "model.safetensors", lambda path: _save_packed(tensors, path, bits, group_size))
    else:
        raise TrainingError(f"There is no export format {form!r}; native and packed are known.")
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name in (*RECORDS, DRAFT_VOCABULARY):
        if (source / name).exists() and source != out:
            shutil.copy(source / name, out / name)
    return out


def _save_packed(tensors: dict[str, torch.Tensor], path: Path, bits: int, group_size: int) -> None:
    try:
        import mlx.core as mx
    except ImportError:
        raise TrainingError("Packing needs MLX, which is not installed here.") from None
    packed: dict = {}
    for name, t in tensors.items():
        w = mx.array(t.float().numpy()).astype(mx.bfloat16)
        base = name.removesuffix(".weight")
        if t.ndim == 2 and t.shape[1] % group_size == 0 and not base.startswith("confidence_head"):
            names = (f"{base}.weight", f"{base}.scales", f"{base}.biases")
            packed |= dict(zip(names, mx.quantize(w, group_size=group_size, bits=bits), strict=True))
        else:
            packed[name] = w
    # MLX adds ".safetensors" to a name without it.
    whole = path.with_name(path.name + ".safetensors")
    try:
        mx.save_safetensors(str(whole), packed, metadata={"format": "mlx"})
        whole.replace(path)
    finally:
        whole.unlink(missing_ok=True)
