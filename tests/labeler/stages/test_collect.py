"""Collect: evidence for the sets' latents or for all, the counterpart's text as hard negatives."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_study import TinyStudy, write_study

from labeler.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


@pytest.fixture(scope="module")
def isolated(
    tiny_model_folder: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    """A study with its latent sets and no evidence yet."""
    study = write_study(tmp_path_factory.mktemp("collect") / "study", tiny_model_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
        assert run(["run", str(study.path), "--until", "isolate"]) == 0
    return study


def collected(isolated: TinyStudy, folder: Path, **settings: Any) -> TinyStudy:
    study = isolated.copied_to(folder / "study").with_tables(collect=settings)
    assert run(["run", str(study.path), "--until", "collect"]) == 0
    return study


def rows(study: TinyStudy, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(study.database)) as connection:
        return connection.execute(statement).fetchall()


SHOWN = "SELECT count(DISTINCT latent_id) FROM evidence"
WINDOWS = (
    "SELECT latent_id, kind, document_id, start, activations FROM evidence "
    "WHERE latent_id IN (SELECT latent_id FROM latent_set_member) ORDER BY latent_id, id"
)


def test_all_latents_get_evidence_and_the_selected_get_what_they_got_alone(
    isolated: TinyStudy, tmp_path: Path
) -> None:
    selected = collected(isolated, tmp_path / "selected")
    everything = collected(isolated, tmp_path / "all", latents="all")
    members = "SELECT latent_id FROM latent_set_member EXCEPT SELECT latent_id FROM evidence"
    assert rows(selected, members) == []
    firing = rows(everything, "SELECT count(*) FROM latent WHERE density > 0")
    assert rows(everything, SHOWN) == firing
    assert firing > rows(selected, SHOWN)
    assert rows(everything, WINDOWS) == rows(selected, WINDOWS)


def test_a_latent_is_shown_where_its_twin_fires_and_it_does_not(
    isolated: TinyStudy, tmp_path: Path
) -> None:
    study = collected(isolated, tmp_path, other_model=3)
    found = rows(
        study,
        "SELECT latent_id, count(*), max(max_activation) FROM evidence "
        "WHERE kind = 'other_model' GROUP BY latent_id",
    )
    assert found
    assert all(1 <= number <= 3 and strongest == 0 for _, number, strongest in found)
    without = collected(isolated, tmp_path / "without", other_model=0)
    assert rows(without, "SELECT count(*) FROM evidence WHERE kind = 'other_model'") == [(0,)]


def test_a_latent_outside_every_set_is_inspected_with_norms_and_evidence(
    isolated: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = collected(isolated, tmp_path, latents="all")
    ((index,),) = rows(
        study,
        "SELECT latent_index FROM latent WHERE n_documents > 8 AND id NOT IN "
        "(SELECT latent_id FROM latent_set_member) ORDER BY density DESC LIMIT 1",
    )
    capsys.readouterr()
    assert run(["inspect", str(study.path), f"tiny:{index}"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "density",
        "decoder norms:",
        "; cosine ",
        " base, ",
        "tuned against base: delta_norm",
        "  top ",
    ):
        assert part in shown


def test_more_similar_negatives_than_negatives_are_one_line(
    isolated: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = isolated.copied_to(tmp_path / "study").with_tables(
        collect={"negative": 1, "similar": 2}
    )
    assert run(["run", str(study.path), "--until", "collect"]) == 2
    assert "similar: 2 of 1 negatives" in capsys.readouterr().err


ON_SIDES = "SELECT latent_id FROM latent_set_member"
OTHERS = (
    f"SELECT id FROM latent WHERE n_documents >= 4 AND density <= 0.2 AND id NOT IN ({ON_SIDES})"
)
SCRIPT = (
    '{"stage": "explain", "answer": {"explanation": "x", "interpretable": true, "confidence": 1}}\n'
    '{"stage": "categorize", "answer": {"outcome": "none", "categories": []}}\n'
)


@pytest.fixture(scope="module")
def with_eligible(isolated: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Evidence of the sides and of all other eligible latents."""
    folder = tmp_path_factory.mktemp("eligible")
    study = isolated.copied_to(folder / "study").with_tables(
        isolate={"max_density": 0.2}, collect={"latents": "eligible"}
    )
    assert run(["run", str(study.path), "--until", "collect"]) == 0
    return study


def labelled(study: TinyStudy, table: str, judge: str) -> set[tuple[Any, ...]]:
    statement = f"SELECT latent_id FROM {table} JOIN judge ON judge.id = judge_id WHERE name = "
    return set(rows(study, f"{statement}'{judge}'"))


def test_the_evidence_judge_labels_all_eligible_latents_those_of_the_sides_first(
    with_eligible: TinyStudy, tmp_path: Path, own_cache: Path
) -> None:
    study = with_eligible.copied_to(tmp_path / "study")
    on_sides, others = set(rows(study, ON_SIDES)), set(rows(study, OTHERS))
    assert len(others) > 5
    assert on_sides | others <= set(rows(study, "SELECT latent_id FROM evidence"))
    assert run(["run", str(study.path), "--until", "report"]) == 0
    for table in ("explanation", "judge_label"):
        assert labelled(study, table, "evidence-tfidf") >= on_sides | others
    asked = rows(study, "SELECT latent_id FROM judge_call WHERE stage = 'explain' ORDER BY id")
    controls = set(rows(study, "SELECT latent_id FROM control_latent"))
    assert set(asked[-len(others - controls) :]) == others - controls
    assert set(rows(study, "SELECT latent_id FROM effective_label")) == on_sides
    counted = "SELECT isolated FROM v_coverage"
    assert sum(number for (number,) in rows(study, counted)) == len(on_sides)


@pytest.mark.parametrize("number", [0, 3])
def test_a_judge_that_costs_something_labels_the_sides_and_a_random_sample_of_the_others(
    with_eligible: TinyStudy, tmp_path: Path, number: int, own_cache: Path
) -> None:
    study = with_eligible.copied_to(tmp_path / "study").with_tables(
        judge={"kind": "scripted", "script": "script.jsonl", "random_latents": number}
    )
    (study.folder / "script.jsonl").write_text(SCRIPT, encoding="utf-8")
    assert run(["run", str(study.path), "--until", "categorize"]) == 0
    on_sides, others = set(rows(study, ON_SIDES)), set(rows(study, OTHERS))
    controls = set(rows(study, "SELECT latent_id FROM control_latent"))
    for table in ("explanation", "judge_label"):
        found = labelled(study, table, "scripted")
        assert on_sides <= found
        assert len(found - on_sides - controls) == number
        assert found - on_sides - controls <= others


def test_a_larger_sample_of_the_others_keeps_the_smaller_one(
    with_eligible: TinyStudy, tmp_path: Path
) -> None:
    from crosscoder.progress import SilentProgress
    from labeler.stages.base import StageContext
    from labeler.stages.label import other_labelled
    from labeler.store.engine import read_session
    from labeler.store.migrate import opened
    from labeler.study.judge_config import JudgeSection
    from labeler.study.study_file import StudyFile

    study = StudyFile.read(with_eligible.path)
    with opened(study.database_url) as engine, read_session(engine) as session:
        context = StageContext(study, engine, SilentProgress())
        small, large = (
            other_labelled(session, context, JudgeSection(kind="openai", random_latents=number))
            for number in (2, 5)
        )
    assert large[:2] == small
    assert len(set(large)) == 5
