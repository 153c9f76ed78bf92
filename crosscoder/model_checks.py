"""What the files of a model folder must be before a library reads them or builds anything."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscoder import limits
from crosscoder.errors import InputError, WorkError

_LONGEST_REASON = 300
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


def load_pretrained(factory: Any, where: str, folder: Path, **options: Any) -> Any:
    """`factory.from_pretrained` of a local folder, without its code and without the network.

    Left to itself the library asks on the terminal whether to run the code.

    Raises InputError, which begins with `where`, for whatever the library makes of the folder,
    and WorkError where the model does not fit into memory.
    """
    with reading(f"{where}: {folder}"):
        return factory.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, **options
        )


@contextmanager
def reading(what: str, problem: str = "cannot be loaded") -> Iterator[None]:
    """Turn whatever is raised while a library reads the files of `what` into one line.

    By place and not by type: what the libraries raise of a broken file differs between them and
    changes with every version. Raises InputError, "`what` `problem`: the library's words", and
    WorkError where memory is short.
    """
    try:
        with without_bars():
            yield
    except (InputError, WorkError):
        raise
    except MemoryError as error:
        raise _too_large(what) from error
    except Exception as error:
        if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise _too_large(what) from error
        raise _complaint(what, problem, error) from error
    except BaseException as error:
        # tokenizers and safetensors are written in Rust, whose panics are no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise _complaint(what, problem, error) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the library's own progress bars off the terminal."""
    from transformers.utils import logging as library_logging

    enabled = library_logging.is_progress_bar_enabled()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            library_logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """What an error says, on one line of bounded length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}..."


def _complaint(what: str, problem: str, error: BaseException) -> InputError:
    if "trust_remote_code" in str(error):
        return InputError(
            f"{what} needs code of its own, which difflens does not run; "
            "give a model whose architecture and tokenizer transformers itself knows"
        )
    return InputError(f"{what} {problem}: {one_line(error)}")


def _too_large(what: str) -> WorkError:
    return WorkError(
        f"{what} does not fit into memory; free some, use a narrower dtype, or a machine with more"
    )


_QUICK = re.compile(r"[\w.|\-]*")
"""Patterns of names and alternatives alone, which never take long."""
_MATCH_ALL = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    compiled = re.compile(pattern)
    for name in names:
        compiled.match(name), compiled.fullmatch(name)
"""


def require_quick_patterns(
    where: str, path: Path, patterns: Iterable[str], names: Iterable[str]
) -> None:
    """InputError where the regular expressions of a file are none, or take long on these names.

    They are tried in a process that can be ended: a pattern such as (a+)+$ takes years.
    """
    doubtful = [pattern for pattern in patterns if not _QUICK.fullmatch(pattern)]
    if not doubtful:
        return
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _MATCH_ALL],
            input=json.dumps([doubtful, list(names)]),
            text=True,
            capture_output=True,
            timeout=limits.MAX_PATTERN_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{where}: {path}: its patterns take longer than {limits.MAX_PATTERN_SECONDS:g} s on "
            "the names of the model's modules; list the names instead"
        ) from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:]
        raise InputError(
            f"{where}: {path}: holds no valid pattern: {' '.join(last)[:300]}"
        ) from None


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_CONFIGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which transformers looks for them."""
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_LFS_POINTER = b"version https://git-lfs"
_SIZES = (
    (re.compile(r"(^|_)(layers?|blocks?|depths?|block_count)$"), limits.MAX_LAYERS),
    (re.compile(r"experts?(_count)?$"), limits.MAX_EXPERTS),
    (
        re.compile(
            r"(size|dim|heads?|head_count|embd|inner|model|width|rank|positions?|embeddings|ctx"
            r"|groups?|_length)$"
        ),
        limits.MAX_MODEL_SIZE,
    ),
)
"""Keys of a config by which something is built, and the largest value of each."""
_FEW_WEIGHTS = 2**22
"""Weights that any model may have, whatever its files: no machine minds them."""


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds any tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def check_small_files(where: str, folder: Path) -> None:
    """Check a model's config and tokenizer files.

    InputError, which begins with `where`, for one that is only a pointer to the file, too large,
    no JSON, nested too deeply, or asks for a model of absurd size.
    """
    for name in (*_CONFIGS, *_VOCABULARIES):
        path = folder / name
        if path.is_file():
            require_content(where, path)
            if name in _CONFIGS and path.suffix == ".json":
                config = read_config(where, path)
                if name == "config.json":
                    check_config(where, path, config)
            else:
                require_size(where, path, limits.MAX_TEXT_BYTES)


def require_content(where: str, path: Path) -> None:
    """InputError where a file is the pointer that git keeps in place of a large one."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise InputError(
                f"{where}: {path} is a git-lfs pointer and not the file; "
                "run `git lfs pull` in its folder, or fetch the model again"
            )


def require_size(where: str, path: Path, largest: int) -> None:
    """InputError where a file is larger than what is read whole."""
    if path.stat().st_size > largest:
        raise InputError(f"{where}: {path} is larger than {largest:,} bytes; fetch it again")


def read_config(where: str, path: Path) -> dict[str, Any]:
    """The object of a JSON file of bounded size and depth; InputError where it is none."""
    require_size(where, path, limits.MAX_MODEL_CONFIG_BYTES)
    content = limits.read_bytes(path)
    value = limits.parse_json(content, f"{where}: {path}", any_number=True)
    if not isinstance(value, dict):
        raise InputError(f"{where}: {path} holds no JSON object; fetch the model again")
    return value


def check_config(where: str, path: Path, config: dict[str, Any]) -> None:
    """InputError where a config or one inside it asks for more than any model has, or for code."""
    largest = {limits.MAX_LAYERS: 0.0, limits.MAX_EXPERTS: 0.0}
    for key, value in _values(config):
        if isinstance(value, str):
            _require_no_kernels(where, path, key, value)
            continue
        limit = next((limit for pattern, limit in _SIZES if pattern.search(key)), None)
        if limit is not None and not value <= limit:
            raise InputError(
                f"{where}: {path}: {key} = {str(value)[:40]} is more than {limit:,}; "
                "fix the config, or fetch the model again"
            )
        if limit in largest:
            largest[limit] = max(largest[limit], value)
    layers, experts = largest.values()
    if layers * experts > limits.MAX_EXPERT_BLOCKS:
        raise InputError(
            f"{where}: {path}: {layers:g} layers of {experts:g} experts are more than "
            f"{limits.MAX_EXPERT_BLOCKS:,} experts; fix the config, or fetch the model again"
        )


def _require_no_kernels(where: str, path: Path, key: str, value: str) -> None:
    """InputError where a config names a repository whose compiled code the library would run."""
    if key.endswith(("attn_implementation", "experts_implementation")) and "/" in value:
        raise InputError(
            f"{where}: {path}: {key} = {value[:100]!r} is code of the Hub, which difflens does not "
            "run; take the key out of the config"
        )


def _values(config: dict[str, Any]) -> Iterator[tuple[str, float | str]]:
    """The numbers and texts of a config by their keys, also those in lists and inner configs."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            inner = key.endswith("_implementation")
            waiting.extend((key if inner else name, item) for name, item in value.items())
        elif isinstance(value, list):
            waiting.extend((key, item) for item in value)
        elif isinstance(value, int | float | str) and not isinstance(value, bool):
            yield key, value


def weight_files(where: str, folder: Path) -> list[str]:
    """Names of the files that hold a model's weights, as transformers would choose them.

    Files that an index names may be missing; without any weights the list is empty. InputError
    where an index is damaged or names files outside of the folder, or where the weights are a
    distributed checkpoint.
    """
    if any(_DISTRIBUTED.fullmatch(path.name) for path in folder.iterdir()):
        raise InputError(
            f"{where}: {folder} holds a distributed checkpoint; "
            "save the model with save_pretrained, and give that folder"
        )
    named = None
    if (folder / "config.json").is_file():
        named = read_config(where, folder / "config.json").get("transformers_weights")
    if named is not None:
        _require_inside(where, folder / "config.json", named)
        candidates: tuple[str, ...] = (named,)
    else:
        candidates = _WEIGHTS
    for name in candidates:
        if (folder / name).is_file():
            return _files_of_index(where, folder / name) if name.endswith(".index.json") else [name]
    return []


def _files_of_index(where: str, index: Path) -> list[str]:
    require_content(where, index)
    places = read_config(where, index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{where}: {index} holds no weight_map; fetch the model again")
    for name in places.values():
        _require_inside(where, index, name)
    return sorted(set(places.values()))


def _require_inside(where: str, path: Path, name: object) -> None:
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"{where}: {path} names the weights {str(name)[:100]!r}, which is no file of its "
            "folder; fetch the model again"
        )


def check_weights(where: str, folder: Path) -> int:
    """Check that a model's weights are whole, and give their size in bytes.

    InputError names the file that is missing, a pointer, cut off or damaged.
    """
    names = weight_files(where, folder)
    if not names:
        raise InputError(
            f"{where}: {folder} holds no weights (model.safetensors); fetch the whole model"
        )
    return sum(check_weight_file(where, folder / name) for name in names)


def check_weight_file(where: str, path: Path) -> int:
    """Check one file of weights, and give its size in bytes; InputError as for `check_weights`."""
    if not path.is_file():
        raise InputError(f"{where}: {path} is missing; fetch the whole model")
    require_content(where, path)
    if path.suffix == ".safetensors":
        read_header(where, path)
    return path.stat().st_size


@dataclass(frozen=True)
class TensorRecord:
    """What the header of a safetensors file says of one tensor."""

    dtype: str
    """As the format names it: F32, BF16, I64, ..."""
    shape: tuple[int, ...]


def read_header(where: str, path: Path) -> dict[str, TensorRecord]:
    """The tensors of a safetensors file by name; InputError where the file is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 0 < length <= min(limits.MAX_HEADER_BYTES, size - 8):
            raise _damage_error(where, path, "it has no safetensors header")
        content = file.read(length)
    header = limits.parse_json(content, f"{where}: {path}: its header")
    if not isinstance(header, dict):
        raise _damage_error(where, path, "it has no safetensors header")
    tensors = {name: row for name, row in header.items() if name != "__metadata__"}
    try:
        end = max((int(row["data_offsets"][1]) for row in tensors.values()), default=0)
        found = {
            name: TensorRecord(str(row["dtype"]), tuple(int(n) for n in row["shape"]))
            for name, row in tensors.items()
        }
    except (KeyError, IndexError, TypeError, ValueError):
        raise _damage_error(where, path, "its safetensors header is damaged") from None
    if size < 8 + length + end:
        raise _damage_error(where, path, f"it is cut off at {size:,} of {8 + length + end:,} bytes")
    return found


def _damage_error(where: str, path: Path, what: str) -> InputError:
    return InputError(f"{where}: {path} is damaged: {what}; fetch it again")


def check_size(where: str, folder: Path, factory: Any, config: Any, n_bytes: int) -> None:
    """Compare what a config asks for with what the weights' files hold, before memory is taken.

    The factory builds the model without memory ("meta") for it. InputError where it asks for far
    more, cannot be built, or holds patterns that take too long on the names of its modules.
    """
    import torch

    with reading(f"{where}: {folder}"), torch.device("meta"):
        model = factory.from_config(copy.deepcopy(config), trust_remote_code=False)
        require_quick_patterns(
            where,
            folder / "config.json",
            _quantization_patterns(config),
            [name for name, _ in model.named_modules()],
        )
    weights = sum(parameter.numel() for parameter in model.parameters())
    held = limits.MAX_WEIGHTS_PER_BYTE * n_bytes + _FEW_WEIGHTS
    if weights > held:
        raise InputError(
            f"{where}: {folder}: its config asks for {weights:,} weights, and its files hold "
            f"{n_bytes:,} bytes; fetch the whole model, or fix its config.json"
        )
    buffers = sum(buffer.numel() for buffer in model.buffers())
    if buffers > held + limits.MAX_BUFFER_ELEMENTS:
        raise InputError(
            f"{where}: {folder}: its config asks for masks and position tables of {buffers:,} "
            "numbers; fix its config.json"
        )


def _quantization_patterns(config: Any) -> Iterator[str]:
    """The regular expressions that the library makes of a config of quantised weights."""
    settings = getattr(config, "quantization_config", None)
    if isinstance(settings, dict):
        for key in ("modules_to_not_convert", "llm_int8_skip_modules"):
            names = settings.get(key)
            for name in names if isinstance(names, list) else []:
                yield rf"(?:{name})(\.|$)"
