"""Several crosscoders in one study: one over each fine-tune and their common base."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_study import NAMES, TinyStudy, write_study

from labeler.api import Study
from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.stages.base import StageContext
from labeler.stages.pipeline import with_key
from labeler.study.study_file import StudyFile

pytestmark = pytest.mark.usefixtures("own_cache")
CROSSCODERS = [
    {"name": "tuned", "models": ["base", "tuned"]},
    {"name": "third", "models": ["base", "third"]},
]
COMPARISON = {"name": "third-vs-tuned", "target": "third", "reference": "tuned", "against": "base"}


def rows(study: TinyStudy, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{study.database}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def several(folder: Path, models: Path, **changes: Any) -> TinyStudy:
    """A study of three models, two crosscoders and a comparison across them."""
    tables = {"crosscoders": CROSSCODERS, "comparison": [COMPARISON], **changes}
    return write_study(folder, models, NAMES, **tables)


@pytest.fixture(scope="module")
def finished(
    tiny_model_folder: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    """The study, run to its end."""
    study = several(tmp_path_factory.mktemp("several") / "study", tiny_model_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
        assert run(["run", str(study.path)]) == 0
    return study


@pytest.mark.slow
def test_each_crosscoder_holds_its_own_models(finished: TinyStudy) -> None:
    found = rows(
        finished,
        "SELECT x.name, group_concat(m.name) FROM crosscoder x"
        " JOIN (SELECT * FROM crosscoder_model ORDER BY position) o ON o.crosscoder_id = x.id"
        " JOIN subject_model m ON m.id = o.subject_model_id GROUP BY x.id ORDER BY x.id",
    )
    assert found == [("tiny-tuned", "base,tuned"), ("tiny-third", "base,third")]
    paths = [path for (path,) in rows(finished, "SELECT path FROM crosscoder ORDER BY id")]
    assert [Path(path).name for path in paths] == ["tuned", "third"]
    assert all((finished.folder / path / "crosscoder.safetensors").is_file() for path in paths)
    assert len({sha for (sha,) in rows(finished, "SELECT sha256 FROM crosscoder")}) == 2


@pytest.mark.slow
def test_each_side_comes_from_the_crosscoder_of_its_models(finished: TinyStudy) -> None:
    found = rows(
        finished,
        "SELECT s.name, x.name, count(*), count(DISTINCT l.crosscoder_id), min(l.crosscoder_id)"
        " = s.crosscoder_id FROM latent_set s JOIN crosscoder x ON x.id = s.crosscoder_id"
        " JOIN latent_set_member m ON m.latent_set_id = s.id JOIN latent l ON l.id = m.latent_id"
        " GROUP BY s.id ORDER BY s.name",
    )
    assert found == [
        ("third-vs-tuned/reference", "tiny-tuned", 10, 1, 1),
        ("third-vs-tuned/target", "tiny-third", 10, 1, 1),
    ]
    assert rows(finished, "SELECT count(*) FROM latent_scaling") == [(2 * 2 * 96,)]


@pytest.mark.slow
def test_latents_of_both_crosscoders_have_evidence_and_labels(finished: TinyStudy) -> None:
    found = rows(
        finished,
        "SELECT x.name, count(DISTINCT m.latent_id), count(DISTINCT e.latent_id),"
        " count(DISTINCT v.latent_id) FROM latent_set s JOIN crosscoder x ON x.id ="
        " s.crosscoder_id JOIN latent_set_member m ON m.latent_set_id = s.id"
        " LEFT JOIN evidence e ON e.latent_id = m.latent_id"
        " LEFT JOIN effective_label v ON v.latent_id = m.latent_id GROUP BY x.id ORDER BY x.id",
    )
    assert found == [("tiny-tuned", 10, 10, 10), ("tiny-third", 10, 10, 10)]


@pytest.mark.slow
def test_a_latent_fires_in_its_windows_as_its_own_crosscoder_says(finished: TinyStudy) -> None:
    """A window read with the other crosscoder's weights would show other numbers."""
    found = rows(
        finished,
        "SELECT l.max_activation, e.activations FROM evidence e JOIN latent l ON l.id ="
        " e.latent_id WHERE e.kind = 'top' GROUP BY l.id HAVING e.id = min(e.id)",
    )
    assert len(found) >= 20
    for most, activations in found:
        assert max(json.loads(activations)) == pytest.approx(most, rel=1e-4)


@pytest.mark.slow
def test_the_report_shows_both_crosscoders_with_their_own_quality(finished: TinyStudy) -> None:
    ((recorded,),) = rows(finished, "SELECT result FROM run WHERE kind = 'train'")
    quality = json.loads(recorded)["crosscoders"]
    named = dict(rows(finished, "SELECT sha256, name FROM crosscoder"))
    page = " ".join((finished.folder / "report" / "index.html").read_text("utf-8").split())
    assert {named[sha256] for sha256 in quality} == {"tiny-tuned", "tiny-third"}
    for sha256, facts in quality.items():
        assert set(facts["fve"]) == {"base", named[sha256].removeprefix("tiny-")}
        _, _, after = page.partition(f"Crosscoder <code>{named[sha256]}</code>")
        shown = after.partition("</p>")[0]
        for model, fve in facts["fve"].items():
            assert f"{100 * fve:.1f}% of the variance of {model} explained" in shown


@pytest.mark.slow
def test_a_second_run_does_nothing_and_a_lost_crosscoder_is_trained_again(
    finished: TinyStudy, tmp_path: Path
) -> None:
    study = finished.copied_to(tmp_path / "copy")
    before = rows(study, "SELECT sha256 FROM crosscoder ORDER BY id")
    assert run(["run", str(study.path), "--until", "isolate"]) == 0
    assert rows(study, "SELECT count(*) FROM run WHERE kind = 'train'") == [(1,)]
    (weights,) = (study.folder / "artifacts" / "train").glob("*/third/crosscoder.safetensors")
    for path in weights.parent.iterdir():
        path.unlink()
    assert run(["run", str(study.path), "--until", "train"]) == 0
    assert rows(study, "SELECT count(*) FROM run WHERE kind = 'train'") == [(2,)]
    assert rows(study, "SELECT sha256 FROM crosscoder ORDER BY id") == before


@pytest.mark.slow
def test_export_asks_which_crosscoder(
    finished: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    export = ["crosscoder", "export", str(finished.path), str(tmp_path / "out")]
    assert run(export) == 2
    assert "--crosscoder: missing (crosscoders: tuned, third)" in capsys.readouterr().err
    assert run([*export, "--crosscoder", "other"]) == 2
    assert "no crosscoder is named 'other'" in capsys.readouterr().err
    Study.open(finished.path).export_crosscoder(tmp_path / "out", "third")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.slow
def test_studies_of_one_crosscoder_keep_their_stage_inputs(
    finished_study: TinyStudy,
) -> None:
    from labeler.stages.pipeline import load_stage

    study = Study.open(finished_study.path)
    with study.engine() as engine:
        context = StageContext(study.file, engine, None)  # type: ignore[arg-type]
        assert set(load_stage("train").inputs(context)) == {"train", "held_out"}
        (comparison,) = load_stage("isolate").inputs(context)["comparisons"]
        assert set(comparison) == {"name", "target", "reference", "against"}
        assert len(with_key(context, "harvest").keys["harvest"]) == 64


ALL = {"name": "all", "models": ["base", "tuned", "third"]}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"crosscoders": [CROSSCODERS[0], CROSSCODERS[0]]},
            "crosscoders: two crosscoders are named 'tuned'; rename one",
        ),
        (
            {"crosscoders": [{"name": "x", "models": ["base", "nobody"]}]},
            "crosscoders x.models: no model is named 'nobody' (models: base, tuned, third)",
        ),
        (
            {"crosscoders": [{"name": "x", "models": ["base", "base"]}]},
            "crosscoders x.models: 'base' twice; remove one",
        ),
        (
            {"crosscoders": [*CROSSCODERS, {"name": "x", "models": ["tuned", "base"]}]},
            "crosscoders x.models: the models of 'tuned' again; remove one",
        ),
        (
            {"crosscoders": [{"name": "x", "models": ["base"]}]},
            "crosscoders.0.models",
        ),
        (
            {"crosscoders": CROSSCODERS[:1]},
            "comparison third-vs-tuned.target: no crosscoder holds both 'third' and 'base'",
        ),
        (
            {"comparison": [COMPARISON | {"against": "third", "target": "base"}]},
            "comparison third-vs-tuned.reference: no crosscoder holds both 'tuned' and 'third'",
        ),
        (
            {"crosscoders": [*CROSSCODERS, ALL]},
            "comparison third-vs-tuned.target_crosscoder: missing; the crosscoders 'third' and"
            " 'all' hold both 'third' and 'base', name one",
        ),
        (
            {"comparison": [COMPARISON | {"target_crosscoder": "other"}]},
            "comparison third-vs-tuned.target_crosscoder: no crosscoder is named 'other'"
            " (crosscoders: tuned, third)",
        ),
        (
            {"comparison": [COMPARISON | {"reference_crosscoder": "third"}]},
            "comparison third-vs-tuned.reference_crosscoder: crosscoder 'third' does not hold"
            " 'tuned'",
        ),
        (
            {"crosscoders": None, "comparison": [COMPARISON | {"target_crosscoder": "x"}]},
            "target_crosscoder: no crosscoder is named 'x' (crosscoders: none in [[crosscoders]])",
        ),
        ({"harvest": {"cache": False}}, "harvest.cache: false reads for one crosscoder"),
        (
            {"crosscoder": {"path": "weights"}},
            "crosscoder.path: not together with [[crosscoders]]; remove one",
        ),
    ],
)
def test_a_mistake_is_named_before_any_work(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    study = several(tmp_path, tmp_path / "models", **changes)
    with pytest.raises(UsageError) as caught:
        StudyFile.read(study.path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_null_runs_are_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = several(tmp_path, tmp_path / "models")
    assert run(["run", str(study.path), "--null-runs"]) == 2
    assert "--null-runs: they are for one crosscoder" in capsys.readouterr().err
    assert not study.database.exists()


def test_a_side_can_be_read_from_the_crosscoder_that_is_named(tmp_path: Path) -> None:
    named = COMPARISON | {"target_crosscoder": "third", "reference_crosscoder": "all"}
    study = several(
        tmp_path, tmp_path / "models", crosscoders=[*CROSSCODERS, ALL], comparison=[named]
    )
    (row,) = StudyFile.read(study.path).config.comparison
    assert (row.target_crosscoder, row.reference_crosscoder) == ("third", "all")
