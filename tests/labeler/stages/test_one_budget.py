"""One budget for all stages: it stops within each, forgets nothing, and the next call goes on."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from stub_judge import answer
from stub_server import Received, Step, StubServer
from taxonomy_studies import ONE_LEVEL, study_in
from tiny_study import TinyStudy

from labeler.api import Study
from labeler.cli.main import run
from labeler.judge.budget import Limits
from labeler.judge.factory import study_spending
from labeler.store.engine import open_engine, write_session
from labeler.store.judging import CallRow, get_or_create_judge, record_calls
from labeler.store.runs import begin_run
from labeler.study.study_file import StudyFile

Capture = pytest.CaptureFixture[str]
PRICES = {"price_prompt_per_million": 1.0, "price_completion_per_million": 2.0}
STOPPED = re.compile(
    r"difflens: stopped at ([\d,]+) of at most ([\d,]+) tokens: another call might pass the limit; "
    r"what was answered is kept; left: (?:at most )?([\d,]+) calls \((.+)\), some [\d,]+ tokens"
    r".*; the same command with --max-tokens-total (\d+) goes on to the end"
)


class Judge:
    """Judges by rule, names each cluster after its text, and adds up the tokens that it tells."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.used = 0
        self.stages: list[str] = []

    def __call__(self, request: Received, number: int) -> Step:
        stage = request.body["response_format"]["json_schema"]["name"]
        content = json.dumps(self._answer(stage, request))
        prompt = sum(len(message["content"]) for message in request.body["messages"]) // 4
        with self._lock:
            self.used += prompt + len(content) // 4
            self.stages.append(stage)
        usage = {"prompt_tokens": prompt, "completion_tokens": len(content) // 4}
        choices = [{"message": {"content": content}, "finish_reason": "stop"}]
        return Step(body=json.dumps({"choices": choices, "usage": usage}))

    def _answer(self, stage: str, request: Received) -> dict[str, Any]:
        if stage == "name":
            shown = request.body["messages"][-1]["content"]
            topic = next(word for word in ("weather", "music", "cooking") if word in shown)
            return {"name": topic, "definition": topic, "include_when": "", "exclude_when": ""}
        if stage == "merge":
            return {"same": False, "reason": "no"}
        return answer(request)


def stopped_at(
    limits: list[int], call: list[str], judge: Judge, server: StubServer, capsys: Capture
) -> list[str]:
    """Run a call with one limit after the other, then with the one that the last stop asks for.

    Returns the kind of call that each stop left first.
    """
    stops, needed = [], ""
    for limit in limits:
        capsys.readouterr()
        assert run([*call, "--max-tokens-total", str(limit)]) == 1
        assert judge.used <= limit
        found = STOPPED.fullmatch(capsys.readouterr().err.splitlines()[-1])
        assert found is not None
        assert int(found[1].replace(",", "")) == judge.used
        stops.append(found[4].split()[0])
        needed = found[5]
    assert run([*call, "--max-tokens-total", needed]) == 0
    assert judge.used <= int(needed)
    bodies = [json.dumps(request.body, sort_keys=True) for request in server.received]
    assert len(bodies) == len(set(bodies))
    return stops


def served(server: StubServer, **more: Any) -> dict[str, Any]:
    """`[judge]` of the server."""
    return {
        "kind": "openai", "base_url": server.url, "model": "stub", "concurrency": 2,
        "max_tokens": 100, **more,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_explaining_scoring_and_categorising_share_one_budget(
    finished_study: TinyStudy, tmp_path: Path, capsys: Capture
) -> None:
    judge = Judge()
    with StubServer(judge).running() as server:
        study = finished_study.copied_to(tmp_path / "study").with_tables(
            judge=served(server, **PRICES), scores={"methods": ["detection"], "controls": 0}
        )
        call = ["run", str(study.path), "--until", "categorize"]
        stops = stopped_at([10_000, 24_000, 44_000], call, judge, server, capsys)
        asked = len(server.received)
        assert stops == ["explain", "detection", "categorize"]
        assert run(["run", str(study.path), "--plan"]) == 0
        shown = capsys.readouterr().out
        (total,) = [line.split() for line in shown.splitlines() if line.split()[:1] == ["total"]]
        assert total[1:] == ["0", str(asked), "0", "0", "0.0000"]
        assert f"used so far: {judge.used:,} tokens, cost" in shown
        # A budget that is spent stops whatever else there is to ask, at once.
        again = study.with_tables(judge=served(server, **PRICES, temperature=0.5))
        assert run(["label", str(again.path), "--max-cost", "0.01"]) == 1
        assert len(server.received) == asked
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("difflens: stopped at a cost of 0.")
        assert re.search(r"--max-cost \S+ goes on to the end$", line)


@pytest.mark.slow
def test_naming_stops_and_goes_on_with_the_same_clusters(tmp_path: Path, capsys: Capture) -> None:
    judge = Judge()
    with StubServer(judge).running() as server:
        section = "\n".join(f"{key} = {json.dumps(each)}" for key, each in served(server).items())
        mode = f'mode = "induce"\naccept = "auto"\ncluster_distance = 1.2\n[judge]\n{section}'
        path = study_in(tmp_path, None, mode)
        assert run(["import", str(path), str(tmp_path / "latents.csv")]) == 0
        stops = stopped_at([1_500, 7_000], ["categorize", str(path)], judge, server, capsys)
    assert stops == ["name", "categorize"]


@pytest.mark.slow
def test_categories_from_what_is_left_are_made_once_whenever_that_is_broken_off(
    tmp_path: Path, capsys: Capture
) -> None:
    tree = {**ONE_LEVEL, "categories": ONE_LEVEL["categories"][:2]}  # type: ignore[index]
    found, used = [], 0
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        lines = [{"stage": "categorize", "answer": {"outcome": "none", "categories": []}}]
        names = {"name": "Kitchen", "definition": "Cooking.", "include_when": "a",
                 "exclude_when": "b"}  # fmt: skip
        lines += [{"stage": "name", "answer": names}]
        lines += [{"stage": "merge", "answer": {"same": False, "reason": "no"}}]
        (folder / "judge.jsonl").write_text("\n".join(map(json.dumps, lines)))
        judge = '[judge]\nkind = "scripted"\nscript = "judge.jsonl"\n'
        mode = f'mode = "residual"\naccept = "auto"\ncluster_distance = 1.2\n{judge}'
        path = study_in(folder, tree, mode)
        assert run(["import", str(path), str(folder / "latents.csv")]) == 0
        # The last of the limits stops after the new categories were accepted.
        for limit in (3_000, used - 600) if used else ():
            assert run(["categorize", str(path), "--max-tokens-total", str(limit)]) == 1
        assert run(["categorize", str(path)]) == 0
        study = Study.open(path)
        calls = study.sql("select stage, count(*) from judge_call group by stage").rows
        found.append((sorted(calls), study.taxonomy().slugs))
        estimates = "sum(estimated_prompt_tokens + estimated_completion_tokens)"
        used = study.sql(f"select {estimates} from judge_call").rows[0][0]
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_classes_of_answers_share_the_budget_of_the_categories(
    imported: Path, capsys: Capture
) -> None:
    judge = Judge()

    def either(request: Received, number: int) -> Step:
        if "response_format" in request.body:
            return judge(request, number)
        words = request.body["messages"][-1]["content"]
        return Step(f"{request.body['model']} has no answer to {words}")

    prompts = [
        {"id": f"p{n}", "prompt": f"What are you, {n}?", "category": "self-reference"}
        for n in range(6)
    ]
    (imported.parent / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    with StubServer(either).running() as server:
        section = "\n".join(f"{key} = {json.dumps(each)}" for key, each in served(server).items())
        imported.write_text(
            '[[comparison]]\nname = "simpo-vs-it"\ntarget = "tuned"\nreference = "base"\n'
            f'[judge]\n{section}\n[behaviour]\nprompts = "prompts.jsonl"\n'
            f'base_url = "{server.url}"\nconcurrency = 2\n'
        )
        stops = stopped_at([1_500], ["behaviour", str(imported)], judge, server, capsys)
    assert stops == ["behaviour"]
    assert judge.stages == ["behaviour"] * 12


def test_what_null_runs_used_counts_in_the_study_and_the_other_way_round(
    tmp_path: Path, migrated_file: Path
) -> None:
    (tmp_path / "study.toml").write_text('[judge]\nkind = "openai"\nmodel = "m"\n')
    study = StudyFile.read(tmp_path / "study.toml")
    for number, folder in enumerate((tmp_path, tmp_path / "artifacts/null-runs/seed-1")):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(migrated_file, folder / "difflens.db")
        engine = open_engine(f"sqlite:///{folder / 'difflens.db'}")
        with write_session(engine) as session:
            judge_id = get_or_create_judge(session, "m", "m", "openai").id
            run_id = begin_run(session, "label", {})
            told = {"prompt_tokens": 100 * (number + 1), "estimated_completion_tokens": 7}
            record_calls(
                session, [CallRow(judge_id, "0" * 64, "explain", run_id, "ok", "{}", **told)]
            )
        engine.dispose()
    engine = open_engine(study.database_url)
    with study_spending(study, engine, Limits(max_tokens=1000)) as spending:
        assert spending.used.tokens == 314
    engine.dispose()


def test_the_plan_names_a_missing_file_of_prompts_and_counts_imported_comparisons(
    imported: Path, capsys: Capture
) -> None:
    imported.write_text('[behaviour]\nprompts = "gone.jsonl"\n')
    assert run(["run", str(imported), "--plan"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert f"behaviour.prompts: no file at {imported.parent / 'gone.jsonl'}" in lines["behaviour"]
    assert "1 comparison" in lines["report"]
    assert "0 comparison" not in " ".join(lines.values())


def test_a_database_of_an_earlier_version_is_no_part_of_the_sum(
    tmp_path: Path, migrated_file: Path
) -> None:
    (tmp_path / "study.toml").write_text("")
    study = StudyFile.read(tmp_path / "study.toml")
    folder = tmp_path / "artifacts/null-runs/scrambled"
    folder.mkdir(parents=True)
    shutil.copy(migrated_file, tmp_path / "difflens.db")
    old = create_engine(f"sqlite:///{folder / 'difflens.db'}")
    with old.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0.1.0')"))
    old.dispose()
    engine = open_engine(study.database_url)
    with study_spending(study, engine, Limits()) as spending:
        assert spending.used.tokens == 0
    engine.dispose()
