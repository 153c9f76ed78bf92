"""Crosscoders in the layouts that others publish: read into this package, and written for them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crosscoder.checkpoints import load_crosscoder, require_finite, require_positive
from crosscoder.config import ACTIVATIONS
from crosscoder.errors import InputError
from crosscoder.files import write_text
from crosscoder.model import Crosscoder, CrosscoderConfig, Normaliser
from crosscoder.published_files import (
    UNFOLDING_NAME,
    Layout,
    PublishedFiles,
    Weights,
    folded,
    read_published,
    read_unfolding,
    unfolded,
    weights_of,
    write_unfolding,
)
from crosscoder.tensor_files import write_tensors

CODE_NORMS = {1: "sum_of_norms", 2: "concatenated", 4: "none"}
"""dictionary_learning's `code_normalization_id` by the name it has here."""
CODE_NORM_NAMES = {"sum_of_norms": "CROSSCODER", "concatenated": "SAE", "none": "NONE"}
"""What dictionary_learning's config.json calls it."""
_REFUSED_NORMS = {3: "MIXED", 5: "DECOUPLED"}
_NUMBERS = {CODE_NORM_NAMES[name]: number for number, name in CODE_NORMS.items()} | {
    name: number for number, name in _REFUSED_NORMS.items()
}
_VARIANCE_FLOOR = 1e-8
_MAY_BE_NAN = frozenset({"activation_mean", "activation_std", "activation_global_scale"})
"""NaN in the first two switches the normaliser off."""
_REMEDY = "choose another crosscoder, or have it written again"


@dataclass(frozen=True)
class PublishedCrosscoder:
    """A loaded crosscoder and what its file left open."""

    crosscoder: Crosscoder
    layout: Layout
    path: Path
    """The weights file."""
    notes: tuple[str, ...]
    """One line for everything that was assumed."""


def load_published(
    path: Path,
    model_names: Sequence[str],
    *,
    layer: int | None = None,
    tokenizer_sha256: str | None = None,
    scaling_factors: Sequence[float] | None = None,
    k: int | None = None,
) -> PublishedCrosscoder:
    """Load a crosscoder of any known layout; the order of `model_names` is that of its models.

    In the published layouts the base model comes first. `scaling_factors` multiply each model's
    activations: the ckkissane layout does not store them. `k` is needed where the file names none
    and theta is not set. InputError names what does not fit and the fix.
    """
    files = read_published(path)
    if files.layout == "difflens":
        crosscoder = load_crosscoder(files.path.parent)
        _check_names(crosscoder.config.n_models, model_names, files.path)
        changes = {"model_names": tuple(model_names)}
        crosscoder.config = crosscoder.config.model_copy(update=changes)
        return PublishedCrosscoder(crosscoder, files.layout, files.path, ())
    notes: list[str] = []
    weights = _ckkissane(files) if files.layout == "ckkissane" else _dictionary_learning(files)
    n_models, d_model, n_latents = weights.w_enc.shape
    _check_names(n_models, model_names, files.path)
    normaliser = _normaliser(files, n_models, d_model, scaling_factors, notes)
    code_norm = _code_norm(files, notes)
    unfolding = read_unfolding(files.path, weights, notes)
    if unfolding is not None and scaling_factors is None:
        weights, code_norm = unfolded(weights, unfolding), unfolding.code_norm
        normaliser = Normaliser(unfolding.mean, unfolding.scale)
    stored_k = files.tensors.get("k", files.config.get("k"))
    is_l1 = files.layout == "ckkissane" or (
        "threshold" not in files.tensors and stored_k is None and k is None
    )
    config = CrosscoderConfig(
        n_models=n_models,
        d_model=d_model,
        n_latents=n_latents,
        k=min(n_latents, 1 if is_l1 else _k(files, stored_k, k)),
        model_names=tuple(model_names),
        activation="l1" if is_l1 else "batch_topk",
        code_norm=code_norm,
        normalisation="none" if normaliser is None else "affine",
        layer=layer,
        tokenizer_sha256=tokenizer_sha256,
    )
    crosscoder = Crosscoder(config, normaliser=normaliser)
    _fill(crosscoder, weights, _partition(files, n_latents))
    crosscoder.theta.fill_(0.0 if is_l1 else _theta(files, notes))
    return PublishedCrosscoder(crosscoder, files.layout, files.path, tuple(notes))


def estimated_factors(batches: Iterable[torch.Tensor]) -> tuple[float, ...]:
    """sqrt(d) / mean norm of each model's raw activations (B, M, d), as ckkissane's buffer does.

    InputError where there are no tokens.
    """
    total, count, d_model = torch.zeros(0, dtype=torch.float64), 0, 0
    for batch in batches:
        norms = batch.double().norm(dim=-1).sum(0)
        total = norms if count == 0 else total + norms
        count, d_model = count + batch.shape[0], batch.shape[-1]
    if count == 0:
        raise InputError("crosscoder.scaling_factors: no token to estimate on; give more text")
    return tuple((math.sqrt(d_model) * count / total).tolist())


def _dictionary_learning(files: PublishedFiles) -> Weights:
    """encoder.weight (M, d, F), decoder.weight (M, F, d)."""
    tensors = files.tensors
    return _checked(
        files,
        tensors["encoder.weight"],
        tensors["decoder.weight"].transpose(0, 1),
        tensors["encoder.bias"],
        tensors["decoder.bias"],
    )


def _ckkissane(files: PublishedFiles) -> Weights:
    """W_enc (M, d, F), W_dec (F, M, d)."""
    tensors = files.tensors
    return _checked(files, tensors["W_enc"], tensors["W_dec"], tensors["b_enc"], tensors["b_dec"])


def _checked(
    files: PublishedFiles,
    w_enc: torch.Tensor,
    w_dec: torch.Tensor,
    b_enc: torch.Tensor,
    b_dec: torch.Tensor,
) -> Weights:
    sound = {name: each for name, each in files.tensors.items() if name not in _MAY_BE_NAN}
    require_finite(sound, files.path, _REMEDY)
    fits = w_enc.dim() == 3 and w_dec.dim() == 3
    if fits:
        n_models, d_model, n_latents = w_enc.shape
        fits = (
            w_dec.shape == (n_latents, n_models, d_model)
            and b_enc.shape == (n_latents,)
            and b_dec.shape == (n_models, d_model)
        )
    if not fits:
        shapes = ", ".join(str(tuple(t.shape)) for t in (w_enc, w_dec, b_enc, b_dec))
        raise InputError(f"{files.path}: shapes {shapes} are not those of one crosscoder")
    return Weights(w_enc.float(), w_dec.float(), b_enc.float(), b_dec.float())


def _check_names(n_models: int, model_names: Sequence[str], path: Path) -> None:
    if n_models != len(model_names):
        raise InputError(
            f"crosscoder.path: {path} was trained on {n_models} models, the study has "
            f"{len(model_names)} ({', '.join(model_names)}); name its models, in its order"
        )


def _scalar(files: PublishedFiles, name: str, stored: Any) -> float:
    """The one number that a tensor or a config entry holds."""
    tensor = torch.as_tensor(stored)
    if tensor.numel() != 1:
        raise InputError(
            f"{files.path}: {name} has shape {tuple(tensor.shape)}, one number is expected; "
            f"{_REMEDY}"
        )
    return float(tensor)


def _code_norm(files: PublishedFiles, notes: list[str]) -> Any:
    stored: Any = files.tensors.get("code_normalization_id")
    if stored is None:
        stored = _NUMBERS.get(str(files.config.get("code_normalization", "")).upper())
    if stored is None:
        if files.layout == "dictionary_learning":
            notes.append("no code_normalization_id in the file: the sum of norms is assumed")
        return "sum_of_norms"
    number = int(_scalar(files, "code_normalization_id", stored))
    if number not in CODE_NORMS:
        name = _REFUSED_NORMS.get(number, str(number))
        raise InputError(
            f"{files.path}: code normalisation {name} is not supported; choose a crosscoder "
            "trained with CROSSCODER, SAE or NONE"
        )
    return CODE_NORMS[number]


def _normaliser(
    files: PublishedFiles,
    n_models: int,
    d_model: int,
    scaling_factors: Sequence[float] | None,
    notes: list[str],
) -> Normaliser | None:
    """The map of raw activations that the crosscoder expects; None where it takes them raw."""
    if scaling_factors is not None:
        if len(scaling_factors) != n_models or min(scaling_factors) <= 0:
            raise InputError(
                f"crosscoder.scaling_factors: {list(scaling_factors)}; give {n_models} positive "
                "numbers, one per model"
            )
        factors = torch.tensor(list(scaling_factors), dtype=torch.float32)
        return Normaliser(torch.zeros(n_models, d_model), 1 / factors)
    if files.layout == "ckkissane":
        raise InputError(
            f"{files.path}: this layout does not store the factors by which its models' "
            "activations were scaled; give them in crosscoder.scaling_factors, or "
            'crosscoder.scaling_factors = "estimate" for sqrt(d) / mean norm of the harvest'
        )
    mean, std = files.tensors.get("activation_mean"), files.tensors.get("activation_std")
    if mean is None or std is None or bool(mean.isnan().any()) or bool(std.isnan().any()):
        return None
    for name, tensor in (("activation_mean", mean), ("activation_std", std)):
        if tensor.numel() != n_models * d_model:
            raise InputError(
                f"{files.path}: {name} has shape {tuple(tensor.shape)}, "
                f"{(n_models, d_model)} is expected; {_REMEDY}"
            )
    if files.config.get("keep_relative_variance") is False:
        raise InputError(
            f"{files.path}: was trained on activations divided neuron by neuron; only one scale a "
            "model is supported (keep_relative_variance)"
        )
    require_finite({"activation_mean": mean, "activation_std": std}, files.path, _REMEDY)
    return Normaliser(mean.float().view(n_models, d_model), 1 / _global_scale(files, std, n_models))


def _global_scale(files: PublishedFiles, std: torch.Tensor, n_models: int) -> torch.Tensor:
    """(M,) factor target_rms / sqrt(sum of the variances), stored or made from what is stored."""
    name = "activation_global_scale"
    stored = files.tensors.get(name)
    if stored is None or bool(stored.isnan().any()):
        target = _scalar(files, "target_rms", files.tensors.get("target_rms", 1.0))
        variance = std.float().view(n_models, -1).square().sum(dim=1)
        stored = target / (variance + _VARIANCE_FLOOR).sqrt()
    if stored.numel() not in (1, n_models):
        raise InputError(
            f"{files.path}: {name} has shape {tuple(stored.shape)}, one scale per model expected; "
            f"{_REMEDY}"
        )
    require_finite({name: stored}, files.path, _REMEDY)
    require_positive(name, stored, files.path, _REMEDY)
    return stored.float().flatten().expand(n_models).clone()


def _k(files: PublishedFiles, stored: torch.Tensor | int | None, given: int | None) -> int:
    if given is not None:
        return given
    if stored is None:
        raise InputError(
            f"{files.path}: names no k; give crosscoder.k, the latents that fire on a token"
        )
    k = int(_scalar(files, "k", stored))
    if k < 1:
        raise InputError(f"{files.path}: k is {k}; give crosscoder.k, at least 1")
    return k


def _theta(files: PublishedFiles, notes: list[str]) -> float:
    """The stored threshold, or -1 where it was never estimated."""
    stored = files.tensors.get("threshold")
    theta = -1.0 if stored is None else _scalar(files, "threshold", stored)
    if theta < 0:
        notes.append("the file has no calibrated threshold")
        return -1.0
    return theta


@dataclass(frozen=True)
class _Partition:
    """Latents that a dedicated crosscoder keeps for one model: first those of model 0."""

    n_first: int
    n_second: int


def _partition(files: PublishedFiles, n_latents: int) -> _Partition | None:
    """The partition of a dedicated-feature crosscoder (arXiv 2602.11729), from its config."""
    table = files.config.get("_partition_config") or files.config.get("partition_config")
    if isinstance(table, Mapping):
        stated = [table.get(f"model_{m}_exclusive_size") for m in "ab"]
        sizes = [int(size) for size in stated if size is not None]
    else:
        stated = [files.config.get(f"model_{m}_exclusive_pct") for m in "ab"]
        sizes = [int(n_latents * share) for share in stated if share is not None]
    if len(sizes) != 2:
        return None
    if min(sizes) < 0 or sum(sizes) > n_latents:
        raise InputError(f"{files.path}: a partition of {sizes} does not fit {n_latents} latents")
    return _Partition(*sizes)


@torch.no_grad()
def _fill(crosscoder: Crosscoder, weights: Weights, partition: _Partition | None) -> None:
    crosscoder.W_enc.copy_(weights.w_enc)
    crosscoder.W_dec.copy_(weights.w_dec)
    crosscoder.b_enc.copy_(weights.b_enc)
    crosscoder.b_dec.copy_(weights.b_dec)
    if partition is not None:
        first = slice(0, partition.n_first)
        second = slice(partition.n_first, partition.n_first + partition.n_second)
        for model, excluded in ((1, first), (0, second)):
            crosscoder.W_enc[model, :, excluded] = 0
            crosscoder.W_dec[excluded, model] = 0


WEIGHTS_NAME = "model.safetensors"


@torch.no_grad()
def export_dictionary_learning(
    crosscoder: Crosscoder, directory: Path, name_class: bool = False
) -> None:
    """Write `model.safetensors`, `config.json` and `trainer_config.json`.

    A crosscoder of raw activations is written as it is. One with a normaliser is folded: the
    readers' activation is v = a * n, both in `encode` and in `get_activations`; what undoes that
    is written next to it for `load_published`. `name_class` puts the class into config.json too,
    where diffing-toolkit looks for it in a local folder, and where the older forks refuse it.
    InputError where theta is not calibrated; WorkError where the disk is full.
    """
    config = crosscoder.config
    if not crosscoder.calibrated:
        raise InputError("crosscoder: theta is not calibrated; finish training before exporting")
    weights, unfolding, code_norm = weights_of(crosscoder), None, str(config.code_norm)
    if config.normalisation != "none":
        weights, unfolding = folded(crosscoder)
        code_norm = "none"
    numbers = {name: number for number, name in CODE_NORMS.items()}
    tensors = {
        "encoder.weight": weights.w_enc,
        "encoder.bias": weights.b_enc,
        "decoder.weight": weights.w_dec.transpose(0, 1),
        "decoder.bias": weights.b_dec,
        "code_normalization_id": torch.tensor(numbers[code_norm]),
        "target_rms": torch.tensor(1.0),
    }
    settings: dict[str, object] = {
        "activation_dim": config.d_model,
        "dict_size": config.n_latents,
        "num_layers": config.n_models,
        "code_normalization": CODE_NORM_NAMES[code_norm],
        "target_rms": 1.0,
    }
    named = {"dict_class": "CrossCoder"}
    if ACTIVATIONS.get(config.activation).aims_at_k:
        named = {"dict_class": "BatchTopKCrossCoder"}
        settings["k"] = config.k
        tensors["k"] = torch.tensor(config.k, dtype=torch.int32)
        tensors["threshold"] = crosscoder.theta.cpu().float()
    write_tensors(directory / WEIGHTS_NAME, tensors, {"format": "pt"})
    (directory / UNFOLDING_NAME).unlink(missing_ok=True)
    if unfolding is not None:
        write_unfolding(directory, unfolding, directory / WEIGHTS_NAME)
    _write_json(directory / "config.json", settings | (named if name_class else {}))
    facts = {"layer": config.layer, "lm_name": list(config.model_names)}
    _write_json(directory / "trainer_config.json", {"trainer": {**settings, **named, **facts}})


def _write_json(path: Path, content: dict[str, object]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
