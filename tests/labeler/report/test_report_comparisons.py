"""The report shows what study.toml names, in its order; the rest is listed as retired."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from report_page import read_page
from report_studies import build_imported, build_planted, new_run, report_run
from sqlalchemy import Engine, select

from labeler.errors import UsageError
from labeler.report.build import ReportFiles, ReportOptions, build_report
from labeler.report.comparisons import read_comparisons
from labeler.report.provenance import read_embedder, read_runs
from labeler.review.server import build_context
from labeler.stages.status import study_status
from labeler.store.comparisons import NullRun, add_null_run, read_null_runs
from labeler.store.engine import read_session, write_session
from labeler.store.schema import Comparison, NullResult
from labeler.study.study_file import StudyFile

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Named:
    name: str
    target: str = "simpo"
    reference: str = "it"
    against: str | None = None


PLANTED, PAPER = Named("simpo-vs-it"), Named("paper")


def reported(engine: Engine, folder: Path, *named: Named) -> ReportFiles:
    options = ReportOptions("study", comparisons=named)
    return build_report(engine, options, folder / "report", report_run(engine))


@pytest.fixture(params=["planted-first", "imported-first"])
def both(request: pytest.FixtureRequest, sqlite_engine: Engine) -> Engine:
    """A study with an isolated and an imported comparison, made in either order."""
    builders = (build_planted, build_imported)
    for build in builders if request.param == "planted-first" else reversed(builders):
        build(sqlite_engine)
    return sqlite_engine


@pytest.mark.parametrize(
    ("named", "order", "title"),
    [
        ((PLANTED,), ["simpo-vs-it", "paper"], "What changed from it to simpo"),
        ((PAPER, PLANTED), ["paper", "simpo-vs-it"], "What changed from reference to target"),
        ((), ["paper"], "What changed from reference to target"),
    ],
)
def test_order_and_headline_are_those_of_the_config(
    both: Engine, tmp_path: Path, named: tuple[Named, ...], order: list[str], title: str
) -> None:
    files = reported(both, tmp_path, *named)
    assert [table.comparison for table in files.tables] == order
    page = read_page(files.html.read_text("utf-8"))
    assert title in page.text
    assert [name for name in page.ids if name in ("c1", "c2")] == ["c1", "c2"][: len(order)]
    assert (
        build_context(both, "sqlite:///x.db", study="s", comparisons=named).queue_index.names()
        == order
    )


def test_a_retired_comparison_is_listed_and_never_in_the_headline(
    both: Engine, tmp_path: Path
) -> None:
    page = reported(both, tmp_path).html.read_text("utf-8")
    text = " ".join(read_page(page).text.split())
    assert "Retired: study.toml does not name them any more." in text
    assert "simpo-vs-it : never reported" in text.replace("simpo-vs-it:", "simpo-vs-it :")
    first = reported(both, tmp_path, PLANTED)
    assert "Not in this report" not in first.html.read_text("utf-8")
    again = " ".join(read_page(reported(both, tmp_path).html.read_text("utf-8")).text.split())
    at = first.tables[0].computed_at
    assert at is not None
    assert f"last reported {at:%Y-%m-%d %H:%M:%S} UTC" in again
    assert "simpo-vs-it" not in again.split("Not in this report")[0]


def test_what_study_toml_names_and_nobody_made_is_listed(both: Engine, tmp_path: Path) -> None:
    other = replace(PLANTED, against="base")
    page = reported(both, tmp_path, other, Named("later")).html.read_text("utf-8")
    text = " ".join(read_page(page).text.split())
    assert "later : not isolated yet" in text.replace("later:", "later :")
    assert "the database still holds simpo (against it) and it (against simpo)" in text
    assert "Retired" not in text


def test_a_report_of_retired_comparisons_alone_is_refused(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_planted(sqlite_engine)
    with pytest.raises(UsageError, match=r"holds simpo-vs-it, which study\.toml does not name"):
        reported(sqlite_engine, tmp_path)
    assert not (tmp_path / "report").exists()


def test_status_follows_the_config(both: Engine, sqlite_url: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        f'[database]\nurl = "{sqlite_url}"\n[[comparison]]\nname = "later"\ntarget = "a"\n'
        'reference = "b"\n',
        encoding="utf-8",
    )
    status = study_status(StudyFile.read(path))
    assert [row.comparison for row in status.coverage] == ["paper", "paper"]
    assert [one.name for one in status.absent] == ["later"]
    assert [one.name for one in status.retired] == ["simpo-vs-it"]


def test_null_runs_of_earlier_latents_or_another_test_are_not_shown(
    sqlite_engine: Engine,
) -> None:
    build_planted(sqlite_engine)
    run = NullRun("permuted", "dealt", n_draws=5, n_called=1, n_tested=50)
    with write_session(sqlite_engine) as session:
        comparison = session.execute(select(Comparison)).scalar_one()
        add_null_run(session, comparison.id, run, {"denominator": "labelled", "test": "fisher"})
    with read_session(sqlite_engine) as session:
        comparison = session.execute(select(Comparison)).scalar_one()
        assert [one.n_called for one in read_null_runs(session, comparison)] == [1]
        assert read_null_runs(session, comparison, test="boschloo") == ()
        assert read_null_runs(session, comparison, denominator="isolated") == ()
    with write_session(sqlite_engine) as session:
        row = session.execute(select(NullResult)).scalar_one()
        row.computed_at -= timedelta(days=1)
    with read_session(sqlite_engine) as session:
        comparison = session.execute(select(Comparison)).scalar_one()
        assert read_null_runs(session, comparison) == ()


def test_the_runs_and_the_embedder_are_those_that_the_labels_came_from(both: Engine) -> None:
    with write_session(both) as session:
        later = {
            kind: new_run(session, kind, {"embedder": "another"})
            for kind in ("harvest", "train", "categorize")
        }
    with read_session(both) as session:
        paper, planted = read_comparisons(session)
        assert read_embedder(session, paper) is None
        assert read_embedder(session, planted) == "minilm"
        for facts in (paper, planted):
            shown = {run.run_id for run in read_runs(session, facts, None)}
            assert not shown & set(later.values()), facts.comparison.name
