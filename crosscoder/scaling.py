"""Latent scaling: how much of a latent each model has, with an interval for every ratio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import IntFlag
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.config import MIN_BLOCKS
from crosscoder.document_sums import DocumentSums
from crosscoder.errors import InputError
from crosscoder.evaluate import encode_shard
from crosscoder.files import DamagedFileError
from crosscoder.limits import parse_json
from crosscoder.model import Crosscoder
from crosscoder.progress import Progress, SilentProgress
from crosscoder.scaling_sums import BoolArray, FloatArray, Interval, ScalingSums, jackknife_ratio
from crosscoder.sources import ActivationSource
from crosscoder.strength_shift import StrengthShift, common_shift, strength_shift
from crosscoder.tensor_files import read_sealed_tensors, write_sealed_tensors

MIN_DOCUMENTS = 8
"""Documents in which a latent must be active for its nu to be defined."""
NEGATIVE_NUMERATOR = -0.1
"""A numerator below this is flagged."""


class ScalingFlag(IntFlag):
    """Why a nu is undefined or to be read with care."""

    TOO_FEW = 1
    """Active in fewer than 8 blocks or 8 documents: both nu are undefined."""
    ERROR_DENOMINATOR = 2
    """The interval of nu_error's denominator reaches 0: nu_error is undefined."""
    RECONSTRUCTION_DENOMINATOR = 4
    """The interval of nu_reconstruction's denominator reaches 0: it is undefined."""
    ERROR_NEGATIVE = 8
    """The numerator of nu_error is below -0.1."""
    RECONSTRUCTION_NEGATIVE = 16
    """The numerator of nu_reconstruction is below -0.1."""


@dataclass(frozen=True, kw_only=True)
class PairScaling(StrengthShift):
    """Latent scaling of one ordered pair of models, arrays over the F latents.

    The target's decoder direction is used for both models (arXiv 2504.02922, section 3). nu is 0
    where only the target has the latent, and about 1 where both have it. NaN is undefined.
    """

    target: str
    reference: str
    delta_norm: FloatArray
    """1/2 ((||d^target|| - ||d^reference||) / max + 1); 1 = only the target, NaN = no norm."""
    nu_error: FloatArray
    """beta of the reference's error over the target's: high where the latent merely shrank."""
    nu_error_low: FloatArray
    nu_error_high: FloatArray
    nu_reconstruction: FloatArray
    """beta of the reference's reconstruction over the target's: high where decoupled."""
    nu_reconstruction_low: FloatArray
    nu_reconstruction_high: FloatArray
    beta_error_target: FloatArray
    beta_error_reference: FloatArray
    beta_reconstruction_target: FloatArray
    beta_reconstruction_reference: FloatArray
    flags: NDArray[np.uint8]
    """ScalingFlag bits."""
    density: FloatArray
    """As in LatentScaling."""
    n_documents: FloatArray
    """As in LatentScaling."""
    decoder_change: FloatArray
    """Mean over the tokens of f^2 ||d^target - d^reference||^2: how far the latent's decoder rows
    lie apart, by how much it fires. The same in both directions of a pair."""
    decoder_cosine: FloatArray
    """Cosine of d^target and d^reference; NaN where one of them is 0."""
    attribution: FloatArray | None = None
    """Share of the output gap between the two models that the latent closes, where it was measured:
    `crosscoder.attribution.chosen_shares`."""

    @property
    def defined(self) -> BoolArray:
        """(F,) latents with both nu and their intervals."""
        bounds = self.nu_error_high + self.nu_reconstruction_high
        defined: BoolArray = np.isfinite(self.nu_error + self.nu_reconstruction + bounds)
        return defined


@dataclass(frozen=True)
class LatentScaling:
    """Statistics of every latent over the unmasked tokens, and its scaling in every pair.

    Arrays run over the F latents. Activations are unscaled and thresholded; betas belong to
    the normalised space of the crosscoder.
    """

    model_names: tuple[str, ...]
    n_tokens: int
    """Unmasked tokens read."""
    n_blocks: int
    """Blocks of whole documents of the jackknife."""
    density: FloatArray
    """Share of tokens on which the latent is active."""
    n_active: FloatArray
    """Tokens on which it is active."""
    n_documents: FloatArray
    """Documents in which it is active; several answers to one prompt count once."""
    n_blocks_active: FloatArray
    """Blocks in which it is active."""
    max_activation: FloatArray
    mean_activation: FloatArray
    """Mean over the tokens on which it is active; NaN where there is none."""
    pairs: Mapping[tuple[str, str], PairScaling]
    """By (target, reference)."""
    gram: FloatArray
    """(F, M, M) inner products <d^t, d^m> of the decoder rows."""
    documents: DocumentSums
    """The sums of the pass per document, for the randomisation test."""

    @property
    def n_latents(self) -> int:
        """F."""
        return len(self.density)

    def pair(self, target: str, reference: str) -> PairScaling:
        """Scaling of an ordered pair; InputError where a name is unknown or given twice."""
        for name in (target, reference):
            if name not in self.model_names:
                raise InputError(
                    f"model {name!r}: this crosscoder has {', '.join(self.model_names)}"
                )
        if target == reference:
            raise InputError(f"model {target!r} cannot be compared with itself; name two models")
        return self.pairs[target, reference]

    def with_attribution(self, models: tuple[str, str], attribution: FloatArray) -> LatentScaling:
        """The same with the attribution (F,) of two models, in both directions."""
        pairs = {
            names: replace(pair, attribution=attribution) if set(names) == set(models) else pair
            for names, pair in self.pairs.items()
        }
        return replace(self, pairs=pairs)


@torch.no_grad()
def latent_scaling(
    crosscoder: Crosscoder,
    store: ActivationSource,
    n_blocks: int = 20,
    progress: Progress | None = None,
) -> LatentScaling:
    """Scale all latents in all ordered pairs of models by one pass over the unmasked tokens.

    One-pass form of the closed-form betas of arXiv 2504.02922: with the residual e = x - xhat,
    C = sum f^2 and the target's decoder d^t, for each model m
        beta_reconstruction^m = sum f <d^t, xhat^m> / (C ||d^t||^2)
        beta_error^m = (sum f <d^t, e^m> + C <d^t, d^m>) / (C ||d^t||^2).
    The strength shift of every pair comes from the same sums, which are kept by the store's units:
    documents of one unit count as one. InputError where store and crosscoder disagree on the models
    or on the width, or where theta is not calibrated.
    """
    if n_blocks < MIN_BLOCKS:
        raise InputError(f"n_blocks: {n_blocks} is fewer than {MIN_BLOCKS}; give 20 or more")
    check_store(crosscoder, store)
    config = crosscoder.config
    device = crosscoder.W_dec.device
    units = torch.tensor(store.document_units, device=device)
    sums = ScalingSums(
        n_blocks,
        config.n_latents,
        config.n_models,
        # Metal has no float64.
        torch.device("cpu") if device.type == "mps" else device,
        n_documents=int(units.max()) + 1,
    )
    with (progress or SilentProgress()).task("isolate", store.n_unmasked, "tokens") as advance:
        for shard in store.shards():
            for tokens in encode_shard(crosscoder, shard):
                decoded = crosscoder.decode(tokens.codes, len(tokens.row))
                sums.add(
                    tokens.codes,
                    units[tokens.document.to(device)],
                    crosscoder.W_dec,
                    decoded,
                    tokens.normalised - decoded,
                )
                advance(len(tokens.row))
    return finish_scaling(sums, crosscoder.W_dec, config.model_names)


def check_store(crosscoder: Crosscoder, store: ActivationSource) -> None:
    """InputError where a store does not hold what the crosscoder was made for."""
    config = crosscoder.config
    if store.model_names != config.model_names or store.d_model != config.d_model:
        raise InputError(
            f"activations of {', '.join(store.model_names)} (width {store.d_model}) do not fit a "
            f"crosscoder of {', '.join(config.model_names)} (width {config.d_model}); harvest "
            "the crosscoder's models in its order"
        )


def finish_scaling(
    sums: ScalingSums, decoder: torch.Tensor, model_names: tuple[str, ...]
) -> LatentScaling:
    """Turn the sums of a pass and the decoder (F, M, d) into ratios and intervals."""
    gram = _gram(decoder)
    n_active = sums.n_active.cpu().numpy()
    total = n_active.sum(axis=0)
    n_documents = sums.n_documents.cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.value.cpu().numpy().sum(axis=0) / total
    density = total / max(sums.n_tokens, 1)
    documents = sums.documents()
    betas = _Betas(sums, gram, _mean_square(documents, len(gram), sums.n_tokens))
    too_few = ((n_active > 0).sum(axis=0) < MIN_BLOCKS) | (n_documents < MIN_DOCUMENTS)
    pairs = {
        (model_names[t], model_names[r]): betas.pair(
            (t, r), (model_names[t], model_names[r]), too_few, density, n_documents
        )
        for t in range(len(model_names))
        for r in range(len(model_names))
        if t != r
    }
    return LatentScaling(
        model_names=model_names,
        n_tokens=sums.n_tokens,
        n_blocks=sums.n_blocks,
        density=density,
        n_active=total,
        n_documents=n_documents,
        n_blocks_active=(n_active > 0).sum(axis=0).astype(np.float64),
        max_activation=sums.max_activation.cpu().numpy(),
        mean_activation=mean,
        pairs=pairs,
        gram=gram,
        documents=documents,
    )


def delta_norm(target_norm: FloatArray, reference_norm: FloatArray) -> FloatArray:
    """1/2 ((||d^t|| - ||d^r||) / max(||d^t||, ||d^r||) + 1): 1 = only the target model.

    NaN where both norms are 0. arXiv 2504.02922, section 2.
    """
    largest = np.maximum(target_norm, reference_norm)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference: FloatArray = (target_norm - reference_norm) / largest
    return (difference + 1) / 2


def _mean_square(documents: DocumentSums, n_latents: int, n_tokens: int) -> FloatArray:
    """(F,) mean of f^2 over the tokens."""
    mean: FloatArray = documents.total_square(n_latents) / max(n_tokens, 1)
    return mean


def _decoder_measures(
    gram: FloatArray, mean_square: FloatArray, target: int, reference: int
) -> dict[str, FloatArray]:
    """What PairScaling has of the decoder rows alone, from `gram` (F, M, M) and E[f^2] (F,)."""
    squares = gram[:, target, target], gram[:, reference, reference]
    product = gram[:, target, reference]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = product / np.sqrt(squares[0] * squares[1])
    return {
        # Rounding must not make a difference negative.
        "decoder_change": mean_square * np.maximum(squares[0] + squares[1] - 2 * product, 0),
        "decoder_cosine": cosine,
    }


class _Betas:
    """Numerators and denominators of the betas, and of the strength shift, per block."""

    def __init__(self, sums: ScalingSums, gram: FloatArray, mean_square: FloatArray) -> None:
        self._gram = gram
        self._square = sums.square.cpu().numpy()
        self._residual = sums.residual.cpu().numpy()
        self._reconstruction = sums.reconstruction.cpu().numpy()
        self._mean_square = mean_square

    def pair(
        self,
        index: tuple[int, int],
        names: tuple[str, str],
        too_few: BoolArray,
        density: FloatArray,
        n_documents: FloatArray,
    ) -> PairScaling:
        """Scaling of the pair (target, reference)."""
        t, r = index
        norms = np.sqrt(np.diagonal(self._gram, axis1=1, axis2=2))
        unit = self._square * self._gram[:, t, t]
        # Put the latent's own contribution back, with each model's own decoder.
        error = [self._residual[:, :, t, m] + self._square * self._gram[:, t, m] for m in (t, r)]
        reconstruction = [self._reconstruction[:, :, t, m] for m in (t, r)]
        beta_error = [jackknife_ratio(part, unit, self._square) for part in error]
        beta_reconstruction = [jackknife_ratio(part, unit, self._square) for part in reconstruction]
        error_open = ~(beta_error[0].low > 0) & ~too_few
        reconstruction_open = ~(beta_reconstruction[0].low > 0) & ~too_few
        nu_error = self._nu(error, too_few | error_open)
        nu_reconstruction = self._nu(reconstruction, too_few | reconstruction_open)
        flags = (
            too_few * ScalingFlag.TOO_FEW
            + error_open * ScalingFlag.ERROR_DENOMINATOR
            + reconstruction_open * ScalingFlag.RECONSTRUCTION_DENOMINATOR
            + (beta_error[1].value < NEGATIVE_NUMERATOR) * ScalingFlag.ERROR_NEGATIVE
            + (beta_reconstruction[1].value < NEGATIVE_NUMERATOR)
            * ScalingFlag.RECONSTRUCTION_NEGATIVE
        )
        return PairScaling(
            target=names[0],
            reference=names[1],
            delta_norm=delta_norm(norms[:, t], norms[:, r]),
            nu_error=nu_error.value,
            nu_error_low=nu_error.low,
            nu_error_high=nu_error.high,
            nu_reconstruction=nu_reconstruction.value,
            nu_reconstruction_low=nu_reconstruction.low,
            nu_reconstruction_high=nu_reconstruction.high,
            beta_error_target=beta_error[0].value,
            beta_error_reference=beta_error[1].value,
            beta_reconstruction_target=beta_reconstruction[0].value,
            beta_reconstruction_reference=beta_reconstruction[1].value,
            **vars(self._shift(index, too_few)),
            flags=flags.astype(np.uint8),
            density=density,
            n_documents=n_documents,
            **_decoder_measures(self._gram, self._mean_square, t, r),
        )

    def _shift(self, index: tuple[int, int], undefined: BoolArray) -> StrengthShift:
        products = self._residual + self._reconstruction
        return strength_shift(common_shift(products, self._gram, *index), self._square, undefined)

    def _nu(self, parts: list[FloatArray], undefined: BoolArray) -> Interval:
        """Ratio of the reference's part to the target's; the unit C ||d||^2 cancels."""
        ratio = jackknife_ratio(parts[1], parts[0], self._square)
        return Interval(
            *(np.where(undefined, np.nan, getattr(ratio, field.name)) for field in fields(Interval))
        )


def _gram(decoder: torch.Tensor) -> FloatArray:
    """<d_j^t, d_j^m> in float64: (F, M, M)."""
    # Latents in pieces: a float64 copy of a whole large decoder would not fit.
    pieces = [
        rows.double() @ rows.double().transpose(1, 2) for rows in decoder.detach().cpu().split(4096)
    ]
    gram: FloatArray = torch.cat(pieces).numpy()
    return gram


FORMAT_VERSION = 2
_DOCUMENT_COLUMNS = tuple(field.name for field in fields(DocumentSums) if field.name != "n_groups")
_SHARED = ("density", "n_documents")
_DERIVED = ("decoder_change", "decoder_cosine", "attribution")
"""Columns of PairScaling that are not in the file: they follow from others there, or are measured
elsewhere."""
_NAMES = ("target", "reference")
_COLUMNS = tuple(
    field.name
    for field in fields(LatentScaling)
    if field.name not in ("model_names", "n_tokens", "n_blocks", "pairs", "documents")
)
_PAIR_COLUMNS = tuple(
    field.name for field in fields(PairScaling) if field.name not in _NAMES + _SHARED + _DERIVED
)


def save_scaling(scaling: LatentScaling, path: Path) -> None:
    """Write the scaling whole; WorkError where the disk is full.

    Keys are the names of the columns of LatentScaling, `documents/column`, and `pair/T/R/column`
    with the positions T and R of target and reference in the metadata's model_names.
    """
    arrays = {name: getattr(scaling, name) for name in _COLUMNS}
    arrays |= {f"documents/{name}": getattr(scaling.documents, name) for name in _DOCUMENT_COLUMNS}
    for (target, reference), pair in scaling.pairs.items():
        prefix = _prefix(scaling.model_names, target, reference)
        arrays |= {f"{prefix}{name}": getattr(pair, name) for name in _PAIR_COLUMNS}
    metadata = {
        "format_version": FORMAT_VERSION,
        "model_names": list(scaling.model_names),
        "n_tokens": scaling.n_tokens,
        "n_blocks": scaling.n_blocks,
        "n_groups": scaling.documents.n_groups,
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
    documents = DocumentSums(
        n_groups=metadata["n_groups"],
        **{name: arrays[f"documents/{name}"] for name in _DOCUMENT_COLUMNS},
    )
    mean_square = _mean_square(documents, len(columns["density"]), metadata["n_tokens"])
    pairs = {}
    for target, reference in permutations(names, 2):
        prefix = _prefix(names, target, reference)
        own = {name: arrays[f"{prefix}{name}"] for name in _PAIR_COLUMNS}
        t, r = names.index(target), names.index(reference)
        own |= _decoder_measures(columns["gram"], mean_square, t, r)
        pairs[target, reference] = PairScaling(target=target, reference=reference, **own, **shared)
    return LatentScaling(
        model_names=names,
        n_tokens=metadata["n_tokens"],
        n_blocks=metadata["n_blocks"],
        documents=documents,
        pairs=pairs,
        **columns,
    )


def _prefix(names: tuple[str, ...], target: str, reference: str) -> str:
    return f"pair/{names.index(target)}/{names.index(reference)}/"
