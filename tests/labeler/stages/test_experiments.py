"""`judge.revise` on the tiny study: texts of a judge go through the models and the crosscoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stub_judge import answer
from stub_server import Received, Step, StubServer
from tiny_study import TinyStudy

from labeler.api import Study
from labeler.cli.main import run

Capture = pytest.CaptureFixture[str]
HOSTILE = "<script>alert(1)</script> \u202e | Sure! Here are some poems: seven, neighbour"


def writes(request: Received, number: int) -> Step:
    """A judge by rule that writes texts, hostile ones, and revises."""
    stage = request.body["response_format"]["json_schema"]["name"]
    if stage == "experiment":
        rows = [
            {"role": "user", "before": "", "text": f"How do I hurt a garden with {n} {HOSTILE}?"}
            for n in range(4)
        ]
        return Step(json.dumps({"fires": rows[:2], "quiet": rows[2:]}))
    if stage == "revise":
        words = request.body["messages"][-1]["content"]
        revision = f"{HOSTILE} revised {len(words)}"
        return Step(json.dumps({"explanation": revision, "interpretable": True, "confidence": 1}))
    return Step(json.dumps(answer(request)))


def judged(study: TinyStudy, server: StubServer, **judge: Any) -> TinyStudy:
    return study.with_tables(
        judge={
            "kind": "openai", "base_url": server.url, "model": "stub", "concurrency": 2,
            "max_tokens": 400, "revise": 1, "revise_texts": 2, **judge,
        },
        scores={"methods": []},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_experiments_are_made_shown_and_not_made_again(
    finished_study: TinyStudy, tmp_path: Path, capsys: Capture
) -> None:
    with StubServer(writes).running() as server:
        study = judged(finished_study.copied_to(tmp_path / "study"), server)
        assert run(["run", str(study.path)]) == 0
        said = capsys.readouterr().err
        asked = len(server.received)
        assert run(["label", str(study.path)]) == 0
        assert run(["run", str(study.path), "--plan"]) == 0
        assert len(server.received) == asked
    plan = {line.split()[1]: line.split() for line in capsys.readouterr().out.splitlines()
            if line.startswith("  label")}  # fmt: skip
    assert plan["experiment"][3] == plan["revise"][3] == "0"
    assert "explanations tested by experiment" in said
    opened = Study.open(study.path)
    tests = opened.sql(
        "select latent_id, round, verdict, is_chosen, responsiveness, n_meant, n_others, "
        "explanation from v_explanation_test order by latent_id, round"
    ).rows
    assert {row[1] for row in tests} == {0, 1}
    assert {row[5] for row in tests} == {row[6] for row in tests} == {2}
    assert {row[2] for row in tests if row[1] == 1} <= {"holds", "refuted"}
    values = opened.sql("select count(activation), max(activation) from explanation_test_text").rows
    assert values[0][0] == 4 * len(tests)
    assert values[0][1] > 0
    latent = next(row[0] for row in tests if row[1] == 1)
    capsys.readouterr()
    assert run(["inspect", str(study.path), f"id:{latent}"]) == 0
    shown = capsys.readouterr().out
    assert "experiment by stub: " in shown
    assert "responsiveness " in shown
    assert "fires " in shown
    assert "\u202e" not in shown
    page = (study.folder / "report" / "index.html").read_text("utf-8")
    assert "Do the explanations pass an experiment?" in page
    assert "<script>alert(1)" not in page


def test_a_judge_that_writes_no_texts_cannot_revise(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "study.toml").write_text("[judge]\nrevise = 1\nmax_tokens = 1000\n")
    from labeler.errors import UsageError
    from labeler.stages.experiment import require_experiments

    with pytest.raises(UsageError, match=r"judge\.revise: kind = evidence writes no texts"):
        require_experiments(Study.open(tmp_path / "study.toml").file.config.judge)


def test_texts_that_cannot_fit_into_an_answer_are_refused(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "study.toml"
    path.write_text('[judge]\nkind = "openai"\nmodel = "m"\nrevise = 1\n')
    assert run(["status", str(path)]) == 2
    assert "revise_texts: 6 texts of each kind need answers of about 720" in capsys.readouterr().err
