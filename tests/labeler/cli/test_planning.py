"""`difflens run --plan`: what would be done, how large it is, and that nothing is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_study import STAGES, TinyStudy, write_study

from labeler.cli.main import run
from taxonomy.power import PLANTED_CHANGE

Capture = pytest.CaptureFixture[str]


def plan(study: TinyStudy, capsys: Capture, *options: str) -> dict[str, str]:
    """The plan's lines by their first word; further lines are joined to the line before."""
    capsys.readouterr()
    assert run(["run", str(study.path), "--plan", *options]) == 0
    found: dict[str, str] = {}
    word = ""
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(" "):
            word, _, line = line.partition(" ")
        found[word] = f"{found.get(word, '')} {' '.join(line.split())}".strip()
    return found


@pytest.fixture
def new_study(tmp_path: Path) -> TinyStudy:
    """A study that was never run, whose models are not there."""
    return write_study(tmp_path / "study", tmp_path / "models")


def test_a_new_study_has_everything_to_do_and_the_plan_makes_no_file(
    new_study: TinyStudy, capsys: Capture
) -> None:
    before = sorted(new_study.folder.rglob("*"))
    lines = plan(new_study, capsys)
    assert all(lines[name].startswith("to do") for name in STAGES)
    assert "60 documents, tokens not counted" in lines["harvest"]
    assert "96 latents, 4 passes over the text" in lines["train"]
    assert "at most 20 latents on the sides" in lines["collect"]
    assert "no call is paid" in lines["report"]
    assert "took" not in " ".join(lines.values())
    assert sorted(new_study.folder.rglob("*")) == before


def test_the_plan_ends_with_the_power_that_was_measured(
    new_study: TinyStudy, capsys: Capture
) -> None:
    power = plan(new_study, capsys)["power"]
    for documents, share in PLANTED_CHANGE.called:
        assert f"in {share:.0%} of texts of {documents:,} documents" in power
    assert PLANTED_CHANGE.source in power
    assert f"with 60 documents such a change is found in about {PLANTED_CHANGE.at(60):.0%}" in power


def test_what_study_toml_lacks_is_said(tmp_path: Path, capsys: Capture) -> None:
    study = write_study(tmp_path / "study", tmp_path / "models", corpus={"path": "gone.jsonl"})
    assert "no corpus at gone.jsonl" in plan(study, capsys)["harvest"]
    bare = study.with_tables(corpus=None, harvest=None)
    assert "no [corpus] in study.toml yet" in plan(bare, capsys)["harvest"]


@pytest.mark.parametrize(
    ("corpus", "why"),
    [
        ({"answers": "both"}, "every model answers the prompts first"),
        ({"answer_tokens": 8}, "assistant messages are cut"),
    ],
)
def test_text_that_the_harvest_makes_is_not_counted_before(
    new_study: TinyStudy, capsys: Capture, corpus: dict[str, object], why: str
) -> None:
    lines = plan(new_study.with_tables(corpus=corpus), capsys)
    assert f"60 documents, tokens not counted ({why})" in lines["harvest"]


def test_until_leaves_stages_out_and_null_runs_are_refused(
    new_study: TinyStudy, capsys: Capture
) -> None:
    lines = plan(new_study, capsys, "--until", "isolate")
    assert [name for name in STAGES if name in lines] == ["harvest", "train", "isolate"]
    assert run(["run", str(new_study.path), "--plan", "--null-runs"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


def test_calls_of_a_judge_that_costs_something_are_planned_before_there_is_evidence(
    new_study: TinyStudy, capsys: Capture
) -> None:
    judge = {
        "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m",
        "categorize_repeats": 2, "price_prompt_per_million": 1.0,
        "price_completion_per_million": 1.0,
    }  # fmt: skip
    study = new_study.with_tables(
        judge=judge, scores={"methods": ["detection"], "examples": 20}, taxonomy={"mode": "induce"}
    )
    rows = {line.split()[1]: line.split() for line in judge_lines(study, capsys)}
    # 10 latents a side and 20 controls; 20 examples in one call, for the shuffled one too.
    assert rows["explain"][3:5] == ["40+", "0"]
    assert rows["detection"][3] == "80+"
    assert rows["categorize"][3] == "80+"
    assert {"name", "merge"} <= set(rows)
    (total,) = [line.split() for line in judge_lines(study, capsys) if line.split()[0] == "total"]
    costs = [float(cells[-1]) for name, cells in rows.items() if name in COUNTED]
    assert float(total[-1]) == pytest.approx(sum(costs), abs=1e-3)
    strict = new_study.with_tables(judge=judge, isolate={"rule": "strict", "top": None})
    assert "the rule of [isolate] decides" in judge_lines(strict, capsys)[0]


COUNTED = ("explain", "detection", "categorize", "name", "merge")


def judge_lines(study: TinyStudy, capsys: Capture) -> list[str]:
    """The indented lines of the plan, those about the judge."""
    capsys.readouterr()
    assert run(["run", str(study.path), "--plan"]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_finished_study_is_done_and_from_does_stages_again(
    finished_study: TinyStudy, tmp_path: Path, capsys: Capture
) -> None:
    study = finished_study.copied_to(tmp_path / "copy")
    before = study.database.read_bytes()
    lines = plan(study, capsys)
    assert all(lines[name].startswith("done") for name in STAGES)
    assert "tokens (as harvested)" in lines["harvest"]
    assert "took" in lines["train"]
    again = plan(study, capsys, "--from", "label")
    assert again["collect"].startswith("done")
    assert again["label"].startswith("again")
    assert study.database.read_bytes() == before
    study = study.with_tables(study={"name": "tiny", "seed": 2})
    changed = plan(study, capsys)
    assert changed["train"].startswith("again")


@pytest.mark.slow
def test_tokens_are_estimated_by_the_tokenizer_of_a_model(
    tiny_model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    study = write_study(tmp_path / "study", tiny_model_folder)
    harvest = plan(study, capsys)["harvest"]
    assert "tokens (estimated from 60 of them, without the chat template)" in harvest


@pytest.mark.parametrize(("documents", "share"), [(611, 0.3), (2000, 0.8), (10**6, 1.0)])
def test_measured_power_is_met_at_the_measured_sizes(documents: int, share: float) -> None:
    curve = type(PLANTED_CHANGE)("", ((611, 0.3), (2000, 0.8), (6000, 1.0)), "")
    assert curve.at(documents) == pytest.approx(share, abs=0.002)
    assert curve.at(10) < 0.05 < curve.at(500) < curve.at(1000) < 0.8
