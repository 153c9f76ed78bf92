"""Label: the judge explains every latent of the study's latent sets."""

from __future__ import annotations

from typing import Any

from labeler.errors import WorkError
from labeler.judge.factory import judges_embedder, study_judge
from labeler.stages.base import UNANSWERED, Stage, StageContext, StageOutcome
from labeler.stages.judges import (
    compared,
    ended_words,
    further_inputs,
    judging_inputs,
    label_with_further_judges,
    labelled_latents,
    score_with,
)
from labeler.store.engine import read_session

MOST_FAILED = 0.2
"""Share of latents without an answer above which the stage is not done."""


class LabelStage:
    """Judge calls and explanations in the database."""

    name = "label"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """Who judges, and with which vectors."""
        return judging_inputs(context.study) | further_inputs(context.study)

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Ask for what was never answered."""
        from labeler.labeling.explain import label_latents

        embedder = judges_embedder(context.study)
        judge = study_judge(context.study, embedder, context.spending)
        with read_session(context.engine) as session:
            latents = labelled_latents(session, context)
        summary = label_latents(context.engine, judge, run_id, latents, progress=context.progress)
        failed = ""
        if summary.n_failed > MOST_FAILED * summary.n_latents:
            raise WorkError(
                f"label: {summary.n_failed} of {summary.n_latents} latents got no answer; "
                "run it again to ask for them"
            )
        with read_session(context.engine) as session:
            ended = ended_words(session, compared(session, context), summary.ended)
        if summary.ended and not summary.n_explained + summary.n_uninterpretable:
            raise WorkError(
                f"label: no latent could be asked about; {'; '.join(ended)}; give the judge a "
                "longer context or another model, and change judge.max_tokens or judge.model"
            )
        if summary.n_failed:
            failed = f", {summary.n_failed} without an answer (`difflens label` asks again)"
        scores = score_with(context, context.study.config.judge, embedder, run_id, latents)
        further = label_with_further_judges(context, embedder, run_id, latents)
        return StageOutcome(
            f"{judge.identity.name} explained {summary.n_explained} latents, "
            f"{summary.n_uninterpretable} uninterpretable, "
            f"{summary.n_too_little_evidence} with too little evidence, "
            f"{summary.n_reused} reused{failed}; {'; '.join([*ended, scores, *further])}",
            {
                "judge": judge.identity.name,
                "embedder": None if embedder is None else embedder.name,
                UNANSWERED: summary.n_failed,
            },
        )

    def is_whole(self, context: StageContext) -> bool:
        """The database is the product."""
        return True


STAGE: Stage = LabelStage()
