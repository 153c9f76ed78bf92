"""PEFT adapters: checked before they are read, then merged into the weights they change."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscoder import limits
from crosscoder.errors import InputError
from crosscoder.model_checks import (
    check_weight_file,
    read_config,
    read_header,
    reading,
    require_content,
    require_quick_patterns,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_NAME = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""In the order in which PEFT looks for them."""
_NOT_MERGED = frozenset(
    {"ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "MULTITASK_PROMPT_TUNING", "POLY",
     "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "SHADOW", "XLORA"}
)  # fmt: skip
"""Types that add tokens or modules to a model, or choose among adapters for every input."""
_SIZE_KEYS = re.compile(r"(^|_)(r|rank|rank_pattern|size|dim|n_frequency|num_vectors|length)$")
_TEMPLATES = {
    "target_modules": "(?:{})",
    "exclude_modules": "(?:{})",
    "modules_to_save": r"(^|.*\.){}($|\..*)",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "rank_pattern": r"(.*\.)?({})$",
    "alpha_pattern": r"(.*\.)?({})$",
}
"""The regular expressions that PEFT makes of what an adapter's config holds."""


def adapter_files(folder: Path) -> list[Path]:
    """The files of an adapter's folder that PEFT reads."""
    weights = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    return [folder / CONFIG_NAME, *weights[:1]]


def base_of(where: str, folder: Path) -> str | None:
    """The name of the model that an adapter says it was made on."""
    base = read_config(where, folder / CONFIG_NAME).get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def merge_adapter(model: PreTrainedModel, where: str, folder: Path, base: str) -> PreTrainedModel:
    """Add the change that an adapter's folder holds to the weights of `model` themselves.

    `base` names the model in errors. InputError, which begins with `where`, for an adapter that is
    not whole, of a type that changes no weights, or made on another model.
    """
    from peft import PeftModel

    with reading(f"{where}: adapter {folder}", f"does not fit {base}"), warnings.catch_warnings():
        config = check_adapter(where, folder)
        names = [name for name, _ in model.named_modules()]
        require_quick_patterns(where, folder / CONFIG_NAME, _patterns(config), names)
        # PEFT only warns of weights it did not find, and would merge nothing.
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        # Without memory first: an absurd rank is then a shape that does not fit the file's.
        adapted = PeftModel.from_pretrained(model, str(folder), low_cpu_mem_usage=True)
        _require_all_used(where, folder, adapted, base)
        merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def check_adapter(where: str, folder: Path) -> dict[str, Any]:
    """Check an adapter's files, and give its config; InputError as for `merge_adapter`."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(
            f"{where}: adapter {folder} holds no adapter_config.json; "
            "give the folder of a PEFT adapter"
        )
    require_content(where, path)
    config = read_config(where, path)
    _require_known_kind(where, path, config)
    _require_sizes(where, path, config)
    weights = adapter_files(folder)[1:]
    if not weights:
        raise InputError(
            f"{where}: adapter {folder} holds no adapter_model.safetensors; fetch the whole adapter"
        )
    check_weight_file(where, weights[0])
    if weights[0].suffix == ".safetensors":
        for name, tensor in read_header(where, weights[0]).items():
            if not tensor.dtype.startswith(("F", "BF")) and "lora_" in name:
                raise InputError(
                    f"{where}: {weights[0]}: {name} is of type {tensor.dtype}; "
                    "save the adapter in float32, float16 or bfloat16"
                )
    return config


def _require_known_kind(where: str, path: Path, config: dict[str, Any]) -> None:
    """InputError for a type that cannot be merged, or a config that names code to import."""
    from peft import PeftType

    kind = str(config.get("peft_type"))
    if kind in _NOT_MERGED:
        raise InputError(
            f"{where}: adapter {path.parent} is of type {kind}, which is not merged into a model's "
            "weights; difflens reads those that are, such as LoRA"
        )
    if kind not in {known.value for known in PeftType}:
        raise InputError(
            f"{where}: {path}: peft_type {kind[:100]!r} is not known to the installed peft; "
            "upgrade peft, or merge the adapter into its model and give that folder"
        )
    if config.get("megatron_config"):
        raise InputError(
            f"{where}: {path} names a module to import (megatron_config), which difflens does not "
            "run; merge the adapter into its model and give that folder"
        )


def _require_sizes(where: str, path: Path, config: dict[str, Any]) -> None:
    for key, value in config.items():
        if _SIZE_KEYS.search(key):
            found = value.values() if isinstance(value, dict) else [value]
            numbers = [number for number in found if isinstance(number, int | float)]
            if any(not number <= limits.MAX_ADAPTER_RANK for number in numbers):
                raise InputError(
                    f"{where}: {path}: {key} is more than {limits.MAX_ADAPTER_RANK:,}; "
                    "fetch the adapter again"
                )
    copies = config.get("layer_replication") or []
    layers = sum(row[1] - row[0] for row in copies if _is_range(row))
    if not isinstance(copies, list) or layers > limits.MAX_LAYERS:
        raise InputError(
            f"{where}: {path}: layer_replication makes more than {limits.MAX_LAYERS:,} layers; "
            "fetch the adapter again"
        )


def _is_range(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(n, int) for n in row)


def _patterns(config: dict[str, Any]) -> Iterator[str]:
    """The regular expressions that PEFT will try on module names."""
    for key, template in _TEMPLATES.items():
        value = config.get(key) or []
        texts = [value] if isinstance(value, str) else value
        # A list of these is names, not patterns.
        if key in ("target_modules", "exclude_modules") and not isinstance(value, str):
            continue
        yield from (template.format(text) for text in texts if isinstance(text, str))


def _require_all_used(where: str, folder: Path, adapted: Any, base: str) -> None:
    """InputError where an adapter holds changes of modules that its base does not have.

    PEFT leaves them out without a word: an adapter of a deeper model would be put on in part.
    """
    from peft import get_peft_model_state_dict

    weights = adapter_files(folder)[1]
    if weights.suffix != ".safetensors":
        return
    held = set(read_header(where, weights))
    taken = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # A library that reads older names gives others than the file has, and misses none.
    unused = sorted(name for name in held - taken if ".lora_" in name)
    if unused and taken <= held:
        raise InputError(
            f"{where}: adapter {folder} does not fit {base}, which has no place for "
            f"{', '.join(unused[:3])}; name the model that it was made on"
        )
