"""A rule and an activation of one's own: each is one class, and nothing else is touched."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field
from tiny_study import TinyStudy

from crosscoder.config import ACTIVATIONS
from crosscoder.isolation_rules import RULES, IsolationRule
from labeler.cli.main import run


@pytest.fixture
def dense_rule() -> Iterator[None]:
    @RULES.register("dense")
    class DenseRule(IsolationRule):
        """Latents that are active on many tokens, densest first."""

        kind: Literal["dense"] = "dense"
        min_density: float = Field(0.5, ge=0, le=1)

        @property
        def text(self) -> str:
            return f"dense (density at least {self.min_density:g})"

        def candidates(self, pair: Any, eligible: Any) -> Any:
            return eligible & (pair.density >= self.min_density)

        def score(self, pair: Any, eligible: Any) -> Any:
            return 1 - pair.density

    yield
    RULES.unregister("dense")


@pytest.fixture
def topmost_activation() -> Iterator[None]:
    from crosscoder.sparsity import BatchTopK

    @ACTIVATIONS.register("topmost")
    class Topmost(BatchTopK):
        """The best latent of each token on average, and a threshold of its own."""

        @classmethod
        def loss(cls, crosscoder: Any, z: Any, settings: Any, *rest: Any) -> Any:
            return super().loss(crosscoder, z, replace(settings, k=1), *rest)

        @classmethod
        def threshold(cls, crosscoder: Any, held_out: Any) -> float:
            return 0.25

    yield
    ACTIVATIONS.unregister("topmost")


def sets_of(study: TinyStudy) -> list[tuple[str, str, str]]:
    query = "SELECT rule, rule_params, message FROM latent_set ORDER BY id DESC LIMIT 2"
    with sqlite3.connect(study.database) as database:
        return list(database.execute(query))


def changed(study: TinyStudy, folder: Path, **isolate: Any) -> TinyStudy:
    tables = {"rule": "dense", "top": None, "max_density": None, **isolate}
    return study.copied_to(folder / "study").with_tables(isolate=tables)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache", "dense_rule")
def test_a_rule_of_ones_own_is_used_from_study_toml_to_the_report(
    finished_study: TinyStudy, tmp_path: Path
) -> None:
    study = changed(finished_study, tmp_path, min_density=0.02, overlap="keep")
    assert run(["isolate", str(study.path)]) == 0
    for rule, params, message in sets_of(study):
        assert rule == "dense"
        assert '"min_density": 0.02' in params
        assert "latents by dense (density at least 0.02)" in message
    assert run(["run", str(study.path)]) == 0
    assert "dense (density at least 0.02)" in (study.folder / "report" / "index.html").read_text()


@pytest.mark.usefixtures("own_cache", "dense_rule")
@pytest.mark.parametrize(
    ("isolate", "words"),
    [
        ({"min_density": 2}, "isolate.min_density: Input should be less than or equal to 1"),
        ({"min_dense": 1}, "isolate.min_dense: unknown key; remove it or correct its spelling"),
        ({"rule": "denser"}, "no isolation rule is called 'denser'; did you mean 'dense'?"),
        ({"rule": "strict", "min_density": 0.1}, "isolate.min_density: unknown key"),
        ({"rule": "strict", "order": "t"}, "isolate.order: unknown key"),
        ({"rule": "shifted", "min_strict": 5}, "isolate.min_strict: unknown key"),
    ],
)
def test_keys_of_ones_own_rule_are_checked(
    finished_study: TinyStudy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    isolate: dict[str, Any],
    words: str,
) -> None:
    study = changed(finished_study, tmp_path, **isolate)
    assert run(["isolate", str(study.path)]) == 2
    assert words in capsys.readouterr().err


def metrics_of(study: TinyStudy, earlier: set[Path]) -> list[dict[str, Any]]:
    """Steps of the one training that is not among the earlier ones."""
    (path,) = set(study.folder.glob("artifacts/train/*/metrics.jsonl")) - earlier
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("own_cache", "topmost_activation")
def test_an_activation_of_ones_own_is_trained_from_study_toml(
    finished_study: TinyStudy, tmp_path: Path
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    earlier = set(study.folder.glob("artifacts/train/*/metrics.jsonl"))
    study = study.with_tables(train={"activation": "topmost"})
    assert run(["train", str(study.path)]) == 0
    assert {step["l0"] for step in metrics_of(study, earlier)} == {1}
    with sqlite3.connect(study.database) as database:
        (result,) = database.execute(
            "SELECT result FROM run WHERE kind = 'train' ORDER BY id DESC LIMIT 1"
        ).fetchone()
    assert json.loads(result)["theta"] == 0.25


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_l1_is_chosen_in_study_toml_and_runs_to_the_report(
    finished_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    earlier = set(study.folder.glob("artifacts/train/*/metrics.jsonl"))
    study = study.with_tables(train={"activation": "l1", "l1_coefficient": 0.1, "k": None})
    assert run(["run", str(study.path)]) == 0
    steps = metrics_of(study, earlier)
    for step in steps:
        penalty = pytest.approx(step["reconstruction"] + 0.1 * step["sparsity"], rel=1e-5)
        assert step["loss"] == penalty
    assert steps[-1]["sparsity"] > 0
    assert "% of k" not in capsys.readouterr().out
    assert (study.folder / "report" / "index.html").is_file()


def test_keys_of_the_activation_leave_the_hash_of_the_usual_one_as_it_was() -> None:
    from labeler.stages.train import decisive
    from labeler.study.config import TrainSection

    usual = decisive(TrainSection())
    assert not {"activation", "l1_coefficient"} & usual.keys()
    chosen = decisive(TrainSection(activation="l1", l1_coefficient=0.5))
    assert chosen == usual | {"activation": "l1", "l1_coefficient": 0.5}


@pytest.mark.usefixtures("own_cache")
def test_an_unknown_activation_names_those_there_are(
    finished_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = finished_study.copied_to(tmp_path / "study").with_tables(train={"activation": "l2"})
    assert run(["train", str(study.path)]) == 2
    assert "train.activation: no activation is called 'l2'" in capsys.readouterr().err


LENIENT = {"min_strict": 1, "nu_error_max": 50, "nu_reconstruction_max": 50, "min_delta_norm": 0}


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "used"), [({}, "shifted"), (LENIENT, "strict")])
def test_auto_is_stored_as_the_rule_that_was_used_and_says_why(
    finished_study: TinyStudy, tmp_path: Path, keys: dict[str, Any], used: str
) -> None:
    study = changed(finished_study, tmp_path, rule=None, overlap="keep", **keys)
    assert run(["isolate", str(study.path)]) == 0
    for rule, params, message in sets_of(study):
        assert rule == used
        assert f'"kind": "{used}"' in params
        assert message.startswith("auto: ")
        assert f"so {used} is used" in message
