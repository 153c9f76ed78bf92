"""Registries: members by name, imported when needed, from this package or from a plug-in."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint, EntryPoints
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from crosscoder.errors import InputError
from crosscoder.registry import Registry


def shapes(group: str | None = None) -> Registry[object]:
    return Registry("shape", group, {"mean": "statistics:mean", "median": "statistics:median"})


def test_names_are_in_order_and_built_in_members_are_imported_when_asked_for() -> None:
    registry = Registry[object]("shape", built_in={"one": "no_such_module:it"})
    registry.register("alpha")(len)
    assert registry.names() == ("one", "alpha")
    assert registry.get("alpha") is len
    with pytest.raises(InputError, match="shape 'one': no_such_module:it cannot be imported"):
        registry.get("one")


def test_a_decorated_class_is_registered_and_stays_itself() -> None:
    registry = Registry[type]("shape")

    @registry.register("round")
    class Round:
        pass

    assert registry.get("round") is Round
    registry.unregister("round")
    assert registry.names() == ()


def test_an_unknown_name_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError) as caught:
        shapes().get("medain")
    assert str(caught.value) == (
        "no shape is called 'medain'; did you mean 'median'? there are: 'mean', 'median'"
    )


def test_a_name_is_taken_once() -> None:
    registry = shapes()
    with pytest.raises(ValueError, match="shape 'mean': registered twice"):
        registry.register("mean")(len)
    registry.register("size")(len)
    with pytest.raises(ValueError, match="shape 'size': registered twice"):
        registry.register("size")(len)


def test_a_built_in_member_may_register_itself_too() -> None:
    from statistics import mean

    registry = shapes()
    assert registry.register("mean")(mean) is registry.get("mean")
    assert registry.names() == ("mean", "median")


def test_entry_points_are_read_once_and_only_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = []

    def entry_points(group: str) -> EntryPoints:
        read.append(group)
        return EntryPoints(
            [EntryPoint("mode", "statistics:mode", group), EntryPoint("mean", "x:mine", group)]
        )

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry = shapes("difflens.shapes")
    assert registry.get("mean").__name__ == "mean"  # type: ignore[attr-defined]
    assert read == []
    assert registry.get("mode").__name__ == "mode"  # type: ignore[attr-defined]
    assert registry.names() == ("mean", "median", "mode")
    assert read == ["difflens.shapes"]


def test_a_registry_is_the_type_of_a_field() -> None:
    registry = shapes()

    class Section(BaseModel):
        shape: Annotated[str, registry] = "mean"

    assert Section(shape="median").shape == "median"
    with pytest.raises(ValidationError, match="no shape is called 'cube'; there are: 'mean'"):
        Section(shape="cube")
