"""A published feature_df.csv becomes latents with their scaling; a crosscoder goes out."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_study import TinyStudy

from crosscoder.published import load_published
from labeler.cli.main import run

HEADER = ",tag,dec_norm_diff,beta_ratio_error,beta_ratio_reconstruction,freq,max_act\n"
TABLE = (
    HEADER
    + "7,Chat only,0.05,0.1,0.3,0.001,12.5\n3,Shared,0.5,,nan,0.2,3\n11,Base only,0.97,,,0,0\n"
)
OPTIONS = ("--target", "chat", "--reference", "base")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text('[study]\nname = "features"\n', encoding="utf-8")
    return path


def table(folder: Path, text: str = TABLE) -> Path:
    path = folder / "feature_df.csv"
    path.write_text(text, encoding="utf-8")
    return path


def scalings(study: Path, target: str) -> list[tuple[Any, ...]]:
    statement = """
        SELECT l.latent_index, s.delta_norm, s.nu_error, s.nu_reconstruction, l.density,
               s.nu_error_low, l.max_activation
        FROM latent_scaling s JOIN latent l ON l.id = s.latent_id
        JOIN subject_model m ON m.id = s.target_model_id
        WHERE m.name = ? ORDER BY l.latent_index
    """
    with closing(sqlite3.connect(study.parent / "difflens.db")) as connection:
        return connection.execute(statement, (target,)).fetchall()


def test_trap_6_the_orientation_of_dec_norm_diff_is_flipped(study: Path) -> None:
    assert run(["crosscoder", "import", str(study), str(table(study.parent)), *OPTIONS]) == 0
    found = scalings(study, "chat")
    assert [row[0] for row in found] == [3, 7, 11]
    # The table says 0.05 for a latent that only the chat model has: here 1 is only the target.
    assert [row[1] for row in found] == pytest.approx([0.5, 0.95, 0.03])
    assert [row[2:5] for row in found] == [(None, None, 0.2), (0.1, 0.3, 0.001), (None, None, 0.0)]
    assert all(row[5] is None and row[6] is None for row in found)
    reverse = scalings(study, "base")
    assert [row[1] for row in reverse] == pytest.approx([0.5, 0.05, 0.97])
    assert all(row[2] is None for row in reverse)


def test_a_second_import_adds_nothing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(table(study.parent))
    for _ in range(2):
        assert run(["crosscoder", "import", str(study), path, *OPTIONS]) == 0
    assert "imported:feature_df: 3 latents, 0 with a new scaling" in capsys.readouterr().err
    assert len(scalings(study, "chat")) == 3


def test_an_imported_latent_can_be_inspected(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(table(study.parent))
    assert run(["crosscoder", "import", str(study), path, *OPTIONS, "--name", "mu41"]) == 0
    assert run(["inspect", str(study), "mu41:7"]) == 0
    shown = capsys.readouterr().out
    assert "chat against base: delta_norm 0.95" in shown
    assert "nu_error 0.100 [-, -]" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column of latent indices"),
        (",tag\n1,x\n", "no column dec_norm_diff"),
        (HEADER + "1.5,x,0.2,,,,\n", "row 2: '1.5' is no latent index"),
        (HEADER + "1,x,zero,,,,\n", "row 2: dec_norm_diff is 'zero', no number"),
        (HEADER + "1,x,0,,,,\n1,x,0,,,,\n", "rows 2 and 3 are both latent 1"),
    ],
)
def test_a_wrong_table_is_one_line_and_adds_nothing(
    study: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert run(["crosscoder", "import", str(study), str(table(study.parent, text)), *OPTIONS]) == 2
    assert message in capsys.readouterr().err
    assert scalings(study, "chat") == []


def test_one_model_on_both_sides_is_refused(study: Path) -> None:
    options = ("--target", "chat", "--reference", "chat")
    assert run(["crosscoder", "import", str(study), str(table(study.parent)), *options]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_the_studys_crosscoder_is_exported(finished_study: TinyStudy, tmp_path: Path) -> None:
    assert run(["crosscoder", "export", str(finished_study.path), str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["dict_size"], config["num_layers"], config["k"]) == (96, 2, 8)
    assert load_published(tmp_path / "out", ("base", "tuned")).crosscoder.calibrated


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_nothing_is_exported_before_training(
    finished_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = finished_study.copied_to(tmp_path / "study").with_tables(train={"k": 4})
    assert run(["crosscoder", "export", str(study.path), str(tmp_path / "out")]) == 2
    assert "stage `train` is not done with the present config" in capsys.readouterr().err
