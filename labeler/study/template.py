"""The commented study.toml that `difflens init` writes, generated from the config's fields."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from labeler.errors import UsageError
from labeler.study.config import Section, inner_section, own_fields
from labeler.study.study_file import StudyConfig

HEADER = """\
# A difflens study. Relative paths start at this file's folder; commented keys show their defaults.
#
#   difflens import {name} latents.csv      statistics of latents labelled elsewhere; no models
#   difflens run {name}                     all stages; first fill in [[models]], [corpus],
#                                           [harvest] and [[comparison]]
"""

EXAMPLES: dict[str, dict[str, Any]] = {
    "[[models]]": {"name": "base", "path": "models/base"},
    "[corpus]": {"path": "corpus.jsonl", "date": "2025-01-31"},
    "[harvest]": {"layer": 15},
    "[[comparison]]": {"name": "tuned-vs-base", "target": "tuned", "reference": "base"},
    "[crosscoder]": {
        "path": "crosscoders/gemma-2-2b-L13-k100",
        "scaling_factors": "estimate",
        "k": 100,
    },
    "[[crosscoders]]": {"name": "base-tuned", "models": ("base", "tuned")},
    "[judge]": {
        "base_url": "http://127.0.0.1:8000/v1",
        "price_prompt_per_million": 0.15,
        "price_completion_per_million": 0.6,
    },
    "[judge.server]": {"max_model_len": 4096, "max_num_seqs": 16, "enforce_eager": True},
    "[[judge.endpoints]]": {"base_url": "http://127.0.0.1:8001/v1", "concurrency": 16},
}
"""Values shown for keys that have no default, by table."""
ACTIVE = ("[study]", "[database]")
COMMENTED = ("[[models]]", "[corpus]", "[harvest]", "[[comparison]]")
"""What a study of one's own models needs; stands before the tables that have defaults."""


def study_template(file_name: str = "study.toml") -> str:
    """A config that is valid as it stands and shows every key with its meaning and default."""
    parts = [HEADER.format(name=file_name)]
    tables = dict(_tables(StudyConfig))
    for title in dict.fromkeys([*ACTIVE, *COMMENTED, *tables]):
        parts.append(_table(tables[title], title))
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


def _tables(section: type[Section], above: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Each table inside a section with its title, those inside it next."""
    for key, field in own_fields(section).items():
        inner = inner_section(field.annotation)
        if inner is not None:
            many = get_origin(field.annotation) is tuple
            yield f"[[{above}{key}]]" if many else f"[{above}{key}]", inner
            yield from _tables(inner, f"{above}{key}.")


def _table(section: type[Section], title: str) -> str:
    commented = title in COMMENTED or title.startswith("[[")
    lines = [f"# {title}" if commented else title]
    for key, field in own_fields(section).items():
        if inner_section(field.annotation) is None:
            lines += _explanation(field)
            lines.append(f"# {key} = {_shown(field, EXAMPLES.get(title, {}).get(key, ''))}")
    return "\n".join(lines) + "\n"


def _explanation(field: FieldInfo) -> list[str]:
    words = " ".join((field.description or "").split())
    return textwrap.wrap(words, 98, initial_indent="#   ", subsequent_indent="#   ")


def _shown(field: FieldInfo, example: Any) -> str:
    default = field.get_default(call_default_factory=True)
    return _toml(example if default is PydanticUndefined or default is None else default)


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
