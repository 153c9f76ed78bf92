from __future__ import annotations

import pytest
from seeding import rows, seed
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from labeler.store.engine import write_session
from labeler.store.latents import EvidenceRow, add_evidence, evidence_of, latents_with_evidence
from labeler.store.runs import begin_run


def window(latent_id: int, document: str, split: str, kind: str = "top") -> EvidenceRow:
    return EvidenceRow(
        latent_id, kind, split, document, 3, ["a", "b"], [1, 2], ["user"] * 2, [0, 2]
    )


def test_windows_come_back_in_order_with_their_tokens(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        latent = data.target[0]
        add_evidence(
            session,
            data.run_id,
            [window(latent, "d1", "explain"), window(latent, "d2", "score", "negative")],
        )
        found = evidence_of(session, latent)
        assert [(row.document_id, row.kind, row.split) for row in found] == [
            ("d1", "top", "explain"),
            ("d2", "negative", "score"),
        ]
        assert (found[0].tokens, found[0].activations, found[0].max_activation) == (
            ["a", "b"],
            [0.0, 2.0],
            2.0,
        )
        assert [row.document_id for row in evidence_of(session, latent, "score")] == ["d2"]
        assert latents_with_evidence(session, data.run_id) == {latent}


def test_a_document_cannot_lie_in_both_halves_of_a_latent(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        add_evidence(session, data.run_id, [window(data.target[0], "d1", "explain")])
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(
                text(
                    "INSERT INTO evidence_document (latent_id, document_id, split)"
                    f" VALUES ({data.target[0]}, 'd1', 'score')"
                )
            )
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(
                text(
                    "INSERT INTO evidence (run_id, latent_id, document_id, split, kind, start,"
                    " tokens, token_ids, roles, activations, max_activation)"
                    f" VALUES ({data.run_id}, {data.target[0]}, 'd1', 'score', 'top', 0,"
                    " '[]', '[]', '[]', '[]', 0)"
                )
            )


def test_a_document_keeps_the_half_it_was_first_given(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        add_evidence(session, data.run_id, [window(data.target[0], "d1", "explain")])
        later = begin_run(session, "collect", {"later": True})
        add_evidence(
            session,
            later,
            [window(data.target[0], "d1", "score"), window(data.target[1], "d1", "score")],
        )
        assert rows(
            session, f"SELECT latent_id, split FROM evidence WHERE run_id = {later} ORDER BY id"
        ) == [(data.target[0], "explain"), (data.target[1], "score")]
        assert [row.run_id for row in evidence_of(session, data.target[0])] == [later]


def test_tokens_that_are_no_clean_text_come_back_unchanged(engine: Engine) -> None:
    tokens = ["\ufffd", "\x00", "\ud83d", "é\n"]
    with write_session(engine) as session:
        latent = seed(session).target[0]
        odd = EvidenceRow(
            latent, "top", "explain", "d", 0, tokens, [1, 2, 3, 4], ["user"] * 4, [1, 0, 0, 0]
        )
        add_evidence(session, begin_run(session, "collect", {}), [odd])
        session.expire_all()
        assert evidence_of(session, latent)[0].tokens == tokens


def test_sequences_of_different_length_are_refused(sqlite_engine: Engine) -> None:
    bad = EvidenceRow(1, "top", "explain", "d", 0, ["a", "b"], [1], ["user"], [1.0])
    with write_session(sqlite_engine) as session:
        data = seed(session)
        with pytest.raises(ValueError, match="differ in length"):
            add_evidence(session, data.run_id, [bad])
