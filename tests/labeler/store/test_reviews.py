from __future__ import annotations

import threading

import pytest
from seeding import decide, rows, seed
from sqlalchemy import Engine

from labeler.errors import UsageError
from labeler.store.engine import read_session, write_session
from labeler.store.reviews import RevisionConflictError


def test_a_stale_base_revision_is_a_conflict_and_writes_nothing(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        decide(session, data, data.target[0], "safety")
    with (
        pytest.raises(RevisionConflictError, match="is at revision 1") as caught,
        write_session(engine) as session,
    ):
        decide(session, data, data.target[0], "humour", base_revision=0)
    assert caught.value.current_revision == 1
    with read_session(engine) as session:
        assert rows(session, "SELECT reviewer, revision, action FROM review_event") == [
            ("ann", 1, "set")
        ]


def test_two_writers_on_one_base_revision_exactly_one_wins(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
    gate = threading.Barrier(2)
    outcomes: list[str] = []

    def submit(slug: str) -> None:
        gate.wait()
        try:
            with write_session(engine) as session:
                decide(session, data, data.target[0], slug, base_revision=0)
        except RevisionConflictError:
            outcomes.append("conflict")
        else:
            outcomes.append("written")

    threads = [threading.Thread(target=submit, args=(slug,)) for slug in ("safety", "humour")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict", "written"]
    with read_session(engine) as session:
        assert rows(session, "SELECT revision FROM review_event") == [(1,)]


def test_reviewers_have_streams_of_their_own(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        decide(session, data, data.target[0], "safety", "ann", base_revision=0)
        decide(session, data, data.target[0], "humour", "bob", base_revision=0)
        assert rows(session, "SELECT reviewer, revision FROM review_event ORDER BY id") == [
            ("ann", 1),
            ("bob", 1),
        ]


@pytest.mark.parametrize(
    ("action", "values", "message"),
    [
        ("set", {}, "only and always 'set' names categories"),
        ("none", {"categories": ("safety",)}, "only and always 'set' names categories"),
        ("set", {"categories": ("irony",)}, "category 'irony': not in the active taxonomy version"),
        ("set", {"categories": ("safety", "safety")}, "one is named twice"),
        ("none", {"reviewer": " "}, "reviewer: missing"),
    ],
)
def test_a_decision_that_says_nothing_valid_is_refused(
    sqlite_engine: Engine, action: str, values: dict[str, object], message: str
) -> None:
    with write_session(sqlite_engine) as session:
        data = seed(session)
        with pytest.raises(UsageError, match=message):
            decide(session, data, data.target[0], action, **values)  # type: ignore[arg-type]
