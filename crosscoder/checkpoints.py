"""Files of a crosscoder and of a training that goes on: written whole, verified when read.

A file whose numbers cannot be right is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file

from crosscoder.errors import InputError
from crosscoder.files import (
    DamagedFileError,
    read_json_object,
    sha256_file,
    unsealed,
    write_sealed_json,
)
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.tensor_files import (
    TENSOR_FILE_ERRORS,
    read_sealed_tensors,
    write_sealed_tensors,
    write_tensors,
)

logger = logging.getLogger(__name__)


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Which tensor holds how many NaN or Inf, in words; None where all numbers are finite."""
    for name, tensor in tensors.items():
        n_bad = int((~torch.isfinite(tensor)).sum())
        if n_bad:
            return f"{name} holds {n_bad:,} of {tensor.numel():,} numbers that are NaN or Inf"
    return None


def require_finite(tensors: Mapping[str, torch.Tensor], path: Path, remedy: str) -> None:
    """InputError, which names file and tensor, where a number is NaN or Inf."""
    problem = not_finite(tensors)
    if problem is not None:
        raise InputError(f"{path}: {problem}; {remedy}")


def require_positive(name: str, tensor: torch.Tensor, path: Path, remedy: str) -> None:
    """InputError where a scale is zero or negative: activations are divided by it."""
    n_bad = int((tensor <= 0).sum())
    if n_bad:
        raise InputError(
            f"{path}: {name} holds {n_bad:,} of {tensor.numel():,} scales that are not positive; "
            f"{remedy}"
        )


WEIGHTS_NAME = "crosscoder.safetensors"
CONFIG_NAME = "config.json"
SCHEMA_VERSION = 1


class CrosscoderFile(BaseModel):
    """The content of `config.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    weights_sha256: str
    """Hash of the weights file that belongs to this config."""
    theta: float | None
    """Selection threshold on v = a * n; null while not calibrated. The weights hold it too."""
    crosscoder: CrosscoderConfig
    provenance: dict[str, Any]
    """What the crosscoder was made from, as the caller recorded it."""


def save_crosscoder(
    crosscoder: Crosscoder, directory: Path, provenance: Mapping[str, Any]
) -> CrosscoderFile:
    """Write both files, each whole, the config last; WorkError where the disk is full.

    `provenance` must be JSON.
    """
    weights = directory / WEIGHTS_NAME
    write_tensors(weights, crosscoder_tensors(crosscoder))
    header = CrosscoderFile(
        schema_version=SCHEMA_VERSION,
        weights_sha256=sha256_file(weights),
        theta=float(crosscoder.theta) if crosscoder.calibrated else None,
        crosscoder=crosscoder.config,
        provenance=dict(provenance),
    )
    write_sealed_json(directory / CONFIG_NAME, header.model_dump(mode="json"), indent=2)
    return header


def load_crosscoder(directory: Path) -> Crosscoder:
    """Read a crosscoder; InputError names a file that is missing, damaged or does not fit."""
    header = require_whole_crosscoder(directory)
    path = directory / WEIGHTS_NAME
    try:
        tensors = load_file(path)
    except TENSOR_FILE_ERRORS as error:
        raise InputError(f"{path}: no readable safetensors file ({error})") from None
    crosscoder = Crosscoder(header.crosscoder)
    fill_crosscoder(crosscoder, tensors, path)
    return crosscoder


def require_whole_crosscoder(directory: Path) -> CrosscoderFile:
    """The content of `config.json`, once both files are known to be what was written.

    DamagedFileError names the one that is not, InputError a config of another version.
    """
    header = read_crosscoder_file(directory)
    path = directory / WEIGHTS_NAME
    if not path.is_file():
        raise DamagedFileError(path, f"train again or copy it next to {CONFIG_NAME}")
    if sha256_file(path) != header.weights_sha256:
        raise DamagedFileError(path, f"it does not belong to {CONFIG_NAME} next to it; train again")
    return header


def read_crosscoder_file(directory: Path) -> CrosscoderFile:
    """Read and check `config.json` alone; InputError where it is missing or damaged."""
    path, remedy = directory / CONFIG_NAME, "train again"
    if not path.is_file():
        raise InputError(f"{path}: holds no crosscoder; train one first")
    raw = read_json_object(path, remedy)
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema_version {version!r}; this version reads {SCHEMA_VERSION}")
    try:
        return CrosscoderFile.model_validate(unsealed(path, raw, remedy))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}: {first['msg']}") from None


def crosscoder_tensors(crosscoder: Crosscoder) -> dict[str, torch.Tensor]:
    """W_enc (M,d,F), W_dec (F,M,d), b_enc (F,), b_dec (M,d), theta (), act_mean, act_scale."""
    return {name: tensor.detach() for name, tensor in crosscoder.state_dict().items()}


@torch.no_grad()
def fill_crosscoder(
    crosscoder: Crosscoder, tensors: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Copy stored tensors into a crosscoder.

    InputError names one that is missing, misshapen, not finite, or a scale that is not positive.
    """
    remedy = "train again"
    require_finite(tensors, path, remedy)
    own = crosscoder.state_dict()
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise InputError(f"{path}: unknown tensor {unknown[0]}; not a crosscoder of this version")
    for name, target in own.items():
        stored = tensors.get(name)
        if stored is None:
            raise InputError(f"{path}: tensor {name} is missing; train again")
        if stored.shape != target.shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(stored.shape)}, "
                f"{CONFIG_NAME} asks for {tuple(target.shape)}"
            )
        if stored.dtype != target.dtype:
            raise InputError(f"{path}: {name} is {stored.dtype}, not {target.dtype}")
        target.copy_(stored)
    require_positive("act_scale", own["act_scale"], path, remedy)


CHECKPOINTS_KEPT = 2
"""The newest checkpoints of a training that are kept."""
_PATTERN = "step-*.safetensors"


class TrainingCheckpoints:
    """The newest checkpoints of one run: single safetensors files that appear whole.

    A file belongs to the run whose `run_key` is in its header, with the hash of its content.
    """

    def __init__(self, directory: Path, run_key: str) -> None:
        self._directory = directory
        self._run_key = run_key

    def write(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        """Store a step and forget all but the newest; WorkError where the disk is full."""
        path = self._directory / f"step-{step:09d}.safetensors"
        write_sealed_tensors(path, tensors, {"run_key": self._run_key, "step": str(step)})
        for old in self._files()[CHECKPOINTS_KEPT:]:
            old.unlink()

    def newest(self) -> dict[str, torch.Tensor] | None:
        """Tensors of the newest whole checkpoint of this run, or None.

        One that is damaged, or holds a number that is not finite, is named and passed over.
        """
        for path in self._files():
            try:
                tensors, header = read_sealed_tensors(path, "the checkpoint before it is used")
            except DamagedFileError as error:
                logger.warning("%s", error)
                continue
            if header.get("run_key") != self._run_key:
                logger.warning("%s: of another configuration, not used", path)
                continue
            problem = not_finite(tensors)
            if problem is None:
                return tensors
            logger.warning("%s: %s; the checkpoint before it is used", path, problem)
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in self._files():
            path.unlink()
        if self._directory.is_dir():
            self._directory.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(_PATTERN), reverse=True)
