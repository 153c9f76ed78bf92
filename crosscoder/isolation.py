"""Which latents are specific to one model: what the rules choose, and what they saw."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosscoder.config import Overlap
from crosscoder.isolation_rules import IsolationRule
from crosscoder.scaling import PairScaling, ScalingFlag
from crosscoder.scaling_sums import BoolArray, FloatArray

IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class LatentSelection:
    """The latents that a rule chose for one ordered pair of models, most specific first."""

    target: str
    reference: str
    rule: IsolationRule
    latent_indices: IndexArray
    """(n,) ascending by score, ties by index."""
    scores: FloatArray
    """(n,) the rule's score, by default rank of nu_error plus rank of nu_reconstruction among the
    eligible; 2 is lowest."""
    n_eligible: int
    """Latents that the rule could choose from, see `IsolationRule.eligible`."""
    n_strict: int
    """Eligible latents below both nu thresholds and above `min_delta_norm`, under any rule."""
    message: str
    """One line: how many were chosen, how many pass the thresholds, and what was seen."""


@dataclass(frozen=True)
class ComparisonSelection:
    """The two sides of a comparison."""

    target: LatentSelection
    reference: LatentSelection
    n_overlap: int
    """Latents that the rule chose on both sides; each was dropped from both if excluded."""
    overlap_note: str
    """What became of those latents, in words."""
    message: str
    """One line for the user."""
    reason: str = ""
    """Why this rule was used; empty where study.toml named it."""


def select_latents(pair: PairScaling, rule: IsolationRule) -> LatentSelection:
    """Choose the latents specific to `pair.target`; no threshold is ever loosened."""
    return _select(pair, rule, rule.limit)


def _select(pair: PairScaling, rule: IsolationRule, limit: int | None) -> LatentSelection:
    """The rule's choice, with another limit than its own; None is all that it chooses."""
    eligible = rule.eligible(pair)
    score = rule.score(pair, eligible)
    n_strict = int(rule.passing(pair, eligible).sum())
    chosen = in_order(score, rule.choose(pair, eligible) & eligible)[:limit]
    return LatentSelection(
        target=pair.target,
        reference=pair.reference,
        rule=rule,
        latent_indices=chosen,
        scores=score[chosen],
        n_eligible=int(eligible.sum()),
        n_strict=n_strict,
        message=_describe(pair, rule, eligible, n_strict, chosen),
    )


def in_order(score: FloatArray, chosen: BoolArray) -> IndexArray:
    """Indices of the chosen latents, lowest score first, ties by index."""
    order = np.flatnonzero(chosen)
    return order[np.argsort(score[order], kind="stable")].astype(np.int64)


def isolate_comparison(
    target: PairScaling,
    reference: PairScaling,
    rule: IsolationRule,
    overlap: Overlap = "exclude",
    shared_dictionary: bool = True,
) -> ComparisonSelection:
    """Choose the latents of both sides of a comparison.

    `target` and `reference` are the pairs of the two sides, e.g. (simpo, base) and (it, base),
    or (simpo, it) and (it, simpo). With `overlap="exclude"` a latent chosen on both sides is
    dropped from both; a rule with a limit then takes the next in rank, so that each side is full
    as long as there are enough. Where the sides come from two crosscoders, their indices name
    different latents: give `shared_dictionary=False`.
    """
    rule, reason = rule.settle(target, reference)
    exclude = overlap == "exclude" and shared_dictionary
    refill = rule.limit is not None and exclude
    # What overlap removes is replaced from the whole ranking.
    depth = None if refill else rule.limit
    sides = _select(target, rule, depth), _select(reference, rule, depth)
    orders = sides[0].latent_indices, sides[1].latent_indices
    kept, n_both = take_sides(orders, rule.limit, exclude, len(target.delta_norm))
    if not shared_dictionary:
        n_both = 0
    is_full = rule.limit is not None and all(len(indices) == rule.limit for indices in kept)
    note = _overlap_words(n_both, overlap, refill, is_full)
    selections = [
        _kept(side, pair, rule, indices)
        for side, pair, indices in zip(sides, (target, reference), kept, strict=True)
    ]
    words = [*(selection.message for selection in selections), note]
    return ComparisonSelection(
        target=selections[0],
        reference=selections[1],
        n_overlap=n_both,
        overlap_note=note,
        message="; ".join([reason, *words] if reason else words),
        reason=reason,
    )


def take_sides(
    orders: tuple[IndexArray, IndexArray], limit: int | None, exclude: bool, n_latents: int
) -> tuple[tuple[IndexArray, IndexArray], int]:
    """The first `limit` latents of each ranking, and how many of them both have.

    With `exclude`, latents of both are dropped from both, and the next in rank are taken for them.
    """
    depth = _depth(orders, limit, n_latents) if exclude and limit is not None else limit
    first, second = (order[:depth] for order in orders)
    both = np.intersect1d(first, second)
    if exclude and len(both):
        first, second = (order[~np.isin(order, both)] for order in (first, second))
    return (first[:limit], second[:limit]), len(both)


def _depth(orders: tuple[IndexArray, IndexArray], limit: int, n_latents: int) -> int:
    """Ranks to look through so that `limit` per side are left once those on both are dropped.

    If there are too few, the smallest depth at which most are left.
    """
    places = np.full((2, n_latents), n_latents)
    n_chosen = [len(order) for order in orders]
    for place, order in zip(places, orders, strict=True):
        place[order] = np.arange(len(order))
    depths = np.arange(limit, max(*n_chosen, limit) + 1)
    reached = np.sort(places.max(axis=0))
    n_both = np.searchsorted(reached, depths)
    left = np.minimum.reduce([np.minimum(depths, count) for count in n_chosen]) - n_both
    return int(depths[np.argmax(np.minimum(left, limit))])


def _overlap_words(n_both: int, overlap: Overlap, refill: bool, is_full: bool) -> str:
    if n_both == 0:
        return "no overlap"
    if overlap == "keep":
        return f"{n_both} chosen on both sides and kept in both"
    replaced = ", the next in rank taken instead" if refill else ""
    if refill and not is_full:
        replaced += " as far as there were any"
    return f"{n_both} chosen on both sides and dropped from both{replaced}"


def _kept(
    selection: LatentSelection, pair: PairScaling, rule: IsolationRule, kept: IndexArray
) -> LatentSelection:
    """The selection of the kept latents alone, which are in its order."""
    scores = selection.scores[np.isin(selection.latent_indices, kept)]
    message = _describe(pair, rule, rule.eligible(pair), selection.n_strict, kept)
    return replace(selection, latent_indices=kept, scores=scores, message=message)


def _describe(
    pair: PairScaling,
    rule: IsolationRule,
    eligible: BoolArray,
    n_strict: int,
    chosen: IndexArray,
) -> str:
    limits = f"nu_error < {rule.nu_error_max:g} and nu_reconstruction < "
    limits += f"{rule.nu_reconstruction_max:g} at delta_norm > {rule.min_delta_norm:g}"
    parts = [f"{pair.target} against {pair.reference}: {len(chosen)} latents by {rule.text}"]
    if not eligible.any():
        return f"{parts[0]}; {_why_none(pair, rule)}"
    passing = "no latent passes" if n_strict == 0 else f"{n_strict} pass"
    n_eligible = f"of {int(eligible.sum())} eligible"
    asks_for_nu = "nu_error" in rule.measures
    parts.append(f"{n_eligible} {passing} {limits}" if asks_for_nu else n_eligible)
    for name in rule.measures:
        parts.append(_spread(name, getattr(pair, name)[eligible]))
    negative = ScalingFlag.ERROR_NEGATIVE | ScalingFlag.RECONSTRUCTION_NEGATIVE
    n_negative = int(((pair.flags[chosen] & negative) != 0).sum())
    if n_negative:
        parts.append(f"{n_negative} of the chosen have a numerator below -0.1")
    return "; ".join(parts)


def _why_none(pair: PairScaling, rule: IsolationRule) -> str:
    open_denominator = ScalingFlag.ERROR_DENOMINATOR | ScalingFlag.RECONSTRUCTION_DENOMINATOR
    few = (pair.n_documents < rule.min_documents) | ((pair.flags & ScalingFlag.TOO_FEW) != 0)
    unclear = (pair.flags & open_denominator) != 0
    return (
        f"none of {len(few)} latents is eligible: {int(few.sum())} are active in too few "
        f"documents or blocks, {int(unclear.sum())} have a denominator that may be 0"
    )


_SMALL = frozenset({"decoder_change", "attribution"})
"""Measures of any size, which two decimals would round to 0."""


def _spread(name: str, values: FloatArray) -> str:
    low, middle, high = np.nanquantile(values, [0.05, 0.5, 0.95])
    is_low = name.startswith("nu_") or name == "decoder_cosine"
    extreme, bound = ("smallest", np.nanmin) if is_low else ("largest", np.nanmax)
    shape = ".2g" if name in _SMALL else ".2f"
    shown = [f"{value:{shape}}" for value in (bound(values), low, middle, high)]
    return f"{extreme} {name} {shown[0]}, 5/50/95% quantiles {'/'.join(shown[1:])}"
