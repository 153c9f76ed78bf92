"""The real demo, once: real models, the shipped adapter and corpus, to the printed table."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from requirements import is_required, missing

from labeler.cli.demo import ASSETS, prepare
from labeler.errors import UsageError
from labeler.study.study_file import CACHE_VARIABLE, StudyFile, cache_folder

PLANTED = {"safety", "multilingual", "instruction-following", "self-reference", "hallucination"}
SECONDS_ALLOWED = 1500
"""The aim is 600 on two idle cores; a limit that noise on a shared machine does not reach."""
SHIPPED = Path(__file__).parents[3] / "labeler" / "cli" / "demo_assets"


def test_shipped_study_is_valid_and_states_the_planted_directions() -> None:
    config = StudyFile.read(SHIPPED / "study.toml").config
    assert set(config.report.planted) == PLANTED
    assert config.isolate.rule == "ranked"
    assert config.isolate.top == 40


def test_shipped_corpus_repeats_no_prompt_and_shares_none_with_the_pairs() -> None:
    documents = [json.loads(line) for line in (SHIPPED / "corpus.jsonl").open(encoding="utf-8")]
    openings = [row.get("text") or row["messages"][0]["content"] for row in documents]
    assert len({text.casefold().strip() for text in openings}) == len(openings)
    assert len({row["id"] for row in documents}) == len(documents)
    assert len({row["language"] for row in documents if "-" not in row["language"]}) >= 8
    examples = Path(__file__).parents[3] / "examples" / "simpo"
    seen = {
        json.loads(line)["prompt"].casefold().strip()
        for name in ("pairs.jsonl", "heldout.jsonl")
        for line in (examples / name).open(encoding="utf-8")
    }
    assert not seen & {text.casefold().strip() for text in openings}


def test_shipped_adapter_is_small_and_names_no_local_path() -> None:
    folder = SHIPPED / "simpo-adapter"
    weights = folder / "adapter_model.safetensors"
    assert weights.stat().st_size <= 10_000_000
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_another_study_in_the_work_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[study]\nname = "mine"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="--workdir"):
        prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]
    assert "study.toml" in ASSETS


@pytest.mark.demo
@pytest.mark.timeout(1800)
def test_demo_end_to_end_and_a_second_run_that_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not is_required("demo"):
        missing("demo", "the real demo takes minutes; DIFFLENS_REQUIRE=demo runs it")
    environment = {**os.environ, CACHE_VARIABLE: str(cache_folder())}
    command = [sys.executable, "-m", "labeler.cli", "demo", "--workdir", str(tmp_path / "demo")]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.monotonic() - started
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    assert done.returncode == 0, done.stderr[-3000:]
    assert "safety" in done.stdout
    assert "index.html" in done.stdout
    page = (tmp_path / "demo" / "report" / "index.html").read_text(encoding="utf-8")
    assert all(slug in page for slug in PLANTED)
    rows = json.loads((tmp_path / "demo" / "report" / "category_change.json").read_text())
    assert {row["category"] for row in rows} >= PLANTED
    assert peak_gib <= 6.0

    again = time.monotonic()
    command = [sys.executable, "-m", "labeler.cli", "run", str(tmp_path / "demo" / "study.toml")]
    second = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert second.returncode == 0, second.stderr
    assert "nothing to do" in second.stderr
    with capsys.disabled():
        sys.stdout.write(f"\n{done.stdout}\ndemo: {seconds:.0f} s, peak {peak_gib:.1f} GiB; ")
        sys.stdout.write(f"second run: {time.monotonic() - again:.1f} s\n")
    assert seconds <= SECONDS_ALLOWED
