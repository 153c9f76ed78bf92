"""Effect: what the latents of each side and category do to the output, against random ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.config import SIDES
from crosscoder.files import json_sha256
from labeler.stages.attribution import (
    EffectPair,
    UpperModels,
    effect_pairs,
    effect_settings,
    effect_text,
    pair_attributions,
)
from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.stages.effect_rows import CATEGORY, latent_rows, set_rows
from labeler.stages.isolate import comparisons, scaled
from labeler.stages.train import StudyCrosscoder, crosscoder_row, trained_crosscoder
from labeler.store.comparisons import study_comparisons
from labeler.store.effects import replace_category_effects, replace_latent_effects
from labeler.store.engine import read_session, write_session
from labeler.store.schema import (
    Category,
    Comparison,
    CrosscoderModel,
    EffectiveLabel,
    EffectiveLabelCategory,
    Latent,
    LatentSetMember,
    SubjectModel,
)

if TYPE_CHECKING:
    from crosscoder.effect_result import ControlBand, DirectionEffect, EffectResult
    from crosscoder.effects import PatchPlan
    from crosscoder.patching import LatentGroup

_LOGGER = logging.getLogger(__name__)


class EffectStage:
    """A file for each comparison, latent_effect and category_effect in the database."""

    name = "effect"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """The settings, and which latents are on which side and in which category."""
        with read_session(context.engine) as session:
            found = _memberships(session, context)
        settings = context.study.config.effect.model_dump(exclude={"enabled"})
        return {"effect": settings, "sets": json_sha256(found)}

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Measure each comparison in both directions, or read what an earlier run measured."""
        models = UpperModels(context)
        messages: list[str] = []
        with read_session(context.engine) as session:
            memberships = _memberships(session, context)
        for row in comparisons(context):
            rows: list[dict[str, Any]] = []
            for pair in effect_pairs(context.study, row):
                result = _measured(context, models, pair, memberships[row.name])
                with write_session(context.engine) as session:
                    names = _Names.of(session, context, pair.crosscoder)
                    for effect, attribution in zip(
                        result.directions, result.attributions, strict=True
                    ):
                        ids = (names.models[effect.target], names.models[effect.reference])
                        latents = latent_rows(attribution, result.equivalence)
                        by_id = {names.latents[index]: each for index, each in latents.items()}
                        replace_latent_effects(session, run_id, *ids, by_id)
                        rows += set_rows(effect, result.n_documents, *ids)
                messages.append(f"{row.name}: {_message(result.directions[0])}")
            with write_session(context.engine) as session:
                query = select(Comparison.id).where(Comparison.name == row.name)
                comparison_id = session.execute(query).scalar_one()
                replace_category_effects(session, run_id, comparison_id, rows)
        return StageOutcome(" | ".join(messages), {"messages": messages})

    def is_whole(self, context: StageContext) -> bool:
        """Whether every comparison was measured."""
        return all(
            _file(context, pair).is_file()
            for row in comparisons(context)
            for pair in effect_pairs(context.study, row)
        )


_Membership = dict[str, dict[str, list[int]]]
"""By side: latent ids by category, "" for those without one."""


def _memberships(session: Session, context: StageContext) -> dict[str, _Membership]:
    """The latents of each comparison's sides by their primary category, as they are labelled."""
    first = EffectiveLabelCategory
    query = (
        select(EffectiveLabel.side, EffectiveLabel.latent_id, Category.slug)
        .outerjoin(
            first,
            (first.comparison_id == EffectiveLabel.comparison_id)
            & (first.side == EffectiveLabel.side)
            & (first.latent_id == EffectiveLabel.latent_id)
            & (first.rank == 1),
        )
        .outerjoin(Category, Category.id == first.category_id)
        .order_by(EffectiveLabel.side, EffectiveLabel.latent_id)
    )
    found: dict[str, _Membership] = {}
    for comparison in study_comparisons(session, comparisons(context)).shown:
        sides: _Membership = {side: {} for side in SIDES}
        for row in session.execute(query.where(EffectiveLabel.comparison_id == comparison.id)):
            sides[row.side].setdefault(row.slug or "", []).append(row.latent_id)
        found[comparison.name] = sides
    return found


@dataclass(frozen=True)
class _Names:
    """What the database calls a crosscoder's latents and models."""

    latents: dict[int, int]
    """latent_id by latent_index."""
    models: dict[str, int]
    """subject_model id by name."""

    @classmethod
    def of(cls, session: Session, context: StageContext, one: StudyCrosscoder) -> _Names:
        """The names of a crosscoder of the study."""
        crosscoder = crosscoder_row(session, context, one)
        latents = select(Latent.latent_index, Latent.id).where(
            Latent.crosscoder_id == crosscoder.id
        )
        models = (
            select(SubjectModel.name, SubjectModel.id)
            .join(CrosscoderModel, CrosscoderModel.subject_model_id == SubjectModel.id)
            .where(CrosscoderModel.crosscoder_id == crosscoder.id)
        )
        return cls(
            {row.latent_index: row.id for row in session.execute(latents)},
            {row.name: row.id for row in session.execute(models)},
        )


def _file(context: StageContext, pair: EffectPair) -> Path:
    return context.folder("effect") / pair.file_name


def _measured(
    context: StageContext,
    models: UpperModels,
    pair: EffectPair,
    members: _Membership,
) -> EffectResult:
    """The effects of a pair, from their file where that is whole."""
    from crosscoder.effect_result import load_effects, save_effects
    from crosscoder.effects import effect_cost, measure_effects
    from crosscoder.errors import InputError

    path = _file(context, pair)
    if path.is_file():
        try:
            return load_effects(path)
        except InputError as error:
            _LOGGER.warning("%s", error)
    settings = effect_settings(context.study)
    text = effect_text(context, pair)
    rule = context.study.config.isolate.isolation_rule()
    known = pair_attributions(context, models, pair) if rule.needs_attribution else None
    with read_session(context.engine) as session:
        index_of = {
            latent_id: index
            for index, latent_id in _Names.of(session, context, pair.crosscoder).latents.items()
        }
        first = [
            index_of[latent_id] for latent_id in _first_latents(session, pair, settings.ablated)
        ]
    sets = _sets(pair, members, index_of)
    plans = _plans(pair, sets, context.study.config.effect.patched_categories)
    cost = effect_cost(text.n_tokens, len(sets), settings, plans, is_attributed=known is not None)
    context.progress.say(f"effect: {pair.comparison}: {cost.text}")
    scaling = scaled(context, pair.crosscoder).pair(*pair.models)
    result = measure_effects(
        trained_crosscoder(context, pair.crosscoder),
        text,
        models.of(pair, text),
        pair.models,
        sets,
        plans=plans,
        pool=rule.eligible(scaling),
        settings=settings,
        seed=context.study.config.study.seed,
        progress=context.progress,
        attributions=known,
        on_half=rule.needs_attribution,
        ablated=first,
    )
    save_effects(result, path)
    return result


def _first_latents(session: Session, pair: EffectPair, n: int) -> list[int]:
    """The latent ids of the first n in rank of each of a pair's sides."""
    comparison = session.execute(
        select(Comparison).where(Comparison.name == pair.comparison)
    ).scalar_one()
    sets = {"target": comparison.target_set_id, "reference": comparison.reference_set_id}
    query = select(LatentSetMember.latent_id).order_by(LatentSetMember.rank).limit(n)
    return [
        latent_id
        for side in pair.sides
        for latent_id in session.scalars(query.where(LatentSetMember.latent_set_id == sets[side]))
    ]


def _sets(pair: EffectPair, members: _Membership, index_of: dict[int, int]) -> list[LatentGroup]:
    """The latents of each side, then those of each category on either side."""
    from crosscoder.patching import LatentGroup

    def group(name: str, latent_ids: Iterable[int]) -> LatentGroup:
        return LatentGroup(name, np.unique([index_of[each] for each in latent_ids]).astype(int))

    sides = [
        group(side, [each for ids in members[side].values() for each in ids]) for side in pair.sides
    ]
    slugs = sorted({slug for side in pair.sides for slug in members[side] if slug})
    categories = [
        group(
            f"{CATEGORY}{slug}",
            [each for side in pair.sides for each in members[side].get(slug, [])],
        )
        for slug in slugs
    ]
    return [each for each in (*sides, *categories) if len(each.latents)]


def _plans(
    pair: EffectPair, sets: list[LatentGroup], n_controlled: int
) -> tuple[PatchPlan, PatchPlan]:
    """Categories are patched towards the pair's target alone, the controls of the `n_controlled`
    largest as well, and each side has its controls in its own direction; attribution covers
    everything in both. Their size, and not their effect, says which categories are compared."""
    from crosscoder.effects import PatchPlan

    categories = [each for each in sets if each.name.startswith(CATEGORY)]
    largest = sorted(categories, key=lambda each: -len(each.latents))[:n_controlled]
    own, other = pair.sides[0], pair.sides[-1]
    return (
        PatchPlan(controlled=frozenset({own, *(each.name for each in largest)})),
        PatchPlan(
            left_out=frozenset(each.name for each in categories), controlled=frozenset({other})
        ),
    )


def _message(effect: DirectionEffect) -> str:
    """The gap, and what the sides and the whole dictionary restore of it."""
    from crosscoder.effects import ALL, ALL_AND_CONSTANT

    gap = effect.gap[effect.scope].value
    if not effect.is_defined or gap is None:
        return f"{effect.target} and {effect.reference} have the same output; nothing to restore"
    parts = []
    for each in effect.sets:
        if each.name in (*SIDES, ALL, ALL_AND_CONSTANT):
            control = _control_words(each.restored_control)
            half = " of the tested half" if each.on_half else ""
            name = f"{each.name} side" if each.name in SIDES else each.name
            parts.append(f"{name} {each.restored[effect.scope].value:.0%}{half}{control}")
    return f"output gap {gap:.3g} nats per token ({effect.scope}); restored by " + ", ".join(parts)


def _control_words(band: ControlBand | None) -> str:
    if band is None:
        return " (no control)"
    if band.p is None:
        return f" (random of {band.magnitude:.0%} of the magnitude {band.mean:.0%})"
    return f" (random alike {band.mean:.0%}, p = {band.p:.2g})"


STAGE: Stage = EffectStage()
