"""The queue in memory says what the views of the database say, whatever was decided."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from review_studies import Study, make_study
from seeding import decide
from sqlalchemy import text

from labeler.errors import UsageError
from labeler.review.board import Board
from labeler.review.change import change_rows
from labeler.review.filters import Filters
from labeler.review.queue import PAGE_SIZE, matching, neighbour, queue_page
from labeler.sections.counting import ReportSection
from labeler.store.audit import draw_audit
from labeler.store.engine import open_engine, read_session, write_session

ACTIONS = ("safety", "humour", "none", "uninterpretable", "skip", "undo")
step = st.tuples(
    st.sampled_from(ACTIONS), st.integers(0, 5), st.sampled_from(["ann", "bob", "adjudicated"])
)


def latents(study: Study) -> list[int]:
    return [*study.seed.target, *study.seed.reference]


def assert_equal_to_views(study: Study, board: Board) -> None:
    with read_session(study.engine) as session, board.lock:
        table = board.table(session)
        kept = {(p.side, p.latent_id): p for p in table.places}
        for row in session.execute(text("SELECT * FROM v_effective_label WHERE rank = 1")):
            place = kept[row.side, row.latent_id]
            assert (place.outcome, place.category, place.source, place.explanation) == (
                row.outcome,
                row.category,
                row.source,
                row.explanation,
            )
        for row in session.execute(text("SELECT * FROM v_review_queue")):
            place = kept[row.side, row.latent_id]
            assert (row.reason == "reviewers disagree") == place.conflict
            assert place.priority == pytest.approx(row.priority)
            assert place.disagreement == pytest.approx(row.disagreement)
            assert place.confidence == pytest.approx(row.confidence)
        changes = {row.change.category: row.change for row in change_rows(table, ReportSection())}
        for row in session.execute(text("SELECT * FROM v_category_change")):
            change = changes[row.category]
            assert (change.target_count, change.target_total) == (
                row.target_count,
                row.target_total,
            )
            assert (change.reference_count, change.reference_total) == (
                row.reference_count,
                row.reference_total,
            )
            assert change.percent_change == pytest.approx(row.percent_change)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(step, max_size=12))
def test_the_board_follows_every_decision(
    steps: list[tuple[str, int, str]], migrated_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "followed.db"
    path.unlink(missing_ok=True)
    shutil.copy(migrated_file, path)
    engine = open_engine(f"sqlite:///{path}")
    study = make_study(engine, f"sqlite:///{path}")
    board = Board(engine)
    assert_equal_to_views(study, board)
    for action, index, reviewer in steps:
        try:
            with write_session(engine) as session:
                decide(session, study.seed, latents(study)[index], action, reviewer)
        except UsageError:
            assert action == "undo"
        assert_equal_to_views(study, board)
    engine.dispose()


def test_a_second_board_sees_what_the_first_ones_server_wrote(study: Study) -> None:
    board = Board(study.engine)
    assert_equal_to_views(study, board)
    with write_session(study.engine) as session:
        decide(session, study.seed, study.seed.target[0], "humour")
        draw_audit(session, study.seed.comparison_id, "target", 2, 0, "ann")
    assert_equal_to_views(study, board)


def test_facets_count_what_each_value_would_keep(small: Study) -> None:
    board = Board(small.engine)
    with read_session(small.engine) as session:
        table = board.table(session)
        for facet in queue_page(table, Filters(), "ann").facets:
            for option in facet.options:
                kept = matching(table, Filters(**{facet.name: option.value}), "ann")
                assert len(kept) == option.count, (facet.name, option.value)


@pytest.mark.parametrize("order", ["uncertain", "disagreement", "random", "index"])
def test_pages_hold_every_latent_once_although_latents_leave(small: Study, order: str) -> None:
    board = Board(small.engine)
    filters = Filters(order=order, status="open")
    seen: list[int] = []
    with read_session(small.engine) as session:
        table = board.table(session)
        first = matching(table, filters, "ann")
        latent_id = int(table.latent_id[first[0]])
    while latent_id is not None:
        seen.append(latent_id)
        with write_session(small.engine) as session:
            table = board.table(session)
            following = neighbour(table, filters, "ann", latent_id)
            decide(session, small.seed, latent_id, "safety")
        latent_id = following
    assert sorted(seen) == sorted(latents(small))
    assert len(seen) <= PAGE_SIZE


def test_a_blind_latent_is_left_out_where_being_listed_would_tell(small: Study) -> None:
    with write_session(small.engine) as session:
        draw_audit(session, small.seed.comparison_id, "target", 3, 0, "ann")
        decide(session, small.seed, small.seed.target[0], "humour", "ann")
    board = Board(small.engine)
    with read_session(small.engine) as session:
        table = board.table(session)
        page = queue_page(table, Filters(category="behaviour"), "ann")
        listed = {item.place.latent_id for item in page.items}
        assert listed == {small.seed.target[0], *small.seed.reference[1:]}
        assert page.n_hidden == 2
        assert len(queue_page(table, Filters(), "ann").items) == 6
        facet = next(f for f in page.facets if f.name == "category")
        assert sum(option.count for option in facet.options if option.level == 2) <= 4
