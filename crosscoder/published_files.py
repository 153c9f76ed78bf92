"""Published crosscoders on disk: the layout of a folder, its tensors and config, and folding.

Other tools' classes cannot say all of what a crosscoder is here: a scale per model, or a selection
weight n_j that no longer follows from the decoder once that scale is part of it. Folding moves both
into the weights. With z^m = (x^m - mean^m) / s_m and v_j = a_j n_j,

    encoder_j^m = n_j / s_m W_enc_j^m
    decoder_j^m = s_m / n_j W_dec_j^m
    encoder bias_j = n_j (b_enc_j - sum_m <mean^m, W_enc_j^m> / s_m)
    decoder bias^m = s_m b_dec^m + mean^m

so the activation of the folded crosscoder is v_j, the same theta selects the same latents, and the
reconstruction is that of raw activations. `UNFOLDING_NAME` keeps what undoes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from crosscoder.checkpoints import WEIGHTS_NAME, require_finite, require_positive
from crosscoder.errors import InputError
from crosscoder.files import sha256_file
from crosscoder.limits import parse_json, read_bytes
from crosscoder.model import Crosscoder
from crosscoder.tensor_files import read_sealed_tensors, write_sealed_tensors

Layout = Literal["difflens", "dictionary_learning", "ckkissane"]

_COMPILED = "_orig_mod."
_CHECKPOINT = re.compile(r"checkpoint_(\d+)\.pt")
UNFOLDING_NAME = "difflens_unfolding.safetensors"


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


@dataclass(frozen=True)
class Weights:
    """Weights of a crosscoder in this package's orientation."""

    w_enc: torch.Tensor
    """(M, d, F)."""
    w_dec: torch.Tensor
    """(F, M, d)."""
    b_enc: torch.Tensor
    """(F,)."""
    b_dec: torch.Tensor
    """(M, d)."""


@dataclass(frozen=True)
class Unfolding:
    """What folding moved into the weights."""

    mean: torch.Tensor
    """(M, d)."""
    scale: torch.Tensor
    """(M,) positive."""
    code_norms: torch.Tensor
    """(F,) n_j; a latent of 0 is never selected, and its weights are lost."""
    code_norm: str
    """Kind of n_j, as in `CrosscoderConfig.code_norm`."""


def weights_of(crosscoder: Crosscoder) -> Weights:
    """The weights as they are, on the CPU."""
    parts = (crosscoder.W_enc, crosscoder.W_dec, crosscoder.b_enc, crosscoder.b_dec)
    return Weights(*(part.detach().cpu() for part in parts))


@torch.no_grad()
def folded(crosscoder: Crosscoder) -> tuple[Weights, Unfolding]:
    """Float32 weights for raw activations with n_j = 1, and what undoes that."""
    unfolding = Unfolding(
        crosscoder.act_mean.detach().cpu().float(),
        crosscoder.act_scale.detach().cpu().float(),
        crosscoder.code_norms().detach().cpu().float(),
        crosscoder.config.code_norm,
    )
    own = weights_of(crosscoder)
    mean, scale, norms = _double(unfolding)
    encoder = own.w_enc.double() / scale[:, None, None]
    bias = own.b_enc.double() - torch.einsum("md,mdf->f", mean, encoder)
    decoder = own.w_dec.double() * scale[None, :, None] * _inverse(norms)[:, None, None]
    return Weights(
        (encoder * norms).float(),
        decoder.float(),
        (bias * norms).float(),
        (own.b_dec.double() * scale[:, None] + mean).float(),
    ), unfolding


@torch.no_grad()
def unfolded(weights: Weights, unfolding: Unfolding) -> Weights:
    """The weights before `folded`, up to float32's rounding."""
    mean, scale, norms = _double(unfolding)
    inverse = _inverse(norms)
    encoder = weights.w_enc.double() * inverse
    bias = weights.b_enc.double() * inverse + torch.einsum("md,mdf->f", mean, encoder)
    decoder = weights.w_dec.double() / scale[None, :, None] * norms[:, None, None]
    return Weights(
        (encoder * scale[:, None, None]).float(),
        decoder.float(),
        bias.float(),
        ((weights.b_dec.double() - mean) / scale[:, None]).float(),
    )


def write_unfolding(directory: Path, unfolding: Unfolding, weights_file: Path) -> None:
    """Write what undoes the folding of a weights file; WorkError where the disk is full."""
    tensors = {
        "act_mean": unfolding.mean,
        "act_scale": unfolding.scale,
        "code_norms": unfolding.code_norms,
    }
    metadata = {"code_norm": unfolding.code_norm, "weights_sha256": sha256_file(weights_file)}
    write_sealed_tensors(directory / UNFOLDING_NAME, tensors, metadata)


def read_unfolding(weights_file: Path, weights: Weights, notes: list[str]) -> Unfolding | None:
    """What undoes the folding of a weights file, from the file next to it; None without one.

    One that belongs to other weights is left aside with a note: the weights need none to give the
    same activations. InputError where it is damaged.
    """
    path = weights_file.with_name(UNFOLDING_NAME)
    if not path.is_file():
        return None
    remedy = f"remove it to read {weights_file.name} as it stands, or export again"
    tensors, metadata = read_sealed_tensors(path, remedy)
    if metadata.get("weights_sha256") != sha256_file(weights_file):
        notes.append(f"{path.name} belongs to other weights than {weights_file.name}: not used")
        return None
    n_models, d_model, n_latents = weights.w_enc.shape
    shapes = {"act_mean": (n_models, d_model), "act_scale": (n_models,), "code_norms": (n_latents,)}
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            raise InputError(f"{path}: {name} is not of shape {shape}; {remedy}")
    require_finite(tensors, path, remedy)
    require_positive("act_scale", tensors["act_scale"], path, remedy)
    mean, scale, norms = (tensors[name] for name in shapes)
    return Unfolding(mean, scale, norms, metadata.get("code_norm", ""))


def _double(unfolding: Unfolding) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return unfolding.mean.double(), unfolding.scale.double(), unfolding.code_norms.double()


def _inverse(norms: torch.Tensor) -> torch.Tensor:
    return torch.where(norms > 0, 1 / norms, 0.0)
