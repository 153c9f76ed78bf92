"""Collect: windows of text for the latents of the study's latent sets, and for others if asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.stages.harvest import subject_specs
from labeler.stages.isolate import (
    compared_names,
    comparisons,
    labelled_crosscoders,
    labelled_seeds,
)
from labeler.stages.train import (
    StudyCrosscoder,
    crosscoder_row,
    opened_store,
    trained_crosscoder,
)
from labeler.store.comparisons import name_of_seed
from labeler.store.controls import ensure_controls
from labeler.store.engine import write_session
from labeler.store.latents import EvidenceRow, add_evidence, latents_with_evidence
from labeler.store.schema import Comparison, Latent, LatentSet, LatentSetMember

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from crosscoder.evidence import Evidence
    from crosscoder.model import Crosscoder as CrosscoderModule

LATENTS_A_PART = 256
"""Latents whose windows are written in one transaction."""


class CollectStage:
    """Evidence rows in the database."""

    name = "collect"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """How many windows of which kind."""
        return {
            "collect": context.study.config.collect.model_dump(),
            "controls": context.study.config.scores.controls,
        }

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Collect, part by part, what an interrupted run has not written."""
        with write_session(context.engine) as session:
            parts = _parts(session, context, run_id)
        n_windows = sum(_collected(context, run_id, part) for part in parts)
        n_latents = sum(len(part.wanted) for part in parts)
        return StageOutcome(f"{n_windows:,} windows for {n_latents:,} latents")

    def is_whole(self, context: StageContext) -> bool:
        """The database is the product."""
        return True


@dataclass(frozen=True)
class _Part:
    """What is collected of one crosscoder."""

    crosscoder: StudyCrosscoder
    wanted: dict[int, int]
    """latent_id by latent_index."""
    sides: list[tuple[_Side, _Side]]
    """Both sides of each comparison that this crosscoder has the latents of."""


def _parts(session: Session, context: StageContext, run_id: int) -> list[_Part]:
    """Latents without evidence, by crosscoder."""
    controls = _control_latents(session, context, run_id)
    done = latents_with_evidence(session, run_id)
    latents = [
        latent
        for latent in (
            *comparison_latents(session, context),
            *other_latents(session, context),
            *controls,
        )
        if latent.id not in done
    ]
    parts = []
    for crosscoder in labelled_crosscoders(context.study):
        row = crosscoder_row(session, context, crosscoder)
        wanted = {
            latent.latent_index: latent.id for latent in latents if latent.crosscoder_id == row.id
        }
        parts.append(_Part(crosscoder, wanted, _sides(session, context, row.id)))
    return parts


def _collected(context: StageContext, run_id: int, part: _Part) -> int:
    """Write the evidence of one crosscoder's latents; returns the number of windows."""
    from crosscoder.config import EvidenceSettings
    from crosscoder.evidence import EvidenceConfig, gather

    if not part.wanted:
        return 0
    settings = context.study.config.collect.model_dump(include=set(EvidenceSettings.model_fields))
    config = EvidenceConfig(seed=context.study.config.study.seed, **settings)
    crosscoder = trained_crosscoder(context, part.crosscoder)
    counterparts = _counterparts(crosscoder, part.sides)
    indices = sorted(part.wanted)
    gathered = gather(
        crosscoder,
        part.crosscoder.of(opened_store(context)),
        indices,
        config,
        context.progress,
        {latent: counterparts[latent] for latent in counterparts if latent in part.wanted},
    )
    tokenizer = _tokenizer(context)
    n_windows = 0
    for first in range(0, len(indices), LATENTS_A_PART):
        evidence = gathered.evidence(indices[first : first + LATENTS_A_PART], tokenizer)
        with write_session(context.engine) as session:
            n_windows += add_evidence(session, run_id, _rows(evidence, part.wanted))
    return n_windows


def _control_latents(session: Session, context: StageContext, run_id: int) -> list[Latent]:
    """Latents of no set that are labelled like the specific ones, drawn once for this run."""
    names = [row.name for row in comparisons(context)]
    ids = session.execute(select(Comparison.id).where(Comparison.name.in_(names)))
    config = context.study.config
    drawn = ensure_controls(
        session, run_id, sorted(ids.scalars()), config.scores.controls, config.study.seed
    )
    return [session.get_one(Latent, latent_id) for latent_id in drawn]


def other_latents(session: Session, context: StageContext) -> list[Latent]:
    """The latents on no side of which `[collect] latents` asks for evidence, by id."""
    config = context.study.config
    if config.collect.latents == "selected":
        return []
    on_sides = comparison_latents(session, context)
    crosscoder_ids = {latent.crosscoder_id for latent in on_sides}
    query = select(Latent).where(Latent.crosscoder_id.in_(crosscoder_ids)).order_by(Latent.id)
    if config.collect.latents == "eligible":
        query = query.where(
            Latent.n_documents >= config.isolate.min_documents,
            Latent.density <= config.isolate.max_density,
        )
    known = {latent.id for latent in on_sides}
    return [latent for latent in session.execute(query).scalars() if latent.id not in known]


@dataclass(frozen=True)
class _Side:
    """One side of a comparison."""

    model: str
    """Its target model."""
    latents: tuple[int, ...]
    """Latent indices, most specific first."""


def _sides(
    session: Session, context: StageContext, crosscoder_id: int
) -> list[tuple[_Side, _Side]]:
    """Both sides of each comparison whose sides both lie in that crosscoder."""
    pairs = []
    seeds = labelled_seeds(context.study)
    for row, seed in product(comparisons(context), seeds):
        comparison = session.execute(
            select(Comparison).where(Comparison.name == name_of_seed(row.name, seed))
        ).scalar_one()
        sets = [
            session.get_one(LatentSet, set_id)
            for set_id in (comparison.target_set_id, comparison.reference_set_id)
        ]
        if all(latent_set.crosscoder_id == crosscoder_id for latent_set in sets):
            models = (row.target, row.reference)
            target, reference = (
                _Side(model, _members(session, latent_set.id))
                for model, latent_set in zip(models, sets, strict=True)
            )
            pairs.append((target, reference))
    return pairs


def _members(session: Session, set_id: int) -> tuple[int, ...]:
    query = (
        select(Latent.latent_index)
        .join(LatentSetMember, LatentSetMember.latent_id == Latent.id)
        .where(LatentSetMember.latent_set_id == set_id)
        .order_by(LatentSetMember.rank)
    )
    return tuple(session.execute(query).scalars())


def _counterparts(crosscoder: CrosscoderModule, pairs: list[tuple[_Side, _Side]]) -> dict[int, int]:
    """The counterpart of every latent of a set; a latent of several keeps that of the first."""
    from crosscoder.evidence_plan import nearest_counterparts

    counterparts: dict[int, int] = {}
    for target, reference in pairs:
        for own, other in ((target, reference), (reference, target)):
            found = nearest_counterparts(
                crosscoder.W_dec,
                own.latents,
                crosscoder.config.model_index(own.model),
                other.latents,
                crosscoder.config.model_index(other.model),
            )
            counterparts = found | counterparts
    return counterparts


def comparison_latents(session: Session, context: StageContext) -> list[Latent]:
    """Latents of the sets of the study's comparisons, of every labelled seed, each once, by id."""
    names = compared_names(context)
    query = (
        select(Latent)
        .join(LatentSetMember, LatentSetMember.latent_id == Latent.id)
        .join(
            Comparison,
            (Comparison.target_set_id == LatentSetMember.latent_set_id)
            | (Comparison.reference_set_id == LatentSetMember.latent_set_id),
        )
        .where(Comparison.name.in_(names))
        .distinct()
        .order_by(Latent.id)
    )
    return list(session.execute(query).scalars())


def _tokenizer(context: StageContext) -> PreTrainedTokenizerBase:
    from crosscoder.models import inspect_subject, template_subject

    section = context.study.config.harvest
    template_model = section.template_model if section else None
    facts = [inspect_subject(spec) for spec in subject_specs(context.study)]
    return template_subject(facts, template_model).tokenizer


def _rows(evidence: Iterable[Evidence], latent_ids: dict[int, int]) -> Iterator[EvidenceRow]:
    for window in evidence:
        values = dict(vars(window))
        yield EvidenceRow(latent_id=latent_ids[values.pop("latent_index")], **values)


STAGE: Stage = CollectStage()
