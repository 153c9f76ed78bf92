"""Names clusters and decides merges: by the study's judge, or by contrastive terms."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Engine

from labeler.errors import WorkError
from labeler.judge.base import Judge, JudgeReply, JudgeRequest, judge_kind
from labeler.judge.calls import CallStore, StoredCall
from labeler.judge.prompts import merge_request, name_request
from taxonomy.induction import NamingTask, PairTask
from taxonomy.tree import CategoryName

TERMS_IN_A_NAME = 3
SAME_TERMS = 0.5
"""Share of common terms in two names from which their categories are equal."""


class JudgeNamer:
    """Asks the judge; every call is recorded, and an answered request is not sent again."""

    def __init__(self, engine: Engine, judge: Judge, run_id: int) -> None:
        self._judge = judge
        self._store = CallStore(engine, judge.identity, run_id)
        self._store.prepare(judge)

    @property
    def name(self) -> str:
        """Name of the judge."""
        return self._judge.identity.name

    def names(self, tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
        """A name for each task; WorkError where the judge names none of them."""
        calls = self._ask([name_request(task) for task in tasks])
        found = [
            CategoryName(**call.parsed) if call.parsed and call.parsed["name"].strip() else None
            for call in calls
        ]
        if tasks and not any(found):
            raise WorkError(f"judge {self.name} named none of {len(tasks)}: {calls[-1].error}")
        return found

    def merges(self, tasks: Sequence[PairTask]) -> list[bool]:
        """Whether the two categories of each task are equal; False without an answer."""
        calls = self._ask([merge_request(task) for task in tasks])
        return [call.parsed is not None and bool(call.parsed["same"]) for call in calls]

    def _ask(self, requests: Sequence[JudgeRequest]) -> list[StoredCall]:
        return asyncio.run(self._ask_all(requests))

    async def _ask_all(self, requests: Sequence[JudgeRequest]) -> list[StoredCall]:
        slots = asyncio.Semaphore(self._judge.concurrency)

        async def one(request: JudgeRequest) -> StoredCall:
            async with slots:
                found = self._store.find(request)
                return found if found is not None else await self._ask_one(request)

        try:
            return list(await asyncio.gather(*(one(request) for request in requests)))
        finally:
            await self._judge.aclose()

    async def _ask_one(self, request: JudgeRequest) -> StoredCall:
        calls: list[StoredCall] = []

        async def record(reply: JudgeReply) -> None:
            calls.append(self._store.record(request, reply, None))

        await self._judge.ask(request, record)
        return calls[-1]


class TermNamer:
    """Names a cluster by contrastive terms, without a judge.

    A word's score is the share of members with it minus the share of outsiders with it. Two
    categories are equal where their names share at least half of their words.
    """

    name = "contrastive terms"

    def names(self, tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
        """The best terms of each task; None where the members have no word."""
        return [self._name(task) for task in tasks]

    def merges(self, tasks: Sequence[PairTask]) -> list[bool]:
        """Whether the two names share at least half of their words."""
        return [_shared(task.first.name, task.second.name) >= SAME_TERMS for task in tasks]

    def _name(self, task: NamingTask) -> CategoryName | None:
        terms = contrastive_terms(task.members, task.outsiders)
        if not terms:
            return None
        return CategoryName(
            name=", ".join(terms[:TERMS_IN_A_NAME]),
            definition=" ".join(task.members[0].split()),
        )


def contrastive_terms(members: Sequence[str], outsiders: Sequence[str], n: int = 6) -> list[str]:
    """Words by their share of members minus their share of outsiders, best first."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        stop_words="english", binary=True, token_pattern=r"(?u)\b[^\W\d_]{3,}\b"
    )
    try:
        counts = vectorizer.fit_transform([*members, *outsiders]).toarray()
    except ValueError:
        return []
    inside = counts[: len(members)].mean(axis=0)
    outside = counts[len(members) :].mean(axis=0) if outsiders else np.zeros(counts.shape[1])
    words = vectorizer.get_feature_names_out()
    order = sorted(range(len(words)), key=lambda row: (outside[row] - inside[row], words[row]))
    return [str(words[row]) for row in order if inside[row] > outside[row]][:n]


def namer_of(engine: Engine, judge: Judge, run_id: int) -> JudgeNamer | TermNamer:
    """The judge where it can name clusters, else contrastive terms (evidence judge)."""
    if judge_kind(judge.identity.endpoint_kind).names_categories:
        return JudgeNamer(engine, judge, run_id)
    return TermNamer()


def _shared(first: str, second: str) -> float:
    a, b = Counter(first.split(", ")), Counter(second.split(", "))
    union = sum((a | b).values())
    return sum((a & b).values()) / union if union else 0.0
