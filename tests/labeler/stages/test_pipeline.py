"""The whole main job on tiny models: what it leaves behind, and what it does a second time."""

from __future__ import annotations

import csv
import json
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from postgres import fresh_database
from sqlalchemy.engine import URL
from stub_judge import judging_server
from tiny_study import STAGES, TinyStudy, write_study

from labeler.cli.main import run
from labeler.judge.embedding_judge import METHOD_VERSION, EvidenceKind
from labeler.store.query.query import run_query
from labeler.store.views import VIEWS
from taxonomy.tree import seed_taxonomy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
SETS = """
    SELECT s.name, target.name, against.name, count(*) FROM latent_set s
    JOIN comparison c ON s.id IN (c.target_set_id, c.reference_set_id)
    JOIN latent_set_member m ON m.latent_set_id = s.id
    JOIN subject_model target ON target.id = s.target_model_id
    JOIN subject_model against ON against.id = s.against_model_id
    GROUP BY s.id ORDER BY s.name
"""


def rows(study: TinyStudy, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{study.database}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def value(study: TinyStudy, statement: str) -> Any:
    ((found,),) = rows(study, statement)
    return found


def stages_run(study: TinyStudy, after: int = 0) -> list[str]:
    """Stages that were started after a run, in order."""
    return [kind for (kind,) in rows(study, f"SELECT kind FROM run WHERE id > {after} ORDER BY id")]


def newest_run(study: TinyStudy) -> int:
    return int(value(study, "SELECT max(id) FROM run"))


def ran_again(study: TinyStudy, *options: str) -> list[str]:
    """Stages that another run starts."""
    before = newest_run(study)
    assert run(["run", str(study.path), *options]) == 0
    return stages_run(study, before)


@pytest.fixture
def study(finished_study: TinyStudy, tmp_path: Path) -> TinyStudy:
    """A finished study of one's own."""
    return finished_study.copied_to(tmp_path / "study")


def test_every_stage_is_recorded_as_done_once(finished_study: TinyStudy) -> None:
    found = rows(finished_study, "SELECT kind, status, finished_at IS NOT NULL FROM v_run")
    assert sorted(found) == sorted((name, "done", 1) for name in STAGES)


def test_every_stage_leaves_its_rows(finished_study: TinyStudy) -> None:
    def count(table: str) -> int:
        return int(value(finished_study, f"SELECT count(*) FROM {table}"))

    n_isolated = count("latent_set_member")
    assert 0 < n_isolated <= 20
    assert (count("subject_model"), count("corpus"), count("crosscoder")) == (2, 1, 1)
    assert (count("latent"), count("latent_scaling")) == (96, 2 * 96)
    assert (count("latent_set"), count("comparison"), count("comparison_setting")) == (2, 1, 1)
    with_evidence = value(finished_study, "SELECT count(DISTINCT latent_id) FROM evidence")
    n_controls = count("control_latent")
    assert 0 < n_controls <= 20
    assert with_evidence == count("judge_label") == n_isolated + n_controls
    assert count("explanation WHERE NOT is_control") == with_evidence
    assert count("shuffled_explanation") == count("explanation WHERE is_control")
    assert count("explanation_score WHERE balanced_accuracy IS NULL AND reason IS NULL") == 0
    assert count("explanation_score WHERE method = 'detection'") >= with_evidence
    assert count("judge_call") > n_isolated
    assert count("effective_label") == n_isolated
    assert count("v_category_change_statistic") == len(seed_taxonomy().categories)


def test_the_halves_of_the_evidence_share_no_document(finished_study: TinyStudy) -> None:
    shared = """
        SELECT latent_id, document_id FROM evidence GROUP BY latent_id, document_id
        HAVING count(DISTINCT split) > 1
    """
    assert rows(finished_study, shared) == []
    assert {split for (split,) in rows(finished_study, "SELECT split FROM evidence")} == {
        "explain", "score",
    }  # fmt: skip


@pytest.mark.parametrize("view", [view.name for view in VIEWS])
def test_every_view_answers(
    finished_study: TinyStudy, view: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(["sql", str(finished_study.path), f"select * from {view}", "--format", "json"])
    assert status == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_the_coverage_accounts_for_every_latent(finished_study: TinyStudy) -> None:
    found = rows(
        finished_study,
        'SELECT isolated, assigned + "none" + uninterpretable + error + unlabelled,'
        ' labelled, assigned + "none" FROM v_coverage',
    )
    assert len(found) == 2
    for isolated, accounted, labelled, counted in found:
        assert isolated == accounted > 0
        assert labelled == counted


def test_shares_in_the_view_follow_from_the_labels(finished_study: TinyStudy) -> None:
    counted = """
        SELECT category, count(*) FROM v_effective_label
        WHERE rank = 1 AND side = 'target' AND category IS NOT NULL GROUP BY category
    """
    labels = dict(rows(finished_study, counted))
    leaves = rows(
        finished_study, "SELECT category, target_count FROM v_category_change WHERE is_leaf"
    )
    assert labels
    assert {category: count for category, count in leaves if count} == labels


def test_the_inactive_share_of_the_report_is_that_of_held_out_text(
    finished_study: TinyStudy,
) -> None:
    (path,) = (finished_study.folder / "artifacts" / "train").rglob("result.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    ((recorded,),) = rows(finished_study, "SELECT result FROM run WHERE kind = 'train'")
    stored = json.loads(recorded)
    assert stored["inactive_share"] == result["quality"]["inactive_share"]
    assert stored["dead_share"] == result["dead_share"]
    page = (finished_study.folder / "report" / "index.html").read_text(encoding="utf-8")
    share = 100 * result["quality"]["inactive_share"]
    assert f"{share:.1f}% of the latents inactive on held-out tokens" in page


def test_the_files_of_the_report_agree_with_the_database(finished_study: TinyStudy) -> None:
    folder = finished_study.folder / "report"
    records = json.loads((folder / "category_change.json").read_text(encoding="utf-8"))
    with (folder / "category_change.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    as_csv = [
        {name: "" if cell is None else str(cell) for name, cell in record.items()}
        for record in records
    ]
    assert lines == as_csv
    columns = "category, target_count, reference_count, percent_change, p_value, q_value, verdict"
    stored = rows(finished_study, f"SELECT {columns} FROM v_category_change_statistic")
    names = columns.split(", ")
    assert sorted(stored) == sorted(tuple(record[name] for name in names) for record in records)
    page = (folder / "index.html").read_text(encoding="utf-8")
    markdown = (folder / "category_change.md").read_text(encoding="utf-8")
    filled = [r for r in records if r["target_count"] or r["reference_count"]]
    assert filled
    for record in filled:
        counts = f"{record['target_count']}/{record['target_total']}"
        assert any(record["category"] in line and counts in line for line in markdown.splitlines())
        assert record["category"] in page
        assert record["printed_change"] in markdown


def test_the_page_shows_every_latent_with_its_evidence(finished_study: TinyStudy) -> None:
    page = (finished_study.folder / "report" / "index.html").read_text(encoding="utf-8")
    for (index,) in rows(finished_study, "SELECT DISTINCT latent_index FROM v_effective_label"):
        assert f"tiny:{index}" in page
    assert "<script src=" not in page
    assert "evidence-tfidf" in page


def test_stdout_is_the_change_table_and_a_second_run_starts_nothing(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    before = newest_run(study)
    assert run(["run", str(study.path)]) == 0
    assert stages_run(study, before) == []
    printed = capsys.readouterr()
    assert "nothing to do" in printed.err
    for name in STAGES:
        assert f"{name}: already done with the same inputs" in printed.err
        assert f"{name}: " not in printed.out.replace("report: ", "")
    assert "tuned-vs-base" in printed.out
    assert str(study.folder / "report" / "index.html") in printed.out
    (counts,) = rows(
        study,
        "SELECT category, target_count || '/' || target_total FROM v_category_change"
        " WHERE target_count > 0 LIMIT 1",
    )
    assert any(all(word in line for word in counts) for line in printed.out.splitlines())


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"report": {"denominator": "isolated"}}, STAGES[6:]),
        ({"taxonomy": {"cluster_distance": 0.3}}, STAGES[5:6]),
        ({"collect": {"window": 12}}, STAGES[3:]),
        ({"isolate": {"top": 8}}, STAGES[2:]),
        ({"judge": {"concurrency": 3}, "train": {"checkpoint_every": 7}}, ()),
    ],
)
def test_a_changed_key_redoes_its_stage_and_those_that_follow_from_it(
    study: TinyStudy, changes: dict[str, Any], stages: Sequence[str]
) -> None:
    assert ran_again(study.with_tables(**changes)) == list(stages)


def test_a_new_method_of_the_embedded_judge_labels_again(
    study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EvidenceKind, "method", METHOD_VERSION + 1)
    assert ran_again(study) == ["label", "categorize"]


def test_going_back_to_earlier_settings_makes_their_result_active_again(study: TinyStudy) -> None:
    members = "SELECT side, latent_id FROM v_effective_label WHERE rank = 1 OR rank IS NULL"
    before = sorted(rows(study, members))
    other = study.with_tables(isolate={"top": 4})
    ran_again(other)
    assert sorted(rows(study, members)) != before
    assert ran_again(other.with_tables(isolate={"top": 10}))[0] == "isolate"
    assert sorted(rows(study, members)) == before


def test_no_latent_that_passes_is_an_answer_too(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = study.with_tables(isolate={"rule": "strict"})
    assert run(["run", str(strict.path)]) == 0
    printed = capsys.readouterr()
    assert "no latent passes nu_error < 0.2" in printed.err
    assert rows(study, "SELECT side FROM v_effective_label") == []
    assert value(study, "SELECT sum(isolated) FROM v_coverage") == 0
    assert "0 of 0 tuned latents" in printed.out
    page = (study.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "no latent passes nu_error" in page


def test_a_planted_category_that_does_not_exist_ends_a_run_before_its_first_stage(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = study.with_tables(**{"report.planted": {"saftey": "up"}})
    assert run(["run", str(wrong.path), "--from", "harvest"]) == 2
    words = capsys.readouterr().err
    assert "report.planted.saftey" in words
    assert "'safety'" in words
    assert "harvest:" not in words


def test_labels_that_changed_make_a_new_report(study: TinyStudy, tmp_path: Path) -> None:
    sheet = tmp_path / "labels.csv"
    assert run(["labels", "export", str(study.path), str(sheet)]) == 0
    with sheet.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    lines[0]["category"] = "safety" if lines[0]["category"] != "safety" else "multilingual"
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    assert run(["labels", "import", str(study.path), str(sheet), "--reviewer", "ann"]) == 0
    assert ran_again(study) == ["report"]


def test_from_redoes_a_stage_that_is_done(study: TinyStudy) -> None:
    labels = "SELECT side, latent_id, category, outcome FROM v_effective_label"
    before = sorted(rows(study, labels))
    assert ran_again(study, "--from", "isolate") == list(STAGES[2:])
    assert sorted(rows(study, labels)) == before


def test_from_train_trains_anew(study: TinyStudy) -> None:
    folder = study.stage_folder("train")
    assert folder is not None
    weights = folder / "crosscoder.safetensors"
    before = (weights.stat().st_mtime_ns, weights.read_bytes())
    assert ran_again(study, "--from", "train", "--until", "train") == ["train"]
    assert weights.stat().st_mtime_ns != before[0]
    assert weights.read_bytes() == before[1]


def test_a_product_that_was_removed_is_made_again(study: TinyStudy) -> None:
    page = study.folder / "report" / "index.html"
    page.unlink()
    assert ran_again(study) == ["report"]
    assert page.is_file()


def test_until_stops_and_a_later_run_goes_on(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path / "study", tiny_model_folder)
    assert run(["run", str(study.path), "--until", "train"]) == 0
    assert stages_run(study) == ["harvest", "train"]
    assert capsys.readouterr().out == ""
    assert run(["collect", str(study.path)]) == 2
    assert "run study.toml --until collect" in capsys.readouterr().err
    assert run(["isolate", str(study.path)]) == 0
    assert run(["collect", str(study.path)]) == 0
    assert stages_run(study) == list(STAGES[:4])


def test_a_judge_that_is_away_ends_the_run_and_loses_nothing(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    with judging_server().running() as server:
        url = server.url
    judge = {"kind": "openai", "base_url": url, "model": "stub", "max_attempts": 1}
    judge |= {"concurrency": 2}
    away = study.with_tables(judge=judge)
    labels = "SELECT side, latent_id, category, judge FROM v_effective_label"
    before = sorted(rows(study, labels), key=str)
    assert run(["run", str(away.path)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("difflens: ")
    assert "run" in line
    assert "again" in line
    assert sorted(rows(study, labels), key=str) == before
    with judging_server().running() as server:
        back = away.with_tables(judge={"base_url": server.url, "max_attempts": 3})
        assert ran_again(back) == ["label", "categorize", "report"]
        answered = "judge_call c JOIN judge j ON j.id = c.judge_id WHERE j.name = 'stub'"
        ok = value(study, f"SELECT count(*) FROM {answered} AND c.status = 'ok'")
        assert len(server.received) == ok > 0
    assert {judge for *_, judge in rows(study, labels)} == {"stub"}


@pytest.mark.postgres
def test_the_same_study_on_postgresql(
    study: TinyStudy, postgres_server: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = (
        "select comparison, side, latent_index, explanation, category, confidence"
        " from v_effective_label order by 1, 2, 3, 5"
    )
    expected = run_query(study.url, query)
    assert expected.rows
    with fresh_database(postgres_server, f"t_{uuid.uuid4().hex}") as url:
        monkeypatch.setenv("TINY_STUDY_URL", url.render_as_string(hide_password=False))
        moved = study.with_tables(database={"url": "${TINY_STUDY_URL}"})
        assert run(["run", str(moved.path)]) == 0
        assert run_query(url, query) == expected
        config = run_query(url, "select distinct config::text from run").rows
        assert run(["run", str(moved.path)]) == 0
        assert run_query(url, "select count(*) from run").rows == ((len(STAGES),),)
    assert "${TINY_STUDY_URL}" in config[0][0]
    assert str(url.port) not in config[0][0]


def test_two_models_isolated_against_a_common_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    comparison = {
        "name": "third-vs-tuned", "target": "third", "reference": "tuned", "against": "base",
    }  # fmt: skip
    study = write_study(
        tmp_path / "study",
        tiny_model_folder,
        ("base", "tuned", "third"),
        comparison=[comparison],
        train={"epochs": 6},
    )
    assert run(["run", str(study.path)]) == 0
    found = rows(study, SETS)
    assert [row[:3] for row in found] == [
        ("third-vs-tuned/reference", "tuned", "base"),
        ("third-vs-tuned/target", "third", "base"),
    ]
    members = "SELECT latent_id FROM v_effective_label WHERE side = '{}'"
    target, reference = ({row[0] for row in rows(study, members.format(side))}
                         for side in ("target", "reference"))  # fmt: skip
    assert target
    assert reference
    assert not target & reference
    pairs = "SELECT count(DISTINCT target_model_id || '/' || reference_model_id)"
    assert value(study, f"{pairs} FROM latent_scaling") == 6
    assert (study.folder / "report" / "index.html").is_file()


def test_an_adapter_on_the_base_is_a_model_of_its_own(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    from tiny_models import save_tiny_adapter

    adapter = save_tiny_adapter(tmp_path / "adapter")
    base = str(tiny_model_folder / "base")
    models = [
        {"name": "base", "path": base},
        {"name": "tuned", "path": base, "adapter": str(adapter)},
    ]
    study = write_study(tmp_path / "study", tiny_model_folder).with_tables(models=models)
    assert run(["run", str(study.path), "--until", "isolate"]) == 0
    assert value(study, "SELECT count(DISTINCT fingerprint) FROM subject_model") == 2
    assert [row[3] > 0 for row in rows(study, SETS)] == [True, True]
