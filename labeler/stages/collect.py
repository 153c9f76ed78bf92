"""Collect: windows of text for every latent of the study's latent sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.stages.harvest import subject_specs
from labeler.stages.isolate import comparisons
from labeler.stages.train import opened_store
from labeler.store.engine import read_session, write_session
from labeler.store.evidence_records import EvidenceRow, add_evidence, latents_with_evidence
from labeler.store.schema import Comparison, Latent, LatentSetMember

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from crosscoder.evidence import Evidence

LATENTS_A_PART = 256
"""Latents whose windows are written in one transaction."""


class CollectStage:
    """Evidence rows in the database."""

    name = "collect"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """How many windows of which kind."""
        return {"collect": context.study.config.collect.model_dump()}

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Collect, part by part, what an interrupted run has not written."""
        from crosscoder.checkpoints import load_crosscoder
        from crosscoder.evidence import EvidenceConfig, collect_evidence

        section = context.study.config.collect
        config = EvidenceConfig(seed=context.study.config.study.seed, **section.model_dump())
        with read_session(context.engine) as session:
            done = latents_with_evidence(session, run_id)
            wanted = {
                latent.latent_index: latent.id
                for latent in comparison_latents(session, context)
                if latent.id not in done
            }
        crosscoder = load_crosscoder(context.folder("train"))
        store = opened_store(context)
        indices = sorted(wanted)
        n_windows = 0
        for first in range(0, len(indices), LATENTS_A_PART):
            evidence = collect_evidence(
                crosscoder,
                store,
                _tokenizer(context),
                indices[first : first + LATENTS_A_PART],
                config,
                context.progress,
            )
            with write_session(context.engine) as session:
                n_windows += add_evidence(session, run_id, _rows(evidence, wanted))
        return StageOutcome(f"{n_windows:,} windows for {len(indices):,} latents")

    def is_whole(self, context: StageContext) -> bool:
        """The database is the product."""
        return True


def comparison_latents(session: Session, context: StageContext) -> list[Latent]:
    """Latents of the sets of the study's comparisons, each once, by id."""
    names = [row.name for row in comparisons(context)]
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
    from crosscoder.subjects import inspect_subject, template_subject

    section = context.study.config.harvest
    template_model = section.template_model if section else None
    facts = [inspect_subject(spec) for spec in subject_specs(context.study)]
    return template_subject(facts, template_model).tokenizer


def _rows(evidence: list[Evidence], latent_ids: dict[int, int]) -> Iterator[EvidenceRow]:
    for window in evidence:
        yield EvidenceRow(
            latent_id=latent_ids[window.latent_index],
            kind=window.kind,
            split=window.split,
            document_id=window.document_id,
            start=window.start,
            tokens=window.tokens,
            token_ids=window.token_ids,
            roles=window.roles,
            activations=window.activations,
            quantile=window.quantile,
        )


STAGE: Stage = CollectStage()
