"""The study file: what it refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.study.study_file import StudyFile


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding=encoding)
    return path


def test_more_active_latents_than_there_are_is_refused_by_key(tmp_path: Path) -> None:
    path = written(tmp_path, "[train]\nn_latents = 10\nk = 40\n")
    with pytest.raises(UsageError, match=r"train: k: 40 exceeds n_latents = 10; lower k"):
        StudyFile.read(path)


def test_a_byte_order_mark_is_no_part_of_the_config(tmp_path: Path) -> None:
    path = written(tmp_path, '[study]\nname = "marked"\n', encoding="utf-8-sig")
    assert StudyFile.read(path).config.study.name == "marked"


def test_a_spreadsheet_programs_format_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, '[study]\nname = "x"\n')
    latents = tmp_path / "latents.csv"
    latents.write_text(
        "comparison,side,latent_index,explanation,category\nc,target,0,refuses,safety\n",
        encoding="utf-8",
    )
    assert run(["import", str(path), str(latents)]) == 0
    assert run(["labels", "export", str(path), str(tmp_path / "labels.xlsx")]) == 2
    assert "name a .csv or .jsonl" in capsys.readouterr().err
    assert not (tmp_path / "labels.xlsx").exists()
    sheet = tmp_path / "labels.csv"
    assert run(["labels", "export", str(path), str(sheet)]) == 0
    assert run(["labels", "import", str(path), str(sheet), "--reviewer", " "]) == 2
    assert "--reviewer" in capsys.readouterr().err
    assert run(["inspect", str(path), "imported:c:target:0"]) == 0
    assert "c/target: safety (import): refuses" in capsys.readouterr().out
    assert run(["sql", str(path), "select 1e400 as x", "--format", "json"]) == 0
    assert '"x": null' in capsys.readouterr().out
