"""Shares of the output gap with their intervals and controls, and the file that keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import stats

from crosscoder.attribution import Attribution, OutputGap
from crosscoder.attribution_file import attribution_tensors, attributions_of
from crosscoder.config import EffectSettings
from crosscoder.effect_text import SCOPES
from crosscoder.errors import InputError
from crosscoder.files import DamagedFileError
from crosscoder.limits import parse_json
from crosscoder.matched_sets import MIN_CONTROLS, are_alike
from crosscoder.scaling_sums import BoolArray, FloatArray, jackknife_ratio
from crosscoder.tensor_files import read_sealed_tensors, write_sealed_tensors

NEGLIGIBLE_GAP = 1e-6
"""Nats per token at and below which two outputs are the same, and no share of the gap is defined:
the rounding of float32."""
_LATENTS_AT_ONCE = 1024
MIN_DOCUMENTS = 8
"""Documents in which a latent must fire for its causal equivalence to be given."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Estimate(_Frozen):
    """A ratio of sums over documents with its 95% jackknife interval; None = undefined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class ControlBand(_Frozen):
    """What random sets reach that are alike in number and as near in magnitude as can be."""

    n_sets: int
    mean: float
    low: float
    """5% quantile."""
    high: float
    """95% quantile."""
    magnitude: float
    """Their mean magnitude, as a share of the set's."""
    p: float | None
    """(1 + number of controls that reach the set's share) / (1 + number of controls); None where
    one of them is not alike in magnitude: the set need not do anything to beat weaker ones."""


class SetEffect(_Frozen):
    """Effect of a set of latents, as shares of the gap."""

    name: str
    n_latents: int
    magnitude: float
    """sum over the tokens and its latents of f^2 ||d^t - d^r||^2."""
    on_half: bool
    """Whether only the half of the documents counts on which the set was not chosen."""
    first_order: Estimate
    """By attribution, in the direction's scope."""
    first_order_control: ControlBand | None
    """None where too few matched sets were found."""
    restored: dict[str, Estimate]
    """By scope: added to the reference's activations. Undefined where it was not patched."""
    carried: dict[str, Estimate]
    """By scope: taken from the target's activations."""
    restored_control: ControlBand | None
    """None where no controls were patched. In the direction's scope."""
    carried_control: ControlBand | None


class DirectionEffect(_Frozen):
    """All that was measured of one ordered pair of models."""

    target: str
    reference: str
    scope: str
    """The tokens that attribution, controls and correlations belong to."""
    n_tokens: dict[str, int]
    """By scope."""
    gap: dict[str, Estimate]
    """By scope: KL(p_t || p_{x^r}) in nats per token."""
    line: Estimate
    """Share of the gap that attribution gives to all of x^t - x^r: 1 but for its own error."""
    sets: tuple[SetEffect, ...]
    n_patched: int
    """Sets and controls that were patched."""
    pearson: float | None
    """Correlation over them of first-order share and restored share."""
    spearman: float | None

    @property
    def is_defined(self) -> bool:
        """Whether there is a gap of which shares can be taken."""
        return self.gap[self.scope].value is not None and self.line.value is not None

    def set_named(self, name: str) -> SetEffect:
        """A set's effect; KeyError where it was not measured."""
        return {each.name: each for each in self.sets}[name]


@dataclass(frozen=True)
class EffectResult:
    """Effects in both directions of a pair of models."""

    settings: EffectSettings
    n_documents: int
    n_tokens: int
    directions: tuple[DirectionEffect, ...]
    """(target, reference) first, then (reference, target)."""
    attributions: tuple[Attribution, ...]
    """First-order effects of all latents, in the order of the directions."""
    equivalence: Mapping[int, float | None]
    """By latent, for those that were ablated one by one: the correlation over the documents in
    which it fires of what its ablation does to the outputs of the two models (KL per token); 0
    where it does nothing in one of them. None in fewer than MIN_DOCUMENTS documents, or where it
    does nothing in both."""


@dataclass(frozen=True)
class MeasuredSet:
    """Sums of one set, from which its shares are made."""

    name: str
    n_latents: int
    groups: BoolArray
    """(G,) the documents that count."""
    magnitude: float
    closed: FloatArray
    """(G,) by first order."""
    restoring: FloatArray
    """(G, len(SCOPES)) KL that is left; NaN where the set was not patched."""
    carrying: FloatArray
    """(G, len(SCOPES)) KL that arises."""
    control_magnitudes: FloatArray
    """(n_controls,)"""
    control_closed: FloatArray
    """(n_controls, G) by first order."""
    control_restoring: FloatArray
    """(n_patched, G) in the direction's scope."""
    control_carrying: FloatArray


def direction_effect(
    names: tuple[str, str], attribution: Attribution, measured: Sequence[MeasuredSet]
) -> DirectionEffect:
    """Turn the sums of one direction into shares."""
    gap = attribution.gap
    has_gap = gap.mean > NEGLIGIBLE_GAP
    first = gap.kl[:, gap.scope]
    is_defined = bool(has_gap[gap.scope])
    points = []
    for each in measured if is_defined else ():
        points += [point for point in _points(each, gap) if np.isfinite(point).all()]
    pearson, spearman = _correlations(np.array(points))
    return DirectionEffect(
        target=names[0],
        reference=names[1],
        scope=SCOPES[gap.scope],
        n_tokens=dict(zip(SCOPES, gap.n_tokens.sum(axis=0).astype(int).tolist(), strict=True)),
        gap={scope: _estimate(gap.kl[:, i], gap.n_tokens[:, i]) for i, scope in enumerate(SCOPES)},
        line=_estimate(attribution.line, first) if is_defined else Estimate(),
        sets=tuple(_set_effect(each, gap, has_gap) for each in measured),
        n_patched=len(points),
        pearson=pearson,
        spearman=spearman,
    )


def latent_estimates(attribution: Attribution) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share of the gap that each latent closes by first order, and its 95% interval: (F,) each.

    NaN where there is no gap.
    """
    gap = attribution.gap.kl[:, attribution.gap.scope][:, None]
    undefined = np.full(attribution.n_latents, np.nan)
    if not attribution.gap.mean[attribution.gap.scope] > NEGLIGIBLE_GAP:
        return undefined, undefined, undefined
    closed = attribution.by_group(attribution.closed).tocsc()
    parts = []
    for start in range(0, attribution.n_latents, _LATENTS_AT_ONCE):
        dense = closed[:, start : start + _LATENTS_AT_ONCE].toarray()
        ratio = jackknife_ratio(dense, gap.repeat(dense.shape[1], 1), np.maximum(gap, 0))
        parts.append((ratio.value, ratio.low, ratio.high))
    value, low, high = (np.concatenate(each) for each in zip(*parts, strict=True))
    return value, low, high


def _set_effect(measured: MeasuredSet, gap: OutputGap, has_gap: BoolArray) -> SetEffect:
    kept, scope = measured.groups, gap.scope
    kl = gap.kl[kept]
    restored, carried = {}, {}
    for i, name in enumerate(SCOPES):
        restored[name], carried[name] = Estimate(), Estimate()
        if has_gap[i]:
            restored[name] = _estimate(kl[:, i] - measured.restoring[kept, i], kl[:, i])
            carried[name] = _estimate(measured.carrying[kept, i], kl[:, i])
    first_order = Estimate()
    bands: list[ControlBand | None] = [None, None, None]
    if has_gap[scope]:
        first_order = _estimate(measured.closed[kept], kl[:, scope])
        total = kl[:, scope].sum()
        controls = (
            measured.control_closed[:, kept],
            kl[:, scope] - measured.control_restoring[:, kept],
            measured.control_carrying[:, kept],
        )
        own = (first_order, restored[SCOPES[scope]], carried[SCOPES[scope]])
        bands = [
            _band(estimate, sums.sum(axis=1) / total, measured)
            for estimate, sums in zip(own, controls, strict=True)
        ]
    return SetEffect(
        name=measured.name,
        n_latents=measured.n_latents,
        magnitude=measured.magnitude,
        on_half=not bool(kept.all()),
        first_order=first_order,
        first_order_control=bands[0],
        restored=restored,
        carried=carried,
        restored_control=bands[1],
        carried_control=bands[2],
    )


def _estimate(numerator: FloatArray, denominator: FloatArray) -> Estimate:
    """Ratio of sums over groups (G,), each weighed by its denominator."""
    weight = np.maximum(denominator, 0)[:, None]
    ratio = jackknife_ratio(numerator[:, None], denominator[:, None], weight)
    value, low, high = (
        float(each[0]) if np.isfinite(each[0]) else None
        for each in (ratio.value, ratio.low, ratio.high)
    )
    return Estimate(value=value, low=low, high=high)


def _band(own: Estimate, controls: FloatArray, measured: MeasuredSet) -> ControlBand | None:
    if own.value is None or len(controls) < MIN_CONTROLS:
        return None
    reaching = int((controls >= own.value).sum())
    low, high = np.quantile(controls, [0.05, 0.95]).tolist()
    # The first controls are those that were patched.
    magnitudes = measured.control_magnitudes[: len(controls)]
    is_alike = are_alike(magnitudes, measured.magnitude)
    return ControlBand(
        n_sets=len(controls),
        mean=float(controls.mean()),
        low=low,
        high=high,
        magnitude=float(magnitudes.mean() / measured.magnitude),
        p=(1 + reaching) / (1 + len(controls)) if is_alike else None,
    )


def equivalence_of(sums: FloatArray, n_tokens: FloatArray, fires: BoolArray) -> float | None:
    """Causal equivalence of a latent; see EffectResult.

    `sums` (2, G) of KL under its ablation in either model over `n_tokens` (G,), `fires` (G,).
    """
    kept = fires & (n_tokens > 0)
    if kept.sum() < MIN_DOCUMENTS:
        return None
    means = sums[:, kept] / n_tokens[kept]
    does_nothing = means.max(axis=1) <= NEGLIGIBLE_GAP
    if does_nothing.any():
        return None if does_nothing.all() else 0.0
    return float(stats.pearsonr(*means)[0])


def _points(measured: MeasuredSet, gap: OutputGap) -> list[tuple[float, float]]:
    """First-order and restored shares of a set and its patched controls."""
    kept = measured.groups
    total = gap.kl[kept, gap.scope].sum()
    own = (measured.closed, measured.restoring[:, gap.scope])
    # The first controls are those that were patched.
    controls = zip(measured.control_closed, measured.control_restoring, strict=False)
    return [
        (float(closed[kept].sum() / total), float(1 - left[kept].sum() / total))
        for closed, left in [own, *controls]
    ]


def _correlations(points: FloatArray) -> tuple[float | None, float | None]:
    """Pearson's and Spearman's correlation of points (n, 2); None where undefined."""
    if len(points) < 3 or bool((np.ptp(points, axis=0) == 0).any()):
        return None, None
    first, true = points.T
    return float(stats.pearsonr(first, true)[0]), float(stats.spearmanr(first, true)[0])


FORMAT_VERSION = 2
_REMEDY = "it is measured again by `effect`"


class _Header(_Frozen):
    """What the file says besides its arrays."""

    format_version: int
    settings: EffectSettings
    n_documents: int
    n_tokens: int
    n_latents: int
    scope: int
    directions: tuple[DirectionEffect, ...]
    equivalence: dict[int, float | None]


def save_effects(result: EffectResult, path: Path) -> None:
    """Write a result whole; WorkError where the disk is full.

    The metadata holds the shares as JSON, the tensors are those of the attributions.
    """
    header = _Header(
        format_version=FORMAT_VERSION,
        settings=result.settings,
        n_documents=result.n_documents,
        n_tokens=result.n_tokens,
        n_latents=result.attributions[0].n_latents,
        scope=result.attributions[0].gap.scope,
        directions=result.directions,
        equivalence=dict(result.equivalence),
    )
    tensors = attribution_tensors(result.attributions)
    write_sealed_tensors(path, tensors, {"effects": header.model_dump_json()})


def load_effects(path: Path) -> EffectResult:
    """Read a result; InputError where the file is of another version, DamagedFileError where it is
    missing or not what was written.
    """
    tensors, metadata = read_sealed_tensors(path, _REMEDY)
    try:
        content: dict[str, Any] = parse_json(metadata["effects"], path)
        if content["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path}: format {content['format_version']}, this version reads "
                f"{FORMAT_VERSION}; {_REMEDY}"
            )
        header = _Header.model_validate(content)
        attributions = attributions_of(
            tensors, len(header.directions), header.n_latents, header.scope
        )
    except (KeyError, TypeError, ValidationError):
        raise DamagedFileError(path, _REMEDY) from None
    return EffectResult(
        header.settings,
        header.n_documents,
        header.n_tokens,
        header.directions,
        attributions,
        header.equivalence,
    )
