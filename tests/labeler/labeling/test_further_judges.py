"""Several judges and several samples, scores and controls, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_study import TinyStudy, write_study

from labeler.cli.main import run
from labeler.store.query.query import run_query

pytestmark = pytest.mark.slow

SCRIPT = (
    {
        "stage": "explain",
        "answer": {"explanation": "words", "interpretable": True, "confidence": 0.5},
    },
    {"stage": "categorize", "answer": {"outcome": "none", "categories": []}},
)


@pytest.fixture(scope="module")
def judged(
    tiny_model_folder: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    """A study with the active evidence judge and a scripted one next to it."""
    folder = tmp_path_factory.mktemp("judged") / "study"
    study = write_study(
        folder,
        tiny_model_folder,
        judges=[{"kind": "scripted", "script": "script.jsonl"}],
        scores={"controls": 4},
    )
    lines = [json.dumps(line) + "\n" for line in SCRIPT]
    (folder / "script.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
        assert run(["run", str(study.path)]) == 0
    return study


def rows(study: TinyStudy, statement: str) -> list[tuple[object, ...]]:
    return list(run_query(study.url, statement).rows)


def test_only_the_first_judge_is_in_force(judged: TinyStudy) -> None:
    judges = rows(judged, "SELECT DISTINCT judge FROM v_effective_label")
    assert judges == [("evidence-tfidf",)]
    both = rows(judged, "SELECT DISTINCT judge FROM v_judge_label ORDER BY judge")
    assert both == [("evidence-tfidf",), ("scripted",)]


def test_where_judges_differ_the_queue_says_so(judged: TinyStudy) -> None:
    differ = rows(
        judged,
        "SELECT count(*) FROM v_review_queue WHERE disagreement > 0",
    )
    assigned = rows(
        judged,
        "SELECT count(*) FROM v_effective_label WHERE outcome = 'assigned' AND rank = 1",
    )
    assert assigned[0][0]
    assert int(str(differ[0][0])) >= int(str(assigned[0][0]))


def test_the_stages_tell_agreement_and_scores(judged: TinyStudy) -> None:
    results = dict(rows(judged, "SELECT kind, result FROM run WHERE status = 'done'"))
    assert "agreement of judges" in str(results["categorize"])
    assert "scores" in str(results["label"])


def test_controls_have_base_rates_and_no_effective_label(judged: TinyStudy) -> None:
    total = rows(judged, "SELECT max(control_total) FROM v_control_category")
    assert total[0][0] is not None
    overlap = rows(
        judged,
        "SELECT count(*) FROM control_latent WHERE latent_id IN"
        " (SELECT latent_id FROM v_effective_label)",
    )
    assert overlap == [(0,)]


def test_the_judge_is_checked_on_puzzles_by_one_command(
    judged: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["judge", "check", str(judged.path), "--puzzles"]) == 0
    out = capsys.readouterr().out
    assert "judge: evidence-tfidf, by detection" in out
    assert "true above false: 0." in out
