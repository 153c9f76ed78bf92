"""Categorize: explanations are clustered, and mapped to a frozen taxonomy version."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.stages.isolate import comparisons
from labeler.stages.judging import judging_inputs, study_embedder, study_judge
from labeler.store.engine import write_session
from labeler.store.schema import Comparison
from labeler.store.taxonomies import current_version
from labeler.study_taxonomy import study_taxonomy


class CategorizeStage:
    """Judge labels in the database, put in force for the study's comparisons."""

    name = "categorize"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """The taxonomy's content, and who judges."""
        return {
            "taxonomy": study_taxonomy(context.study).sha256(),
            "cluster_distance": context.study.config.taxonomy.cluster_distance,
            **judging_inputs(context.study),
        }

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Ask for what was never answered, then put judge and version in force."""
        from labeler.categorizing import CategorizeConfig, categorize

        study = context.study
        embedder = study_embedder(study)
        judge = study_judge(study, embedder)
        names = [row.name for row in comparisons(context)]
        with write_session(context.engine) as session:
            version_id = current_version(session, study_taxonomy(study)).id
            query = select(Comparison.id).where(Comparison.name.in_(names))
            comparison_ids = list(session.execute(query).scalars())
        summary = categorize(
            context.engine,
            judge,
            embedder,
            version_id,
            comparison_ids,
            run_id,
            CategorizeConfig(cluster_distance=study.config.taxonomy.cluster_distance),
            context.progress,
        )
        return StageOutcome(
            f"{summary.n_assigned} assigned, {summary.n_none} none, "
            f"{summary.n_uninterpretable} uninterpretable, {summary.n_error} error; "
            f"{len(summary.clusters)} clusters of explanations",
            {
                "judge": judge.identity.name,
                "embedder": embedder.name,
                "clusters": [asdict(cluster) for cluster in summary.clusters],
            },
        )

    def is_whole(self, context: StageContext) -> bool:
        """The database is the product."""
        return True


STAGE: Stage = CategorizeStage()
