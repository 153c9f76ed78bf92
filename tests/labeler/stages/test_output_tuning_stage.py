"""`train.tuning_steps`: decoders tuned after training, the trained ones kept, keys that stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_study import TinyStudy, write_study

from crosscoder.config import OutputTuningSettings
from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.stages.output_tuning import tuned_pairs
from labeler.stages.train import UNTUNED, decisive
from labeler.study.config import TrainSection
from labeler.study.study_file import StudyFile

pytestmark = pytest.mark.usefixtures("own_cache")


def test_without_steps_no_key_of_tuning_is_in_the_hash() -> None:
    keys = set(OutputTuningSettings.model_fields)
    assert not keys & decisive(TrainSection(tuning_rate=0.5)).keys()
    assert keys <= decisive(TrainSection(tuning_steps=3)).keys()


def test_decoders_are_tuned_both_ways_on_the_models_of_the_comparisons(tmp_path: Path) -> None:
    study = write_study(tmp_path, tmp_path)
    both_ways = [("tuned", "base"), ("base", "tuned")]
    assert tuned_pairs(StudyFile.read(study.path), None) == both_ways
    alone = study.with_tables(comparison=[])
    with pytest.raises(UsageError, match=r"train\.tuning_steps: .* add a \[\[comparison\]\]"):
        tuned_pairs(StudyFile.read(alone.path), None)


@pytest.mark.slow
def test_the_tuned_crosscoder_has_other_decoders_and_says_so(
    finished_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuning = {"tuning_steps": 3, "tuning_tokens": 64}
    study = finished_study.copied_to(tmp_path / "study").with_tables(train=tuning)
    assert run(["run", str(study.path), "--until", "train"]) == 0
    assert "decoders tuned in 3 steps: divergence" in capsys.readouterr().err
    (trained,) = (study.folder / "artifacts" / "train").glob(f"*/{UNTUNED}")
    before, after = (
        json.loads((folder / "config.json").read_text("utf-8"))
        for folder in (trained, trained.parent)
    )
    known = after["provenance"].pop("output_tuning")
    assert known["n_steps"] == 3
    assert known["pairs"] == [["tuned", "base"], ["base", "tuned"]]
    assert known["untuned_weights_sha256"] == before["weights_sha256"] != after["weights_sha256"]
    assert after["provenance"] == before["provenance"]
    assert after["crosscoder"]["code_norm"] == "none"
