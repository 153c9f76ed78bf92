"""Latent scaling on disk: one safetensors file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from crosscoder.errors import InputError
from crosscoder.files import write_tensors
from crosscoder.limits import parse_json
from crosscoder.scaling import LatentScaling, PairScaling

FORMAT_VERSION = 1
_SHARED = ("density", "n_documents")
_NAMES = ("target", "reference")
_COLUMNS = tuple(
    field.name
    for field in fields(LatentScaling)
    if field.name not in ("model_names", "n_tokens", "n_blocks", "pairs")
)
_PAIR_COLUMNS = tuple(
    field.name for field in fields(PairScaling) if field.name not in _NAMES + _SHARED
)


def save_scaling(scaling: LatentScaling, path: Path) -> None:
    """Write the scaling whole; WorkError where the disk is full.

    Keys are the names of the columns of LatentScaling, and `pair/T/R/column` with the positions
    T and R of target and reference in the metadata's model_names.
    """
    arrays = {name: getattr(scaling, name) for name in _COLUMNS}
    for (target, reference), pair in scaling.pairs.items():
        prefix = _prefix(scaling.model_names, target, reference)
        arrays |= {f"{prefix}{name}": getattr(pair, name) for name in _PAIR_COLUMNS}
    metadata = {
        "format_version": FORMAT_VERSION,
        "model_names": list(scaling.model_names),
        "n_tokens": scaling.n_tokens,
        "n_blocks": scaling.n_blocks,
        "space": "normalised",
        "activation": "thresholded, unscaled",
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    write_tensors(path, tensors, metadata={"scaling": json.dumps(metadata)})


def load_scaling(path: Path) -> LatentScaling:
    """Read a scaling; InputError where the file is missing, damaged or of another version."""
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, Any] = parse_json(file.metadata()["scaling"], path)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = metadata["format_version"]
        scaling = _assemble(metadata, arrays) if found == FORMAT_VERSION else None
    except Exception as error:
        raise InputError(f"{path}: missing or damaged; isolate again") from error
    if scaling is None:
        raise InputError(
            f"{path}: format {found}, this version reads {FORMAT_VERSION}; isolate again"
        )
    return scaling


def _assemble(metadata: dict[str, Any], arrays: dict[str, Any]) -> LatentScaling:
    names = tuple(metadata["model_names"])
    columns = {name: arrays[name] for name in _COLUMNS}
    shared = {name: columns[name] for name in _SHARED}
    pairs = {}
    for target in names:
        for reference in names:
            if target == reference:
                continue
            prefix = _prefix(names, target, reference)
            own = {name: arrays[f"{prefix}{name}"] for name in _PAIR_COLUMNS}
            pairs[target, reference] = PairScaling(
                target=target, reference=reference, **own, **shared
            )
    return LatentScaling(
        model_names=names,
        n_tokens=metadata["n_tokens"],
        n_blocks=metadata["n_blocks"],
        pairs=pairs,
        **columns,
    )


def _prefix(names: tuple[str, ...], target: str, reference: str) -> str:
    return f"pair/{names.index(target)}/{names.index(reference)}/"
