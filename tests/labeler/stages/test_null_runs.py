from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from sqlalchemy import func, select
from tiny_study import TinyStudy

from crosscoder.activations import ActivationStore
from labeler.cli.main import run
from labeler.report.comparisons import Member
from labeler.report.statistics import CategoryNode
from labeler.stages.null_runs import Labelled, permuted_null, seed_null
from labeler.store.comparisons import NullRun, read_null_runs
from labeler.store.engine import open_engine, read_session
from labeler.store.schema import Comparison, Crosscoder, NullResult

pytestmark = pytest.mark.slow

NODES = (CategoryNode("safety", "Safety", 1, None), CategoryNode("code", "Code", 1, None))


def members(side: str, **counts: int) -> tuple[Member, ...]:
    """So many latents of each category; `none` has no category."""
    rows: list[Member] = []
    for category, count in counts.items():
        for _ in range(count):
            categories = () if category == "none" else (frozenset({category}),)
            rows.append(Member(len(rows), side, "assigned", categories, 0.1, 1.0))  # type: ignore[arg-type]
    return tuple(rows)


STRONG = Labelled(members("target", safety=38, none=2), members("reference", code=38, none=2))


def test_dealt_sides_hardly_ever_show_what_a_real_difference_shows() -> None:
    null = permuted_null(STRONG, NODES, 100, seed=1)
    assert (null.n_draws, null.n_tested) == (100, 200)
    assert null.n_called / null.n_tested < 0.05
    safety = next(change for change in null.changes if change.category == "safety")
    assert safety.share_as_far == 0
    assert safety.low is not None
    assert safety.high is not None
    assert safety.low < 0 < safety.high


def test_dealing_is_fixed_by_the_seed() -> None:
    one, same, other = (permuted_null(STRONG, NODES, 20, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_equal_crosscoders_give_no_change_by_seeds_alone() -> None:
    null = seed_null(STRONG, [STRONG, STRONG, STRONG], NODES)
    assert (null.n_draws, null.n_called) == (6, 0)
    safety = next(change for change in null.changes if change.category == "safety")
    assert (safety.low, safety.high, safety.share_as_far) == (0, 0, 0)


def test_category_that_one_seed_alone_finds_has_an_infinite_end() -> None:
    without = Labelled(members("target", none=40), STRONG.reference)
    null = seed_null(STRONG, [STRONG, without], NODES)
    safety = next(change for change in null.changes if change.category == "safety")
    assert (safety.low, safety.high) == (-100, None)
    assert null.n_called > 0


@pytest.fixture(scope="module")
def thorough_study(
    finished_study: TinyStudy, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    copy = finished_study.copied_to(tmp_path_factory.mktemp("null-runs") / "study")
    study = copy.with_tables(null_runs={"seeds": 1, "permutations": 20})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
        assert run(["run", str(study.path), "--null-runs"]) == 0
    return study


def stored_nulls(study: TinyStudy) -> dict[str, NullRun]:
    engine = open_engine(study.url)
    with read_session(engine) as session:
        comparison = session.execute(select(Comparison)).scalar_one()
        found = read_null_runs(session, comparison)
    engine.dispose()
    return {null.kind: null for null in found}


def test_null_runs_store_every_kind_of_null_and_the_report_shows_them(
    thorough_study: TinyStudy,
) -> None:
    nulls = stored_nulls(thorough_study)
    assert set(nulls) == {"seed", "permuted", "noise", "scrambled", "rounded", "random"}
    assert nulls["permuted"].n_draws == 20
    assert nulls["seed"].n_draws == 2
    assert nulls["seed"].n_tested > 0
    page = (thorough_study.folder / "report" / "index.html").read_text(encoding="utf-8")
    for null in nulls.values():
        assert null.title in page


def test_replicate_is_another_crosscoder_on_the_same_activations(
    thorough_study: TinyStudy,
) -> None:
    folder = thorough_study.folder / "artifacts" / "null-runs" / "seed-1"
    hashes = []
    for url in (thorough_study.url, f"sqlite:///{folder / 'difflens.db'}"):
        engine = open_engine(url)
        with read_session(engine) as session:
            hashes.append(session.execute(select(Crosscoder.sha256)).scalar_one())
        engine.dispose()
    assert hashes[0] != hashes[1]
    (harvest,) = (folder / "harvest").iterdir()
    assert harvest.is_symlink()
    assert harvest.resolve() == thorough_study.stage_folder("harvest")


def test_scrambled_fine_tune_is_another_model_of_the_same_size_on_the_same_text(
    thorough_study: TinyStudy,
) -> None:
    null = stored_nulls(thorough_study)["scrambled"]
    assert re.search(r"tuned: (0\.9[89]|1\.0[012]) of its change", null.title)
    folder = thorough_study.folder / "artifacts" / "null-runs" / "scrambled"
    (own,) = (thorough_study.folder / "artifacts" / "harvest").iterdir()
    (scrambled,) = (folder / "harvest").iterdir()
    first, second = (next(ActivationStore.open(each).shards()) for each in (own, scrambled))
    assert torch.equal(first.activations[:, 0], second.activations[:, 0])
    assert not torch.equal(first.activations[:, 1], second.activations[:, 1])


def test_second_run_trains_nothing_again(
    thorough_study: TinyStudy, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(thorough_study.path), "--null-runs"]) == 0
    said = capsys.readouterr().err
    assert "seed 2, train: already done with the same inputs" in said
    engine = open_engine(thorough_study.url)
    with read_session(engine) as session:
        assert session.execute(select(func.count(NullResult.id))).scalar_one() == 12
    engine.dispose()
    assert len(stored_nulls(thorough_study)) == 6


def test_null_runs_need_every_label(
    thorough_study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(thorough_study.path), "--null-runs", "--until", "train"]) == 2
    assert "leave out --until train" in capsys.readouterr().err
