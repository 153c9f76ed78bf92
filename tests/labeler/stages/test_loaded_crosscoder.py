"""`difflens run` from a crosscoder that was trained elsewhere."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_study import TinyStudy, write_study

from crosscoder.checkpoints import load_crosscoder
from crosscoder.published import export_dictionary_learning
from crosscoder.published_files import UNFOLDING_NAME
from labeler.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


@pytest.fixture
def study(finished_study: TinyStudy, tiny_model_folder: Path, tmp_path: Path) -> TinyStudy:
    """A study whose crosscoder is another study's, exported beside it."""
    trained = finished_study.stage_folder("train")
    assert trained is not None
    export_dictionary_learning(load_crosscoder(trained), tmp_path / "study" / "published")
    return write_study(
        tmp_path / "study", tiny_model_folder, crosscoder={"path": "published"}, train=None
    )


def rewrite(study: TinyStudy, **changes: torch.Tensor | None) -> None:
    """Change the tensors of the published crosscoder, as one that another tool wrote."""
    file = study.folder / "published" / "model.safetensors"
    file.with_name(UNFOLDING_NAME).unlink(missing_ok=True)
    tensors: dict[str, torch.Tensor | None] = load_file(file) | changes
    save_file({name: value for name, value in tensors.items() if value is not None}, file)


def rows(study: TinyStudy, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(study.database)) as connection:
        return connection.execute(statement).fetchall()


def train_result(study: TinyStudy) -> dict[str, Any]:
    ((text,),) = rows(study, "SELECT result FROM run WHERE kind = 'train' ORDER BY id DESC LIMIT 1")
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_loaded_crosscoder_gives_the_results_of_the_one_that_was_trained(
    study: TinyStudy, finished_study: TinyStudy
) -> None:
    assert run(["run", str(study.path), "--until", "collect"]) == 0
    query = (
        "SELECT l.latent_index, m.rank FROM latent_set_member m JOIN latent l "
        "ON l.id = m.latent_id JOIN latent_set s ON s.id = m.latent_set_id ORDER BY s.name, m.rank"
    )
    assert rows(study, query) == rows(finished_study, query)
    recorded = train_result(study)
    assert recorded["layout"] == "dictionary_learning"
    assert recorded["notes"] == []
    assert not list((study.folder / "artifacts" / "train").glob("*/metrics.jsonl"))


def test_the_same_weights_are_not_loaded_twice_and_others_are(study: TinyStudy) -> None:
    assert run(["run", str(study.path), "--until", "train"]) == 0
    assert run(["run", str(study.path), "--until", "train"]) == 0
    assert rows(study, "SELECT count(*) FROM run WHERE kind = 'train'") == [(1,)]
    rewrite(study, threshold=torch.tensor(1.0))
    assert run(["run", str(study.path), "--until", "train"]) == 0
    assert rows(study, "SELECT count(*) FROM run WHERE kind = 'train'") == [(2,)]


def test_a_missing_threshold_is_calibrated_and_said(study: TinyStudy) -> None:
    rewrite(study, threshold=torch.tensor(-1.0))
    assert run(["run", str(study.path), "--until", "train"]) == 0
    recorded = train_result(study)
    assert recorded["notes"] == [
        "the file has no calibrated threshold",
        "theta set on held-out text to a mean of 8 active latents",
    ]
    assert recorded["l0"] == pytest.approx(8, abs=0.5)


def test_factors_that_a_file_does_not_store_are_estimated_on_request(study: TinyStudy) -> None:
    tensors = load_file(study.folder / "published" / "model.safetensors")
    folder = study.folder / "replication"
    folder.mkdir()
    torch.save(
        {
            "W_enc": tensors["encoder.weight"],
            "W_dec": tensors["decoder.weight"].transpose(0, 1).contiguous(),
            "b_enc": tensors["encoder.bias"],
            "b_dec": tensors["decoder.bias"],
        },
        folder / "cc_weights.pt",
    )
    table = {"path": "replication", "scaling_factors": "estimate"}
    assert run(["run", str(study.with_tables(crosscoder=table).path), "--until", "train"]) == 0
    crosscoder = load_crosscoder(study.stage_folder("train"))  # type: ignore[arg-type]
    assert crosscoder.config.activation == "l1"
    assert (crosscoder.act_scale > 0).all()
    assert (crosscoder.act_scale != 1).all()


@pytest.mark.parametrize(
    ("names", "crosscoder", "message"),
    [
        (("base", "tuned"), {"path": "nowhere/at-all"}, "hf download nowhere/at-all"),
        (("base", "tuned", "third"), {}, "trained on 2 models, the study has 3"),
    ],
)
def test_what_does_not_fit_is_one_line(
    study: TinyStudy,
    tiny_model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    crosscoder: dict[str, str],
    message: str,
) -> None:
    models = [{"name": name, "path": str(tiny_model_folder / name)} for name in names]
    study.with_tables(models=models, crosscoder=crosscoder)
    assert run(["run", str(study.path), "--until", "train"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last


def test_another_width_is_one_line(study: TinyStudy, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(study.folder / "published" / "model.safetensors")
    width = tensors["encoder.weight"].shape[1] - 1
    rewrite(
        study,
        **{
            "encoder.weight": tensors["encoder.weight"][:, :width].contiguous(),
            "decoder.weight": tensors["decoder.weight"][:, :, :width].contiguous(),
            "decoder.bias": tensors["decoder.bias"][:, :width].contiguous(),
            "activation_mean": None,
            "activation_std": None,
        },
    )
    assert run(["run", str(study.path), "--until", "train"]) == 2
    assert "activations of width 31, the study's models have 32" in capsys.readouterr().err
