"""The strength shift: by how much more strongly one of two models uses a latent.

A close fine-tune makes hardly any latent of its own; it turns the shared ones up or down. So the
two models are compared along the direction that both share, on the tokens where the latent fires.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from crosscoder.scaling_sums import BoolArray, FloatArray, jackknife_ratio

_OPPOSITE = 1e-3
"""Length of the sum of two unit vectors below which they have no common direction."""


@dataclass(frozen=True)
class StrengthShift:
    """Strength shift of one ordered pair of models, arrays over the F latents; NaN = undefined."""

    strength_shift: FloatArray
    """sum f <z^target - z^reference, u> / sum f^2 along the common direction u: 0 = both models use
    the latent as strongly, above 0 = the target uses it more strongly."""
    shift_low: FloatArray
    shift_high: FloatArray
    shift_t: FloatArray
    """Shift over its jackknife standard error."""
    shift_q: FloatArray
    """Benjamini-Hochberg q of the hypothesis that the shift is 0, over the latents."""
    shift_left_out: FloatArray
    """(G, F) the shift without each block of documents."""
    shift_score: FloatArray
    """sum f <z^target - z^reference, u> / sqrt(sum f^2): large where a latent is turned up or down
    much and often."""


def strength_shift(
    numerator: FloatArray, square: FloatArray, undefined: BoolArray
) -> StrengthShift:
    """Ratios and intervals from sums over blocks (G, F): of `common_shift`, and of f^2.

    `undefined` (F,) latents get NaN.
    """
    ratio = jackknife_ratio(numerator, square, square)

    def known(values: FloatArray) -> FloatArray:
        return np.where(undefined, np.nan, values)

    with np.errstate(invalid="ignore", divide="ignore"):
        t = known(ratio.value / ratio.error)
        score = known(numerator.sum(axis=0) / np.sqrt(square.sum(axis=0)))
    return StrengthShift(
        strength_shift=known(ratio.value),
        shift_low=known(ratio.low),
        shift_high=known(ratio.high),
        shift_t=t,
        shift_q=_adjusted(2 * stats.t.sf(np.abs(t), ratio.freedom)),
        shift_left_out=known(ratio.left_out),
        shift_score=score,
    )


def common_shift(products: FloatArray, gram: FloatArray, target: int, reference: int) -> FloatArray:
    """sum f <z^target - z^reference, u> along the common direction of each latent: (..., F).

    u = unit(unit(d^target) + unit(d^reference)); where one model has no direction, the other's.
    NaN where the two are opposite, or both are 0. `products` (..., F, M, M) are sum f <d^t, z^m>,
    `gram` (F, M, M) is <d^t, d^m>. Antisymmetric in target and reference.
    """
    norms = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    has = norms > 0
    t, r = target, reference
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = gram[:, t, r] / (norms[:, t] * norms[:, r])
        together = np.sqrt(np.maximum(2 + 2 * cosine, 0.0))
        length = np.select([has[:, t] & has[:, r], has[:, t] | has[:, r]], [together, 1.0], np.nan)
        length = np.where(length > _OPPOSITE, length, np.nan)
        weight = np.where(has, 1.0 / norms, 0.0) / length[:, None]
    along_target = weight[:, t] * (products[..., t, t] - products[..., t, r])
    along_reference = weight[:, r] * (products[..., r, t] - products[..., r, r])
    shift: FloatArray = along_target + along_reference
    return shift


def _adjusted(p_values: FloatArray) -> FloatArray:
    """Benjamini-Hochberg q among the defined p: (F,)."""
    q_values = np.full(len(p_values), np.nan)
    defined = np.isfinite(p_values)
    if defined.any():
        q_values[defined] = stats.false_discovery_control(p_values[defined])
    return q_values
