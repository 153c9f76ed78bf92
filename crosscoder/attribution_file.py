"""The file that keeps the attribution of the directions of a pair of models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from crosscoder.attribution import Attribution, OutputGap
from crosscoder.errors import InputError
from crosscoder.files import DamagedFileError
from crosscoder.limits import parse_json
from crosscoder.tensor_files import read_sealed_tensors, write_sealed_tensors

FORMAT_VERSION = 1
_REMEDY = "it is computed again"
_COLUMNS = ("group", "latent", "closed", "magnitude", "line", "constant")
_GAP = ("n_tokens", "kl")


def attribution_tensors(attributions: Sequence[Attribution]) -> dict[str, torch.Tensor]:
    """`D/column` of the attribution of direction D."""
    tensors = {}
    for place, attribution in enumerate(attributions):
        columns = {name: getattr(attribution, name) for name in _COLUMNS}
        columns |= {name: getattr(attribution.gap, name) for name in _GAP}
        for name, values in columns.items():
            tensors[f"{place}/{name}"] = torch.from_numpy(np.ascontiguousarray(values))
    return tensors


def attributions_of(
    tensors: Mapping[str, torch.Tensor], n_directions: int, n_latents: int, scope: int
) -> tuple[Attribution, ...]:
    """What `attribution_tensors` made of them; KeyError where a column is missing."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return tuple(
        Attribution(
            gap=OutputGap(scope=scope, **{name: arrays[f"{place}/{name}"] for name in _GAP}),
            **{name: arrays[f"{place}/{name}"] for name in _COLUMNS},
            n_latents=n_latents,
        )
        for place in range(n_directions)
    )


def save_attributions(attributions: Sequence[Attribution], path: Path) -> None:
    """Write them whole; WorkError where the disk is full."""
    header = {
        "format_version": FORMAT_VERSION,
        "n_directions": len(attributions),
        "n_latents": attributions[0].n_latents,
        "scope": attributions[0].gap.scope,
    }
    write_sealed_tensors(
        path, attribution_tensors(attributions), {"attribution": json.dumps(header)}
    )


def load_attributions(path: Path) -> tuple[Attribution, ...]:
    """Read them; InputError where the file is of another version, DamagedFileError where it is
    missing or not what was written.
    """
    tensors, metadata = read_sealed_tensors(path, _REMEDY)
    try:
        header = parse_json(metadata["attribution"], path)
        if header["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path}: format {header['format_version']}, this version reads "
                f"{FORMAT_VERSION}; {_REMEDY}"
            )
        return attributions_of(
            tensors, header["n_directions"], header["n_latents"], header["scope"]
        )
    except (KeyError, TypeError):
        raise DamagedFileError(path, _REMEDY) from None
