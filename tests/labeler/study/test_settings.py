"""Every key of study.toml that a step reads is the step's own: type, limits, default and words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from crosscoder.config import RECORDED, EvidenceConfig, ScalingSettings, TrainConfig, _warn_renamed
from crosscoder.harvest import HarvestConfig
from crosscoder.isolation_rules import StrictRule
from crosscoder.model import CrosscoderConfig
from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.labeling.score import ScoreConfig
from labeler.study.config import Section, inner_section
from labeler.study.study_file import StudyConfig, StudyFile
from taxonomy.induction import InductionConfig

COUNTERPARTS: dict[tuple[str, type[BaseModel]], set[str]] = {
    ("corpus", HarvestConfig): {"max_length", "date", "max_lost", "answer_tokens"},
    ("harvest", HarvestConfig): {
        "layer", "batch_tokens", "shard_tokens", "storage_dtype", "skip_first", "max_norm_ratio",
        "template_model",
    },
    ("harvest", TrainConfig): {"held_out"},
    ("train", TrainConfig): {
        "l1_coefficient",
        "epochs", "batch_size", "learning_rate", "warmup_steps", "decay_fraction",
        "difference_weight", "exclusive_fraction", "aux_coefficient", "revive_dead",
        "dead_after_tokens", "max_dead_share", "checkpoint_every", "device", "precision",
    },
    ("isolate", StrictRule): {
        "nu_error_max", "nu_reconstruction_max", "min_documents", "min_delta_norm", "top",
        "max_density",
    },
    ("isolate", ScalingSettings): {"n_blocks", "draws", "scrambles", "scramble_documents"},
    ("collect", EvidenceConfig): {
        "top", "quantile", "negative", "similar", "other_model", "window",
    },
    ("taxonomy", InductionConfig): {"cluster_distance", "min_members"},
    ("scores", ScoreConfig): {"methods", "examples", "per_call", "shuffled"},
}  # fmt: skip
"""Keys by table of study.toml and the config of the step that takes them."""
SHARED = [
    pytest.param(table, engine, key, id=f"{table}.{key}")
    for (table, engine), keys in COUNTERPARTS.items()
    for key in sorted(keys)
]
NEEDED = {"corpus": {"path": "c.jsonl"}, "harvest": {"layer": 1}}
"""Keys without which a table is refused for another reason."""
NEXT = 1e-9
"""Relative distance of a number just outside of an open or closed limit."""


OWN_MEANING = {"train": {"seed"}}
"""Keys of the same name whose default differs: without `train.seed` it is the study's seed."""


def section_of(table: str) -> type[Section]:
    section = inner_section(StudyConfig.model_fields[table].annotation)
    assert section is not None
    return section


def limits(field: FieldInfo) -> dict[str, float]:
    return {
        name: getattr(constraint, name)
        for constraint in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if getattr(constraint, name, None) is not None
    }


def is_whole(annotation: Any) -> bool:
    return annotation is int or int in get_args(annotation)


def numbers(field: FieldInfo) -> tuple[list[float], list[float]]:
    """Numbers just outside of the limits, and the outermost ones inside."""
    outside: list[float] = []
    inside: list[float] = []
    for name, limit in limits(field).items():
        step = 1 if is_whole(field.annotation) else NEXT * max(1.0, abs(limit))
        outwards = -step if name in ("ge", "gt") else step
        closed = name in ("ge", "le")
        outside.append(limit + outwards if closed else limit)
        inside.append(limit if closed else limit - outwards)
    if outside and not is_whole(field.annotation):
        outside += [math.inf, -math.inf, math.nan]
    return outside, inside


def numeric_keys() -> Iterator[Any]:
    for table, field in StudyConfig.model_fields.items():
        section = inner_section(field.annotation)
        if section is None or get_args(field.annotation)[1:] == (...,):
            continue
        for key, inner in section.model_fields.items():
            if limits(inner):
                yield pytest.param(table, key, inner, id=f"{table}.{key}")


def written(folder: Path, table: str, **values: object) -> Path:
    path = folder / "study.toml"
    lines = [
        f"{key} = {_toml(value)}" for key, value in (NEEDED.get(table, {}) | dict(values)).items()
    ]
    path.write_text("\n".join([f"[{table}]", *lines, ""]), encoding="utf-8")
    return path


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


@pytest.mark.parametrize(("table", "engine", "key"), SHARED)
def test_a_key_and_its_step_share_one_definition(
    table: str, engine: type[BaseModel], key: str
) -> None:
    mine, its = section_of(table).model_fields[key], engine.model_fields[key]
    assert mine.annotation == its.annotation
    assert mine.metadata == its.metadata
    assert mine.get_default(call_default_factory=True) == its.get_default(call_default_factory=True)
    assert mine.description == its.description
    assert mine.description


def test_no_key_of_a_table_repeats_what_a_step_defines() -> None:
    """A key that a step knows too is inherited from it, and is in the list above."""
    for (table, engine), keys in COUNTERPARTS.items():
        section = section_of(table)
        shared = set(section.model_fields) & set(engine.model_fields)
        assert keys == shared - OWN_MEANING.get(table, set()), table
        assert not keys & set(vars(section).get("__annotations__", {})), table


@pytest.mark.parametrize("key", ["n_latents", "k"])
def test_the_size_of_a_dictionary_has_the_limits_of_a_crosscoder(key: str) -> None:
    mine, its = section_of("train").model_fields[key], CrosscoderConfig.model_fields[key]
    assert (mine.annotation, mine.metadata) == (its.annotation, its.metadata)


@pytest.mark.parametrize(("table", "key", "field"), list(numeric_keys()))
def test_a_number_outside_of_its_limits_is_refused_before_anything_runs(
    table: str, key: str, field: FieldInfo, tmp_path: Path
) -> None:
    for value in numbers(field)[0]:
        with pytest.raises(UsageError) as refused:
            StudyFile.read(written(tmp_path, table, **{key: value}))
        line = str(refused.value)
        named = f"{table}.{key}: " if math.isfinite(value) else "a number that is not finite"
        assert named in line, (value, line)
        assert "\n" not in line


def _steps() -> Iterator[Any]:
    for (table, engine), keys in COUNTERPARTS.items():
        for key in sorted(keys):
            field = section_of(table).model_fields[key]
            if limits(field):
                yield pytest.param(table, engine, key, id=f"{table}.{key}")


@pytest.mark.parametrize(("table", "engine", "key"), list(_steps()))
def test_a_number_at_its_limit_is_accepted_by_file_and_step_alike(
    table: str, engine: type[BaseModel], key: str, tmp_path: Path
) -> None:
    others = {"negative": 99} if key == "similar" else {}
    for value in numbers(section_of(table).model_fields[key])[1]:
        read = StudyFile.read(written(tmp_path, table, **{key: value}, **others))
        assert getattr(getattr(read.config, table), key) == value
        needed = {name: 1 for name, field in engine.model_fields.items() if field.is_required()}
        assert getattr(engine.model_validate(needed | {key: value} | others), key) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nn_latents = 10\nk = 40\n", "train: k: 40 exceeds n_latents = 10"),
        (
            "[train]\nexclusive_fraction = 0.1\ndifference_weight = 2.0\n",
            "exclusive_fraction: its latents have one model alone",
        ),
        (
            "[train]\nexclusive_fraction = 0.5\n"
            + "".join(f'[[models]]\nname = "{name}"\npath = "{name}"\n' for name in "ab"),
            "train.exclusive_fraction: 0.5 for each of 2 models leaves no latent that",
        ),
        (
            '[train]\nexclusive_fraction = 0.4\n[[crosscoders]]\nname = "x"\n'
            'models = ["a", "b", "c"]\n',
            "train.exclusive_fraction: 0.4 for each of 3 models leaves no latent that",
        ),
        (
            '[harvest]\nlayer = 1\ntemplate_model = "c"\n[[models]]\nname = "a"\npath = "a"\n',
            "harvest.template_model: no model is named 'c' (models: a)",
        ),
        (
            '[crosscoder]\nscaling_factors = [1.0, 2.0]\n[[models]]\nname = "a"\npath = "a"\n',
            "crosscoder.scaling_factors: 2 factors for 1 models",
        ),
        ("[collect]\nnegative = 2\nsimilar = 3\n", "collect: similar: 3 of 2 negatives"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_before_anything_runs(
    text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(words)):
        StudyFile.read(path)


@pytest.mark.parametrize("verb", ["run", "status", "report", "harvest", "label", "isolate"])
def test_every_verb_refuses_a_threshold_below_zero_in_one_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "isolate", nu_error_max=-1)
    assert run([verb, str(path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "isolate.nu_error_max: Input should be greater than 0" in said
    assert "\n" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["study.toml"]


def test_infinite_settings_are_refused_from_python_too() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        TrainConfig(epochs=math.inf)


FORMER = {"dedicated_share": ("exclusive_fraction", 0.25), "wake_silent": ("revive_dead", False)}


def _study_of(folder: Path, text: str) -> StudyFile:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return StudyFile.read(path)


@pytest.mark.parametrize("old", FORMER)
def test_a_renamed_key_is_read_by_its_former_name_and_warns_once(
    old: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new, value = FORMER[old]
    _warn_renamed.cache_clear()
    for _ in range(2):
        study = _study_of(tmp_path, f"[train]\n{old} = {str(value).lower()}\n")
        assert getattr(study.config.train, new) == value
    assert caplog.messages == [f"{old}: this key is now called {new}; rename it"]


def test_a_renamed_table_and_option_keep_their_former_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    _warn_renamed.cache_clear()
    study = _study_of(tmp_path, "[thorough]\nseeds = 5\n")
    assert study.config.null_runs.seeds == 5
    assert caplog.messages == ["thorough: this key is now called null_runs; rename it"]
    assert run(["run", str(study.path), "--thorough", "--until", "train"]) == 2
    said = capsys.readouterr().err
    assert "--thorough: this option is now called --null-runs" in said
    assert "--null-runs needs the labels of the whole study" in said


def test_a_key_by_both_of_its_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="remove wake_silent"):
        _study_of(tmp_path, "[train]\nrevive_dead = true\nwake_silent = true\n")


def test_recorded_settings_with_former_names_are_read_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _warn_renamed.cache_clear()
    recorded = {"train": {"dedicated_share": 0.25}}
    config = StudyConfig.model_validate(recorded, context=RECORDED)
    assert config.train.exclusive_fraction == 0.25
    assert not caplog.messages


def test_hashes_see_the_former_names_so_that_finished_stages_stay_up_to_date() -> None:
    content = TrainConfig().hash_content()
    assert set(FORMER) <= set(content)
    assert not {new for new, _ in FORMER.values()} & set(content)
