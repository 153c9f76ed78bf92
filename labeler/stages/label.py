"""Label: the judge explains every latent; with what the other judging stages share of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.files import sha256_text
from labeler.embedding.base import Embedder
from labeler.errors import WorkError
from labeler.judge.base import judge_kind
from labeler.judge.factory import judges_embedder, limits_of, make_judge, study_judge
from labeler.judge.latents import latents_of
from labeler.stages.base import UNANSWERED, Stage, StageContext, StageOutcome
from labeler.stages.collect import other_latents
from labeler.stages.isolate import compared_names, comparisons
from labeler.store.controls import control_latents, mixed
from labeler.store.engine import read_session
from labeler.store.latents import having_evidence
from labeler.store.outcomes import BY_NAME
from labeler.store.schema import Comparison
from labeler.store.taxonomy_moves import on_each_side
from labeler.study.judge_config import JudgeSection
from labeler.study.study_file import StudyFile

FIELDS_NOT_IN_KEY = {
    "base_url", "endpoints", "api_key_env", "timeout_s", "concurrency", "max_attempts",
    "restart_wait_s", "longest_wait_s", "price_prompt_per_million", "price_completion_per_million",
    "server", "categorize_repeats", "max_tokens_key", "send_temperature", "thinking_markers",
    "learn",
}  # fmt: skip
"""Fields of `[judge]` that do not change an answer and so are not part of the stage's key: address,
start of the server, costs, repeats, and the parameters that the server takes. `learn` changes
answers only through the reviews, which are part of the key of `categorize`."""
PROMPT_FIELDS = ("shortlist", "explain_tokens", "categorize_tokens")
"""Fields of `[judge]` that only shape prompts."""
MOST_FAILED = 0.2
"""Share of latents without an answer above which the stage is not done."""


def ended_words(
    session: Session, comparison_ids: Collection[int], ended: Mapping[str, Collection[int]]
) -> list[str]:
    """How many latents of each side are too long for the judge, or were refused; none, no words."""
    found = []
    for comparison_id in comparison_ids:
        name = f"{session.get_one(Comparison, comparison_id).name}: "
        for outcome, latent_ids in ended.items():
            target, reference = on_each_side(session, comparison_id, latent_ids)
            if target or reference:
                found.append(
                    f"{name if len(comparison_ids) > 1 else ''}{BY_NAME[outcome].short}: {target} "
                    f"target and {reference} reference latents"
                )
    return found


def judging_inputs(study: StudyFile) -> dict[str, Any]:
    """What decides a judge's answers; addresses, keys and concurrency do not."""
    return {
        "judge": judge_inputs(study.config.judge),
        "embedding": study.config.embedding.model_dump(exclude={"base_url", "api_key_env"}),
    }


def judge_inputs(section: JudgeSection) -> dict[str, Any]:
    """What of a judge's section decides its answers and whom it is asked about."""
    inputs = section.model_dump(exclude=FIELDS_NOT_IN_KEY)
    # These keys joined the others later; without them a study's stage key stays what it was.
    if not section.random_latents:
        del inputs["random_latents"]
    if not section.revise:
        del inputs["revise"], inputs["revise_texts"]
    kind = judge_kind(section.kind)
    if kind.reads_windows:
        for key in PROMPT_FIELDS:
            del inputs[key]
    if kind.method is not None:
        inputs["method"] = kind.method
    return inputs


def side_latents(session: Session, context: StageContext) -> list[int]:
    """The latents of the comparisons' sides, by rank, with their controls among them."""
    ids = compared(session, [row.name for row in comparisons(context)])
    return mixed(latents_of(session, ids), control_latents(session, ids))


def seed_latents(session: Session, context: StageContext) -> list[int]:
    """The latents of the same sides by the crosscoders of other seeds."""
    own = {row.name for row in comparisons(context)}
    return latents_of(session, compared(session, set(compared_names(context)) - own))


def labelled_latents(session: Session, context: StageContext, section: JudgeSection) -> list[int]:
    """The latents that a judge labels: those of the sides with their controls, then those of other
    seeds, then the others."""
    return [
        *side_latents(session, context),
        *seed_latents(session, context),
        *other_labelled(session, context, section),
    ]


def other_labelled(session: Session, context: StageContext, section: JudgeSection) -> list[int]:
    """The latents on no side that a judge labels: all that have evidence, by id.

    A judge that costs something labels `judge.random_latents` of each crosscoder, in an order drawn
    by the study's seed, so that a larger number keeps the smaller one's latents.
    """
    is_metered = judge_kind(section.kind).is_metered
    if is_metered and not section.random_latents:
        return []
    known = {*side_latents(session, context), *seed_latents(session, context)}
    wanted = [latent for latent in other_latents(session, context) if latent.id not in known]
    shown = having_evidence(session, [latent.id for latent in wanted])
    by_crosscoder: dict[int, list[int]] = defaultdict(list)
    for latent in wanted:
        if latent.id in shown:
            by_crosscoder[latent.crosscoder_id].append(latent.id)
    if is_metered:
        seed = context.study.config.study.seed
        for latents in by_crosscoder.values():
            latents.sort(key=lambda latent_id: sha256_text(f"{seed} {latent_id}"))
            del latents[section.random_latents :]
    return [latent_id for latents in by_crosscoder.values() for latent_id in latents]


def compared(session: Session, names: Collection[str]) -> list[int]:
    """The comparisons of these names in the database."""
    ids = session.execute(
        select(Comparison.id).where(Comparison.name.in_(names)).order_by(Comparison.id)
    )
    return list(ids.scalars())


def further_inputs(study: StudyFile) -> dict[str, Any]:
    """What decides the work of further judges and the scores."""
    judges = [judge_inputs(section) for section in study.config.judges]
    scores = study.config.scores.model_dump()
    scores["per_call"] = scores["per_call"] or judge_kind(study.config.judge.kind).examples_per_call
    return {"judges": judges, "scores": scores}


def score_with(
    context: StageContext,
    section: JudgeSection,
    embedder: Embedder | None,
    run_id: int,
    latents: list[int],
) -> str:
    """Let one judge score its explanations as `[scores]` says; what came of it, in words."""
    from labeler.labeling.score import ScoreConfig, score_explanations
    from labeler.study.config import ScoreSettings

    scores = context.study.config.scores
    if not scores.methods or section.kind not in scores.judges:
        return "no scores asked for"
    judge = make_judge(section, embedder, context.study.folder, context.spending)
    config = ScoreConfig(
        **scores.model_dump(include=set(ScoreSettings.model_fields)),
        seed=context.study.config.study.seed,
    )
    summary = score_explanations(context.engine, judge, run_id, latents, config, context.progress)
    return summary.words


def label_with_further_judges(
    context: StageContext, embedder: Embedder | None, run_id: int
) -> list[str]:
    """Let every judge of `[[judges]]` explain latents and score those of the sides; a line each."""
    from labeler.labeling.explain import LabelConfig, label_latents

    lines = []
    for section in context.study.config.judges:
        judge = make_judge(section, embedder, context.study.folder, context.spending)
        with read_session(context.engine) as session:
            scored = side_latents(session, context)
            latents = labelled_latents(session, context, section)
        config = LabelConfig(limits=limits_of(section))
        summary = label_latents(context.engine, judge, run_id, latents, config, context.progress)
        scores = score_with(context, section, embedder, run_id, scored)
        lines.append(
            f"{judge.identity.name} explained {summary.n_explained}, "
            f"{summary.n_failed} without an answer, {_ended(context, summary.ended)}{scores}"
        )
    return lines


def _ended(context: StageContext, ended: Mapping[str, Collection[int]]) -> str:
    with read_session(context.engine) as session:
        words = ended_words(session, compared(session, compared_names(context)), ended)
    return "".join(f"{each}, " for each in words)


class LabelStage:
    """Judge calls and explanations in the database."""

    name = "label"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """Who judges, and with which vectors."""
        return judging_inputs(context.study) | further_inputs(context.study)

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Ask for what was never answered."""
        from labeler.labeling.explain import LabelConfig, label_latents
        from labeler.stages.experiment import require_experiments

        require_experiments(context.study.config.judge)
        embedder = judges_embedder(context.study)
        judge = study_judge(context.study, embedder, context.spending)
        with read_session(context.engine) as session:
            scored = side_latents(session, context)
            latents = labelled_latents(session, context, context.study.config.judge)
        section = context.study.config.judge
        config = LabelConfig(limits=limits_of(section), keeps_revised=section.revise > 0)
        summary = label_latents(context.engine, judge, run_id, latents, config, context.progress)
        failed, tested = "", ""
        n_untested = 0
        if summary.n_failed > MOST_FAILED * summary.n_latents:
            raise WorkError(
                f"label: {summary.n_failed} of {summary.n_latents} latents got no answer; "
                "run it again to ask for them"
            )
        with read_session(context.engine) as session:
            ended = ended_words(session, compared(session, compared_names(context)), summary.ended)
        if summary.ended and not summary.n_explained + summary.n_uninterpretable:
            raise WorkError(
                f"label: no latent could be asked about; {'; '.join(ended)}; give the judge a "
                "longer context or another model, and change judge.max_tokens or judge.model"
            )
        if summary.n_failed:
            failed = f", {summary.n_failed} without an answer (`difflens label` asks again)"
        if context.study.config.judge.revise:
            from labeler.stages.experiment import revised

            experiments = revised(context, judge, context.study.config.judge, run_id)
            tested, n_untested = experiments.words, experiments.n_failed
        scores = score_with(context, context.study.config.judge, embedder, run_id, scored)
        further = label_with_further_judges(context, embedder, run_id)
        return StageOutcome(
            f"{judge.identity.name} explained {summary.n_explained} latents, "
            f"{summary.n_uninterpretable} uninterpretable, "
            f"{summary.n_too_little_evidence} with too little evidence, "
            f"{summary.n_reused} reused{failed}; "
            f"{'; '.join(words for words in (*ended, tested, scores, *further) if words)}",
            {
                "judge": judge.identity.name,
                "embedder": None if embedder is None else embedder.name,
                UNANSWERED: summary.n_failed + n_untested,
            },
        )

    def is_whole(self, context: StageContext) -> bool:
        """The database is the product."""
        return True


STAGE: Stage = LabelStage()
