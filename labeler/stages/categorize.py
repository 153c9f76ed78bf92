"""Categorize: explanations are clustered, and mapped to a frozen taxonomy version."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.errors import UsageError, WorkError
from labeler.judge.factory import limits_of, make_judge, study_embedder, study_judge
from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.stages.isolate import compared_names
from labeler.stages.label import (
    compared,
    ended_words,
    judge_inputs,
    judging_inputs,
    other_labelled,
)
from labeler.stages.learning import reviews_input, study_lessons
from labeler.store.comparisons import study_comparisons
from labeler.store.engine import read_session, write_session
from labeler.store.judge_checks import refusal_of
from labeler.store.latents import current_setting
from labeler.store.runs import LEARNING
from labeler.store.schema import Comparison, EffectiveLabel, Run
from labeler.store.schema import Judge as JudgeRow
from labeler.taxonomies.showing import (
    stored_version,
    study_version,
    taxonomy_input,
    unread_run,
)
from labeler.text import plural

if TYPE_CHECKING:
    from labeler.embedding.base import Embedder
    from labeler.judge.base import Judge
    from labeler.judge.lessons import Lessons
    from labeler.labeling.categorize import CategorizeSummary
    from labeler.study.judge_config import JudgeSection
    from labeler.taxonomies.inducing import Mode


class CategorizeStage:
    """Judge labels in the database, made active for the study's comparisons."""

    name = "categorize"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """The taxonomy's content, who judges, how often and taught by what; the imports, if any."""
        config = context.study.config
        reviews = reviews_input(context)
        with read_session(context.engine) as session:
            imported = None
            if not config.models:
                query = select(func.max(Run.id)).where(Run.kind == "import")
                imported = session.execute(query).scalar()
            return {
                "taxonomy": taxonomy_input(session, context.study),
                "accept": config.taxonomy.accept,
                "cluster_distance": config.taxonomy.cluster_distance,
                "min_members": config.taxonomy.min_members,
                "repeats": config.judge.categorize_repeats,
                "judges": [judge_inputs(row) for row in config.judges],
                "imported": imported,
                **({} if reviews is None else {"reviews": reviews}),
                **judging_inputs(context.study),
            }

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Ask for what was never answered, then make judge and version active."""
        study = context.study
        comparison_ids, notes = _wanted(context)
        if not comparison_ids:
            return StageOutcome("every imported latent has its category already; nothing asked")
        embedder = study_embedder(study)
        judge = study_judge(study, embedder, context.spending)
        work = _Work(context, run_id, judge, embedder, comparison_ids)
        if study.config.taxonomy.mode == "induce":
            notes += work.induced()
        summary = work.categorized()
        wants_more = study.config.taxonomy.mode == "residual" and summary.n_none
        if wants_more and not was_extended(context):
            notes += work.extended()
            if study.config.taxonomy.accept == "auto":
                summary = work.categorized()
        notes += work.compared()
        with read_session(context.engine) as session:
            notes = ended_words(session, comparison_ids, summary.ended) + notes
            refusal = refusal_of(session, summary.judge_id)
        notes += [refusal] if refusal is not None else []
        words = [_words(summary), *work.learned_words(), *notes]
        return StageOutcome("; ".join(words), work.facts(summary))

    def is_whole(self, context: StageContext) -> bool:
        """The database is the product."""
        return True


def was_extended(context: StageContext) -> bool:
    """Whether this work has made categories from what was left: it was broken off after that.

    Made again from what is left then, they would follow each other without an end.
    """
    with read_session(context.engine) as session:
        run_id = unread_run(stored_version(session, context.study))
        run = None if run_id is None else session.get(Run, run_id)
        if run is None:
            return False
        key = context.keys.get("categorize")
        return run.status != "done" if key is None else run.stage_key == key


class _Work:
    """One run of the stage."""

    def __init__(
        self,
        context: StageContext,
        run_id: int,
        judge: Judge,
        embedder: Embedder,
        comparison_ids: list[int],
    ) -> None:
        self._context = context
        self._study = context.study
        self._run_id = run_id
        self._judge = judge
        self._embedder = embedder
        self._comparison_ids = comparison_ids
        self._learning: dict[str, Any] = {}

    def induced(self) -> list[str]:
        """Make the taxonomy if there is none: accepted unread, or a person is asked to read it."""
        with read_session(self._context.engine) as session:
            if study_version(session, self._study) is not None:
                return []
        if self._study.config.taxonomy.accept == "auto":
            return self._accepted("induce")
        raise WorkError(f"categorize: {self._proposed('induce')}")

    def extended(self) -> list[str]:
        """Make categories from what is left."""
        if self._study.config.taxonomy.accept == "auto":
            return self._accepted("residual")
        return [self._proposed("residual")]

    def compared(self) -> list[str]:
        """Let the judges of `[[judges]]` label too, and say how all of them agree."""
        from labeler.labeling.agreement import read_agreement

        for section in self._study.config.judges:
            judge = make_judge(section, self._embedder, self._study.folder, self._context.spending)
            self._categorize(judge, section)
        with read_session(self._context.engine) as session:
            rows = [
                row
                for comparison_id in self._comparison_ids
                for row in read_agreement(session, session.get_one(Comparison, comparison_id))
            ]
        return [row.words for row in rows if row.agreement.n_raters > 1]

    def categorized(self) -> CategorizeSummary:
        """Ask for the categories of every latent."""
        return self._categorize(self._judge, self._study.config.judge, activate=True)

    def _categorize(
        self, judge: Judge, section: JudgeSection, activate: bool = False
    ) -> CategorizeSummary:
        from labeler.judge.few_shot import heads_folder
        from labeler.labeling.categorize import CategorizeConfig, categorize
        from labeler.labeling.category_questions import QuestionConfig

        lessons = study_lessons(self._context, section)
        with write_session(self._context.engine) as session:
            version = study_version(session, self._study)
            others = (
                other_labelled(session, self._context, section) if self._study.config.models else []
            )
        if version is None:
            raise WorkError('categorize: no category could be made; set taxonomy.mode = "seed"')
        config = self._study.config
        summary = categorize(
            self._context.engine,
            judge,
            self._embedder,
            version.id,
            self._comparison_ids,
            self._run_id,
            CategorizeConfig(
                cluster_distance=config.taxonomy.cluster_distance,
                repeats=section.categorize_repeats,
                questions=QuestionConfig(
                    section.shortlist, limits_of(section), fits=heads_folder(), lessons=lessons
                ),
                seed=config.study.seed,
                activate=activate,
            ),
            self._context.progress,
            others,
        )
        if activate and section.learn:
            self._learning = self._learned(summary.judge_id, version.id, lessons)
        return summary

    def _learned(self, judge_id: int, version_id: int, lessons: Lessons | None) -> dict[str, Any]:
        """What the labels were taught, and the latents to review next."""
        from labeler.judge.latents import latents_of
        from labeler.labeling.learning import next_reviews

        proposed: list[int] = []
        if self._study is self._study.original:
            with read_session(self._context.engine) as session:
                latents = latents_of(session, self._comparison_ids)
                proposed = next_reviews(
                    session, self._embedder, judge_id, version_id, self._comparison_ids, latents
                )
        return {
            "judge_id": judge_id,
            "taxonomy_version_id": version_id,
            "n_reviewed": 0 if lessons is None else len(lessons.reviewed),
            "reviews_sha256": reviews_input(self._context),
            "next": proposed,
        }

    def learned_words(self) -> list[str]:
        """Says that the labels were taught; nothing where the judge does not learn."""
        if not self._learning:
            return []
        return [f"learned from {plural(self._learning['n_reviewed'], 'reviewed latent')}"]

    def facts(self, summary: CategorizeSummary) -> dict[str, Any]:
        """What the run's row keeps."""
        learning = {LEARNING: self._learning} if self._learning else {}
        return {
            **learning,
            "judge": self._judge.identity.name,
            "embedder": self._embedder.name,
            "embedder_fingerprint": self._embedder.fingerprint,
            "quotes_not_found": summary.n_quotes_not_found,
            "clusters": [asdict(cluster) for cluster in summary.clusters],
        }

    def _accepted(self, mode: Mode) -> list[str]:
        from labeler.taxonomies.deciding import accept_proposal
        from labeler.taxonomies.inducing import draft_of

        draft = draft_of(
            self._context.engine, self._study, self._judge, self._embedder, self._run_id, mode
        )
        if draft is None:
            return []
        done = accept_proposal(
            self._context.engine, self._study, draft.proposal, f"run {self._run_id}", unread=True
        )
        return [f"{draft.n_categories} categories made and accepted unread: {done.version}"]

    def _proposed(self, mode: Mode) -> str:
        from labeler.taxonomies.inducing import PROPOSAL_NAME, draft_of, write_draft

        path = self._study.folder / PROPOSAL_NAME
        if path.exists():
            return f"a proposal waits in {path}: `difflens taxonomy accept`, or remove it"
        draft = draft_of(
            self._context.engine, self._study, self._judge, self._embedder, self._run_id, mode
        )
        return write_draft(self._study, draft).summary().replace("\n", "; ")


def _wanted(context: StageContext) -> tuple[list[int], list[str]]:
    """The study's comparisons; without models those of imports in which something is unlabelled."""
    if context.study.config.models or context.study.config.comparison:
        with read_session(context.engine) as session:
            return compared(session, compared_names(context)), []

    with read_session(context.engine) as session:
        found = comparisons_to_judge(session)
    if found is None:
        raise UsageError(
            "categorize: the database has no comparison; `difflens import` latents with their "
            "explanations, or fill in [[models]] and [[comparison]]"
        )
    notes = [f"{each.name}: {each.words}" for each in found if each.words]
    return [each.id for each in found], notes


def _words(summary: CategorizeSummary) -> str:
    words = (
        f"{summary.n_assigned} assigned, {summary.n_none} none, "
        f"{summary.n_uninterpretable} uninterpretable, {summary.n_error} error; "
        f"{len(summary.clusters)} clusters of explanations"
    )
    if summary.n_carried:
        words += f"; {summary.n_carried} labels kept from the version before"
    if summary.n_without_explanation:
        words += f"; {summary.n_without_explanation} without an explanation"
    if summary.n_saw_all:
        words += f"; the judge asked to see all categories for {summary.n_saw_all}"
    if summary.note:
        words += f"; {summary.note}"
    if summary.n_quotes_not_found:
        words += f"; {summary.n_quotes_not_found} quotes not found in what the judge was shown"
    return words


STAGE: Stage = CategorizeStage()


@dataclass(frozen=True)
class ToJudge:
    """A comparison that a judge is to categorise; `words` say what that takes out of force."""

    id: int
    name: str
    words: str


def comparisons_to_judge(session: Session) -> list[ToJudge] | None:
    """Imported comparisons with a latent that nobody labelled, or that a judge categorised before.

    One whose imported labels are complete is left as it is. None where there is no comparison.
    """
    rows = study_comparisons(session, ()).present
    if not rows:
        return None
    found = []
    for row in rows:
        setting = current_setting(session, row.id)
        is_import = setting is not None and session.get_one(JudgeRow, setting.judge_id).is_import
        if is_import and not _count(session, row.id, "unlabelled"):
            continue
        n_imported = _count(session, row.id, "assigned") + _count(session, row.id, "none")
        words = ""
        if is_import and n_imported:
            words = f"{n_imported} imported labels are no longer active; v_judge_label keeps them"
        found.append(ToJudge(row.id, row.name, words))
    return found


def _count(session: Session, comparison_id: int, outcome: str) -> int:
    query = select(func.count()).where(
        EffectiveLabel.comparison_id == comparison_id,
        EffectiveLabel.outcome == outcome,
        EffectiveLabel.review_event_id.is_(None),
    )
    return int(session.execute(query).scalar_one())
