"""What every table of study.toml is."""

from __future__ import annotations

from inspect import get_annotations
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from crosscoder.settings import Settings


class Section(Settings):
    """A table of study.toml: immutable, and unknown keys are refused.

    Keys that a step reads are inherited from the step's own settings, never repeated.
    """


def own_fields(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys of a section without those of the section it extends.

    The section's own come first, then those of each class of settings that it inherits.
    """
    bases = [base for base in section.__mro__ if issubclass(base, BaseModel)]
    extended = {key for base in bases[1:] if issubclass(base, Section) for key in base.model_fields}
    keys = [key for base in bases for key in get_annotations(base) if key in section.model_fields]
    return {key: section.model_fields[key] for key in dict.fromkeys(keys) if key not in extended}


def inner_section(annotation: Any) -> type[Section] | None:
    """The section inside `X`, `X | None` or `tuple[X, ...]`; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (inner_section(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)
