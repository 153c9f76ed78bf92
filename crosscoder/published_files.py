"""Published crosscoders on disk: which layout a folder holds, and its tensors and config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from crosscoder.checkpoints import WEIGHTS_NAME
from crosscoder.errors import InputError
from crosscoder.limits import parse_json, read_bytes

Layout = Literal["difflens", "dictionary_learning", "ckkissane"]

_COMPILED = "_orig_mod."
_CHECKPOINT = re.compile(r"checkpoint_(\d+)\.pt")


@dataclass(frozen=True)
class PublishedFiles:
    """What was read of a published crosscoder, names and shapes as they were stored."""

    path: Path
    """The weights file."""
    layout: Layout
    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    """Merged JSON next to the weights; empty where there is none."""


def weights_file(path: Path) -> Path:
    """The weights file of a folder, or `path` itself where it is a file.

    InputError where a folder holds none of the known names.
    """
    if path.is_file():
        return path
    for name in (WEIGHTS_NAME, "model.safetensors", "cc_weights.pt", "model_final.pt"):
        if (path / name).is_file():
            return path / name
    steps = {
        int(match.group(1)): file
        for file in path.glob("checkpoint_*.pt")
        if (match := _CHECKPOINT.fullmatch(file.name))
    }
    if steps:
        return steps[max(steps)]
    raise InputError(
        f"crosscoder.path: {path} holds no crosscoder; expected {WEIGHTS_NAME}, model.safetensors, "
        "cc_weights.pt, model_final.pt or checkpoint_STEP.pt"
    )


def read_published(path: Path) -> PublishedFiles:
    """Read the weights and the JSON next to them; nothing in them is executed.

    InputError where a file is damaged, is a pickle of more than tensors, or of no known layout.
    """
    weights = weights_file(path)
    if weights.name == WEIGHTS_NAME:
        return PublishedFiles(weights, "difflens", {}, {})
    tensors = _tensors(weights)
    return PublishedFiles(weights, _layout(tensors, weights), tensors, _config(weights.parent))


def _tensors(weights: Path) -> dict[str, torch.Tensor]:
    if weights.suffix == ".safetensors":
        try:
            tensors: dict[str, torch.Tensor] = load_file(weights)
            return tensors
        except Exception as error:
            raise InputError(f"{weights}: no readable safetensors file ({error})") from None
    try:
        loaded = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        # What a damaged or hostile archive makes the reader raise has no end of types.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{weights}: no file of tensors alone ({reason}); it is never read as a program"
        ) from None
    if not isinstance(loaded, dict):
        raise InputError(f"{weights}: holds no tensors by name")
    tensors = {
        str(name).removeprefix(_COMPILED): value
        for name, value in loaded.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise InputError(f"{weights}: holds no tensors by name")
    return tensors


def _layout(tensors: Mapping[str, torch.Tensor], weights: Path) -> Layout:
    if {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"} <= set(tensors):
        return "dictionary_learning"
    if {"W_enc", "W_dec", "b_enc", "b_dec"} <= set(tensors):
        return "ckkissane"
    raise InputError(
        f"{weights}: no known layout of a crosscoder; its tensors are "
        f"{', '.join(sorted(tensors)[:6])}"
    )


def _config(folder: Path) -> dict[str, Any]:
    """config.json, trainer_config.json and cfg.json as one mapping, the first to name a key wins.

    The trainer's own table of a local run lies under `trainer`.
    """
    merged: dict[str, Any] = {}
    for name in ("config.json", "trainer_config.json", "cfg.json"):
        path = folder / name
        if not path.is_file():
            continue
        content = parse_json(read_bytes(path), path)
        if isinstance(content, dict):
            trainer = content.get("trainer")
            tables = [content, trainer if isinstance(trainer, dict) else {}]
            for table in tables:
                merged = dict(table) | merged
    return merged
