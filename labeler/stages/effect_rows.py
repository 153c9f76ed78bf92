"""What the stage `effect` stores: rows of a direction's sets, and of its latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from crosscoder.config import SIDES
from labeler.store.statements import number

if TYPE_CHECKING:
    from crosscoder.attribution import Attribution
    from crosscoder.effect_result import ControlBand, DirectionEffect, Estimate, SetEffect

CATEGORY = "category: "
"""Begins the name of a category's set."""


def latent_rows(
    attribution: Attribution, equivalence: Mapping[int, float | None]
) -> dict[int, dict[str, Any]]:
    """Columns of LatentEffect by latent index, for every latent that fires in the text."""
    from crosscoder.effect_result import latent_estimates

    value, low, high = latent_estimates(attribution)
    magnitude = attribution.totals(attribution.magnitude)
    fires = np.unique(attribution.latent)
    ordered = fires[np.argsort(-attribution.totals(attribution.closed)[fires], kind="stable")]
    total = magnitude.sum()
    return {
        int(latent): {
            "attribution": number(float(value[latent])),
            "attribution_low": number(float(low[latent])),
            "attribution_high": number(float(high[latent])),
            "magnitude": float(magnitude[latent] / total) if total > 0 else 0.0,
            "rank": rank,
            "equivalence": equivalence.get(int(latent)),
        }
        for rank, latent in enumerate(ordered.tolist(), start=1)
    }


def set_rows(
    effect: DirectionEffect, n_documents: int, target_model_id: int, reference_model_id: int
) -> Iterator[dict[str, Any]]:
    """Columns of CategoryEffect for every set and scope of a direction."""
    q_values = _q_values(effect)
    for each in effect.sets:
        kind, name = _named(each.name)
        for scope in effect.gap:
            is_main = scope == effect.scope
            row = {
                "target_model_id": target_model_id,
                "reference_model_id": reference_model_id,
                "kind": kind,
                "name": name,
                "scope": scope,
                "is_main": is_main,
                "n_latents": each.n_latents,
                "n_documents": n_documents,
                "n_tokens": effect.n_tokens[scope],
                "gap": effect.gap[scope].value,
                **_interval("restored", each.restored[scope]),
                **_interval("carried", each.carried[scope]),
                "n_controls": 0,
                "n_patched_controls": 0,
                "on_half": each.on_half,
            }
            yield row | (_controls(each, q_values.get(each.name)) if is_main else {})


def _named(name: str) -> tuple[str, str]:
    """Kind and name of a set."""
    from crosscoder.effects import TOP_ATTRIBUTION, TOP_MAGNITUDE

    if name.startswith(CATEGORY):
        return "category", name.removeprefix(CATEGORY)
    if name in SIDES:
        return "side", name
    return ("top" if name in (TOP_ATTRIBUTION, TOP_MAGNITUDE) else "all"), name


def _interval(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _controls(each: SetEffect, q_value: float | None) -> dict[str, Any]:
    """What the direction's own scope has besides."""
    band = each.first_order_control
    row = {
        **_interval("first_order", each.first_order),
        "n_controls": 0 if band is None else band.n_sets,
        "control_magnitude": None if band is None else band.magnitude,
        "p_value": None if band is None else band.p,
        "q_value": q_value,
        **_band("control", band),
        "n_patched_controls": 0,
    }
    for kind, patched in (("restored", each.restored_control), ("carried", each.carried_control)):
        if patched is not None:
            row["n_patched_controls"] = patched.n_sets
            row |= {f"{kind}_p": patched.p, **_band(f"{kind}_control", patched)}
    return row


def _band(name: str, band: ControlBand | None) -> dict[str, float]:
    if band is None:
        return {}
    return {f"{name}_mean": band.mean, f"{name}_low": band.low, f"{name}_high": band.high}


def _q_values(effect: DirectionEffect) -> dict[str, float]:
    """Benjamini-Hochberg q over the categories that have controls."""
    bands = {
        each.name: each.first_order_control
        for each in effect.sets
        if each.name.startswith(CATEGORY)
    }
    p_values = {name: band.p for name, band in bands.items() if band and band.p is not None}
    if not p_values:
        return {}
    adjusted = stats.false_discovery_control(list(p_values.values())).tolist()
    return dict(zip(p_values, adjusted, strict=True))
