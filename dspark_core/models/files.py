"""The files of a model directory, before anything in them is believed.

mlx-lm and transformers open files by their names, whatever these are: at a pipe they wait for ever, from a device they
fill memory. So a whole directory is looked at first. What their readers raise says seldom which file it is about;
`tokenizer_error` finds it by leaving out one after the other.
"""

import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError, in_one_line

INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model[A-Za-z0-9._-]*\.safetensors")
TEMPLATES = "additional_chat_templates"
# What loading reads beside weights, and may come from the hub.
TEXT_FILES = (
    *("config.json", "generation_config.json", "hf_quant_config.json", INDEX, "calibration.json", "draft_vocab.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
# Further names by which transformers opens files.
ALSO_OPENED = (
    *("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "tiktoken.model", "adapter_config.json"),
    *("processor_config.json", "preprocessor_config.json"),
)
OPENED = re.compile(r".*\.(json|jinja|txt|model|tiktoken)|model.*\.safetensors", re.DOTALL)
LFS = b"version https://git-lfs"  # what `git clone` leaves where Git LFS is not installed
MAX_CONFIG_BYTES = 10_000_000
MAX_JSON_BYTES = 50_000_000
SPECIAL = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
# The objects among them that readers take for granted; the tokenizer's own reader says what is wrong with the rest.
OBJECTS = (
    *("generation_config.json", "hf_quant_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.json"),
)
BLAMED = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")


def check_files(directory: Path) -> None:
    """Raises ModelError at the first file that loading may open and that is no regular file, cannot be read, is larger
    than any of its name, or is a link to nothing."""
    try:
        entries = sorted(directory.iterdir())
        more = directory / TEMPLATES
        entries += sorted(more.iterdir()) if more.is_dir() else []
    except OSError as error:
        raise ModelError(_not_read(directory, error)) from None
    for path in entries:
        if OPENED.fullmatch(path.name):
            named = path.name in (*TEXT_FILES, *ALSO_OPENED) or path.suffix == ".jinja"
            _check_file(path, named or path.suffix == ".safetensors")


def _check_file(path: Path, named: bool = True) -> None:
    """named: it is opened whenever it is there; other text files only where a tokenizer asks for them."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            if named or not stat.S_ISDIR(found.st_mode):
                kind = SPECIAL.get(stat.S_IFMT(found.st_mode), "a device")
                raise ModelError(f"{path} is {kind}, not a file: put the model's own file in its place.")
            return
        limit = MAX_CONFIG_BYTES if path.name == "config.json" else MAX_JSON_BYTES
        if named and path.suffix != ".safetensors" and found.st_size > limit:
            what = "model configuration" if path.name == "config.json" else "such file"
            raise ModelError(f"{path} is larger than {limit // 1_000_000} MB, which no {what} is.")
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
            start = file.read(len(LFS))  # None where there is nothing to read yet, as only a report has it
        if start is None or (start and not found.st_size):
            raise ModelError(f"{path} is a report of the system, not a file: put the model's own file in its place.")
        if start == LFS and named:
            raise ModelError(
                f"{path} is a pointer of Git LFS, not the file: run `git lfs pull` there, or download the model again."
            )
    except OSError as error:
        if named:
            raise ModelError(_not_read(path, error)) from None


def _not_read(path: Path, error: OSError) -> str:
    if path.is_symlink() and error.errno == errno.ENOENT:
        return f"{path} is a link to a file that is not there: download the model again."
    return f"{path} cannot be read ({in_one_line(error)})."


def read_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a regular file of at most `max_bytes`. Raises ModelError."""
    _check_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ModelError(_not_read(path, error)) from None
    if len(data) > max_bytes:
        raise ModelError(f"{path} is larger than {max_bytes // 1_000_000} MB, which no such file is.")
    return parse_object(path, data)


def parse_object(where: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises ModelError naming `where`."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is not valid JSON ({_json_fault(error)}).") from None
    if not isinstance(value, dict):
        raise ModelError(f"{where} must hold a JSON object.")
    return value


def _json_fault(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return in_one_line(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


def check_texts(directory: Path) -> None:
    """Raises ModelError at the first of a target's small files that its readers would pass over or trip on."""
    for name in OBJECTS:
        if (directory / name).exists():
            fields = read_object(directory / name)
            if name == "generation_config.json":
                check_stop_ids(directory / name, fields.get("eos_token_id"))
    for path in (*directory.glob("*.jinja"), *directory.glob(f"{TEMPLATES}/*.jinja"), directory / "merges.txt"):
        if path.exists():
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ModelError(f"{path} is no text (byte {error.start} is no UTF-8).") from None
            except OSError as error:
                raise ModelError(_not_read(path, error)) from None


def check_stop_ids(where: Path, value: Any) -> None:
    """Raises ModelError unless an eos_token_id is a token id, a list of them, or none."""
    ids = [i for i in (value if isinstance(value, list) else [value]) if i is not None]
    if not all(type(i) is int and 0 <= i < 1 << 31 for i in ids):
        raise ModelError(f"{where}: eos_token_id must be a token id or a list of them.")


def build_error(directory: Path, tensors: Mapping[str, Any], error: Exception) -> ModelError:
    """What to say where mlx-lm cannot build a model, with the file that it is about. tensors: as `read_headers` has
    them"""
    message = in_one_line(error, 300)
    words = [w.strip(".,:") for w in message.split()]
    named = next((w for w in words if "." in w and w.replace("_", "").replace(".", "").isalnum()), "")
    file = tensors[named].file if named in tensors else directory / "model*.safetensors"
    if message.startswith(("[load", "[json", "[safe")):  # MLX's own reader of files
        return ModelError(f"{file} cannot be read: {message}.")
    if "arameter" in message and (named in tensors or "Missing" in message or "not in model" in message):
        return ModelError(f"{file} does not fit {directory / 'config.json'}: {message}.")
    return ModelError(f"{directory / 'config.json'} does not describe a model that can be built: {message}.")


def tokenizer_error(directory: Path, error: BaseException, load: Callable[[Path], object]) -> ModelError:
    """What to say of a directory whose tokenizer `load` cannot load, with the file that it is about: the one without
    which it can, else tokenizer.json or what stands in its place."""
    words = in_one_line(error)
    heart = next((n for n in ("tokenizer.json", "tokenizer.model", "vocab.json") if (directory / n).exists()), "")
    if heart == "tokenizer.json" and (alone := _fault_alone(directory / heart)):
        return ModelError(f"{directory / heart}: the tokenizer cannot be loaded ({alone}).")
    suspects = [n for n in (*BLAMED, "chat_template.jinja", "chat_template.json", TEMPLATES, "config.json")]
    for name in suspects:
        if name != heart and (directory / name).exists() and _loads_without(directory, name, load):
            return ModelError(f"{directory / name}: the tokenizer cannot be loaded with it ({words}).")
    return ModelError(f"{directory / heart}: the tokenizer cannot be loaded ({words}).")


def _fault_alone(path: Path) -> str:
    """What is wrong with a tokenizer.json in itself; empty if nothing is."""
    from tokenizers import Tokenizer

    try:
        parse_object(path, path.read_bytes())
        Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except ModelError as error:
        return str(error).removeprefix(f"{path} ").rstrip(".")
    except BaseException as error:  # its library panics with one
        return in_one_line(error)
    return ""


def _loads_without(directory: Path, name: str, load: Callable[[Path], object]) -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        try:
            for path in directory.iterdir():
                if path.name != name:
                    (Path(temporary) / path.name).symlink_to(path.resolve())
            load(Path(temporary))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return False
        return True
