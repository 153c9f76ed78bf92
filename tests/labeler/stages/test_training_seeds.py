"""`train.seed` and `train.seeds`: other weights on the same activations."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_study import TinyStudy, write_study

from labeler.cli.main import run
from labeler.stages.derived_studies import ReplicateStudy
from labeler.stages.train import decisive, training_seed
from labeler.study.config import TrainSection
from labeler.study.study_file import StudyFile
from taxonomy.tree import seed_taxonomy

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def study(finished_study: TinyStudy, tmp_path: Path) -> TinyStudy:
    return finished_study.copied_to(tmp_path / "study")


def rows(study: TinyStudy, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{study.database}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def stages_started(study: TinyStudy, *options: str) -> list[str]:
    """Stages that a run does not find done."""
    ((newest,),) = rows(study, "SELECT max(id) FROM run")
    assert run(["run", str(study.path), *options]) == 0
    return [
        kind for (kind,) in rows(study, f"SELECT kind FROM run WHERE id > {newest} ORDER BY id")
    ]


def weight_files(study: TinyStudy) -> dict[Path, bytes]:
    folder = study.folder / "artifacts" / "train"
    return {path.parent: path.read_bytes() for path in folder.rglob("crosscoder.safetensors")}


def test_seeds_are_not_in_the_hash_of_the_settings() -> None:
    assert decisive(TrainSection(seed=4, seeds=3)) == decisive(TrainSection())
    assert not {"seed", "seeds"} & decisive(TrainSection()).keys()


@pytest.mark.parametrize(("keys", "seed"), [({}, 2), ({"seed": 7, "seeds": 3}, 8)])
def test_null_runs_train_one_crosscoder_of_another_seed(
    tmp_path: Path, keys: dict[str, int], seed: int
) -> None:
    original = StudyFile.read(write_study(tmp_path, tmp_path, train=keys).path)
    replicate = ReplicateStudy(original, 1, seed_taxonomy())
    assert training_seed(replicate) == seed
    assert replicate.config.train.seeds == 1


@pytest.mark.slow
def test_the_studys_own_seed_is_the_default(study: TinyStudy) -> None:
    assert stages_started(study.with_tables(train={"seed": 1})) == []


@pytest.mark.slow
def test_another_training_seed_reuses_the_harvest(study: TinyStudy) -> None:
    before = weight_files(study)
    assert stages_started(study.with_tables(train={"seed": 9}), "--until", "train") == ["train"]
    after = weight_files(study)
    assert len(after) == 2
    assert len(set(after.values())) == 2
    assert before.items() <= after.items()


@pytest.mark.slow
def test_more_seeds_leave_the_studys_crosscoder_as_it_is(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    ((own, weights),) = weight_files(study).items()
    assert stages_started(study.with_tables(train={"seeds": 3}), "--until", "isolate") == [
        "train",
        "isolate",
    ]
    said = capsys.readouterr()
    assert "2 other seeds, mean FVE " in said.out + said.err
    assert " of 20 come again in at least half of 2 other seeds" in said.out + said.err
    after = weight_files(study)
    assert set(after) == {own, own / "seed-1", own / "seed-2"}
    assert after[own] == weights
    assert len(set(after.values())) == 3
    assert rows(study, "SELECT count(*) FROM crosscoder") == [(1,)]
    found = rows(study, "SELECT n_seeds, p_reappear, best_cosine, span_match FROM latent")
    assert len(found) == 96
    assert all(n_seeds == 2 and p in (0, 0.5, 1) for n_seeds, p, _, _ in found)
    assert all(0 < cosine**2 <= span + 1e-6 <= 1 + 2e-6 for _, _, cosine, span in found)
    index = int(rows(study, "SELECT min(latent_index) FROM v_effective_label")[0][0])
    assert run(["inspect", str(study.path), f"tiny:{index}"]) == 0
    assert "of 2 other seeds  best cosine 0." in capsys.readouterr().out


@pytest.mark.slow
def test_a_loaded_crosscoder_has_one_seed(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.with_tables(train={"seeds": 2}, crosscoder={"path": "elsewhere"})
    assert run(["train", str(study.path)]) == 2
    assert "train.seeds: crosscoder.path names one; leave one of them out" in (
        capsys.readouterr().err
    )
