"""How a checkpoint's weights are quantized, from its tensor headers and its config.json; no MLX here.

MLX packs a quantized weight into 32-bit words, `.weight`, beside `.scales` and, in the affine mode, `.biases`. Where
the columns of its layer are known, the shapes say bits, group size and mode by themselves. mlx-lm reads most layers
so, whatever config.json says of them, and here all are read so: converters write these settings under
`quantization`, `quantization_config` or both, for the whole or for single layers, with the names that these have in
MLX or in transformers. What a config says of a layer by its tensors' own name must then agree with them. Weights that
other tools quantized are refused by the tool's name, but for AWQ, which mlx-lm converts (`_transform_awq_weights`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .fields import NESTED, is_whole, shown
from .headers import TensorInfo
from .target_config import own_head

BITS, GROUPS = (1, 2, 3, 4, 5, 6, 8), (32, 64, 128)  # of the affine mode
MODES = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}  # bits and group size of the others
DTYPE_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
FLOATS = ("F32", "F16", "BF16")
NARROW = 128  # columns that MLX's CUDA products need where a weight is quantized (weights.py)
OF_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")  # layers of hidden states
# Parts of a checkpoint that the text model does not have: towers, and Qwen's layers for multi-token prediction.
SKIPPED = ("vision", "visual.", "audio", "multi_modal", "mtp.")
EXPERTS = frozenset({"experts", "switch_mlp", "switch_glu"})  # in names of tensors that hold experts
# Tools by what they call themselves in quant_method, and by tensors that theirs alone have.
TOOLS = {
    **{"awq": "AWQ", "gptq": "GPTQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8", "fbgemm_fp8": "FP8"},
    **{"compressed-tensors": "compressed-tensors", "modelopt": "ModelOpt", "bitnet": "BitNet", "hqq": "HQQ"},
    **{"quark": "Quark", "auto-round": "AutoRound", "aqlm": "AQLM", "eetq": "EETQ", "torchao": "torchao"},
}
SIGNS = {
    **{".g_idx": "GPTQ", ".qweight": "GPTQ or AWQ", ".qzeros": "GPTQ or AWQ", ".weight_scale_inv": "FP8"},
    **{".weight_packed": "compressed-tensors", ".weight_scale_2": "ModelOpt"},
    **{".SCB": "bitsandbytes", ".absmax": "bitsandbytes", ".quant_map": "bitsandbytes", ".W_q": "HQQ"},
}


@dataclass(frozen=True)
class Packing:
    """How one weight is quantized."""

    bits: int
    group_size: int
    mode: str = "affine"

    def __str__(self) -> str:
        return f"{self.bits} bits in groups of {self.group_size}, {self.mode}"

    @property
    def known(self) -> bool:
        """Whether MLX has it."""
        if self.mode == "affine":
            return self.bits in BITS and self.group_size in GROUPS
        return MODES.get(self.mode) == (self.bits, self.group_size)


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of the model as the files hold it, a quantized weight with its scales and biases.

    columns: numbers a row; all of them in one row where there are not two axes
    dtype:   of its numbers, of its scales where these are affine
    """

    name: str
    rows: int
    columns: int
    matrix: bool
    dtype: str
    packing: Packing | None = None

    @property
    def numbers(self) -> int:
        return self.rows * self.columns

    @property
    def of_experts(self) -> bool:
        return not EXPERTS.isdisjoint(self.name.split("."))

    @property
    def bytes(self) -> int:
        if self.packing is None:
            return self.numbers * DTYPE_BYTES.get(self.dtype, 1)
        aside = 2 * DTYPE_BYTES.get(self.dtype, 1) if self.packing.mode == "affine" else 1
        return self.numbers * self.packing.bits // 8 + self.numbers // self.packing.group_size * aside

    @property
    def words(self) -> str:
        """ "4-bit", "bf16", ..."""
        if self.packing:
            return f"{self.packing.bits}-bit"
        return {"BF16": "bf16", "F16": "f16", "F32": "f32"}.get(self.dtype, self.dtype)


class Quantization:
    """That of one checkpoint, a target or a drafter. `where` begins the sentences about it."""

    def __init__(self, where: Path, config: dict[str, Any], tensors: Mapping[str, TensorInfo]):
        self.where = where / "config.json"
        text = config.get("text_config")
        self._text: dict[str, Any] = text if isinstance(text, dict) else config
        self._config = config
        self._tensors = {name: info for name, info in tensors.items() if info is not None}
        self._found = [
            place[name]
            for name in ("quantization", "quantization_config")
            for place in (config, self._text)
            if place.get(name) not in (None, False)
        ]
        self._declared: dict[str, Any] = next((q for q in self._found if isinstance(q, dict)), {})
        self._layers = {n: own for n, own in self._declared.items() if isinstance(own, dict | bool)}

    def check(self, awq: bool = False) -> None:
        """Raises ModelError for weights that another tool quantized (`awq`: AWQ's will do), for settings of an odd
        type or value, and for a layer whose settings are not those of its tensors."""
        for q in self._found:
            if not isinstance(q, dict):
                raise ModelError(f"{self.where}: quantization is {shown(q)}; it must be an object.")
        if tool := self._other_tool():
            if not awq or tool != "AWQ":
                raise ModelError(
                    f"{self.where}: weights quantized with {tool} are not supported; take a conversion for MLX, or the "
                    "model in bf16."
                )
            self._check_awq()
            return
        if not any(n.endswith(".scales") for n in self._tensors):
            return  # what the config says then is of another model: a drafter's is a copy of its target's
        if self._config.get("quantize_activations"):
            raise ModelError(f"{self.where}: quantize_activations is true; quantized activations are not supported.")
        if self._method not in TOOLS:
            self._check_settings("", self._declared)
        for path in (n.removesuffix(".weight") for n in self._tensors if n.endswith(".weight")):
            own = self._layers.get(path)
            if isinstance(own, dict):
                self._check_settings(f" of {path[:80]}", own)
            if own is not None and not self._agrees(path, own):
                raise self._contradiction(path)

    def for_mlx(self) -> dict[str, Any]:
        """The fields that mlx-lm is given in the place of the config's: it then reads each layer from its tensors."""
        if self._is_awq:
            own = next(q for q in self._found if isinstance(q, dict) and q.get("quant_method") == "awq")
            return {"quantization": None, "quantization_config": own}
        packed = any(n.endswith(".scales") for n in self._tensors)
        defaults = {"group_size": 64, "bits": 4}
        return {"quantization": defaults if packed else None, "quantization_config": None}

    def packing(self, path: str, columns: int) -> Packing:
        """Of the quantized weight of the layer `path`, which has so many columns. Raises ModelError."""
        weight, scales = self._tensors.get(f"{path}.weight"), self._tensors[f"{path}.scales"]
        if weight is None or weight.dtype != "U32" or len(weight.shape) != 2 or len(scales.shape) != 2:
            raise ModelError(f"{scales.file}: {path}.scales has no quantized {path}.weight beside it.")
        found = self._fitting(weight, scales, columns)
        if found is None:
            raise ModelError(
                f"{weight.file}: {path} is quantized with words {list(weight.shape)} and scales {list(scales.shape)}, "
                f"which {columns} columns cannot have."
            )
        own = self._layers.get(path)
        if isinstance(own, dict) and self._settings(own) != found:
            raise self._contradiction(path)
        return found

    @property
    def words(self) -> str:
        """The precision that most of the numbers are stored in: "8-bit", "bf16", ...; "empty" without any."""
        sizes: dict[str, int] = {}
        for weight in self.weights():
            sizes[weight.words] = sizes.get(weight.words, 0) + weight.numbers
        return max(sizes, key=lambda words: sizes[words], default="empty")

    def weights(self) -> Iterator[StoredWeight]:
        """What the text model takes of the files, by the headers alone: nothing is refused here."""
        drafts = "block_size" in self._config or NESTED in self._config
        gemma = str(self._config.get("model_type")).startswith("gemma")
        tied = self._text.get("tie_word_embeddings", self._config.get("tie_word_embeddings", gemma))
        tied = tied and not drafts and not own_head(self._tensors)
        awq = next((t.dtype for n, t in self._tensors.items() if n.endswith(".scales")), "F16") if self._is_awq else ""
        for name, info in self._tensors.items():
            path, _, kind = name.rpartition(".")
            if any(part in name for part in SKIPPED) or name.endswith("rotary_emb.inv_freq"):
                continue
            if tied and "lm_head" in name.split("."):
                continue
            scales = self._tensors.get(f"{path}.scales")
            if scales is not None and kind in ("scales", "biases", "qzeros"):
                continue  # they are counted with their weight
            if scales is not None and kind == "qweight" and len(info.shape) == len(scales.shape) == 2:
                columns, rows = info.shape[0], info.shape[1] * 8
                packing = Packing(4, columns // max(1, scales.shape[0]))
                yield StoredWeight(f"{path}.weight", rows, columns, True, scales.dtype, packing)
            elif scales is not None and info.dtype == "U32" and len(info.shape) == len(scales.shape) >= 2:
                packing = self._likely(path, info, scales)
                dtype = "BF16" if scales.dtype == "U8" else scales.dtype
                rows, columns = math.prod(info.shape[:-1]), info.shape[-1] * 32 // packing.bits
                yield StoredWeight(name, rows, columns, True, dtype, packing)
            else:
                experts = len(info.shape) == 3 and not EXPERTS.isdisjoint(name.split("."))  # a matrix each
                matrix = experts or (len(info.shape) == 2 and kind == "weight")
                columns = info.shape[-1] if len(info.shape) == 2 or experts else math.prod(info.shape)
                dtype = awq if awq and info.dtype in FLOATS else info.dtype
                yield StoredWeight(name, math.prod(info.shape) // max(1, columns), columns, matrix, dtype)

    # ---- what the config says ------------------------------------------------------------------------

    @property
    def _method(self) -> str:
        return next((str(q["quant_method"]) for q in self._found if isinstance(q, dict) and q.get("quant_method")), "")

    @property
    def _is_awq(self) -> bool:
        return self._method == "awq" and any(n.endswith(".qweight") for n in self._tensors)

    def _settings(self, q: dict[str, Any]) -> Packing:
        """With MLX's defaults, whatever the types."""
        mode = str(q.get("mode") or "affine")
        bits, group_size = MODES.get(mode, (4, 64))
        return Packing(q.get("bits") or bits, q.get("group_size") or group_size, mode)

    def _check_settings(self, of: str, q: dict[str, Any]) -> None:
        values = {name: q.get(name) for name in ("bits", "group_size", "mode")}
        for name, value in values.items():
            if value is not None and not (isinstance(value, str) if name == "mode" else is_whole(value)):
                raise ModelError(
                    f"{self.where}: the quantization{of} has {name} {shown(value)}, which is not understood."
                )
        if not self._settings(q).known:
            raise ModelError(f"{self.where}: the quantization{of} has {self._settings(q)}, which MLX does not have.")

    def _contradiction(self, path: str) -> ModelError:
        own = self._layers[path]
        words = self._settings(own) if isinstance(own, dict) else "none"
        file = self._tensors[f"{path}.weight"].file.name
        return ModelError(f"{self.where}: the quantization of {path[:80]} is {words}, but {file} has it otherwise.")

    # ---- what the tensors say ------------------------------------------------------------------------

    def _other_tool(self) -> str:
        """What quantized the weights, if it is not MLX; by the tensors, for many a config speaks of a quantization
        that its files no longer have. Raises ModelError where a weight is of a type that says nothing of the tool."""
        names = [name for name in self._tensors if not any(part in name for part in SKIPPED)]
        signs = (tool for name in names for end, tool in SIGNS.items() if name.endswith(end))
        sign, named = next(signs, ""), TOOLS.get(self._method, self._method[:80])
        for name in names:
            info = self._tensors[name]
            usual = info.dtype in (*FLOATS, "F64", "U32") or (info.dtype == "U8" and name.endswith(".scales"))
            usual = usual or len(info.shape) < 2  # a buffer, or offsets between vocabularies
            if sign or usual or not (named or name.endswith(".weight")):
                continue
            sign = named or ("FP8" if info.dtype.startswith("F8") else "")
            if not sign:
                raise ModelError(f"{info.file}: tensor {name[:80]} has dtype {info.dtype[:20]}, expected a float's.")
        return sign and (named or sign)

    def _check_awq(self) -> None:
        """Raises ModelError where mlx-lm would read AWQ's words in another order than they have."""
        q = next(q for q in self._found if isinstance(q, dict) and q.get("quant_method") == "awq")
        bits, version = q.get("bits", q.get("w_bit", 4)), str(q.get("version") or "gemm").lower()
        if bits != 4 or version != "gemm":
            raise ModelError(
                f"{self.where}: AWQ with {shown(bits)} bits and version {shown(version)} is not supported."
            )

    def _fitting(self, weight: TensorInfo, scales: TensorInfo, columns: int) -> Packing | None:
        words, groups, rows = weight.shape[-1], scales.shape[-1], weight.shape[:-1]
        if not columns or not groups or words * 32 % columns or columns % groups or rows != scales.shape[:-1]:
            return None
        bits, group_size = words * 32 // columns, columns // groups
        if scales.dtype == "U8":
            modes = [mode for mode, sizes in MODES.items() if sizes == (bits, group_size)]
            return Packing(bits, group_size, modes[0]) if modes else None
        packing = Packing(bits, group_size)
        return packing if packing.known and scales.dtype in FLOATS else None

    def _agrees(self, path: str, own: dict[str, Any] | bool) -> bool:
        """Whether the tensors of a layer can be of its settings, whatever its columns are."""
        weight, scales = self._tensors[f"{path}.weight"], self._tensors.get(f"{path}.scales")
        if scales is None or own is False:
            return scales is None and not isinstance(own, dict)
        if own is True or len(weight.shape) != 2 or len(scales.shape) != 2:
            return True  # what else is wrong is said where it is read
        packing = self._settings(own)
        return self._fitting(weight, scales, weight.shape[1] * 32 // packing.bits) == packing

    def _likely(self, path: str, weight: TensorInfo, scales: TensorInfo) -> Packing:
        """Of a weight whose layer is not built: by the columns that its kind of layer has, or by the settings."""
        if found := self._fitting(weight, scales, self._columns(path)):
            return found
        own = self._layers.get(path)
        settings = [self._settings(q) for q in (own, self._declared) if isinstance(q, dict)]
        modes = [Packing(*sizes, mode) for mode, sizes in MODES.items()]
        every = [*settings, *modes, *(Packing(bits, group) for group in GROUPS for bits in BITS)]
        fitting = (p for p in every if p.known and self._fitting(weight, scales, weight.shape[-1] * 32 // p.bits) == p)
        return next(fitting, Packing(4, 64))

    def _columns(self, path: str) -> int:
        """Columns of a layer of a target or a drafter, 0 where they are not known. Rows are never packed, so that a
        layer's inner widths are the rows of its neighbours."""
        place, _, last = path.rpartition(".")
        if source := {"o_proj": "q_proj", "down_proj": "up_proj"}.get(last):
            neighbour = self._tensors.get(f"{place}.{source}.weight")
            return neighbour.shape[-2] if neighbour and len(neighbour.shape) > 1 else 0
        nested = self._config.get(NESTED)
        fields = self._config | (nested if isinstance(nested, dict) else {})
        d, r, taps = self._width, fields.get("markov_rank", 0), fields.get("target_layer_ids")
        taps = len(taps) if isinstance(taps, list) else fields.get("num_hidden_layers")
        if not d or not is_whole(r):
            return 0
        if "markov_head" in place:
            return {"gate_proj": d + r, "joint_proj": d + 2 * r}.get(last, r)
        if "confidence_head" in place:
            return d + r if fields.get("confidence_head_with_markov") else d
        if last == "fc":
            return d * taps if is_whole(taps) else 0
        return d if last in OF_HIDDEN else 0

    @cached_property
    def _width(self) -> int:
        """The hidden size."""
        ends = (info for name, info in self._tensors.items() if name.endswith(".down_proj.weight"))
        info, said = next(ends, None), self._text.get("hidden_size")
        return info.shape[-2] if info and len(info.shape) > 1 else said if is_whole(said) else 0
