"""difflens from Python: the same answers as the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_table import COMPARISON, COUNTS, PUBLISHED, TECHNICAL, TOTALS
from tiny_study import TinyStudy

from labeler.api import Study
from labeler.errors import UsageError, WorkError
from labeler.study.study_file import write_template
from taxonomy.tree import seed_taxonomy


@pytest.fixture
def study(imported: Path) -> Study:
    """The published table in a study without models."""
    return Study.open(imported)


def test_the_published_table_as_a_frame(study: Study) -> None:
    frame = study.category_change().set_index("category")
    assert set(frame["comparison"]) == {COMPARISON}
    assert set(frame["target_total"]) == {TOTALS["target"]}
    assert set(frame["reference_total"]) == {TOTALS["reference"]}
    shown = frame.loc[list(PUBLISHED)]
    assert shown["percent_change"].round(1).to_dict() == PUBLISHED
    counts = shown[["target_count", "reference_count"]].itertuples(index=False, name=None)
    assert dict(zip(PUBLISHED, counts, strict=True)) == COUNTS | {"technical": TECHNICAL}


@pytest.mark.slow
def test_the_statistics_after_a_report(study: Study) -> None:
    assert study.statistics().empty
    report = study.run_stage("report")
    assert not report.was_done
    frame = study.statistics()
    assert set(frame["category"]) == set(seed_taxonomy().slugs)
    assert not frame["is_stale"].any()
    assert not set(frame["verdict"]) & {"up", "down"}
    in_view = study.category_change().set_index("category")["percent_change"]
    computed = frame.set_index("category")["percent_change"]
    assert computed.to_dict() == pytest.approx(in_view.to_dict(), nan_ok=True)
    assert study.run_stage("report").was_done


def test_sql_gives_columns_and_rows(study: Study) -> None:
    query = "select side, labelled from v_coverage order by side desc"
    result = study.sql(query)
    assert result.columns == ("side", "labelled")
    assert result.rows == tuple(TOTALS.items())
    assert study.sql(query, max_rows=1).truncated


def test_sql_only_reads_and_stops_in_time(study: Study) -> None:
    with pytest.raises(UsageError, match="only reading"):
        study.sql("update run set status = 'done'")
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"
    with pytest.raises(WorkError, match="stopped after"):
        study.sql(endless, timeout=0.2)


def test_labels_of_every_latent(study: Study) -> None:
    frame = study.effective_labels()
    assert frame.groupby("side")["latent_id"].nunique().to_dict() == TOTALS
    assert set(frame["source"]) == {"import"}


def test_a_study_without_a_database_says_what_makes_one(tmp_path: Path) -> None:
    write_template(tmp_path / "study.toml")
    with pytest.raises(UsageError, match="db upgrade"):
        Study.open(tmp_path / "study.toml").category_change()
    assert [file.name for file in tmp_path.iterdir()] == ["study.toml"]


@pytest.mark.slow
def test_a_finished_study_runs_nothing_and_tells_its_state(
    finished_study: TinyStudy, own_cache: Path, tmp_path: Path
) -> None:
    copied = finished_study.copied_to(tmp_path / "study")
    study = Study.open(copied.path)
    assert all(report.was_done for report in study.run())
    status = study.status()
    assert {stage.state for stage in status.stages} == {"done"}
    assert [row.side for row in status.coverage] == ["target", "reference"]
    assert len(study.category_change()) == len(study.statistics()) > 0
    assert study.taxonomy().slugs == seed_taxonomy().slugs


def test_labels_go_out_and_come_back(study: Study, tmp_path: Path) -> None:
    sheet = tmp_path / "labels.jsonl"
    assert study.export_labels(sheet) == sum(TOTALS.values())
    result = study.import_labels(sheet, "ann")
    assert (result.n_decisions, result.n_unchanged) == (0, sum(TOTALS.values()))
