"""The change as the isolation gets stricter, over the latents that are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labeler.report.latent_sets import LatentSetView
from labeler.report.members import Member, Members
from labeler.report.statistics import CategoryPlace
from taxonomy.significance import ALPHA

if TYPE_CHECKING:
    from taxonomy.sweep import SweptCategory

NU_ERROR_MAX = 0.2
NU_RECONSTRUCTION_MAX = 0.5


@dataclass(frozen=True)
class Sweep:
    """The swept categories, or why there is nothing to sweep."""

    swept: str
    """What the threshold is a threshold of; empty where nothing was swept."""
    categories: tuple[SweptCategory, ...] = ()
    refusal: str | None = None
    n_left_out: int = 0
    """Latents of the denominator whose specificity is undefined."""


def sweep_members(
    members: Members,
    sets: tuple[LatentSetView, LatentSetView],
    places: Sequence[CategoryPlace],
    denominator: str,
    alpha: float = ALPHA,
) -> Sweep:
    """Sweep from a tenth of the labelled latents to all of them, the most specific first.

    Labels exist only for isolated latents, so that a threshold can get stricter, never looser.
    """
    from taxonomy.sweep import SweptLatent, sweep_changes, sweep_thresholds

    rules = {latents.rule for latents in sets}
    if rules == {"imported"}:
        return Sweep("", refusal="the latents were imported: how specific they are is not known")
    if len(rules) > 1:
        return Sweep("", refusal="the two sides were isolated by different rules")
    kept: list[list[SweptLatent]] = []
    left_out = 0
    for latents, side in zip(sets, (members.target, members.reference), strict=True):
        counted = [member for member in side if member.is_in(denominator)]
        values = [(member, _strictness(member, latents)) for member in counted]
        kept.append(
            [
                SweptLatent(value, member.counted_for("primary"))
                for member, value in values
                if value is not None
            ]
        )
        left_out += sum(value is None for _, value in values)
    if not kept[0] or not kept[1]:
        return Sweep("", refusal="a side has no labelled latent whose specificity is known")
    seen = frozenset().union(*(latent.categories for side in kept for latent in side))
    chosen = [place.category for place in places if place.category in seen]
    thresholds = sweep_thresholds(kept[0], kept[1])
    return Sweep(
        swept=_MEANINGS[rules.pop()],
        categories=sweep_changes(chosen, kept[0], kept[1], thresholds, alpha),
        n_left_out=left_out,
    )


_MEANINGS = {
    "ranked": "rank within the side",
    "strict": "factor on both thresholds",
    "significant": "factor on both thresholds",
}


def _strictness(member: Member, latents: LatentSetView) -> float | None:
    """The loosest threshold the latent still passes; None where that is undefined."""
    own = member.specificity
    if latents.rule == "ranked":
        return None if own.rank is None else float(own.rank)
    upper = latents.rule == "significant"
    error = own.nu_error_high if upper else own.nu_error
    reconstruction = own.nu_reconstruction_high if upper else own.nu_reconstruction
    if error is None or reconstruction is None:
        return None
    limits = latents.rule_params
    return max(
        error / float(limits.get("nu_error_max", NU_ERROR_MAX)),
        reconstruction / float(limits.get("nu_reconstruction_max", NU_RECONSTRUCTION_MAX)),
    )
