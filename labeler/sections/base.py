"""What every table of study.toml is."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A table of study.toml: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def own_fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys that a section adds to those of the section it extends."""
    parents = [base for base in section.__mro__[1:] if issubclass(base, BaseModel)]
    inherited = {key for base in parents for key in base.model_fields}
    return {key: field for key, field in section.model_fields.items() if key not in inherited}


def inner_section(annotation: Any) -> type[Section] | None:
    """The section inside `X`, `X | None` or `tuple[X, ...]`; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (inner_section(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)
