"""The queue in memory says what the views of the database say, whatever was decided."""

from __future__ import annotations

import contextlib
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from review_studies import Study, copy_study
from seeding import decide
from sqlalchemy import text
from statsmodels.stats.inter_rater import cohens_kappa

from labeler.errors import UsageError
from labeler.review import queue_table as table_module
from labeler.review.queue import PAGE_SIZE, matching, queue_page, surroundings
from labeler.review.queue_index import QueueIndex, change_rows, reviewed_rows
from labeler.review.queue_table import Filters, QueueTable
from labeler.review.routes.numbers import cohen_kappa, pair_counts, read_progress
from labeler.store.engine import read_session, write_session
from labeler.store.reviews import draw_audit
from labeler.store.schema import Latent
from labeler.study.config import ReportSection

ORDERS = ("uncertain", "disagreement", "random", "index")
ACTIONS = ("safety", "humour", "none", "uninterpretable", "skip", "undo")
step = st.tuples(
    st.sampled_from(ACTIONS), st.integers(0, 5), st.sampled_from(["ann", "bob", "adjudicated"])
)


def latents(study: Study) -> list[int]:
    return [*study.seed.target, *study.seed.reference]


def assert_equal_to_views(study: Study, queue_index: QueueIndex) -> None:
    with read_session(study.engine) as session, queue_index.lock:
        table = queue_index.table(session)
        kept = {(p.side, p.latent_id): p for p in table.latents}
        for row in session.execute(text("SELECT * FROM v_effective_label WHERE rank = 1")):
            latent = kept[row.side, row.latent_id]
            assert (latent.outcome, latent.category, latent.source, latent.explanation) == (
                row.outcome,
                row.category,
                row.source,
                row.explanation,
            )
        for row in session.execute(text("SELECT * FROM v_review_queue")):
            latent = kept[row.side, row.latent_id]
            assert (row.reason == "reviewers disagree") == latent.conflict
            assert latent.priority == pytest.approx(row.priority)
            assert latent.disagreement == pytest.approx(row.disagreement)
            assert latent.confidence == pytest.approx(row.confidence)
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


@pytest.mark.slow
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(step, max_size=12))
def test_the_board_follows_every_decision(
    steps: list[tuple[str, int, str]], seeded: Study, tmp_path: Path
) -> None:
    study = copy_study(seeded, tmp_path / "followed.db")
    engine = study.engine
    queue_index = QueueIndex(engine)
    assert_equal_to_views(study, queue_index)
    for action, index, reviewer in steps:
        try:
            with write_session(engine) as session:
                decide(session, study.seed, latents(study)[index], action, reviewer)
        except UsageError:
            assert action == "undo"
        assert_equal_to_views(study, queue_index)
    engine.dispose()


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(batches=[[("humour", 0, "ann"), ("safety", 0, "bob")], [("undo", 0, "ann")]], few=9)
@given(
    batches=st.lists(st.lists(step, min_size=1, max_size=5), max_size=8),
    few=st.sampled_from([0, 9]),
)
def test_what_a_board_keeps_equals_a_fresh_count(
    batches: list[list[tuple[str, int, str]]], few: int, seeded: Study, tmp_path: Path
) -> None:
    """Orders, counts of pairs, masks of reviewers: as if everything were read again."""
    study = copy_study(seeded, tmp_path / "kept.db")
    engine = study.engine
    queue_index = QueueIndex(engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "FEW_MOVED", few)
        assert_equal_to_fresh(study, queue_index)
        for batch in batches:
            for action, index, reviewer in batch:
                with contextlib.suppress(UsageError), write_session(engine) as session:
                    decide(session, study.seed, latents(study)[index], action, reviewer)
            assert_equal_to_fresh(study, queue_index)
    engine.dispose()


def assert_equal_to_fresh(study: Study, queue_index: QueueIndex) -> None:
    with read_session(study.engine) as session, queue_index.lock:
        kept, fresh = queue_index.table(session), QueueIndex(study.engine).table(session)
        for order in ORDERS:
            assert listed(kept, order) == listed(fresh, order), order
        for first, second in permutations(["ann", "bob", "adjudicated", "nobody"], 2):
            answers = kept.mine(first).answer, kept.mine(second).answer
            counts = kept.pairs.of(first, second)
            assert np.array_equal(counts, fresh.pairs.of(first, second))
            assert np.array_equal(counts, pair_counts(kept, *answers))
        for reviewer in ("ann", "bob"):
            assert queue_page(kept, Filters(), reviewer) == queue_page(fresh, Filters(), reviewer)
        assert read_progress(session, kept) == read_progress(session, fresh)
        assert change_rows(kept, ReportSection()) == change_rows(fresh, ReportSection())
        assert [vars(row) for row in reviewed_rows(kept, ReportSection())] == [
            {name: value for name, value in vars(row).items() if name != "change"}
            for row in change_rows(fresh, ReportSection())
        ]


def listed(table: QueueTable, order: str) -> list[tuple[str, int]]:
    latents = [table.latents[row] for row in table.order(order)]
    return [(latent.side, latent.latent_id) for latent in latents]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "filters", [{}, {"status": "open"}, {"side": "target"}, {"mine": "decided"}]
)
def test_the_latents_around_one_are_those_of_the_list(
    small: Study, order: str, filters: dict[str, str]
) -> None:
    chosen = Filters(order=order, **filters)
    queue_index = QueueIndex(small.engine)
    with write_session(small.engine) as session:
        for latent_id in latents(small)[:2]:
            decide(session, small.seed, latent_id, "humour", "ann")
    with read_session(small.engine) as session:
        table = queue_index.table(session)
        ids = table.latent_id[matching(table, chosen, "ann")].tolist()
        every = table.latent_id[table.order(order)].tolist()
        for latent_id in every:
            before = [one for one in every[: every.index(latent_id)] if one in ids]
            behind = [one for one in every[every.index(latent_id) + 1 :] if one in ids]
            found = surroundings(table, chosen, "ann", latent_id)
            assert found.n == len(ids)
            assert found.previous_id == (before[-1] if before else None)
            assert found.next_id == (behind[0] if behind else None)


@given(counts=arrays(np.int64, (4, 4), elements=st.integers(0, 30)))
def test_kappa_is_cohens(counts: NDArray[np.int64]) -> None:
    used = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    found = cohen_kappa(counts)
    if used.sum() < 2:
        assert found is None
    else:
        expected = cohens_kappa(counts[np.ix_(used, used)], return_results=False)
        assert found == pytest.approx(float(expected), abs=1e-12)


def test_a_second_board_sees_what_the_first_ones_server_wrote(study: Study) -> None:
    queue_index = QueueIndex(study.engine)
    assert_equal_to_views(study, queue_index)
    with write_session(study.engine) as session:
        decide(session, study.seed, study.seed.target[0], "humour")
        draw_audit(session, study.seed.comparison_id, "target", 2, 0, "ann")
    assert_equal_to_views(study, queue_index)


def test_facets_count_what_each_value_would_keep(small: Study) -> None:
    queue_index = QueueIndex(small.engine)
    with read_session(small.engine) as session:
        table = queue_index.table(session)
        for facet in queue_page(table, Filters(), "ann").facets:
            for option in facet.options:
                kept = matching(table, Filters(**{facet.name: option.value}), "ann")
                assert len(kept) == option.count, (facet.name, option.value)


def test_latents_that_come_again_in_other_seeds_can_be_listed_alone(small: Study) -> None:
    stable = set(small.seed.target[:2])
    with read_session(small.engine) as session:
        table = QueueIndex(small.engine).table(session)
        facets = queue_page(table, Filters(), "ann").facets
    assert [facet.options for facet in facets if facet.name == "stable"] == [()]
    with write_session(small.engine) as session:
        for latent_id in latents(small):
            latent = session.get_one(Latent, latent_id)
            latent.n_seeds, latent.p_reappear = 2, 0.5 * (latent_id in stable)
    with read_session(small.engine) as session:
        table = QueueIndex(small.engine).table(session)
        facet = next(f for f in queue_page(table, Filters(), "ann").facets if f.name == "stable")
        assert [(option.value, option.count) for option in facet.options] == [("yes", 2), ("no", 4)]
        kept = matching(table, Filters(stable="yes"), "ann")
        assert {int(table.latent_id[row]) for row in kept} == stable


@pytest.mark.parametrize("order", ORDERS)
def test_pages_hold_every_latent_once_although_latents_leave(small: Study, order: str) -> None:
    queue_index = QueueIndex(small.engine)
    filters = Filters(order=order, status="open")
    seen: list[int] = []
    with read_session(small.engine) as session:
        table = queue_index.table(session)
        first = matching(table, filters, "ann")
        latent_id = int(table.latent_id[first[0]])
    while latent_id is not None:
        seen.append(latent_id)
        with write_session(small.engine) as session:
            table = queue_index.table(session)
            following = surroundings(table, filters, "ann", latent_id).next_id
            decide(session, small.seed, latent_id, "safety")
        latent_id = following
    assert sorted(seen) == sorted(latents(small))
    assert len(seen) <= PAGE_SIZE


def test_a_blind_latent_is_left_out_where_being_listed_would_tell(small: Study) -> None:
    with write_session(small.engine) as session:
        draw_audit(session, small.seed.comparison_id, "target", 3, 0, "ann")
        decide(session, small.seed, small.seed.target[0], "humour", "ann")
    queue_index = QueueIndex(small.engine)
    with read_session(small.engine) as session:
        table = queue_index.table(session)
        page = queue_page(table, Filters(category="behaviour"), "ann")
        listed = {item.latent.latent_id for item in page.items}
        assert listed == {small.seed.target[0], *small.seed.reference[1:]}
        assert page.n_hidden == 2
        assert len(queue_page(table, Filters(), "ann").items) == 6
        facet = next(f for f in page.facets if f.name == "category")
        assert sum(option.count for option in facet.options if option.level == 2) <= 4
