"""Behaviour: the models answer held-out prompts; how often each category's behaviour shows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.files import sha256_text
from crosscoder.limits import read_text
from crosscoder.model_files import FileHashes, SubjectSpec, fingerprint
from labeler.errors import UsageError, WorkError, require_extra
from labeler.judge.base import judge_kind
from labeler.judge.factory import study_embedder, study_judge
from labeler.labeling.behaviour_prompts import BehaviourPrompt, read_prompts
from labeler.stages.base import UNANSWERED, Stage, StageContext, StageOutcome, required
from labeler.stages.harvest import study_day, subject_specs
from labeler.stages.isolate import comparisons
from labeler.stages.label import judging_inputs
from labeler.store.behaviour import AnswerRow, add_answers, add_findings, stored_answers
from labeler.store.engine import read_session, write_session
from labeler.store.schema import BehaviourAnswer, Comparison
from labeler.study.config import ComparisonSection
from labeler.study.study_file import StudyFile, subject_cache
from labeler.taxonomies.showing import study_version, taxonomy_input, tree_of
from labeler.text import plural

if TYPE_CHECKING:
    from labeler.judge.base import JudgeRequest
    from labeler.judge.calls import StoredCall
    from labeler.labeling.behaviour import AnswerClass
    from labeler.labeling.behaviour_answers import WantedAnswer
    from taxonomy.counts import BehaviourChange


class BehaviourStage:
    """Answers, their classes and the paired changes in the database."""

    name = "behaviour"
    reads_previous = False

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """Prompts, models, sampling, comparisons, and what decides the classes."""
        study = context.study
        with read_session(context.engine) as session:
            taxonomy = taxonomy_input(session, study)
        prompts = study_prompts(context)
        asks_judge = any(prompt.check is None for prompt in prompts)
        return {
            "prompts": sha256_text(read_text(prompts_path(study))),
            "generation": study.config.behaviour.generation().deciding(),
            "models": {name: _identity(context, name) for name in _models(context)},
            "comparisons": [[row.name, row.target, row.reference] for row in comparisons(context)],
            "taxonomy": taxonomy,
            **(judging_inputs(study) if asks_judge else {}),
        }

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Answer what was never answered, classify every answer, and pair the models."""
        work = _Work(context, run_id)
        answers = work.answered()
        classes = work.classified(answers)
        changes = work.stored(classes)
        return work.outcome(answers, classes, changes)

    def is_whole(self, context: StageContext) -> bool:
        """The database is the product."""
        return True


def prompts_path(study: StudyFile) -> Path:
    """The prompt file; UsageError where none is named or there is none."""
    named = required(
        study.config.behaviour.prompts, "behaviour", "behaviour.prompts", "held-out prompts"
    )
    path = study.resolve(named)
    if not path.is_file():
        raise UsageError(f"behaviour.prompts: no file at {path}")
    return path


def study_prompts(context: StageContext) -> tuple[BehaviourPrompt, ...]:
    """The study's prompts, checked against its taxonomy as far as there is one yet."""
    study = context.study
    with read_session(context.engine) as session:
        taxonomy = tree_of(session, study)
    try:
        return read_prompts(prompts_path(study), taxonomy)
    except UsageError:
        if study.config.taxonomy.mode == "seed":
            raise
        # Categories that are still to be made may have the names that the prompts use.
        return read_prompts(prompts_path(study), None)


def answers_to_judge(
    context: StageContext, prompts: Sequence[BehaviourPrompt]
) -> tuple[list[tuple[BehaviourPrompt, str]], int]:
    """The stored answers of the models to prompts, and how many are still to be made."""
    from labeler.labeling.behaviour_answers import wanted_answers

    settings = context.study.config.behaviour.generation()
    found: list[tuple[BehaviourPrompt, str]] = []
    n_open = 0
    for model in _models(context):
        try:
            wanted = wanted_answers(_identity(context, model), prompts, settings)
        except UsageError:
            # Its files are not here, so its answers cannot be told from those of others.
            n_open += len(prompts) * settings.samples
            continue
        with read_session(context.engine) as session:
            known = stored_answers(session, [each.key for each in wanted])
        n_open += len(wanted) - len(known)
        for each in wanted:
            answer = known.get(each.key)
            if answer is not None and answer.text is not None:
                found.append((each.prompt, answer.text))
    return found, n_open


def _models(context: StageContext) -> list[str]:
    """The models of the comparisons, each once."""
    rows = comparisons(context)
    return list(dict.fromkeys(name for row in rows for name in (row.target, row.reference)))


def _identity(context: StageContext, model: str) -> list[Any]:
    """What tells a model's answers from those of others."""
    behaviour = context.study.config.behaviour
    if behaviour.base_url is not None:
        return ["server", behaviour.server_models.get(model, model)]
    specs = _specs(context.study)
    template = _template_name(context.study)
    day = study_day(context)
    hashes = FileHashes(subject_cache() / "file-hashes.json")
    return [
        "local",
        fingerprint(specs[model], hashes),
        specs[model].dtype,
        template and fingerprint(specs[template], hashes),
        day and day.isoformat(),
    ]


def _specs(study: StudyFile) -> dict[str, SubjectSpec]:
    if not study.config.models:
        raise UsageError(
            "behaviour.base_url: missing; a study without [[models]] needs a server that answers"
        )
    return {spec.name: spec for spec in subject_specs(study)}


def _template_name(study: StudyFile) -> str | None:
    harvest = study.config.harvest
    return harvest.template_model if harvest is not None else None


class _Work:
    """One run of the stage."""

    def __init__(self, context: StageContext, run_id: int) -> None:
        self._context = context
        self._study = context.study
        self._engine = context.engine
        self._run_id = run_id
        self._prompts = study_prompts(context)
        with write_session(self._engine) as session:
            version = study_version(session, self._study)
            if version is None:
                raise WorkError("behaviour: there are no categories yet; run `categorize` first")
            self._version_id = version.id
            self._comparison_ids = {
                row.name: _comparison_id(session, row) for row in comparisons(context)
            }
        self.n_made = 0

    def answered(self) -> list[BehaviourAnswer]:
        """The answers of every model, those that are missing made first."""
        from labeler.labeling.behaviour_answers import wanted_answers

        settings = self._study.config.behaviour.generation()
        found: list[BehaviourAnswer] = []
        for model in _models(self._context):
            identity = _identity(self._context, model)
            wanted = wanted_answers(identity, self._prompts, settings)
            keys = [each.key for each in wanted]
            with read_session(self._engine) as session:
                known = stored_answers(session, keys)
            missing = [each for each in wanted if each.key not in known]
            if missing:
                self._make(model, wanted, missing)
                with read_session(self._engine) as session:
                    known = stored_answers(session, keys)
            found += [known[key] for key in keys]
        return found

    def _make(
        self, model: str, wanted: Sequence[WantedAnswer], missing: Sequence[WantedAnswer]
    ) -> None:
        self.n_made += len(missing)
        if self._study.config.behaviour.base_url is None:
            self._keep(_local_answers(self._context, model, self._prompts, wanted))
            return
        from labeler.labeling.behaviour_answers import AnswerServer

        server = AnswerServer(self._study.config.behaviour)
        with self._context.progress.task(f"{model} answers", len(missing), "answers") as advance:

            def keep(row: AnswerRow) -> None:
                self._keep([row])
                advance(1)

            server.answer(model, missing, keep)

    def _keep(self, rows: Sequence[AnswerRow]) -> None:
        with write_session(self._engine) as session:
            add_answers(session, self._run_id, rows)

    def classified(self, answers: Sequence[BehaviourAnswer]) -> list[AnswerClass]:
        """The class of every answer; the judge is made only where it is asked."""
        from labeler.judge.latents import options_of
        from labeler.labeling.behaviour import classify

        with read_session(self._engine) as session:
            options = options_of(session, self._version_id)
        return classify(answers, self._prompts, options, self._ask)

    def _ask(self, requests: Sequence[JudgeRequest]) -> list[StoredCall]:
        from labeler.judge.calls import CallStore, ask_each

        section = self._study.config.judge
        needs_embedder = judge_kind(section.kind).needs_embedder
        embedder = study_embedder(self._study) if needs_embedder else None
        judge = study_judge(self._study, embedder, self._context.spending)
        store = CallStore(self._engine, judge.identity, self._run_id)
        store.prepare(judge)
        return asyncio.run(ask_each(judge, store, requests))

    def stored(self, classes: Sequence[AnswerClass]) -> dict[str, list[BehaviourChange]]:
        """The paired changes of every comparison, written with the classes at once."""
        changes = {
            row.name: self._changes(classes, row.target, row.reference)
            for row in comparisons(self._context)
        }
        with write_session(self._engine) as session:
            add_findings(
                session,
                [_label_row(each, self._run_id) for each in classes],
                [
                    vars(change)
                    | {
                        "run_id": self._run_id,
                        "comparison_id": self._comparison_ids[row.name],
                        "taxonomy_version_id": self._version_id,
                        "target_model": row.target,
                        "reference_model": row.reference,
                    }
                    for row in comparisons(self._context)
                    for change in changes[row.name]
                ],
            )
        return changes

    def _changes(
        self, classes: Sequence[AnswerClass], target: str, reference: str
    ) -> list[BehaviourChange]:
        """The changes of the categories, then those of their groups, each a family of tests."""
        from labeler.labeling.behaviour import group_classes, paired_answers
        from taxonomy.behaviour_change import behaviour_changes

        with read_session(self._engine) as session:
            tree = tree_of(session, self._study)
        parent_of = {each.slug: each.parent for each in tree.categories if each.parent is not None}
        seed = self._study.config.study.seed
        return [
            change
            for family in (classes, group_classes(classes, parent_of))
            for change in behaviour_changes(
                paired_answers(family, target, reference, tree.slugs), seed=seed
            )
        ]

    def outcome(
        self,
        answers: Sequence[BehaviourAnswer],
        classes: Sequence[AnswerClass],
        changes: dict[str, list[BehaviourChange]],
    ) -> StageOutcome:
        """What is said of the work, and the changes line by line."""
        from labeler.labeling.behaviour import count_words

        failed = ("error",)
        message = (
            f"{plural(len(self._prompts), 'prompt')}, {len(answers)} answers "
            f"({self.n_made} new); classified: {count_words(classes)}"
        )
        lines = tuple(
            f"{name}: {change_words(change)}" for name, found in changes.items() for change in found
        )
        return StageOutcome(
            message,
            {
                "n_answers": len(answers),
                "n_made": self.n_made,
                UNANSWERED: sum(each.outcome in failed for each in classes),
            },
            lines,
        )


def change_words(change: BehaviourChange) -> str:
    """A category's change of behaviour in one line."""
    if change.target_share is None or change.reference_share is None:
        return f"{change.category}: no prompt of {change.n_left_out} could be classified"
    return (
        f"{change.category}: {change.reference_share:.0%} -> {change.target_share:.0%} of "
        f"{plural(change.n_prompts, 'prompt')}, {change.difference_points:+.0f} points "
        f"[{change.difference_low:+.0f}, {change.difference_high:+.0f}], "
        f"q {change.q_value:.2g}: {change.verdict}"
    )


def _local_answers(
    context: StageContext,
    model: str,
    prompts: Sequence[BehaviourPrompt],
    wanted: Sequence[WantedAnswer],
) -> list[AnswerRow]:
    """The answers of a model on this machine; a file in the stage's folder keeps them meanwhile."""
    require_extra("models", "behaviour")
    from crosscoder.corpus import Message
    from crosscoder.generation import write_answers
    from crosscoder.token_roles import TEMPLATE_DATE

    study = context.study
    specs = _specs(study)
    template = _template_name(study)
    written = write_answers(
        specs[model],
        [[Message(*turn) for turn in prompt.messages] for prompt in prompts],
        study.config.behaviour.generation(),
        study.artifacts / "behaviour",
        template_model=_model_info(specs[template]) if template is not None else None,
        day=study_day(context) or TEMPLATE_DATE,
        cache_dir=subject_cache(),
        progress=context.progress,
    )
    by_prompt = dict(zip((prompt.id for prompt in prompts), written, strict=True))
    rows = []
    for each in wanted:
        answers = by_prompt[each.prompt.id]
        answer = answers[each.sample] if answers else None
        text, is_finished = (answer.text, answer.is_finished) if answer else (None, False)
        rows.append(each.row(model, text, is_finished))
    return rows


def _model_info(spec: SubjectSpec) -> Any:
    from crosscoder.model_files import pinned
    from crosscoder.models import inspect_subject, with_converted_weights

    hashes = FileHashes(subject_cache() / "file-hashes.json")
    return inspect_subject(with_converted_weights(pinned(spec), subject_cache(), hashes))


def _comparison_id(session: Session, row: ComparisonSection) -> int:
    found = session.execute(select(Comparison.id).where(Comparison.name == row.name)).scalar()
    if found is None:
        raise UsageError(
            f"behaviour: comparison {row.name} is not in the database yet; run `isolate`, or "
            "`import` its latents, first"
        )
    return found


def _label_row(each: AnswerClass, run_id: int) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "behaviour_answer_id": each.answer_id,
        "category": each.category,
        "outcome": each.outcome,
        "classified_by": each.classified_by,
        "reason": each.reason,
        "judge_call_id": each.judge_call_id,
    }


STAGE: Stage = BehaviourStage()
