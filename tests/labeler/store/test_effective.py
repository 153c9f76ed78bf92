from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seeding import Seed, assert_table_equals_view, decide, label, rows, seed
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.store.engine import open_engine, read_session, write_session
from labeler.store.judging import LabelRow, add_judge_label
from labeler.store.latents import (
    add_latents,
    create_latent_set,
    ensure_comparison,
    ensure_comparison_setting,
)
from labeler.store.outcomes import EFFECTIVE_OUTCOMES, FAILED
from labeler.store.schema import Comparison, Latent, LatentSet, SideDraw, utc_now
from labeler.store.taxonomies import ensure_taxonomy_version
from labeler.store.taxonomy_moves import move_comparison


def first(session: Session) -> tuple[object, ...]:
    """What is active for the first target latent."""
    assert_table_equals_view(session)
    return rows(
        session,
        "SELECT outcome, category, source, coalesce(reviewer, judge), explanation"
        " FROM v_effective_label WHERE latent_index = 0 ORDER BY rank LIMIT 1",
    )[0]


def test_a_latent_nobody_labelled_has_one_row_without_category(engine: Engine) -> None:
    with write_session(engine) as session:
        seed(session, n_target=1, n_reference=0)
        assert rows(
            session,
            "SELECT side, category, parent, rank, outcome, source, confidence, taxonomy_version"
            " FROM v_effective_label",
        ) == [("target", None, None, 1, "unlabelled", None, None, "small 1")]


def test_the_newest_label_of_the_active_judge_wins(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
        label(session, data, data.target[0], "humour", explanation="newer")
        label(session, data, data.target[0], "lists", judge_id=data.other_judge_id)
        assert first(session) == ("assigned", "humour", "judge", "evidence-tfidf", "newer")


@pytest.mark.parametrize("outcome", FAILED)
def test_no_answer_never_replaces_a_label_but_shows_where_there_is_none(
    engine: Engine, outcome: str
) -> None:
    counts = f"SELECT {outcome}, labelled FROM v_coverage WHERE side = 'target'"
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], outcome, explanation=None)
        assert first(session) == (outcome, None, "judge", "evidence-tfidf", None)
        assert rows(session, counts) == [(1, 0)]
        assert_table_equals_view(session)
        label(session, data, data.target[0], "none")
        label(session, data, data.target[0], outcome, explanation=None)
        assert first(session)[:2] == ("none", None)
        assert rows(session, counts) == [(0, 1)]
        assert_table_equals_view(session)


def test_of_several_labels_without_an_answer_the_newest_shows(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        for outcome in ("too_long", "error", "refused"):
            label(session, data, data.target[0], outcome, explanation=None)
            assert first(session)[0] == outcome
            assert_table_equals_view(session)


def test_an_outcome_that_is_none_is_refused(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        row = LabelRow(data.run_id, data.target[0], data.judge_id, data.version_id, "unlabelled")
        with pytest.raises(ValueError, match="outcome 'unlabelled' is not one of assigned"):
            add_judge_label(session, row)


def test_a_control_is_never_active(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety", explanation="true words")
        shuffled = label(
            session, data, data.target[0], "humour", explanation="of another", is_control=True
        )
        assert shuffled.is_control
        assert first(session) == (
            "assigned", "safety", "judge", "evidence-tfidf", "true words",
        )  # fmt: skip


def test_the_latest_decision_beats_the_judge_and_adjudication_beats_all(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
        decide(session, data, data.target[0], "humour", "ann")
        assert first(session)[:4] == ("assigned", "humour", "human", "ann")
        decide(session, data, data.target[0], "none", "bob")
        assert first(session)[:4] == ("none", None, "human", "bob")
        decide(session, data, data.target[0], "lists", "adjudicated")
        decide(session, data, data.target[0], "uninterpretable", "ann")
        assert first(session)[:4] == ("assigned", "lists", "human", "adjudicated")
        label(session, data, data.target[0], "humour")
        assert first(session)[:4] == ("assigned", "lists", "human", "adjudicated")


def test_a_skip_changes_nothing(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
        decide(session, data, data.target[0], "skip")
        assert first(session)[:3] == ("assigned", "safety", "judge")
        decide(session, data, data.target[0], "humour")
        decide(session, data, data.target[0], "skip")
        assert first(session)[:3] == ("assigned", "humour", "human")


def test_undo_goes_back_decision_by_decision_to_the_judge(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
        for slug in ("humour", "lists"):
            decide(session, data, data.target[0], slug)
        decide(session, data, data.target[0], "undo")
        assert first(session)[1] == "humour"
        decide(session, data, data.target[0], "undo")
        assert first(session)[:3] == ("assigned", "safety", "judge")
        with pytest.raises(UsageError, match="no decision on the latent to undo"):
            decide(session, data, data.target[0], "undo")


def test_undo_after_a_decision_that_followed_an_undo(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        for action in ("humour", "lists", "undo", "none", "undo"):
            decide(session, data, data.target[0], action)
        assert first(session)[1] == "humour"


def test_an_undone_decision_gives_way_to_the_other_reviewer(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        decide(session, data, data.target[0], "humour", "ann")
        decide(session, data, data.target[0], "lists", "bob")
        decide(session, data, data.target[0], "undo", "bob")
        assert first(session)[1:4] == ("humour", "human", "ann")


def test_accept_takes_the_label_it_is_based_on(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        both = label(session, data, data.target[0], ["humour", "lists"], explanation="first")
        label(session, data, data.target[0], "none", explanation="second")
        decide(session, data, data.target[0], "accept", based_on_judge_label_id=both.id)
        assert first(session) == ("assigned", "humour", "human", "ann", "first")
        ranks = rows(
            session,
            "SELECT rank, category, parent FROM v_effective_label"
            " WHERE latent_index = 0 ORDER BY rank",
        )
        assert ranks == [(1, "humour", "behaviour"), (2, "lists", "form")]


def test_accept_of_another_latents_label_or_of_an_error_is_refused(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        other = label(session, data, data.target[1], "humour")
        failed = [
            label(session, data, data.target[0], outcome, explanation=None).id for outcome in FAILED
        ]
        for wrong in (other.id, *failed, None):
            with pytest.raises(UsageError, match="must name a usable label"):
                decide(session, data, data.target[0], "accept", based_on_judge_label_id=wrong)


def test_a_corrected_explanation_is_shown(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "humour", explanation="judge's words")
        decide(session, data, data.target[0], "humour", explanation_text="better words")
        assert first(session)[4] == "better words"


def test_only_the_primary_category_counts(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session, 1, 1)
        label(session, data, data.target[0], ["humour", "lists"])
        label(session, data, data.reference[0], "safety")
        change = rows(
            session,
            "SELECT category, target_count, reference_count FROM v_category_change"
            " ORDER BY category",
        )
        assert change == [
            ("behaviour", 1, 1), ("form", 0, 0), ("humour", 1, 0), ("lists", 0, 0),
            ("safety", 0, 1),
        ]  # fmt: skip


def test_what_is_no_label_stays_out_of_the_denominator(engine: Engine) -> None:
    with write_session(engine) as session:
        answers = ("safety", "none", "uninterpretable", *FAILED)
        data = seed(session, 1 + len(answers), 0)
        for latent_id, answer in zip(data.target, answers, strict=False):
            label(session, data, latent_id, answer)
        assert rows(session, "SELECT * FROM v_coverage ORDER BY side DESC") == [
            ("c", "target", 7, 2, *[1] * len(EFFECTIVE_OUTCOMES), 0),
            ("c", "reference", 0, 0, *[0] * len(EFFECTIVE_OUTCOMES), 0),
        ]
        assert rows(
            session,
            "SELECT target_count, target_total, target_share, reference_total, reference_share,"
            " percent_change FROM v_category_change WHERE category = 'safety'",
        ) == [(1, 2, 0.5, 0, None, None)]


def test_a_latent_on_both_sides_is_counted_on_each(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session, 1, 1)
        both = [{"latent_id": data.target[0]}]
        sets = [
            create_latent_set(session, f"kept/{side}", "ranked", data.run_id, both)
            for side in ("target", "reference")
        ]
        kept = ensure_comparison(session, "kept", sets[0].id, sets[1].id)
        ensure_comparison_setting(session, kept.id, data.version_id, data.judge_id)
        label(session, data, data.target[0], "safety")
        assert_table_equals_view(session)
        assert rows(
            session,
            "SELECT target_count, reference_count, percent_change FROM v_category_change"
            " WHERE comparison = 'kept' AND category = 'safety'",
        ) == [(1, 1, 0)]


def test_a_new_active_judge_changes_the_labels_and_stamps_the_comparison(
    engine: Engine,
) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
        label(session, data, data.target[0], "lists", judge_id=data.other_judge_id)
        before = session.get_one(Comparison, data.comparison_id).labels_changed_at
        ensure_comparison_setting(session, data.comparison_id, data.version_id, data.other_judge_id)
        assert first(session)[1:4] == ("lists", "judge", "gpt")
        assert session.get_one(Comparison, data.comparison_id).labels_changed_at > before


@pytest.mark.parametrize("is_drawn", [True, False])
def test_a_label_outside_the_sides_stamps_a_comparison_whose_draws_count_it(
    engine: Engine, is_drawn: bool
) -> None:
    with write_session(engine) as session:
        data = seed(session)
        comparison = session.get_one(Comparison, data.comparison_id)
        crosscoder_id = session.get_one(Latent, data.target[0]).crosscoder_id
        outside = add_latents(session, crosscoder_id, [{"latent_index": 9}])[9]
        session.get_one(LatentSet, comparison.target_set_id).crosscoder_id = crosscoder_id
        if is_drawn:
            nothing = np.zeros((1, 1), dtype=np.int32)
            session.add(
                SideDraw(
                    target_set_id=comparison.target_set_id,
                    reference_set_id=comparison.reference_set_id,
                    has_prefixes=False,
                    target=nothing,
                    reference=nothing,
                    shifts=np.zeros((1, 1), dtype=np.float32),
                )
            )
        session.flush()
        before = comparison.labels_changed_at
        label(session, data, outside, "safety")
        assert (comparison.labels_changed_at > before) == is_drawn


def test_a_comparison_of_new_sets_drops_the_old_latents(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
        newer = create_latent_set(
            session, "c/target", "strict", data.run_id, [{"latent_id": data.target[1]}]
        )
        comparison = session.get_one(Comparison, data.comparison_id)
        ensure_comparison(session, "c", newer.id, comparison.reference_set_id)
        assert_table_equals_view(session)
        labels = rows(session, "SELECT latent_id FROM v_effective_label WHERE side = 'target'")
        assert labels == [(data.target[1],)]


def test_a_new_taxonomy_version_carries_labels_and_decisions(engine: Engine) -> None:
    from seeding import SMALL

    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
        base = label(session, data, data.target[1], ["humour", "lists"], explanation="two")
        decide(session, data, data.target[1], "accept", based_on_judge_label_id=base.id)
        decide(session, data, data.reference[0], "none", explanation_text="nothing")
        query = (
            "SELECT latent_id, rank, category, outcome, source, explanation"
            " FROM v_effective_label ORDER BY latent_id, rank"
        )
        before = rows(session, query)
        newer = ensure_taxonomy_version(session, SMALL.with_added(["irony"], parent="form"))
        assert move_comparison(session, data.comparison_id, newer.id)
        assert rows(session, query) == before
        assert_table_equals_view(session)
        assert not move_comparison(session, data.comparison_id, newer.id)


def test_the_queue_lists_what_nobody_decided_with_its_reason(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session, 5, 0)
        label(session, data, data.target[0], "safety", confidence=0.9)
        label(session, data, data.target[1], "safety", confidence=0.9)
        label(session, data, data.target[1], "lists", judge_id=data.other_judge_id)
        decide(session, data, data.target[2], "safety", "ann")
        decide(session, data, data.target[3], "safety", "ann")
        decide(session, data, data.target[3], "lists", "bob")
        queue = rows(
            session,
            "SELECT latent_id, reason, priority, disagreement FROM v_review_queue"
            " ORDER BY latent_id",
        )
        assert [row[:2] for row in queue] == [
            (data.target[0], "not reviewed"),
            (data.target[1], "judges disagree"),
            (data.target[3], "reviewers disagree"),
            (data.target[4], "unlabelled"),
        ]
        assert [round(row[2], 6) for row in queue] == [0.1, 0.5, 1, 1]
        assert queue[1][3] == 0.5


def test_judge_against_human_counts_pairs_and_blind_ones(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        for latent_id, blind in zip(data.target, (True, False), strict=True):
            label(session, data, latent_id, "safety")
            decide(session, data, latent_id, "none", was_blind=blind)
        assert rows(session, "SELECT * FROM v_judge_vs_human") == [
            ("c", "target", "safety", "none", 2, 1)
        ]


ACTIONS = st.sampled_from(["safety", "humour", "none", "uninterpretable", "skip", "undo", "accept"])
STEPS = st.one_of(
    st.tuples(
        st.just("decide"), st.integers(0, 1), ACTIONS, st.sampled_from(["ann", "adjudicated"])
    ),
    st.tuples(st.just("decide"), st.integers(0, 1), ACTIONS, st.just("bob")),
    st.tuples(
        st.just("label"),
        st.integers(0, 1),
        st.sampled_from(["safety", "lists", "none", "uninterpretable", *FAILED]),
        st.sampled_from(["judge", "other", "control"]),
    ),
    st.tuples(st.just("setting"), st.just(0), st.just(""), st.sampled_from(["judge", "other"])),
)


def apply(session: Session, data: Seed, step: tuple[str, int, str, str]) -> None:
    kind, position, what, who = step
    latent_id = data.target[position]
    judges = {"judge": data.judge_id, "other": data.other_judge_id, "control": data.judge_id}
    if kind == "setting":
        ensure_comparison_setting(session, data.comparison_id, data.version_id, judges[who])
    elif kind == "label":
        label(session, data, latent_id, what, judges[who], is_control=who == "control")
    else:
        newest = rows(session, f"SELECT max(id) FROM judge_label WHERE latent_id = {latent_id}")
        base = newest[0][0] if what == "accept" else None
        try:
            decide(session, data, latent_id, what, who, based_on_judge_label_id=base)
        except UsageError:
            return


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=12))
def test_the_table_equals_the_window_functions_after_any_sequence(
    migrated_file: Path, steps: list[tuple[str, int, str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.db"
        shutil.copy(migrated_file, file)
        engine = open_engine(f"sqlite:///{file}")
        with write_session(engine) as session:
            data = seed(session, 2, 0)
        for step in steps:
            with write_session(engine) as session:
                apply(session, data, step)
            with read_session(engine) as session:
                assert_table_equals_view(session)
        engine.dispose()


def test_every_change_is_later_than_the_last_and_than_every_report(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = utc_now()
    monkeypatch.setattr("labeler.store.effective.utc_now", lambda: moment)
    stamps = []
    with write_session(engine) as session:
        data = seed(session)
        for slug in ("humour", "lists", "none"):
            decide(session, data, data.target[0], slug)
            stamps.append(session.get_one(Comparison, data.comparison_id).labels_changed_at)
        monkeypatch.setattr("labeler.store.effective.utc_now", lambda: moment - timedelta(days=1))
        decide(session, data, data.target[0], "humour")
        stamps.append(session.get_one(Comparison, data.comparison_id).labels_changed_at)
    assert stamps == sorted(set(stamps))
