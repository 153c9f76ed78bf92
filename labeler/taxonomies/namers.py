"""Who names clusters and says which are one: the study's judge, or the words themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Engine

from labeler.errors import WorkError
from labeler.judge.base import Judge, JudgeReply, JudgeRequest
from labeler.judge.calls import CallStore, StoredCall
from labeler.judge.kinds import judge_kind
from labeler.judge.prompts import merge_request, name_request
from taxonomy.induction import PairTask
from taxonomy.naming import NamingTask
from taxonomy.tree import CategoryName

TERMS_IN_A_NAME = 3
SAME_TERMS = 0.5
"""Share of two names' terms in common from which the words say that two categories are one."""


class JudgeNamer:
    """Asks the judge; every call is a row, and what was answered is not asked again."""

    def __init__(self, engine: Engine, judge: Judge, run_id: int) -> None:
        self._judge = judge
        self._store = CallStore(engine, judge.identity, run_id)
        self._store.prepare(judge)

    @property
    def name(self) -> str:
        """Who names."""
        return self._judge.identity.name

    def names(self, tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
        """A name for each task; WorkError where the judge names nothing at all."""
        calls = self._ask([name_request(task) for task in tasks])
        found = [
            CategoryName(**call.parsed) if call.parsed and call.parsed["name"].strip() else None
            for call in calls
        ]
        if tasks and not any(found):
            raise WorkError(f"judge {self.name} named none of {len(tasks)}: {calls[-1].error}")
        return found

    def merges(self, tasks: Sequence[PairTask]) -> list[bool]:
        """Whether the two of each task are one; two without an answer stay two."""
        calls = self._ask([merge_request(task) for task in tasks])
        return [call.parsed is not None and bool(call.parsed["same"]) for call in calls]

    def _ask(self, requests: Sequence[JudgeRequest]) -> list[StoredCall]:
        return asyncio.run(self._ask_all(requests))

    async def _ask_all(self, requests: Sequence[JudgeRequest]) -> list[StoredCall]:
        places = asyncio.Semaphore(self._judge.concurrency)

        async def one(request: JudgeRequest) -> StoredCall:
            async with places:
                found = self._store.find(request)
                return found if found is not None else await self._ask_one(request)

        try:
            return list(await asyncio.gather(*(one(request) for request in requests)))
        finally:
            await self._judge.aclose()

    async def _ask_one(self, request: JudgeRequest) -> StoredCall:
        ended: list[StoredCall] = []

        async def record(reply: JudgeReply) -> None:
            ended.append(self._store.record(request, reply, None))

        await self._judge.ask(request, record)
        return ended[-1]


class TermNamer:
    """Names a cluster by the words that its members have and the outsiders lack.

    It is no judge and understands nothing: a word counts by the share of members that hold it minus
    the share of outsiders that do. Two categories are one where their names share most words.
    """

    name = "contrastive terms"

    def names(self, tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
        """The most telling words of each task; None where the members hold no word."""
        return [self._name(task) for task in tasks]

    def merges(self, tasks: Sequence[PairTask]) -> list[bool]:
        """Whether half of the words of both names together are the same."""
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
    """Words by the share of members that hold them minus that of outsiders, best first."""
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
    """The judge where it can name categories; else their clusters get their own words."""
    if judge_kind(judge.identity.endpoint_kind).names_categories:
        return JudgeNamer(engine, judge, run_id)
    return TermNamer()


def _shared(first: str, second: str) -> float:
    a, b = Counter(first.split(", ")), Counter(second.split(", "))
    union = sum((a | b).values())
    return sum((a & b).values()) / union if union else 0.0
