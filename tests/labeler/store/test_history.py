from __future__ import annotations

from seeding import decide, label, seed
from sqlalchemy import Engine

from labeler.cli.inspection import _history_line
from labeler.store.engine import write_session
from labeler.store.history import latent_history


def test_labels_and_decisions_come_oldest_first(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        latent = data.target[0]
        label(session, data, latent, ["safety", "lists"], explanation="first")
        decide(session, data, latent, "humour", "ann", explanation_text="better", note="why")
        label(session, data, latent, "error", data.other_judge_id, explanation=None)
        undone = decide(session, data, latent, "undo", "ann")
        entries = latent_history(session, latent)
        assert [(entry.kind, entry.who, entry.what, entry.categories) for entry in entries] == [
            ("judge label", "evidence-tfidf", "assigned", ("safety", "lists")),
            ("decision", "ann", "set", ("humour",)),
            ("judge label", "gpt", "error", ()),
            ("decision", "ann", "undo", ()),
        ]
        assert [entry.explanation for entry in entries] == ["first", "better", None, None]
        assert [entry.revision for entry in entries] == [None, 1, None, 2]
        assert entries[1].note == "why"
        assert entries[3].restores is None
        assert entries[3].key == undone.id
        assert {entry.taxonomy_version for entry in entries} == {"small 1"}


def test_the_person_who_settled_a_conflict_is_named(sqlite_engine: Engine) -> None:
    with write_session(sqlite_engine) as session:
        data = seed(session)
        decide(session, data, data.target[0], "humour", "adjudicated", entered_by="eve")
        (entry,) = latent_history(session, data.target[0])
        assert (entry.who, entry.entered_by) == ("adjudicated", "eve")
        assert "decision by adjudicated, entered by eve: set humour" in _history_line(entry)


def test_another_latents_past_is_left_out(sqlite_engine: Engine) -> None:
    with write_session(sqlite_engine) as session:
        data = seed(session)
        label(session, data, data.target[1], "safety")
        assert latent_history(session, data.target[0]) == []
