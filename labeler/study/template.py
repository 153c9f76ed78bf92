"""The commented study.toml that `difflens init` writes, drawn from the config's own fields."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from labeler.errors import UsageError
from labeler.study.config import (
    CollectSection,
    ComparisonSection,
    CorpusSection,
    CrosscoderSection,
    DatabaseSection,
    HarvestSection,
    IsolateSection,
    ModelSection,
    ReportSection,
    ScoresSection,
    Section,
    SqlSection,
    StudySection,
    TaxonomySection,
    ThoroughSection,
    TrainSection,
    inner_section,
    own_fields,
)
from labeler.study.crosscoders import CrosscodersSection
from labeler.study.judge_config import (
    EmbeddingSection,
    FurtherJudgeSection,
    JudgeEndpointSection,
    JudgeSection,
    JudgeServerSection,
)

HEADER = """\
# A difflens study. Relative paths lie beside this file; every commented key shows its default.
#
#   difflens import {name} latents.csv      statistics of latents labelled elsewhere; no models
#   difflens run {name}                     the whole job: fill in [[models]], [corpus], [harvest]
#                                           and [[comparison]] first
"""

EXAMPLES: dict[tuple[type[Section], str], Any] = {
    (ModelSection, "name"): "base",
    (ModelSection, "path"): "models/base",
    (CorpusSection, "path"): "corpus.jsonl",
    (CorpusSection, "date"): "2025-01-31",
    (HarvestSection, "layer"): 15,
    (ComparisonSection, "name"): "tuned-vs-base",
    (ComparisonSection, "target"): "tuned",
    (ComparisonSection, "reference"): "base",
    (JudgeSection, "base_url"): "http://127.0.0.1:8000/v1",
    (JudgeSection, "price_prompt_per_million"): 0.15,
    (CrosscoderSection, "path"): "crosscoders/gemma-2-2b-L13-k100",
    (CrosscoderSection, "scaling_factors"): "estimate",
    (CrosscoderSection, "k"): 100,
    (CrosscodersSection, "name"): "base-tuned",
    (CrosscodersSection, "models"): ("base", "tuned"),
    (JudgeSection, "price_completion_per_million"): 0.6,
    (JudgeServerSection, "max_model_len"): 4096,
    (JudgeServerSection, "max_num_seqs"): 16,
    (JudgeServerSection, "enforce_eager"): True,
    (JudgeEndpointSection, "base_url"): "http://127.0.0.1:8001/v1",
    (JudgeEndpointSection, "concurrency"): 16,
}
"""Values shown for keys that have no default."""

ACTIVE = ((StudySection, "[study]"), (DatabaseSection, "[database]"))
COMMENTED = (
    (ModelSection, "[[models]]"),
    (CorpusSection, "[corpus]"),
    (HarvestSection, "[harvest]"),
    (ComparisonSection, "[[comparison]]"),
)
OPTIONAL = (
    (TrainSection, "[train]"),
    (CrosscoderSection, "[crosscoder]"),
    (CrosscodersSection, "[[crosscoders]]"),
    (IsolateSection, "[isolate]"),
    (CollectSection, "[collect]"),
    (JudgeSection, "[judge]"),
    (JudgeServerSection, "[judge.server]"),
    (JudgeEndpointSection, "[[judge.endpoints]]"),
    (FurtherJudgeSection, "[[judges]]"),
    (ScoresSection, "[scores]"),
    (EmbeddingSection, "[embedding]"),
    (TaxonomySection, "[taxonomy]"),
    (ReportSection, "[report]"),
    (ThoroughSection, "[thorough]"),
    (SqlSection, "[sql]"),
)


def study_template(file_name: str = "study.toml") -> str:
    """A config that is valid as it stands and shows every key with its meaning and default."""
    parts = [HEADER.format(name=file_name)]
    parts += [_table(section, title, commented=False) for section, title in ACTIVE]
    parts += [_table(section, title, commented=True) for section, title in COMMENTED]
    parts += [_table(section, title, title.startswith("[[")) for section, title in OPTIONAL]
    return "\n".join(parts)


def write_template(path: Path) -> None:
    """Write the template; UsageError where a file is there already."""
    try:
        with path.open("x", encoding="utf-8") as sink:
            sink.write(study_template(path.name))
    except FileExistsError:
        raise UsageError(f"{path}: is there already; it was left as it is") from None
    except FileNotFoundError:
        raise UsageError(f"{path.parent}: no such folder; make it first") from None


def _table(section: type[Section], title: str, commented: bool) -> str:
    lines = [f"# {title}" if commented else title]
    for key, field in own_fields(section).items():
        if inner_section(field.annotation) is not None:
            continue
        lines += _explanation(field)
        lines.append(f"# {key} = {_shown(section, key, field)}")
    return "\n".join(lines) + "\n"


def _explanation(field: FieldInfo) -> list[str]:
    words = " ".join((field.description or "").split())
    return textwrap.wrap(words, 98, initial_indent="#   ", subsequent_indent="#   ")


def _shown(section: type[Section], key: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined or default is None:
        example = EXAMPLES.get((section, key))
        return _toml(example) if example is not None else '""'
    return _toml(default)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return repr(value)
