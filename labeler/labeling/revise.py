"""Explanations tested by experiment, and revised: the judge writes texts, `measure` measures them.

A round of a latent: the judge sees the explanation alone and writes texts on which the latent
should and texts on which it should not be active. Responsiveness is the share of the texts meant
to activate it that do, purity the share of the activating texts that were meant to. An explanation
that fails is revised by the judge, who sees the results, and tested again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from crosscoder.progress import Progress, SilentProgress
from labeler.judge.base import CONTENT_ROLES, Judge, JudgeRequest, LatentRecord
from labeler.judge.batch import BatchRunner, FailureLimit
from labeler.judge.calls import CallStore, Question, StoredCall
from labeler.judge.experiments import (
    MeasuredText,
    experiment_request,
    revise_request,
    written_texts,
)
from labeler.judge.latents import load_subjects
from labeler.store.engine import read_session, write_session
from labeler.store.experiments import add_test, tested_explanations
from labeler.store.judging import (
    ExplanationRow,
    add_explanations,
    failed_explanations,
    lock_latents,
    newest_explanations,
)
from labeler.store.schema import Explanation, Latent
from labeler.store.statements import chunks

ACTIVE_SHARE = 0.25
"""A text activates a latent where its largest activation exceeds this share of the largest in the
study's text."""
HOLDS_RESPONSIVENESS, HOLDS_PURITY = 0.5, 0.75
"""An explanation holds from these on."""
Measure = Callable[[Sequence[tuple[int, MeasuredText]]], Sequence[float | None]]
"""The largest activation of a latent, by its id, on each text; None where nothing of it is read."""


@dataclass(frozen=True)
class ReviseConfig:
    """How often explanations are revised, and how many texts test one."""

    rounds: int = 1
    """Most revisions of an explanation; each is tested like the first."""
    n_texts: int = 6
    """Texts of each kind."""
    failure_limit: FailureLimit = field(default_factory=FailureLimit)


@dataclass(frozen=True)
class Experiment:
    """What an explanation predicted and what was measured."""

    explanation: str
    explanation_call_id: int | None
    texts_call_id: int
    texts: tuple[MeasuredText, ...]
    threshold: float
    confidence: float | None = None

    def n_active(self, is_meant: bool) -> int:
        """Texts of one kind that activate the latent."""
        return sum((each.activation or 0.0) > self.threshold for each in self._read(is_meant))

    def n_read(self, is_meant: bool) -> int:
        """Texts of one kind of which something was read."""
        return len(self._read(is_meant))

    def _read(self, is_meant: bool) -> list[MeasuredText]:
        return [e for e in self.texts if e.is_meant == is_meant and e.activation is not None]

    @property
    def responsiveness(self) -> float | None:
        """Share of the texts meant to activate the latent that do; None without any."""
        n_meant = self.n_read(True)
        return self.n_active(True) / n_meant if n_meant else None

    @property
    def purity(self) -> float | None:
        """Share of the activating texts that were meant to; None where nothing activates it."""
        n_active = self.n_active(True) + self.n_active(False)
        return self.n_active(True) / n_active if n_active else None

    @property
    def holds(self) -> bool:
        """Whether the explanation passes."""
        responsive, pure = self.responsiveness, self.purity
        return (
            responsive is not None
            and pure is not None
            and responsive >= HOLDS_RESPONSIVENESS
            and pure >= HOLDS_PURITY
        )

    @property
    def quality(self) -> float:
        """Harmonic mean of responsiveness and purity, to choose between rounds."""
        responsive, pure = self.responsiveness or 0.0, self.purity or 0.0
        return 2 * responsive * pure / (responsive + pure) if responsive + pure else 0.0


@dataclass(frozen=True)
class ReviseSummary:
    """Counts of the tested latents."""

    n_held: int
    """Their first explanation passed."""
    n_revised: int
    """A revised one passed."""
    n_refuted: int
    n_failed: int
    """The judge wrote no texts; the next run asks again."""

    @property
    def words(self) -> str:
        """The summary in a few words."""
        tested = self.n_held + self.n_revised + self.n_refuted
        failed = f", {self.n_failed} without texts" if self.n_failed else ""
        return (
            f"{tested} explanations tested by experiment: {self.n_held} hold, "
            f"{self.n_revised} hold once revised, {self.n_refuted} refuted{failed}"
        )


def revise_explanations(
    engine: Engine,
    judge: Judge,
    run_id: int,
    latent_ids: Sequence[int],
    measure: Measure,
    config: ReviseConfig | None = None,
    progress: Progress | None = None,
) -> ReviseSummary:
    """Test the judge's explanations of some latents, and let it revise those that fail.

    The best of a latent's explanations becomes its newest. One that was tested before is left
    alone. What a latent's rounds gave is written when they are over; an answered request is never
    sent again. Raises WorkError as the judge does, BudgetReachedError at a limit.
    """
    reviser = _Reviser(engine, judge, run_id, measure, config or ReviseConfig(), progress)
    return reviser.run(latent_ids)


@dataclass
class _Tested:
    """One latent between its rounds."""

    subject: LatentRecord
    first: Explanation
    largest: float
    """Largest activation in the study's text."""
    text: str
    call_id: int | None
    confidence: float | None
    experiments: list[Experiment] = field(default_factory=list)

    @property
    def roles(self) -> tuple[str, ...]:
        """The content roles of its evidence."""
        shown = {role for window in self.subject.windows for role in window.roles}
        return tuple(sorted(shown & CONTENT_ROLES)) or ("plain",)

    @property
    def best(self) -> Experiment:
        """The experiment whose explanation is kept: the one that holds, else the best, the first
        of equals."""
        held = [each for each in self.experiments if each.holds]
        return held[0] if held else max(self.experiments, key=lambda each: each.quality)


class _Reviser:
    """The rounds of some latents."""

    def __init__(
        self,
        engine: Engine,
        judge: Judge,
        run_id: int,
        measure: Measure,
        config: ReviseConfig,
        progress: Progress | None,
    ) -> None:
        self._engine = engine
        self._judge = judge
        self._run_id = run_id
        self._measure = measure
        self._config = config
        self._progress = progress or SilentProgress()
        self._store = CallStore(engine, judge.identity, run_id)
        self._done: list[_Tested] = []
        self._n_failed = 0

    def run(self, latent_ids: Sequence[int]) -> ReviseSummary:
        """Go through the rounds."""
        open_ = self._untested(latent_ids)
        for number in range(self._config.rounds + 1):
            if not open_:
                break
            self._experiment(open_, number)
            tested = [each for each in open_ if len(each.experiments) > number]
            self._n_failed += len(open_) - len(tested)
            failing = [each for each in tested if not each.experiments[-1].holds]
            revised = self._revise(failing) if number < self._config.rounds else []
            kept = {id(each) for each in revised}
            self._finish([each for each in tested if id(each) not in kept])
            open_ = revised
        held = [each for each in self._done if each.best.holds]
        return ReviseSummary(
            n_held=sum(len(each.experiments) == 1 for each in held),
            n_revised=sum(len(each.experiments) > 1 for each in held),
            n_refuted=len(self._done) - len(held),
            n_failed=self._n_failed,
        )

    def _untested(self, latent_ids: Sequence[int]) -> list[_Tested]:
        """The latents with an interpretable explanation that no experiment tested."""
        with read_session(self._engine) as session:
            newest = newest_explanations(session, dict.fromkeys(latent_ids), self._store.judge_id)
            tested = tested_explanations(session, [row.id for row in newest.values()])
            failed = failed_explanations(session, newest.values())
            rows = {
                latent_id: newest[latent_id]
                for latent_id in dict.fromkeys(latent_ids)
                if latent_id in newest
                and newest[latent_id].interpretable
                and newest[latent_id].id not in tested
                and newest[latent_id].id not in failed
            }
            largest: dict[int, float | None] = {}
            for part in chunks(rows):
                for latent in session.query(Latent).filter(Latent.id.in_(part)):
                    largest[latent.id] = latent.max_activation
            subjects = load_subjects(session, list(rows))
        found = []
        for subject in subjects:
            row = rows[subject.latent_id]
            peak = max((window.peak for window in subject.windows), default=0.0)
            scale = largest[subject.latent_id] or peak
            if scale > 0:
                found.append(
                    _Tested(subject, row, scale, row.text, row.judge_call_id, row.confidence)
                )
        return found

    def _experiment(self, latents: Sequence[_Tested], number: int) -> None:
        """Have texts written and measured; latents without an answer get no experiment."""
        requests = [
            experiment_request(each.text, each.roles, self._config.n_texts) for each in latents
        ]
        calls = self._ask(latents, requests, f"experiments, round {number + 1}")
        written = [
            (each, call, text)
            for each in latents
            if (call := calls.get(each.subject.latent_id)) is not None and call.parsed is not None
            for text in written_texts(call.parsed, self._config.n_texts)
        ]
        if not written:
            return
        values = self._measure([(each.subject.latent_id, text) for each, _, text in written])
        texts: dict[int, list[MeasuredText]] = {}
        for (each, _, text), value in zip(written, values, strict=True):
            measured = MeasuredText(text.is_meant, text.role, text.before, text.text, value)
            texts.setdefault(each.subject.latent_id, []).append(measured)
        for each in latents:
            latent_id = each.subject.latent_id
            if latent_id in texts:
                each.experiments.append(
                    Experiment(
                        each.text,
                        each.call_id,
                        calls[latent_id].id,
                        tuple(texts[latent_id]),
                        ACTIVE_SHARE * each.largest,
                        each.confidence,
                    )
                )

    def _revise(self, latents: Sequence[_Tested]) -> list[_Tested]:
        """Ask for better explanations; the latents that have another one now."""
        if not latents:
            return []
        requests = [
            revise_request(
                each.subject,
                each.text,
                each.experiments[-1].texts,
                each.largest,
                each.experiments[-1].threshold,
            )
            for each in latents
        ]
        calls = self._ask(latents, requests, "revisions")
        revised = []
        for each in latents:
            call = calls.get(each.subject.latent_id)
            if call is None or call.parsed is None or not call.parsed["interpretable"]:
                continue
            text = str(call.parsed["explanation"]).strip()
            if text in {known.explanation for known in each.experiments}:
                continue
            each.text, each.call_id = text, call.id
            each.confidence = float(call.parsed["confidence"])
            revised.append(each)
        return revised

    def _ask(
        self, latents: Sequence[_Tested], requests: Sequence[JudgeRequest], words: str
    ) -> Mapping[int, StoredCall]:
        """The final call of each latent's request; every call is recorded as it ends."""
        questions = [
            Question(each.subject.latent_id, request)
            for each, request in zip(latents, requests, strict=True)
        ]
        calls: dict[int, StoredCall] = {}
        runner = BatchRunner(self._judge, self._store, self._config.failure_limit)
        with self._progress.task(words, len(questions), "latents") as advance:

            def keep(question: Question, call: StoredCall) -> None:
                calls[question.latent_id] = call
                advance(1)

            asyncio.run(runner.run(questions, keep))
        return calls

    def _finish(self, latents: Sequence[_Tested]) -> None:
        """Write the rounds of latents, and the explanation that came out of them."""
        for each in latents:
            with write_session(self._engine) as session:
                lock_latents(session, [each.subject.latent_id])
                newest = newest_explanations(
                    session, [each.subject.latent_id], self._store.judge_id
                )[each.subject.latent_id]
                if newest.id != each.first.id or tested_explanations(session, [newest.id]):
                    continue  # another process was faster
                best = each.best
                explanation_id = each.first.id
                if best is not each.experiments[0]:
                    row = ExplanationRow(
                        each.subject.latent_id,
                        best.explanation,
                        best.explanation_call_id,
                        confidence=best.confidence,
                    )
                    (explanation_id,) = add_explanations(
                        session, self._run_id, self._store.judge_id, [row]
                    )
                for number, experiment in enumerate(each.experiments):
                    is_last = number == len(each.experiments) - 1
                    verdict = "holds" if experiment.holds else "refuted" if is_last else "revised"
                    add_test(
                        session,
                        self._values(experiment, number, explanation_id, verdict)
                        | {"is_chosen": experiment is best},
                        experiment.texts,
                    )
            self._done.append(each)

    def _values(
        self, experiment: Experiment, number: int, explanation_id: int, verdict: str
    ) -> dict[str, object]:
        return {
            "run_id": self._run_id,
            "explanation_id": explanation_id,
            "judge_id": self._store.judge_id,
            "judge_call_id": experiment.texts_call_id,
            "round": number,
            "text": experiment.explanation,
            "verdict": verdict,
            "threshold": experiment.threshold,
            "n_meant": experiment.n_read(True),
            "n_meant_active": experiment.n_active(True),
            "n_others": experiment.n_read(False),
            "n_others_active": experiment.n_active(False),
            "responsiveness": experiment.responsiveness,
            "purity": experiment.purity,
        }
