"""A rule and an activation of one's own: each is one class, and nothing else is touched."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field
from tiny_study import TinyStudy

from crosscoder.rules import RULES, IsolationRule
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

        def choose(self, pair: Any, eligible: Any) -> Any:
            return pair.density >= self.min_density

        def score(self, pair: Any, eligible: Any) -> Any:
            return 1 - pair.density

    yield
    RULES.unregister("dense")


def sets_of(study: TinyStudy) -> list[tuple[str, str, str]]:
    query = "SELECT rule, rule_params, message FROM latent_set ORDER BY id DESC LIMIT 2"
    with sqlite3.connect(study.database) as database:
        return list(database.execute(query))


def changed(study: TinyStudy, folder: Path, **isolate: Any) -> TinyStudy:
    tables = {"rule": "dense", "top": None, "max_density": None, **isolate}
    return study.copied_to(folder / "study").with_tables(isolate=tables)


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
        ({"min_dense": 1}, "isolate.min_dense: unknown key; remove it or mend its spelling"),
        ({"rule": "denser"}, "no isolation rule is called 'denser'; did you mean 'dense'?"),
        ({"rule": "strict", "min_density": 0.1}, "isolate.min_density: unknown key"),
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
