"""Stage `label`: the judge explains each latent from the explain half of its evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from crosscoder.progress import Advance, Progress, SilentProgress
from labeler.judge.base import Judge
from labeler.judge.calls import CallStore, Question, StoredCall
from labeler.judge.pool import AskPool, FailureLimit
from labeler.judge.requests import explain_request
from labeler.judge.subjects import load_subject
from labeler.store.engine import read_session, write_session
from labeler.store.judging_records import add_explanation
from labeler.store.schema import Explanation

FIRING_KINDS = ("top", "quantile")


@dataclass(frozen=True)
class LabelConfig:
    """How explanations are asked for."""

    min_windows: int = 3
    """Windows of the explain half, in which the latent fires, below which nothing is asked."""
    failure_limit: FailureLimit = field(default_factory=FailureLimit)


@dataclass(frozen=True)
class LabelSummary:
    """What became of the latents; every latent is counted once, besides under `n_reused`."""

    judge_id: int
    n_latents: int
    n_explained: int
    n_uninterpretable: int
    """The judge found nothing that the texts share."""
    n_too_little_evidence: int
    n_failed: int
    """Calls that gave no answer; the next run asks again."""
    n_reused: int
    """Latents whose answer an earlier run had paid for."""


@dataclass
class _Counts:
    explained: int = 0
    uninterpretable: int = 0
    too_little: int = 0
    failed: int = 0
    reused: int = 0


def label_latents(
    engine: Engine,
    judge: Judge,
    run_id: int,
    latent_ids: Sequence[int],
    config: LabelConfig | None = None,
    progress: Progress | None = None,
) -> LabelSummary:
    """Ask the judge to explain latents; every call and explanation is committed as it arrives.

    A request that was ever answered is not sent again. A latent with too little evidence gets an
    explanation that says so and is not interpretable. Raises WorkError when the judge can not go
    on or fails too often; a later call goes on from there.
    """
    latents = list(dict.fromkeys(latent_ids))
    store = CallStore(engine, judge.identity, run_id)
    progress = progress or SilentProgress()
    with progress.task("label", len(latents), "latents") as advance:
        labeler = _Labeler(engine, store, run_id, config or LabelConfig(), advance)
        asyncio.run(labeler.run(judge, latents))
    counts = labeler.counts
    return LabelSummary(
        judge_id=store.judge_id,
        n_latents=len(latents),
        n_explained=counts.explained,
        n_uninterpretable=counts.uninterpretable,
        n_too_little_evidence=counts.too_little,
        n_failed=counts.failed,
        n_reused=counts.reused,
    )


@dataclass
class _Labeler:
    """One batch of explanations."""

    engine: Engine
    store: CallStore
    run_id: int
    config: LabelConfig
    advance: Advance
    counts: _Counts = field(default_factory=_Counts)

    async def run(self, judge: Judge, latents: Sequence[int]) -> None:
        """Ask for all of them."""
        pool = AskPool(judge, self.store, self.config.failure_limit)
        await pool.run(self._questions(latents), self._keep)

    def _questions(self, latents: Sequence[int]) -> Iterator[Question]:
        for latent_id in latents:
            with read_session(self.engine) as session:
                subject = load_subject(session, latent_id)
            n_firing = sum(window.peak > 0 for window in subject.of_kind(*FIRING_KINDS))
            if n_firing >= self.config.min_windows:
                yield Question(latent_id, explain_request(subject))
            else:
                self._skip(latent_id, n_firing)

    def _skip(self, latent_id: int, n_firing: int) -> None:
        text = (
            f"Too little evidence: it fires in {n_firing} texts of the explain half, "
            f"{self.config.min_windows} are needed"
        )
        with write_session(self.engine) as session:
            newest = newest_explanation(session, latent_id, self.store.judge_id)
            if newest is None or newest.text != text:
                add_explanation(
                    session,
                    self.run_id,
                    latent_id,
                    self.store.judge_id,
                    text,
                    interpretable=False,
                )
        self.counts.too_little += 1
        self.advance(1)

    def _keep(self, question: Question, call: StoredCall) -> None:
        self.counts.reused += not call.was_asked
        if call.parsed is None:
            self.counts.failed += 1
        else:
            self._explain(question.latent_id, call.id, call.parsed)
        self.advance(1)

    def _explain(self, latent_id: int, call_id: int, answer: dict[str, object]) -> None:
        interpretable = bool(answer["interpretable"])
        with write_session(self.engine) as session:
            newest = newest_explanation(session, latent_id, self.store.judge_id)
            if newest is None or newest.judge_call_id != call_id:
                add_explanation(
                    session,
                    self.run_id,
                    latent_id,
                    self.store.judge_id,
                    str(answer["explanation"]).strip(),
                    judge_call_id=call_id,
                    interpretable=interpretable,
                    confidence=float(str(answer["confidence"])),
                )
        self.counts.explained += interpretable
        self.counts.uninterpretable += not interpretable


def newest_explanation(session: Session, latent_id: int, judge_id: int) -> Explanation | None:
    """The latest explanation of a latent by a judge, controls left out."""
    return session.execute(
        select(Explanation)
        .where(
            Explanation.latent_id == latent_id,
            Explanation.judge_id == judge_id,
            Explanation.is_control.is_(False),
        )
        .order_by(Explanation.id.desc())
        .limit(1)
    ).scalar_one_or_none()
