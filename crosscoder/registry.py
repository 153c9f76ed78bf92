"""Named choices of one kind: rules, activations, judges, and whatever a plug-in adds to them."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from crosscoder.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects by name, in the order in which they were registered.

    Three ways in: `built_in` maps names to "module:attribute", imported when the name is first
    asked for; the decorator `register`; and an installed package, which names its members in its
    pyproject.toml under the entry point `group`:

        [project.entry-points."difflens.rules"]
        mine = "my_package.rules:MyRule"

    Entry points are read once, when a name is unknown or all names are asked for. As the type of a
    pydantic field, `Annotated[str, REGISTRY]` accepts the names and refuses others.
    """

    def __init__(
        self, kind: str, group: str | None = None, built_in: dict[str, str] | None = None
    ) -> None:
        """`kind` is what a member is called in errors, e.g. "isolation rule"."""
        self.kind = kind
        self._group = group
        self._places = dict(built_in or {})
        """Where each member lies that is imported when it is needed; all names, in order."""
        self._members: dict[str, T] = {}
        self._has_read_plugins = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a member; ValueError where the name is taken."""

        def add(member: T) -> T:
            place = f"{getattr(member, '__module__', '')}:{getattr(member, '__qualname__', '')}"
            if name in self._members or self._places.get(name, place) != place:
                raise ValueError(f"{self.kind} {name!r}: registered twice; rename one")
            self._places[name] = place
            self._members[name] = member
            return member

        return add

    def unregister(self, name: str) -> None:
        """Forget a member, e.g. at the end of a test; unknown names are ignored."""
        self._places.pop(name, None)
        self._members.pop(name, None)

    def get(self, name: str) -> T:
        """The member of that name.

        Raises InputError where there is none, or where the plug-in that adds it cannot be imported.
        """
        self.require(name)
        if name not in self._members:
            member: T = self._imported(name)
            self._members[name] = member
        return self._members[name]

    def names(self) -> tuple[str, ...]:
        """All names: the built-in ones, then those registered, then those of plug-ins."""
        self._read_plugins()
        return tuple(self._places)

    def require(self, name: str) -> str:
        """The name itself; InputError, with the nearest name and all of them, where it is unknown.

        Imports no member.
        """
        if name not in self._places and name not in self.names():
            near = get_close_matches(name, self.names(), n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            known = ", ".join(map(repr, self.names())) or "(none)"
            raise InputError(f"no {self.kind} is called {name!r}; {guess}there are: {known}")
        return name

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """A text that is the name of a member."""
        return core_schema.no_info_after_validator_function(self.require, handler(source))

    def _imported(self, name: str) -> Any:
        place = self._places[name]
        try:
            return resolve_name(place)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{self.kind} {name!r}: {place} cannot be imported ({error}); "
                "reinstall or remove the package that adds it"
            ) from error

    def _read_plugins(self) -> None:
        if self._has_read_plugins or self._group is None:
            return
        self._has_read_plugins = True
        # Imported here: it costs every start of the command line more than all else in this file.
        from importlib.metadata import entry_points

        for entry in entry_points(group=self._group):
            self._places.setdefault(entry.name, f"{entry.module}:{entry.attr}")
