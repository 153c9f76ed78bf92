"""The change table of isolated latents rests on randomised sides, wherever it is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_page import read_page
from report_studies import Judged, new_run, report_run, write_labels
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from labeler.report.build import ReportFiles, ReportOptions, build_report
from labeler.report.comparisons import read_comparisons, read_members
from labeler.report.model import CategoryRow
from labeler.report.randomisation import RandomisedSides, read_randomised_sides
from labeler.report.statistics import compute_rows, compute_variants, read_category_nodes
from labeler.review.queue_index import QueueIndex, change_rows
from labeler.store.copy import copy_database
from labeler.store.engine import open_engine, read_session, write_session
from labeler.store.judging import ExplanationRow, get_or_create_judge
from labeler.store.latents import (
    add_latents,
    add_side_draws,
    create_latent_set,
    ensure_comparison,
    ensure_comparison_setting,
    get_or_create_crosscoder,
)
from labeler.store.schema import Comparison, ComparisonSetting
from labeler.store.taxonomies import category_ids, ensure_taxonomy_version
from labeler.study.config import ReportSection
from taxonomy.counts import ALPHA
from taxonomy.tree import seed_taxonomy

N_LATENTS, PER_SIDE, DRAWS = 60, 10, 99
SAFETY = range(12)
"""Latents labelled safety; the target side has the first eight of them."""


def build(engine: Engine, *, has_prefixes: bool = True, labelled: int = N_LATENTS) -> None:
    """Sides of ten latents out of sixty; in every draw sides are random halves."""
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(N_LATENTS) for _ in range(DRAWS)]).astype(np.int32)
    with write_session(engine) as session:
        run_id = new_run(session, "isolate")
        version = ensure_taxonomy_version(session, seed_taxonomy())
        judge = get_or_create_judge(session, "judge", "judge", "evidence")
        judged = Judged(run_id, judge.id, version.id, category_ids(session, version.id))
        crosscoder = get_or_create_crosscoder(session, "tiny", "ab" * 32)
        ids = add_latents(
            session,
            crosscoder.id,
            [{"latent_index": i, "density": 0.01 * (1 + i % 3)} for i in range(N_LATENTS)],
        )
        labels = ["safety" if i in SAFETY else "none" for i in range(labelled)]
        explanations = [ExplanationRow(ids[i], f"latent {i}") for i in range(labelled)]
        write_labels(session, judged, explanations, labels, 0.9)
        target, reference = [*range(8), 20, 21], range(30, 40)
        sets = [
            create_latent_set(
                session,
                f"pair/{name}",
                "shifted",
                run_id,
                [{"latent_id": ids[index]} for index in members],
                crosscoder_id=crosscoder.id,
            )
            for name, members in (("target", target), ("reference", reference))
        ]
        comparison = ensure_comparison(session, "pair", sets[0].id, sets[1].id)
        ensure_comparison_setting(session, comparison.id, version.id, judge.id)
        size = 30 if has_prefixes else PER_SIDE
        add_side_draws(
            session,
            comparison,
            has_prefixes=has_prefixes,
            target=orders[:, :size],
            reference=orders[:, 30 : 30 + size],
            shifts=np.tile(rng.normal(size=N_LATENTS).astype(np.float32), (21, 1)),
        )


def drawn_sides(session: Session) -> RandomisedSides | None:
    setting = session.execute(select(ComparisonSetting)).scalar_one()
    return read_randomised_sides(
        session, setting.comparison_id, setting.taxonomy_version_id, setting.judge_id
    )


def safety(session: Session, sides: RandomisedSides | None) -> CategoryRow:
    setting = session.execute(select(ComparisonSetting)).scalar_one()
    nodes = read_category_nodes(session, setting.taxonomy_version_id)
    rows = compute_rows(session, "pair", nodes, "labelled", ALPHA, sides=sides)
    return next(row for row in rows if row.category == "safety")


@pytest.mark.parametrize("has_prefixes", [True, False])
def test_p_compares_the_sides_with_drawn_sides_of_the_same_size(
    engine: Engine, has_prefixes: bool
) -> None:
    build(engine, has_prefixes=has_prefixes)
    with read_session(engine) as session:
        sides = drawn_sides(session)
        row = safety(session, sides)
    assert sides is not None
    assert sides.target.shape == (DRAWS, PER_SIDE)
    differences = [
        abs(np.isin(target, SAFETY).sum() - np.isin(reference, SAFETY).sum())
        for target, reference in zip(sides.target, sides.reference, strict=True)
    ]
    expected = (1 + sum(difference >= 8 for difference in differences)) / (1 + DRAWS)
    assert (row.target_count, row.reference_count) == (8, 0)
    assert (row.test, row.p_value) == ("documents", expected)
    assert row.family_p is not None
    assert row.family_p >= row.p_value
    assert row.n_shifted == len(SAFETY)
    assert row.mean_shift == pytest.approx(sides.shifts[0, SAFETY].mean(), rel=1e-5)


def test_weighted_shares_are_compared_with_weighted_shares_of_the_drawn_sides(
    engine: Engine,
) -> None:
    build(engine)
    with read_session(engine) as session:
        sides = drawn_sides(session)
        (facts,) = read_comparisons(session)
        nodes = read_category_nodes(session, facts.version.id)
        variants = compute_variants(read_members(session, facts), nodes, sides=sides)
    assert sides is not None
    assert variants.missing == (
        "mass-weighted: 20 of 20 labelled latents have no density or mean activation",
        "effect-weighted: 20 of 20 labelled latents have no measured effect",
    )
    row = next(
        row
        for row in variants.rows
        if (row.category, row.counting, row.weighting, row.denominator)
        == ("safety", "primary", "frequency", "labelled")
    )
    weights = 0.01 * (1 + np.arange(N_LATENTS) % 3)

    def difference(target: np.ndarray, reference: np.ndarray) -> float:
        shares = [
            weights[side][np.isin(side, SAFETY)].sum() / weights[side].sum()
            for side in (target, reference)
        ]
        return abs(shares[0] - shares[1])

    observed = difference(np.array([*range(8), 20, 21]), np.arange(30, 40))
    drawn = [difference(*pair) for pair in zip(sides.target, sides.reference, strict=True)]
    assert row.difference_points == pytest.approx(100 * observed)
    assert row.test == "documents"
    expected = (1 + sum(each >= observed - 1e-12 for each in drawn)) / (1 + DRAWS)
    assert row.p_value == pytest.approx(expected)


def test_without_labels_of_the_drawn_latents_the_exact_test_is_used_and_named(
    engine: Engine,
) -> None:
    build(engine, labelled=22)
    with read_session(engine) as session:
        row = safety(session, drawn_sides(session))
    assert (row.test, row.family_p) == ("fisher", None)


def test_a_comparison_without_draws_has_none(engine: Engine) -> None:
    build(engine)
    with write_session(engine) as session:
        comparison = session.execute(select(Comparison)).scalar_one()
        members = {"target_set_id": comparison.reference_set_id}
        members["reference_set_id"] = comparison.target_set_id
        for name, value in members.items():
            setattr(comparison, name, value)
    with read_session(engine) as session:
        assert drawn_sides(session) is None


def test_the_review_pages_show_the_numbers_of_the_report(engine: Engine) -> None:
    build(engine)
    queue_index = QueueIndex(engine)
    with read_session(engine) as session, queue_index.lock:
        sides = drawn_sides(session)
        row = safety(session, sides)
        shown = {
            each.change.category: each.change
            for each in change_rows(queue_index.table(session), ReportSection(), sides)
        }
    for name in ("p_value", "q_value", "family_p", "verdict", "test", "ci_low", "ci_high"):
        assert getattr(shown["safety"], name) == getattr(row, name), name


def reported(engine: Engine, folder: Path) -> ReportFiles:
    return build_report(engine, ReportOptions(), folder / "report", report_run(engine))


def test_the_report_says_which_test_it_used_and_shows_the_family_p(
    engine: Engine, tmp_path: Path
) -> None:
    build(engine)
    files = reported(engine, tmp_path)
    page = files.html.read_text(encoding="utf-8")
    assert "randomisation over documents" in page
    assert "Fisher" not in page
    row = next(row for row in files.tables[0].rows if row.category == "safety")
    assert str(row.family_p) in read_page(page).values["safety"]
    markdown = files.markdown.read_text(encoding="utf-8")
    assert "| family p |" in markdown
    assert "swaps the two models" in markdown
    assert '"family_p": ' in files.json.read_text(encoding="utf-8")
    assert "Taken together, the two sides' categories" in markdown
    assert "(randomisation over documents, p = " in markdown


def test_an_exact_test_of_isolated_latents_comes_with_a_caution_and_what_to_do(
    engine: Engine, tmp_path: Path
) -> None:
    build(engine, labelled=22)
    files = reported(engine, tmp_path)
    for path in (files.html, files.markdown):
        text = path.read_text(encoding="utf-8").replace("\\", "").replace("&#39;", "'")
        assert "Fisher's exact test" in text
        assert "independent draws" in text
        assert "collect.latents" in text
        assert "family p" not in text


def test_sides_by_their_shift_are_called_strengthened_and_weakened(
    engine: Engine, tmp_path: Path
) -> None:
    build(engine)
    files = reported(engine, tmp_path)
    markdown = files.markdown.read_text(encoding="utf-8")
    assert "10 of 10 strengthened latents and 10 of 10 weakened latents are labelled" in markdown


def test_draws_are_copied_to_another_database(engine: Engine, tmp_path: Path) -> None:
    build(engine)
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    copy_database(engine.url, copy)
    with read_session(engine) as session, read_session(open_engine(copy)) as other:
        first, second = drawn_sides(session), drawn_sides(other)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.target, second.target)
    np.testing.assert_array_equal(first.shifts, second.shifts)
