from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_table import write_table
from seeding import label, seed
from sqlalchemy import Engine

from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.store.engine import write_session
from labeler.store.query.query import run_query
from labeler.store.query.saved_queries import SHIPPED, find_query, save_query, saved_queries
from labeler.study.study_file import StudyFile

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def study(tmp_path: Path) -> StudyFile:
    path = tmp_path / "study.toml"
    path.write_text("[study]\n", encoding="utf-8")
    return StudyFile.read(path)


@pytest.mark.slow
def test_every_shipped_query_runs_on_an_empty_and_on_a_filled_database(
    engine: Engine, database_url: str, study: StudyFile
) -> None:
    queries = saved_queries(study.query_folder)
    assert {query.name for query in queries} == {path.stem for path in SHIPPED.glob("*.sql")}
    assert all(query.title != query.name for query in queries)
    for query in queries:
        assert not run_query(database_url, query.statement).truncated
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
    filled = [run_query(database_url, query.statement) for query in queries]
    assert sum(len(result.rows) > 0 for result in filled) >= 4


def test_a_query_of_the_study_replaces_a_shipped_one(study: StudyFile) -> None:
    assert find_query(study.query_folder, "coverage").source == "difflens"
    path = save_query(study.query_folder, "coverage", "-- mine\nselect 1\n")
    assert path == study.folder / "queries" / "coverage.sql"
    found = find_query(study.query_folder, "coverage")
    assert (found.source, found.title, found.statement) == ("study", "mine", "-- mine\nselect 1")
    with pytest.raises(UsageError, match="is there already"):
        save_query(study.query_folder, "coverage", "select 2")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "two words"])
def test_a_name_that_leads_elsewhere_is_refused(study: StudyFile, name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        save_query(study.query_folder, name, "select 1")


def test_an_unknown_name_is_refused_with_the_nearest(study: StudyFile) -> None:
    with pytest.raises(UsageError, match=r"no saved query is named 'covrage'.*'coverage'"):
        find_query(study.query_folder, "covrage")


@pytest.mark.slow
def test_questions_are_saved_listed_and_asked_again(tmp_path: Path, capsys: Capture) -> None:
    study = tmp_path / "study.toml"
    study.write_text("[study]\n", encoding="utf-8")
    latents = write_table(tmp_path / "latents.csv", "technical-explanation")
    assert run(["import", str(study), str(latents)]) == 0
    question = "select side, labelled from v_coverage order by side"
    assert run(["sql", str(study), question, "--save", "sides"]) == 0
    capsys.readouterr()
    assert run(["sql", str(study), "--saved", "sides", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"side": "reference", "labelled": 112},
        {"side": "target", "labelled": 89},
    ]
    assert run(["sql", str(study), "--list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"name": "sides", "source": "study", "title": "sides"} in listed
    assert run(["sql", str(study)]) == 2
    assert run(["sql", str(study), "select 1", "--saved", "sides"]) == 2
    assert run(["sql", str(study), "select nothing", "--save", "wrong"]) == 2
    assert not (tmp_path / "queries" / "wrong.sql").exists()
