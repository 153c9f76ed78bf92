"""Other ways of counting, stricter isolation, the schema, and when it was computed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import pytest
from report_studies import PLANTED_COUNTS, build_imported, build_planted, report_run
from sqlalchemy import Engine, select, text, update
from sqlalchemy.orm import Session

from labeler.report.build import ReportFiles, ReportOptions, build_report
from labeler.report.comparisons import read_comparisons, read_members
from labeler.report.statistics import (
    DENOMINATORS,
    WEIGHTINGS,
    compute_variants,
    count_latents,
    read_category_nodes,
    read_counts,
)
from labeler.report.tables import COLUMNS
from labeler.store.effects import replace_latent_effects
from labeler.store.engine import write_session
from labeler.store.schema import CategoryChangeStatistic, CategorySweep, Latent


@pytest.fixture
def with_activations(sqlite_engine: Engine) -> Engine:
    """The planted study, whose latents have a mean activation too."""
    build_planted(sqlite_engine)
    with write_session(sqlite_engine) as session:
        session.execute(update(Latent).values(mean_activation=1.0 + Latent.latent_index % 3))
    return sqlite_engine


def reported(engine: Engine, folder: Path, options: ReportOptions | None = None) -> ReportFiles:
    return build_report(engine, options or ReportOptions(), folder / "report", report_run(engine))


@pytest.mark.slow
def test_eighteen_ways_are_stored_and_named_and_one_leads(
    with_activations: Engine, tmp_path: Path
) -> None:
    files = reported(with_activations, tmp_path)
    with Session(with_activations) as session:
        rows = session.scalars(select(CategoryChangeStatistic)).all()
        shown = session.execute(text("SELECT * FROM v_category_change_statistic")).all()
        every = session.execute(text("SELECT * FROM v_category_change_sensitivity")).all()
    ways = {(row.counting, row.weighting, row.denominator) for row in rows}
    assert len(ways) == 2 * 3 * 3
    n_categories = len(files.tables[0].rows)
    assert len(rows) == len(every) == 18 * n_categories
    assert len(shown) == n_categories
    with (files.folder / "sensitivity.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(rows)
    stored = {
        (row.category, row.counting, row.weighting, row.denominator): row.percent_change
        for row in rows
    }
    for line in written:
        key = (line["category"], line["counting"], line["weighting"], line["denominator"])
        value = stored[key]
        assert line["percent_change"] == ("" if value is None else str(value))


def test_counts_from_members_equal_those_of_the_view(sqlite_engine: Engine) -> None:
    build_planted(sqlite_engine)
    with Session(sqlite_engine) as session:
        (facts,) = read_comparisons(session)
        members = read_members(session, facts)
        nodes = read_category_nodes(session, facts.version.id)
        for denominator in DENOMINATORS:
            target, reference = (
                [member for member in side if member.is_in(denominator)]
                for side in (members.target, members.reference)
            )
            counted = {
                row.category: row for row in count_latents(nodes, target, reference, "primary")
            }
            for row in read_counts(session, facts.comparison.name, denominator):
                assert counted[row.category] == row


def test_frequency_weighting_is_the_share_of_density(with_activations: Engine) -> None:
    with Session(with_activations) as session:
        (facts,) = read_comparisons(session)
        members = read_members(session, facts)
        variants = compute_variants(members, read_category_nodes(session, facts.version.id))
    row = next(
        row
        for row in variants.rows
        if (row.category, row.counting, row.weighting, row.denominator)
        == ("safety", "primary", "frequency", "labelled")
    )
    labelled = [member for member in members.target if member.is_in("labelled")]
    inside = sum(
        member.density or 0
        for member in labelled
        if member.categories and "safety" in member.categories[0]
    )
    assert row.target_share == pytest.approx(inside / sum(m.density or 0 for m in labelled))
    assert row.target_count == PLANTED_COUNTS["safety"][0]
    assert row.test == "score"
    assert row.target_effective is not None
    assert row.target_effective < row.target_total


def test_effect_weighting_is_the_share_of_attribution_where_it_was_measured(
    with_activations: Engine,
) -> None:
    with Session(with_activations) as session:
        (facts,) = read_comparisons(session)
        nodes = read_category_nodes(session, facts.version.id)
        before = read_members(session, facts)
        unmeasured = compute_variants(before, nodes)
    assert "effect" not in {row.weighting for row in unmeasured.rows}
    assert any("have no measured effect" in reason for reason in unmeasured.missing)
    pair = (facts.target_set.target_model_id, facts.target_set.against_model_id)
    ids = [member.latent_id for member in before.target][::2]
    run_id = report_run(with_activations)
    with write_session(with_activations) as session:
        for (target, reference), sign in ((pair, 1.0), (pair[::-1], -3.0)):
            assert target is not None
            assert reference is not None
            rows = {
                latent: {"attribution": sign * (1 + latent % 5), "magnitude": 0.0, "rank": 1}
                for latent in ids
            }
            replace_latent_effects(session, run_id, target, reference, rows)
    with Session(with_activations) as session:
        members = read_members(session, facts)
        variants = compute_variants(members, nodes)
    weights = {member.latent_id: member.effect for member in members.target}
    assert weights == {
        latent: 2.0 * (1 + latent % 5) if latent in ids else 0.0 for latent in weights
    }, "both directions, without their signs; nothing where a latent does not fire"
    row = next(
        row
        for row in variants.rows
        if (row.category, row.counting, row.weighting, row.denominator)
        == ("safety", "primary", "effect", "labelled")
    )
    labelled = [member for member in members.target if member.is_in("labelled")]
    inside = sum(
        member.effect or 0
        for member in labelled
        if member.categories and "safety" in member.categories[0]
    )
    assert row.target_share == pytest.approx(inside / sum(m.effect or 0 for m in labelled))
    assert "mass" in {row.weighting for row in variants.rows}


def test_stable_latents_alone_are_a_way_of_counting_where_there_are_seeds(
    with_activations: Engine,
) -> None:
    with write_session(with_activations) as session:
        session.execute(update(Latent).values(n_seeds=2, p_reappear=0.5 * (Latent.id % 3)))
    with Session(with_activations) as session:
        (facts,) = read_comparisons(session)
        members = read_members(session, facts)
        nodes = read_category_nodes(session, facts.version.id)
        variants = compute_variants(members, nodes)
        session.rollback()
    stable = [member for member in members.target if member.latent_id % 3 > 0]
    labelled = [member for member in stable if member.is_in("labelled")]
    inside = [each for each in labelled if "safety" in each.counted_for("primary")]
    row = next(
        row
        for row in variants.rows
        if (row.category, row.way) == ("safety", ("primary", "stable", "labelled"))
    )
    assert row.target_share == pytest.approx(len(inside) / len(labelled))
    assert len({row.way for row in variants.rows}) == 24


@pytest.mark.slow
def test_imported_latents_cannot_be_weighted_or_swept_and_the_page_says_so(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_imported(sqlite_engine)
    files = reported(sqlite_engine, tmp_path)
    page = files.html.read_text(encoding="utf-8")
    assert "frequency-weighted: 201 of 201 labelled latents have no density" in page
    assert "Not swept: the latents were imported" in page
    with Session(sqlite_engine) as session:
        weightings = set(session.scalars(select(CategoryChangeStatistic.weighting)))
        assert session.scalars(select(CategorySweep)).all() == []
    assert weightings == {"none"}


@pytest.mark.slow
def test_the_sweep_ends_at_the_studys_own_change(with_activations: Engine, tmp_path: Path) -> None:
    files = reported(with_activations, tmp_path)
    own = {row.category: row for row in files.tables[0].rows}
    with Session(with_activations) as session:
        points = session.scalars(select(CategorySweep).order_by(CategorySweep.threshold)).all()
        view = session.execute(text("SELECT count(*) FROM v_category_sweep")).scalar_one()
    assert view == len(points) > 0
    last = {point.category: point for point in points}
    for category, point in last.items():
        assert point.swept == "rank within the side"
        assert (point.target_count, point.target_total) == (
            own[category].target_count,
            own[category].target_total,
        )
        assert point.percent_change == own[category].percent_change
        assert point.ci_low == own[category].ci_low
    assert (files.folder / "figures" / "c1-sweep.svg").is_file()


def test_the_json_obeys_its_schema(paper_report: ReportFiles, planted_report: ReportFiles) -> None:
    for files in (paper_report, planted_report):
        schema = json.loads((files.folder / "category_change.schema.json").read_text())
        rows = json.loads(files.json.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(rows, schema)
        assert tuple(schema["items"]["properties"]) == COLUMNS
        assert tuple(schema["items"]["properties"]["weighting"]["enum"]) == WEIGHTINGS
        rows[0]["verdict"] = "certainly"
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(rows, schema)


def test_page_and_markdown_say_when_and_from_which_labels(paper_report: ReportFiles) -> None:
    page = paper_report.html.read_text(encoding="utf-8")
    moment = paper_report.tables[0].computed_at
    assert moment is not None
    assert f"Computed {moment:%Y-%m-%d %H:%M:%S} UTC by run" in page
    assert "newest judge label was number 205" in page
    assert "cannot know whether that has changed" in page
    assert "difflens status" in paper_report.markdown.read_text(encoding="utf-8")


@pytest.mark.slow
def test_boschloo_is_named_in_every_row(sqlite_engine: Engine, tmp_path: Path) -> None:
    build_imported(sqlite_engine)
    files = reported(sqlite_engine, tmp_path, ReportOptions(test="boschloo"))
    assert {row.test for row in files.tables[0].rows} == {"boschloo"}
    safety = next(row for row in files.tables[0].rows if row.category == "safety")
    assert safety.p_value == pytest.approx(0.36118, abs=1e-5)


def test_null_runs_scores_and_controls_have_their_place(planted_report: ReportFiles) -> None:
    page = planted_report.html.read_text(encoding="utf-8")
    assert "What the conclusions survive" in page
    assert "What this size could have shown" in page
    assert "Where nothing differs" not in page
