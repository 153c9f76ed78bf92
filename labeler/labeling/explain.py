"""Stage `label`: the judge explains each latent from the explain half of its evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from sqlalchemy import Engine

from crosscoder.progress import Advance, Progress, SilentProgress
from labeler.judge.background import Background
from labeler.judge.base import Judge, judge_kind
from labeler.judge.batch import BatchRunner, FailureLimit
from labeler.judge.calls import CallStore, Question, StoredCall
from labeler.judge.evidence_statistics import LanguageIdentifier
from labeler.judge.latents import background_texts, load_subjects
from labeler.judge.prompt_limits import FIRING_KINDS, PromptLimits
from labeler.judge.prompts import explain_request
from labeler.store.engine import read_session, write_session
from labeler.store.experiments import superseded_explanations
from labeler.store.judging import (
    ExplanationRow,
    add_explanations,
    lock_latents,
    newest_explanations,
    no_explanation,
)
from labeler.store.outcomes import OF_ONE_REQUEST
from labeler.store.schema import Explanation

READ_AT_ONCE = 32
"""Latents whose evidence is read in one session."""


@dataclass(frozen=True)
class LabelConfig:
    """Settings of the explanations."""

    min_windows: int = 3
    """Fewest firing examples of the explain half for a latent that is asked about."""
    limits: PromptLimits = field(default_factory=PromptLimits)
    failure_limit: FailureLimit = field(default_factory=FailureLimit)
    keeps_revised: bool = True
    """Whether an explanation that an experiment put in the place of another one stays."""


@dataclass(frozen=True)
class LabelSummary:
    """Counts of the latents by result; `n_reused` counts some of them again."""

    judge_id: int
    n_latents: int
    n_explained: int
    n_uninterpretable: int
    """The judge found nothing that the texts share."""
    n_too_little_evidence: int
    n_failed: int
    """Calls that gave no answer; the next run asks again."""
    ended: dict[str, tuple[int, ...]]
    """Latents whose request is too long or was refused, by outcome; nobody asks again."""
    n_reused: int
    """Latents whose answer came from an earlier run or another worker."""


@dataclass
class _Counts:
    explained: int = 0
    uninterpretable: int = 0
    too_little: int = 0
    failed: int = 0
    reused: int = 0
    ended: dict[str, list[int]] = field(default_factory=dict)


def label_latents(
    engine: Engine,
    judge: Judge,
    run_id: int,
    latent_ids: Sequence[int],
    config: LabelConfig | None = None,
    progress: Progress | None = None,
) -> LabelSummary:
    """Ask the judge to explain latents; every call is committed as it arrives.

    An answered request is not sent again. A latent gets an explanation that states the reason and
    is not interpretable where its evidence is too little, and where its request is too long or was
    refused. Raises WorkError where the judge cannot go on or fails too often; a later call
    continues from there.
    """
    latents = list(dict.fromkeys(latent_ids))
    store = CallStore(engine, judge.identity, run_id)
    progress = progress or SilentProgress()
    background = background_for(engine, judge)
    with progress.task("label", len(latents), "latents") as advance:
        labeler = _Labeler(engine, store, run_id, config or LabelConfig(), background, advance)
        asyncio.run(labeler.run(judge, latents))
    counts = labeler.counts
    return LabelSummary(
        judge_id=store.judge_id,
        n_latents=len(latents),
        n_explained=counts.explained,
        n_uninterpretable=counts.uninterpretable,
        n_too_little_evidence=counts.too_little,
        n_failed=counts.failed,
        ended={name: tuple(latents) for name, latents in counts.ended.items()},
        n_reused=counts.reused,
    )


def background_for(engine: Engine, judge: Judge) -> Background | None:
    """The text of the study's evidence, for a judge that reads it."""
    if not judge_kind(judge.identity.endpoint_kind).reads_background:
        return None
    with read_session(engine) as session:
        texts = background_texts(session)
    return Background.of(texts, LanguageIdentifier())


def explain_questions(
    engine: Engine,
    latent_ids: Sequence[int],
    config: LabelConfig,
    background: Background | None = None,
) -> Iterator[Question | TooLittle]:
    """A question for each latent, in order, or TooLittle where its evidence does not suffice."""
    left = iter(latent_ids)
    while part := list(islice(left, READ_AT_ONCE)):
        with read_session(engine) as session:
            subjects = load_subjects(session, part)
        for subject in subjects:
            n_firing = sum(window.peak > 0 for window in subject.of_kind(*FIRING_KINDS))
            if n_firing >= config.min_windows:
                request = explain_request(subject, limit=config.limits.explain)
                yield Question(subject.latent_id, replace(request, background=background))
            else:
                yield TooLittle(subject.latent_id, n_firing)


@dataclass(frozen=True)
class TooLittle:
    """A latent that is not asked about."""

    latent_id: int
    n_firing: int


@dataclass
class _Labeler:
    """One batch of explanations."""

    engine: Engine
    store: CallStore
    run_id: int
    config: LabelConfig
    background: Background | None
    advance: Advance
    counts: _Counts = field(default_factory=_Counts)

    async def run(self, judge: Judge, latents: Sequence[int]) -> None:
        """Ask for all of them."""
        runner = BatchRunner(judge, self.store, self.config.failure_limit)
        await runner.run(self._questions(latents), self._count, self._keep)

    def _questions(self, latents: Sequence[int]) -> Iterator[Question]:
        for asked in explain_questions(self.engine, latents, self.config, self.background):
            if isinstance(asked, Question):
                yield asked
            else:
                self._skip(asked)

    def _skip(self, skipped: TooLittle) -> None:
        text = (
            f"Too little evidence: it fires in {skipped.n_firing} texts of the explain half, "
            f"{self.config.min_windows} are needed"
        )
        self._write([ExplanationRow(skipped.latent_id, text, interpretable=False)])
        self.counts.too_little += 1
        self.advance(1)

    def _count(self, question: Question, call: StoredCall) -> None:
        self.counts.reused += not call.was_asked
        if call.status in OF_ONE_REQUEST:
            self.counts.ended.setdefault(call.status, []).append(question.latent_id)
        elif call.parsed is None:
            self.counts.failed += 1
        elif call.parsed["interpretable"]:
            self.counts.explained += 1
        else:
            self.counts.uninterpretable += 1
        self.advance(1)

    def _keep(self, answers: Sequence[tuple[Question, StoredCall]]) -> None:
        """Write the explanations of a batch of answers."""
        rows = (_explanation(question.latent_id, call) for question, call in answers)
        self._write([row for row in rows if row is not None])

    def _write(self, rows: Sequence[ExplanationRow]) -> None:
        """Write explanations, except those that are the latent's newest, or that became it by a
        test.
        """
        latent_ids = [row.latent_id for row in rows]
        with write_session(self.engine) as session:
            lock_latents(session, latent_ids)
            newest = newest_explanations(session, latent_ids, self.store.judge_id)
            tested = (
                superseded_explanations(session, latent_ids, self.store.judge_id)
                if self.config.keeps_revised
                else ()
            )
            fresh = [
                row
                for row in rows
                if not _is_written(row, newest.get(row.latent_id))
                and (row.latent_id, row.judge_call_id, row.text) not in tested
            ]
            add_explanations(session, self.run_id, self.store.judge_id, fresh)


def _explanation(latent_id: int, call: StoredCall) -> ExplanationRow | None:
    """The explanation row of a call; None for a failure, which is asked again."""
    if call.status in OF_ONE_REQUEST:
        text = no_explanation(call.status, call.error)
        return ExplanationRow(latent_id, text, judge_call_id=call.id, interpretable=False)
    if call.parsed is None:
        return None
    return ExplanationRow(
        latent_id=latent_id,
        text=str(call.parsed["explanation"]).strip(),
        judge_call_id=call.id,
        interpretable=bool(call.parsed["interpretable"]),
        confidence=float(call.parsed["confidence"]),
    )


def _is_written(row: ExplanationRow, newest: Explanation | None) -> bool:
    if newest is None:
        return False
    return (newest.judge_call_id, newest.text) == (row.judge_call_id, row.text)
