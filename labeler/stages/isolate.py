"""Isolate: latent scaling of every latent, and the latent sets of every comparison."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.config import SIDES
from labeler.stages.attribution import (
    UpperModels,
    effect_pairs,
    effect_settings,
    pair_attributions,
)
from labeler.stages.base import Stage, StageContext, StageOutcome, required
from labeler.stages.scrambles import NO_SCRAMBLES, Scrambles, scrambles_of
from labeler.stages.train import (
    StudyCrosscoder,
    crosscoder_row,
    opened_store,
    register,
    side_crosscoder,
    study_crosscoders,
    trained_crosscoder,
)
from labeler.store.comparisons import name_of_seed
from labeler.store.engine import write_session
from labeler.store.latents import (
    SHIFT_COLUMNS,
    add_latents,
    add_scaling,
    add_side_draws,
    create_latent_set,
    ensure_comparison,
    mark_seed,
    set_stability,
)
from labeler.store.schema import CrosscoderModel, LatentSet, SubjectModel
from labeler.study.config import ComparisonSection, pair_of
from labeler.study.study_file import StudyFile
from labeler.text import plural

if TYPE_CHECKING:
    from crosscoder.isolation import ComparisonSelection, LatentSelection
    from crosscoder.scaling import LatentScaling, PairScaling
    from crosscoder.side_draws import SideDraws
    from crosscoder.stability import SeedStability

_LOGGER = logging.getLogger(__name__)

SCALING_NAME = "scaling.safetensors"
CROSSCODER_KEYS = frozenset({"target_crosscoder", "reference_crosscoder"})


class IsolateStage:
    """scaling.safetensors of each crosscoder; latents, scaling and sets in the database."""

    name = "isolate"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """The rule, the comparisons, how many seeds the latents are of and looked for in,
        and how
        attribution is measured where the rule reads it."""
        section = context.study.config.isolate
        inputs: dict[str, Any] = {
            "isolate": section.model_dump(),
            "comparisons": [_decisive(row) for row in comparisons(context)],
        }
        if section.isolation_rule().needs_attribution:
            settings = effect_settings(context.study)
            inputs["attribution"] = settings.model_dump(include={"max_tokens", "points"})
        if context.study.config.train.seeds > 1:
            inputs["seeds"] = context.study.config.train.seeds
            inputs["labelled_seeds"] = len(labelled_seeds(context.study))
        return inputs

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Scale a crosscoder's latents in one pass, choose by the rule, write all at once."""
        crosscoders = labelled_crosscoders(context.study)
        scalings = {one: scaled(context, one) for one in crosscoders}
        known: Mapping[StudyCrosscoder, LatentScaling] = scalings
        if context.study.config.isolate.isolation_rule().needs_attribution:
            known = _attributed(context, scalings)
        chosen = [
            _choose(context, known, row, seed)
            for row in comparisons(context)
            for seed in labelled_seeds(context.study)
        ]
        stabilities = {
            one: found for one in crosscoders if (found := _stability(context, one, scalings))
        }
        store = opened_store(context)
        for one in crosscoders:
            if one.seed:
                register(context, run_id, one.of(store), one)
        with write_session(context.engine) as session:
            stored = {
                one: _store_latents(session, context, one, scaling)
                for one, scaling in scalings.items()
            }
            for one, stability in stabilities.items():
                set_stability(session, _stability_rows(stability, stored[one].latent_ids))
            for comparison in chosen:
                _store_comparison(session, run_id, stored, comparison)
        messages = [
            f"{each.name}: {each.sides.message}{_coming_again(each, stabilities)}"
            f"{each.scrambles.note and '; '}{each.scrambles.note}"
            for each in chosen
        ]
        return StageOutcome(" | ".join(messages), {"messages": messages})

    def is_whole(self, context: StageContext) -> bool:
        """Whether the scaling is on disk."""
        return all(
            (one.folder(context, self.name) / SCALING_NAME).is_file()
            for one in labelled_crosscoders(context.study)
        )


def scaled(context: StageContext, one: StudyCrosscoder) -> LatentScaling:
    """The scaling of a crosscoder's latents, from its file where an earlier run wrote that.

    A file that is not what was written, or of an earlier version, is named and computed again.
    """
    from crosscoder.errors import InputError
    from crosscoder.scaling import latent_scaling, load_scaling, save_scaling

    path = one.folder(context, "isolate") / SCALING_NAME
    if path.is_file():
        try:
            return load_scaling(path)
        except InputError as error:
            _LOGGER.warning("%s", error)
    crosscoder = trained_crosscoder(context, one)
    n_blocks = context.study.config.isolate.n_blocks
    store = one.of(opened_store(context))
    save_scaling(latent_scaling(crosscoder, store, n_blocks, context.progress), path)
    return load_scaling(path)


def _attributed(
    context: StageContext, scalings: Mapping[StudyCrosscoder, LatentScaling]
) -> dict[StudyCrosscoder, LatentScaling]:
    """The scalings with what each latent of a compared pair does to the output."""
    from crosscoder.attribution import chosen_shares

    models = UpperModels(context)
    found = dict(scalings)
    for row in comparisons(context):
        for pair in effect_pairs(context.study, row):
            shares = chosen_shares(pair_attributions(context, models, pair))
            found[pair.crosscoder] = found[pair.crosscoder].with_attribution(pair.models, shares)
    return found


def _stability(
    context: StageContext,
    one: StudyCrosscoder,
    scalings: Mapping[StudyCrosscoder, LatentScaling],
) -> SeedStability | None:
    """The latents of a crosscoder beside those of its other seeds; None without such.

    Densities are compared where every seed was scaled.
    """
    import torch

    from crosscoder.stability import seed_stability

    n_seeds = context.study.config.train.seeds
    seeds = [one, *(one.of_seed(seed) for seed in range(n_seeds) if seed != one.seed)]
    if len(seeds) == 1:
        return None
    densities = [torch.as_tensor(scalings[each].density) for each in seeds if each in scalings]
    own, *others = (trained_crosscoder(context, each) for each in seeds)
    return seed_stability(own, others, densities if len(densities) == len(seeds) else None)


def _stability_rows(
    stability: SeedStability, latent_ids: Mapping[int, int]
) -> Iterator[dict[str, Any]]:
    for index, latent_id in latent_ids.items():
        yield {
            "id": latent_id,
            "n_seeds": len(stability.best_cosine),
            "p_reappear": float(stability.p_reappear[index]),
            "best_cosine": float(stability.mean_best_cosine[index]),
            "span_match": float(stability.mean_span_match[index]),
        }


def _coming_again(chosen: _Chosen, stabilities: Mapping[StudyCrosscoder, SeedStability]) -> str:
    """How many latents of the sides are stable under the seed, in words."""
    sides = (chosen.sides.target, chosen.sides.reference)
    known = [
        (stabilities[owner], side.latent_indices)
        for owner, side in zip(chosen.owners, sides, strict=True)
        if owner in stabilities
    ]
    if not known:
        return ""
    n_stable = sum(int(found.is_stable[indices].sum()) for found, indices in known)
    n_latents = sum(len(indices) for _, indices in known)
    n_seeds = len(known[0][0].best_cosine)
    return (
        f"; {n_stable} of {n_latents} come again in at least half of "
        f"{plural(n_seeds, 'other seed')}"
    )


def _decisive(comparison: ComparisonSection) -> dict[str, Any]:
    """A comparison as JSON; the keys of several crosscoders joined it with their defaults."""
    return {
        key: value
        for key, value in comparison.model_dump().items()
        if value is not None or key not in CROSSCODER_KEYS
    }


def comparisons(context: StageContext) -> tuple[ComparisonSection, ...]:
    """The study's comparisons, or UsageError."""
    rows: tuple[ComparisonSection, ...] = required(
        context.study.config.comparison, "isolate", "comparison", "a [[comparison]]"
    )
    return rows


def labelled_seeds(study: StudyFile) -> range:
    """Numbers of the seeds whose latents are isolated and labelled.

    The first alone where the rule reads attributions, which are measured for one crosscoder.
    """
    train = study.config.train
    is_for_one = study.config.isolate.isolation_rule().needs_attribution
    return range(train.seeds if train.label_seeds and not is_for_one else 1)


def labelled_crosscoders(study: StudyFile) -> tuple[StudyCrosscoder, ...]:
    """The study's crosscoders, and then the same of every further seed that is labelled."""
    own = study_crosscoders(study)
    return tuple(one.of_seed(seed) for seed in labelled_seeds(study) for one in own)


def compared_names(context: StageContext) -> list[str]:
    """Names in the database of the study's comparisons by every labelled seed."""
    seeds = labelled_seeds(context.study)
    return [name_of_seed(row.name, seed) for row in comparisons(context) for seed in seeds]


@dataclass(frozen=True)
class _Stored:
    """What the database calls a crosscoder's latents and models."""

    crosscoder_id: int
    scaling: LatentScaling
    latent_ids: dict[int, int]
    """latent_id by latent_index."""
    model_ids: dict[str, int]
    """subject_model id by name."""


def _store_latents(
    session: Session, context: StageContext, one: StudyCrosscoder, scaling: LatentScaling
) -> _Stored:
    crosscoder = crosscoder_row(session, context, one)
    query = (
        select(SubjectModel.name, SubjectModel.id)
        .join(CrosscoderModel, CrosscoderModel.subject_model_id == SubjectModel.id)
        .where(CrosscoderModel.crosscoder_id == crosscoder.id)
    )
    model_ids = {row.name: row.id for row in session.execute(query)}
    latent_ids = add_latents(session, crosscoder.id, _latent_rows(scaling))
    for (target, reference), pair in scaling.pairs.items():
        rows = _scaling_rows(pair, scaling, latent_ids)
        add_scaling(session, model_ids[target], model_ids[reference], rows)
    return _Stored(crosscoder.id, scaling, latent_ids, model_ids)


def _latent_rows(scaling: LatentScaling) -> Iterator[dict[str, Any]]:
    for index in range(scaling.n_latents):
        mean = float(scaling.mean_activation[index])
        yield {
            "latent_index": index,
            "density": float(scaling.density[index]),
            "n_documents": int(scaling.n_documents[index]),
            "max_activation": float(scaling.max_activation[index]),
            "mean_activation": None if mean != mean else mean,
        }


_MEASURES = (
    "delta_norm",
    *(f"{nu}{end}" for nu in ("nu_error", "nu_reconstruction") for end in ("", "_low", "_high")),
    *SHIFT_COLUMNS,
)
"""Columns of a pair's scaling, named alike by the statistics and the database."""


def _scaling_rows(
    pair: PairScaling, scaling: LatentScaling, latent_ids: dict[int, int]
) -> Iterator[dict[str, Any]]:
    from crosscoder.scaling import ScalingFlag

    negative = int(ScalingFlag.ERROR_NEGATIVE | ScalingFlag.RECONSTRUCTION_NEGATIVE)
    for index, latent_id in latent_ids.items():
        yield {
            "latent_id": latent_id,
            **{name: float(getattr(pair, name)[index]) for name in _MEASURES},
            "n_active": int(scaling.n_active[index]),
            "n_documents": int(scaling.n_documents[index]),
            "is_flagged": bool(int(pair.flags[index]) & negative),
        }


@dataclass(frozen=True)
class _Chosen:
    """The sides of a comparison by the crosscoders of one seed, and the same chosen by chance."""

    comparison: ComparisonSection
    seed: int
    """Number of the seed; 0 = the one that pages show."""
    owners: tuple[StudyCrosscoder, StudyCrosscoder]
    """The crosscoder of each side."""
    sides: ComparisonSelection
    draws: SideDraws | None
    """None where none are asked for, or where each side has a crosscoder of its own."""
    scrambles: Scrambles = NO_SCRAMBLES
    """Beside the draws."""

    @property
    def name(self) -> str:
        """Name of the comparison in the database."""
        return name_of_seed(self.comparison.name, self.seed)


def _choose(
    context: StageContext,
    scalings: Mapping[StudyCrosscoder, LatentScaling],
    comparison: ComparisonSection,
    number: int,
) -> _Chosen:
    from crosscoder.isolation import isolate_comparison
    from crosscoder.side_draws import draw_sides

    section, seed = context.study.config.isolate, context.study.config.study.seed
    target, reference = (
        side_crosscoder(context.study, comparison, side).of_seed(number) for side in SIDES
    )
    sides = isolate_comparison(
        scalings[target].pair(*pair_of(comparison, "target")),
        scalings[reference].pair(*pair_of(comparison, "reference")),
        section.isolation_rule(),
        section.overlap,
        shared_dictionary=target == reference,
    )
    owners = (target, reference)
    if not section.draws or target != reference:
        return _Chosen(comparison, number, owners, sides, None)
    # Every seed's sides are drawn with the same swaps of documents: `seed` is the study's.
    draws = draw_sides(
        scalings[target], sides, section.overlap, section.draws, seed, context.progress
    )
    scrambles = scrambles_of(context, target, comparison)
    return _Chosen(comparison, number, owners, sides, draws, scrambles)


def _store_comparison(
    session: Session,
    run_id: int,
    crosscoders: Mapping[StudyCrosscoder, _Stored],
    chosen: _Chosen,
) -> None:
    name, sides = chosen.name, chosen.sides
    opening = f"{sides.reason}; " if sides.reason else ""
    sets = [
        _store_set(
            session,
            run_id,
            crosscoders[owner],
            f"{name}/{side}",
            replace(selection, message=f"{opening}{selection.message}; {sides.overlap_note}"),
        )
        for side, owner, selection in zip(
            SIDES, chosen.owners, (sides.target, sides.reference), strict=True
        )
    ]
    comparison = ensure_comparison(session, name, sets[0].id, sets[1].id)
    if chosen.seed:
        mark_seed(session, comparison.id, chosen.comparison.name, chosen.seed)
    if chosen.draws is not None:
        add_side_draws(session, comparison, **vars(chosen.draws), scrambled=chosen.scrambles.shifts)


def _store_set(
    session: Session, run_id: int, stored: _Stored, name: str, selection: LatentSelection
) -> LatentSet:
    """The set of this run; it is there already where the run ended before it was recorded."""
    query = select(LatentSet).where(LatentSet.run_id == run_id, LatentSet.name == name)
    written = session.execute(query).scalars().first()
    if written is not None:
        return written
    members = [
        {"latent_id": stored.latent_ids[int(index)], "rank": rank, "score": float(score)}
        for rank, (index, score) in enumerate(
            zip(selection.latent_indices, selection.scores, strict=True), start=1
        )
    ]
    return create_latent_set(
        session,
        name,
        selection.rule.kind,
        run_id,
        members,
        selection.rule.model_dump(mode="json"),
        crosscoder_id=stored.crosscoder_id,
        target_model_id=stored.model_ids[selection.target],
        against_model_id=stored.model_ids[selection.reference],
        message=selection.message,
    )


STAGE: Stage = IsolateStage()
