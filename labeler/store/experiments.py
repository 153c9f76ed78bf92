"""Tests of explanations by experiment: how they are stored and read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from labeler.store.judging import newest_explanations
from labeler.store.schema import Explanation, ExplanationTest, ExplanationTestText, Judge
from labeler.store.statements import chunks
from labeler.text import plural


@dataclass(frozen=True)
class StoredText:
    """A text of a test."""

    is_meant: bool
    role: str
    before: str
    text: str
    activation: float | None


@dataclass(frozen=True)
class StoredTest:
    """One round of an explanation's test, with its texts."""

    explanation_id: int
    round: int
    text: str
    """The explanation that was tested."""
    is_chosen: bool
    verdict: str
    threshold: float
    responsiveness: float | None
    purity: float | None
    n_meant: int
    n_meant_active: int
    n_others: int
    n_others_active: int
    texts: tuple[StoredText, ...] = ()
    """In order; empty where they were not asked for."""

    @property
    def counts(self) -> str:
        """Responsiveness and purity with the texts behind them."""
        n_active = self.n_meant_active + self.n_others_active
        return (
            f"responsiveness {_share(self.responsiveness)} "
            f"({self.n_meant_active} of {self.n_meant} texts), "
            f"purity {_share(self.purity)} ({self.n_meant_active} of {n_active})"
        )


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


@dataclass(frozen=True)
class TestedLatent:
    """The rounds of a latent's newest explanation by one judge."""

    judge: str
    rounds: tuple[StoredTest, ...]

    @property
    def chosen(self) -> StoredTest:
        """The round of the explanation that was kept."""
        return next((each for each in self.rounds if each.is_chosen), self.rounds[-1])

    @property
    def words(self) -> str:
        """The verdict on the explanation that was kept, and what it rests on."""
        last = self.rounds[-1]
        verdict = "refuted" if last.verdict == "refuted" else "holds"
        revised = f" after {plural(last.round, 'revision')}" if last.round else ""
        return f"{verdict}{revised}: {self.chosen.counts}"


def add_test(session: Session, values: Mapping[str, Any], texts: Sequence[Any]) -> None:
    """Write one round; `texts` have the columns of explanation_test_text as attributes."""
    test = ExplanationTest(**values)
    session.add(test)
    session.flush()
    rows = [
        {**vars(text), "explanation_test_id": test.id, "position": position}
        for position, text in enumerate(texts)
    ]
    if rows:
        session.execute(insert(ExplanationTestText), rows)


def tested_explanations(session: Session, explanation_ids: Collection[int]) -> set[int]:
    """Those of the explanations that came out of a test."""
    found: set[int] = set()
    for part in chunks(explanation_ids):
        query = select(ExplanationTest.explanation_id).where(
            ExplanationTest.explanation_id.in_(part)
        )
        found |= set(session.execute(query).scalars())
    return found


def superseded_explanations(
    session: Session, latent_ids: Collection[int], judge_id: int
) -> set[tuple[int, int | None, str]]:
    """Latent, call and text of the explanations in whose place a tested one stands."""
    newest = newest_explanations(session, latent_ids, judge_id)
    tested = tested_explanations(session, [row.id for row in newest.values()])
    revised = [latent_id for latent_id, row in newest.items() if row.id in tested]
    found: set[tuple[int, int | None, str]] = set()
    for part in chunks(revised):
        query = select(Explanation).where(
            Explanation.latent_id.in_(part), Explanation.judge_id == judge_id
        )
        rows = session.execute(query).scalars()
        found |= {(row.latent_id, row.judge_call_id, row.text) for row in rows}
    return found


def latent_tests(session: Session, latent_id: int, with_texts: bool = True) -> list[TestedLatent]:
    """The tests of a latent's newest explanation by each judge."""
    newest = select(func.max(Explanation.id)).where(
        Explanation.latent_id == latent_id, Explanation.is_control.is_(False)
    )
    query = select(Explanation.id, Judge.name).join(Judge, Judge.id == Explanation.judge_id)
    ids = session.execute(query.where(Explanation.id.in_(newest.group_by(Explanation.judge_id))))
    names = {row.id: row.name for row in ids}
    rounds: dict[int, list[StoredTest]] = defaultdict(list)
    for test in read_tests(session, names, with_texts):
        rounds[test.explanation_id].append(test)
    return [TestedLatent(names[key], tuple(found)) for key, found in rounds.items()]


def read_tests(
    session: Session, explanation_ids: Collection[int], with_texts: bool = False
) -> list[StoredTest]:
    """The rounds of the newest test of each explanation, in order."""
    tests: list[ExplanationTest] = []
    for part in chunks(explanation_ids):
        query = (
            select(ExplanationTest)
            .where(ExplanationTest.explanation_id.in_(part))
            .order_by(ExplanationTest.id)
        )
        tests += session.execute(query).scalars()
    texts = _texts(session, [test.id for test in tests]) if with_texts else {}
    names = [name for name in StoredTest.__dataclass_fields__ if name != "texts"]
    return [
        StoredTest(
            **{name: getattr(test, name) for name in names}, texts=tuple(texts.get(test.id, ()))
        )
        for test in tests
    ]


def _texts(session: Session, test_ids: Collection[int]) -> dict[int, list[StoredText]]:
    found: dict[int, list[StoredText]] = defaultdict(list)
    row = ExplanationTestText
    for part in chunks(test_ids):
        query = (
            select(row)
            .where(row.explanation_test_id.in_(part))
            .order_by(row.explanation_test_id, row.position)
        )
        for each in session.execute(query).scalars():
            found[each.explanation_test_id].append(
                StoredText(each.is_meant, each.role, each.before, each.text, each.activation)
            )
    return found
