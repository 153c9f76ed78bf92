"""Latent scaling on disk: one safetensors file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crosscoder.errors import InputError
from crosscoder.integrity import DamagedFileError
from crosscoder.limits import parse_json
from crosscoder.scaling import LatentScaling, PairScaling
from crosscoder.tensor_files import read_sealed_tensors, write_sealed_tensors

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
    write_sealed_tensors(path, tensors, {"scaling": json.dumps(metadata)})


def load_scaling(path: Path) -> LatentScaling:
    """Read a scaling; InputError where the file is of another version, DamagedFileError where it
    is missing or not what was written.
    """
    remedy = "it is computed again by `isolate`"
    tensors, header = read_sealed_tensors(path, remedy)
    try:
        metadata: dict[str, Any] = parse_json(header["scaling"], path)
        version = metadata["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path}: format {version}, this version reads {FORMAT_VERSION}; {remedy}"
            )
        return _assemble(metadata, {name: tensor.numpy() for name, tensor in tensors.items()})
    except (KeyError, TypeError):
        raise DamagedFileError(path, remedy) from None


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
