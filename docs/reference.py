"""The reference pages that are drawn from the code: `python docs/reference.py`."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from crosscoder.registry import Registry
from labeler.api import Study
from labeler.store.views import VIEWS, View
from labeler.study.config import Section, inner_section, own_fields
from labeler.study.study_file import StudyConfig

_STUDY_HEAD = """\
# study.toml

One file drives a study. `difflens init study.toml` writes one that is valid as it stands and shows
every key with its default. Relative paths start at the file's folder, not at the working directory.
An unknown key is refused by name. Each stage asks only for the keys that it needs, so `import`,
`sql` and `report` work without any models.

This page is drawn from the code by `python docs/reference.py`.
"""

_VIEWS_HEAD = """\
# Views

The contract for people who write SQL: these names and columns stay, the tables behind them may
move. They are the same on SQLite and PostgreSQL, and `difflens sql study.toml "select ..."` reads
them. [sql.md](sql.md) has worked queries.

This page is drawn from the code by `python docs/reference.py`.
"""

_PYTHON_HEAD = """\
# Python

`from labeler.api import Study`: the verbs of the command line as methods, for notebooks. A mistake
of the caller raises `labeler.errors.UsageError` (the command line's exit status 2), work that
failed `labeler.errors.WorkError` (1); `crosscoder.errors` and `taxonomy.errors` have `InputError`
and `WorkError` of the same meaning. Tables come as pandas frames.

This page is drawn from the code by `python docs/reference.py`.
"""

_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    dt.date: "date",
}
_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


def study_page() -> str:
    """docs/study.md: every key of study.toml with its type, default and meaning."""
    sections = (inner_section(field.annotation) for field in StudyConfig.model_fields.values())
    tables = [table for section in sections if section is not None for table in _sections(section)]
    return "\n".join([_STUDY_HEAD, *tables])


def views_page() -> str:
    """docs/views.md: every view with every column and its meaning."""
    return "\n".join([_VIEWS_HEAD, *(_view(view) for view in VIEWS)])


def python_page() -> str:
    """docs/python.md: every public method of Study with its signature."""
    names = [name for name in vars(Study) if not name.startswith("_")]
    return "\n".join([_PYTHON_HEAD, *(_method(name, getattr(Study, name)) for name in names)])


def _method(name: str, method: Callable[..., object]) -> str:
    signature = inspect.signature(method)
    own = [value for key, value in signature.parameters.items() if key != "self"]
    shown = str(signature.replace(parameters=own)).replace("'", "")
    return f"## {name}\n\n    {name}{shown}\n\n{inspect.getdoc(method)}\n"


def _view(view: View) -> str:
    rows = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in view.columns.items()]
    head = [f"## {view.name}", "", view.description, "", "| column | meaning |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


def _sections(section: type[Section]) -> list[str]:
    """A table of the config, then those inside it."""
    title, _, text = " ".join((section.__doc__ or "").split()).partition(": ")
    head = [f"## {title.strip('`')}", "", f"{text[:1].upper()}{text[1:]}", ""]
    fields = own_fields(section)
    head += ["| key | value | default | meaning |", "|---|---|---|---|"] if fields else []
    rows, inside = [], []
    for key, field in fields.items():
        inner = inner_section(field.annotation)
        if inner is None:
            rows.append(_key(key, field))
        else:
            inside += _sections(inner)
    return ["\n".join([*head, *rows, ""]), *inside]


def _key(key: str, field: FieldInfo) -> str:
    cells = [f"`{key}`", _value(field), _default(field), field.description or ""]
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _value(field: FieldInfo) -> str:
    bounds = [
        f"{words} {getattr(constraint, name):g}"
        for constraint in field.metadata
        for name, words in _BOUNDS
        if getattr(constraint, name, None) is not None
    ]
    names = [
        f"`{name}`" for one in field.metadata if isinstance(one, Registry) for name in one.names()
    ]
    return ", ".join([*(names or [_type(field.annotation)]), *bounds])


def _type(annotation: Any) -> str:
    arguments = [inner for inner in get_args(annotation) if inner is not NoneType]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if len(arguments) > 1 and isinstance(arguments[1], Registry):
        return ", ".join(f"`{name}`" for name in arguments[1].names())
    if get_origin(annotation) is dict:
        return f"table of {_type(arguments[1])}"
    if get_origin(annotation) is tuple:
        return f"list of {_type(arguments[0])}"
    return _type(arguments[0]) if arguments else _WORDS[annotation]


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "needed"
    if default is None or default in ({}, ()):
        return ""
    if isinstance(default, tuple):
        return ", ".join(f"`{item}`" for item in default)
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"study.md": study_page, "views.md": views_page, "python.md": python_page}
"""What draws each page of docs/."""


def write_pages(folder: Path) -> None:
    """Write the pages into `folder`."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(__file__).parent)
