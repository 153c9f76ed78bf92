"""Does it matter: how much of the output gap between two models sets of latents restore and carry.

Two passes over some documents: attribution of every latent, then true patching of the sets and of
their controls. `crosscoder/effect_result.py` has the shares, their intervals and the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from crosscoder.attribution import Attribution, Direction, attribute, choice_half
from crosscoder.config import EffectSettings
from crosscoder.effect_result import (
    MIN_DOCUMENTS,
    EffectResult,
    MeasuredSet,
    direction_effect,
    equivalence_of,
)
from crosscoder.effect_text import EffectText
from crosscoder.matched_sets import IntArray, matched_sets
from crosscoder.model import Crosscoder
from crosscoder.patching import LatentGroup, PatchedSums, ablation_divergence, patch
from crosscoder.progress import Progress
from crosscoder.scaling_sums import BoolArray, FloatArray
from crosscoder.upper_blocks import UpperBlocks

ALL, CONSTANT, ALL_AND_CONSTANT = "all latents", "means and biases", "all, means and biases"
"""Sets that every direction has."""
TOP_ATTRIBUTION, TOP_MAGNITUDE = "top by attribution", "top by magnitude"


@dataclass(frozen=True)
class EffectCost:
    """What a measurement takes; both grow in proportion to tokens and, for patching, to sets."""

    n_tokens: int
    """Tokens read."""
    n_forward: int
    """Forward passes of the upper blocks over all of these tokens, at most."""
    n_backward: int
    """Backward passes."""

    @property
    def text(self) -> str:
        """In words."""
        return (
            f"{self.n_tokens:,} tokens; at most {self.n_forward:,} forward and "
            f"{self.n_backward:,} backward passes of the upper blocks over them"
        )


@dataclass(frozen=True)
class PatchPlan:
    """Which of the given sets are patched in one direction; attribution covers all of them."""

    left_out: frozenset[str] = frozenset()
    """Sets that are not patched."""
    controlled: frozenset[str] = frozenset()
    """Sets whose controls are patched as well."""


def effect_cost(
    n_tokens: int,
    n_sets: int,
    settings: EffectSettings,
    plans: tuple[PatchPlan, PatchPlan],
    is_attributed: bool = False,
) -> EffectCost:
    """The passes for `n_sets` sets in both directions; attribution may be there already."""
    n_own = len((ALL, CONSTANT, ALL_AND_CONSTANT, TOP_ATTRIBUTION, TOP_MAGNITUDE))
    n_forward = 0
    for plan in plans:
        n_controls = len(plan.controlled) * settings.patched_controls
        n_patched = n_own + n_sets - len(plan.left_out) + n_controls
        # Each pass over the text needs the target's own output and the reference's.
        n_forward += 2 + 2 * n_patched + (0 if is_attributed else 2 + settings.points)
        # Those of both sides and those with the largest attribution, each in one of the models.
        n_forward += 1 + 3 * settings.ablated if settings.ablated else 0
    return EffectCost(n_tokens, n_forward, 0 if is_attributed else 2 * settings.points)


def measure_effects(
    crosscoder: Crosscoder,
    text: EffectText,
    uppers: Mapping[str, UpperBlocks],
    pair: tuple[str, str],
    sets: Sequence[LatentGroup],
    plans: tuple[PatchPlan, PatchPlan],
    pool: BoolArray,
    settings: EffectSettings,
    seed: int,
    progress: Progress | None = None,
    attributions: Sequence[Attribution] | None = None,
    on_half: bool = False,
    ablated: Sequence[int] = (),
) -> EffectResult:
    """Effects of the sets in both directions of a pair (target, reference).

    `uppers` has the upper blocks of both models by name; `plans` say what is patched from the
    reference to the target, and back; controls are drawn from the latents of `pool` (F,).
    `attributions` are those of both directions over this text where they are known already; where
    the sets were chosen by them, `on_half` tests the sets on the other half of the documents. The
    latents `ablated`, and
    `settings.ablated` of the largest attribution towards the target, are ablated one by one in both
    models. InputError where a model is unknown.
    """
    directions = directions_of(crosscoder, uppers, pair)
    if attributions is None:
        attributions = attribute(crosscoder, text, directions, settings.points, progress)
    known: dict[bytes, list[IntArray]] = {}

    def controls_of(latents: IntArray, magnitude: FloatArray) -> list[IntArray]:
        """The same in both directions, whose magnitudes are equal."""
        key = latents.tobytes()
        if key not in known:
            generator = np.random.default_rng([seed, len(known)])
            known[key] = matched_sets(latents, magnitude, pool, settings.controls, generator)
        return known[key]

    planned = [
        _plan(attribution, sets, plan, controls_of, settings, on_half)
        for attribution, plan in zip(attributions, plans, strict=True)
    ]
    patched = patch(
        crosscoder,
        text,
        [(each, _patched(plan)) for each, plan in zip(directions, planned, strict=True)],
        progress,
        reduced=settings.precision == "auto",
    )
    effects = [
        direction_effect(names, attribution, _measured(attribution, plan, sums))
        for names, attribution, plan, sums in zip(
            (pair, pair[::-1]), attributions, planned, patched, strict=True
        )
    ]
    return EffectResult(
        settings,
        len(text.documents),
        text.n_tokens,
        tuple(effects),
        tuple(attributions),
        _equivalence(crosscoder, text, directions, attributions[0], settings, ablated, progress),
    )


def _equivalence(
    crosscoder: Crosscoder,
    text: EffectText,
    directions: Sequence[Direction],
    attribution: Attribution,
    settings: EffectSettings,
    given: Sequence[int],
    progress: Progress | None,
) -> dict[int, float | None]:
    """Causal equivalence of the given latents and of those of the largest attribution.

    Nothing is run where there are too few documents for any of them.
    """
    totals = attribution.totals(attribution.closed)
    chosen = sorted({*given, *_largest(totals, settings.ablated).tolist()})
    if not settings.ablated or not chosen or attribution.n_groups < MIN_DOCUMENTS:
        return {}
    sums = ablation_divergence(crosscoder, text, directions, chosen, progress)
    # Not where the magnitude is above 0: that of a latent with equal decoder rows never is.
    fires = attribution.by_group(np.ones_like(attribution.closed)).tocsc()[:, chosen].toarray() > 0
    n_tokens = attribution.gap.n_tokens[:, attribution.gap.scope]
    return {
        latent: equivalence_of(sums[:, place], n_tokens, fires[:, place])
        for place, latent in enumerate(chosen)
    }


def directions_of(
    crosscoder: Crosscoder, uppers: Mapping[str, UpperBlocks], pair: tuple[str, str]
) -> list[Direction]:
    """From the reference to the target of a pair, and back; InputError for an unknown model."""
    index = crosscoder.config.model_index
    return [
        Direction(index(target), index(reference), uppers[target])
        for target, reference in (pair, pair[::-1])
    ]


@dataclass(frozen=True)
class _PlannedSet:
    """A set, the documents on which it is tested, and its controls."""

    latents: LatentGroup
    groups: BoolArray
    """(G,)"""
    controls: list[IntArray]
    is_patched: bool
    n_patched: int
    """How many controls are patched."""


def _plan(
    attribution: Attribution,
    sets: Sequence[LatentGroup],
    plan: PatchPlan,
    controls_of: Callable[[IntArray, FloatArray], list[IntArray]],
    settings: EffectSettings,
    on_half: bool,
) -> list[_PlannedSet]:
    """The given sets and those that every direction has, with their controls."""
    magnitude = attribution.totals(attribution.magnitude)
    everything = np.flatnonzero(magnitude > 0)
    nothing = np.zeros(0, dtype=np.int64)
    whole = np.ones(attribution.n_groups, dtype=bool)
    choice = choice_half(attribution.n_groups)
    by_closed = attribution.totals(attribution.closed, choice)
    top = settings.top
    tested = ~choice
    chosen = [
        *((each, tested if on_half else whole) for each in sets),
        (LatentGroup(TOP_ATTRIBUTION, _largest(by_closed, top)), tested),
        (LatentGroup(TOP_MAGNITUDE, _largest(magnitude, top)), whole),
        (LatentGroup(ALL, everything), whole),
        (LatentGroup(CONSTANT, nothing, with_constant=True), whole),
        (LatentGroup(ALL_AND_CONSTANT, everything, with_constant=True), whole),
    ]
    planned = []
    for latents, groups in chosen:
        # The constant has no magnitude that latents could match.
        controls = [] if latents.with_constant else controls_of(latents.latents, magnitude)
        n_patched = settings.patched_controls if latents.name in plan.controlled else 0
        planned.append(
            _PlannedSet(
                latents,
                groups,
                controls,
                latents.name not in plan.left_out,
                min(n_patched, len(controls)),
            )
        )
    return planned


def _largest(values: FloatArray, n: int) -> IntArray:
    """The latents of the n largest positive values, ascending."""
    order = np.argsort(-values, kind="stable")[:n]
    return np.sort(order[values[order] > 0])


def _patched(plan: Sequence[_PlannedSet]) -> list[LatentGroup]:
    """What is patched: every set, followed by its controls."""
    return [
        group
        for each in plan
        if each.is_patched
        for group in (
            each.latents,
            *(LatentGroup("control", latents) for latents in each.controls[: each.n_patched]),
        )
    ]


def _measured(
    attribution: Attribution, plan: Sequence[_PlannedSet], sums: PatchedSums
) -> list[MeasuredSet]:
    """The sums of every set and its controls."""
    closed = attribution.by_group(attribution.closed)
    magnitude = attribution.totals(attribution.magnitude)
    scope = attribution.gap.scope
    unknown = np.full_like(attribution.gap.kl, np.nan)
    measured, place = [], 0
    for each in plan:
        own, after = place, place + (1 + each.n_patched if each.is_patched else 0)
        members = each.latents.latents
        measured.append(
            MeasuredSet(
                name=each.latents.name,
                n_latents=len(members),
                groups=each.groups,
                magnitude=float(magnitude[members].sum()),
                closed=_closed_by(closed, [members])[0]
                + attribution.constant * each.latents.with_constant,
                restoring=sums.restoring[own] if each.is_patched else unknown,
                carrying=sums.carrying[own] if each.is_patched else unknown,
                control_magnitudes=np.array([magnitude[own].sum() for own in each.controls]),
                control_closed=_closed_by(closed, each.controls),
                control_restoring=sums.restoring[own + 1 : after, :, scope],
                control_carrying=sums.carrying[own + 1 : after, :, scope],
            )
        )
        place = after
    return measured


def _closed_by(closed: sparse.csr_array, sets: Sequence[IntArray]) -> FloatArray:
    """First-order sums (n_sets, G) of sets of latents, from those of each (G, F)."""
    lengths = [len(each) for each in sets]
    members = np.concatenate([*sets, np.zeros(0, dtype=np.int64)])
    owners = np.repeat(np.arange(len(sets)), lengths)
    shape = (closed.shape[1], len(sets))
    membership = sparse.csr_array((np.ones(len(members)), (members, owners)), shape)
    sums: FloatArray = (closed @ membership).toarray().T
    return sums
