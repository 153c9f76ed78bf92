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
    assert rows(study, "SELECT name FROM crosscoder ORDER BY id") == [
        ("tiny",), ("tiny-seed-1",), ("tiny-seed-2",),
    ]  # fmt: skip
    found = rows(study, "SELECT n_seeds, p_reappear, best_cosine, span_match FROM latent")
    assert len(found) == 3 * 96
    assert all(n_seeds == 2 and p in (0, 0.5, 1) for n_seeds, p, _, _ in found)
    assert all(0 < cosine**2 <= span + 1e-6 <= 1 + 2e-6 for _, _, cosine, span in found)
    index = int(rows(study, "SELECT min(latent_index) FROM v_effective_label")[0][0])
    assert run(["inspect", str(study.path), f"tiny:{index}"]) == 0
    assert "of 2 other seeds  best cosine 0." in capsys.readouterr().out


@pytest.fixture(scope="module")
def of_three_seeds(
    finished_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    """The tiny study over three seeds, all stages done."""
    copy = finished_study.copied_to(tmp_path_factory.mktemp("seeds") / "study")
    study = copy.with_tables(train={"seeds": 3}, collect={"latents": "eligible"})
    assert run(["run", str(study.path)]) == 0
    return study


@pytest.mark.slow
def test_every_seed_is_isolated_and_labelled(of_three_seeds: TinyStudy) -> None:
    name = "tuned-vs-base"
    names = [name, f"{name}/seed-1", f"{name}/seed-2"]
    coverage = rows(of_three_seeds, "SELECT comparison, side, isolated, labelled FROM v_coverage")
    assert sorted(coverage) == sorted(
        (each, side, 10, 10) for each in names for side in ("target", "reference")
    )
    settings = rows(
        of_three_seeds, "SELECT DISTINCT taxonomy_version_id, judge_id FROM comparison_setting"
    )
    assert len(settings) == 1
    assert rows(
        of_three_seeds,
        "SELECT c.name, f.name, s.seed FROM comparison_seed AS s"
        " JOIN comparison AS c ON c.id = s.comparison_id"
        " JOIN comparison AS f ON f.id = s.leading_id ORDER BY s.seed",
    ) == [(names[1], name, 1), (names[2], name, 2)]


@pytest.mark.slow
def test_the_change_is_one_over_seeds(of_three_seeds: TinyStudy) -> None:
    alone = rows(
        of_three_seeds,
        "SELECT category, count(*), sum(target_count), sum(target_total), sum(reference_count)"
        " FROM v_seed_change GROUP BY category ORDER BY category",
    )
    over = rows(
        of_three_seeds,
        "SELECT category, over_seeds, target_count, target_total, reference_count"
        " FROM v_category_change_statistic ORDER BY category",
    )
    assert over == alone
    assert {row[1] for row in over} == {3}
    tests = rows(of_three_seeds, "SELECT DISTINCT test FROM v_category_change_statistic")
    assert tests == [("documents",)]
    shifts = rows(
        of_three_seeds,
        "SELECT s.relative_shift, avg(a.relative_shift), s.n_shifts_alike"
        " FROM v_category_change_statistic AS s JOIN v_seed_change AS a"
        " ON a.category = s.category WHERE s.relative_shift IS NOT NULL GROUP BY s.category",
    )
    assert shifts
    for combined, mean, n_alike in shifts:
        assert combined == pytest.approx(mean)
        assert 0 < n_alike <= 3


@pytest.mark.slow
def test_pages_show_the_first_seed_and_say_how_many_there_are(
    of_three_seeds: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (of_three_seeds.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Each of the 3 training seeds alone" in page
    assert "tiny-seed-1" not in page
    assert run(["report", str(of_three_seeds.path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "All of this is over 3 training seeds of the crosscoder" in said
    assert "20 of 20" not in said
    assert "latents of the first seed are labelled" in said


@pytest.mark.slow
def test_seeds_that_are_done_are_not_done_again(of_three_seeds: TinyStudy) -> None:
    assert stages_started(of_three_seeds) == []


@pytest.mark.slow
def test_a_run_stopped_between_seeds_goes_on(
    study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = study.with_tables(train={"seeds": 3})
    from labeler.stages import isolate

    whole, seen = isolate.scaled, []

    def stopped(context: Any, one: Any) -> Any:
        seen.append(one.seed)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return whole(context, one)

    monkeypatch.setattr(isolate, "scaled", stopped)
    assert run(["run", str(three.path), "--until", "isolate"]) != 0
    assert rows(study, "SELECT count(*) FROM comparison") == [(1,)]
    newest = "SELECT status FROM run WHERE kind = 'isolate' ORDER BY id DESC LIMIT 1"
    assert rows(study, newest) == [("interrupted",)]
    # The interrupted run of isolate goes on; the stages after it are new.
    assert stages_started(three, "--until", "categorize") == ["collect", "label", "categorize"]
    assert rows(study, newest) == [("done",)]
    assert rows(study, "SELECT count(*) FROM comparison") == [(3,)]
    assert rows(study, "SELECT count(DISTINCT comparison) FROM v_coverage WHERE labelled > 0") == [
        (3,)
    ]


@pytest.mark.slow
def test_seeds_that_are_not_labelled_only_tell_what_comes_again(study: TinyStudy) -> None:
    three = study.with_tables(train={"seeds": 3, "label_seeds": False})
    assert run(["run", str(three.path)]) == 0
    assert rows(study, "SELECT count(*) FROM crosscoder") == [(1,)]
    assert rows(study, "SELECT DISTINCT n_seeds FROM latent") == [(2,)]
    assert rows(study, "SELECT DISTINCT over_seeds FROM v_category_change_statistic") == [(None,)]


@pytest.mark.slow
def test_fewer_seeds_leave_the_others_out_of_the_change(
    of_three_seeds: TinyStudy, tmp_path: Path
) -> None:
    copy = of_three_seeds.copied_to(tmp_path / "fewer").with_tables(train={"seeds": 2})
    assert run(["run", str(copy.path)]) == 0
    assert rows(copy, "SELECT DISTINCT over_seeds FROM v_category_change_statistic") == [(2,)]
    one = copy.with_tables(train={"seeds": 1})
    assert run(["run", str(one.path)]) == 0
    assert rows(copy, "SELECT DISTINCT over_seeds FROM v_category_change_statistic") == [(None,)]
    assert rows(copy, "SELECT count(*) FROM v_seed_change") == [(0,)]


@pytest.mark.slow
def test_a_loaded_crosscoder_has_one_seed(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.with_tables(train={"seeds": 2}, crosscoder={"path": "elsewhere"})
    assert run(["train", str(study.path)]) == 2
    assert "train.seeds: crosscoder.path names one; leave one of them out" in (
        capsys.readouterr().err
    )
