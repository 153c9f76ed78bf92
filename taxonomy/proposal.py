"""A proposed version of a taxonomy: a file that a person edits and then accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from taxonomy.edits import CategoryEdit, ChangeKind, Edit, changes_between
from taxonomy.errors import InputError
from taxonomy.tree import (
    Category,
    CategoryName,
    Taxonomy,
    next_version,
    taxonomy_from,
    unique_slug,
)

if TYPE_CHECKING:
    from taxonomy.induction import Induction

PROPOSAL_KEYS = frozenset({"based_on", "changes"})
"""Keys that a proposal has in addition to those of a taxonomy file."""
MOST_PROTOTYPES = 6

HEADER = """\
# A proposed taxonomy. Read it, change what you like, then accept it:
#
#   {command}
#
# `categories` are the whole new version: edit names, definitions and parents, delete or add some.
# `changes` says what becomes of categories of the version before that do not keep their slug:
#   {{kind: renamed, from: old, to: new}}    {{kind: merged, from: [a, b], to: a}}
#   {{kind: split, from: a, to: [b, c]}}     {{kind: dropped, from: a}}
# Labels of renamed, merged, moved and unchanged categories stay; those of split and dropped ones
# go back to the judge and to review.
"""


class BasedOn(BaseModel):
    """The version that a proposal changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    sha256: str

    @field_validator("version", mode="before")
    @classmethod
    def _version_may_be_a_number(cls, version: object) -> object:
        return str(version) if isinstance(version, int | float) else version


class DeclaredChange(BaseModel):
    """One line of `changes`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: ChangeKind
    sources: tuple[str, ...] = Field(alias="from", min_length=1)
    to: tuple[str, ...] = ()

    @field_validator("sources", "to", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value


class Proposal(BaseModel):
    """A taxonomy with the version it follows and what became of that one's categories."""

    model_config = ConfigDict(frozen=True)

    taxonomy: Taxonomy
    based_on: BasedOn | None = None
    """None for a taxonomy of its own, which follows no other."""
    changes: tuple[DeclaredChange, ...] = ()

    def edit_of(self, old: Taxonomy) -> Edit:
        """The edit that leads from `old` to the proposed version."""
        declared = [
            CategoryEdit(change.kind, slug, change.to)
            for change in self.changes
            for slug in change.sources
        ]
        return Edit(self.taxonomy, changes_between(old, self.taxonomy, declared))


def follow(old: Taxonomy) -> BasedOn:
    """What a proposal that changes `old` is based on."""
    return BasedOn(name=old.name, version=old.version, sha256=old.sha256())


def proposal_from(content: Any, source: str) -> Proposal:
    """Check the parsed content of a proposal or a plain taxonomy file.

    InputError names `source`, which stands for the file, and the key that is wrong.
    """
    own = {}
    if isinstance(content, dict):
        own = {key: content[key] for key in PROPOSAL_KEYS & content.keys()}
        content = {key: value for key, value in content.items() if key not in own}
    taxonomy = taxonomy_from(content, source)
    try:
        return Proposal(
            taxonomy=taxonomy, based_on=own.get("based_on"), changes=own.get("changes") or ()
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source}: {where}: {first['msg']}") from error


def proposal_text(
    proposal: Proposal, command: str, notes: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The file's text; `notes` are comments under a category: what it was made from."""
    head: dict[str, Any] = {
        "based_on": proposal.based_on.model_dump() if proposal.based_on is not None else None,
        "changes": [
            {
                "kind": change.kind,
                "from": _plain(change.sources),
                **({"to": _plain(change.to)} if change.to else {}),
            }
            for change in proposal.changes
        ],
    }
    parts = [HEADER.format(command=command), dump_yaml(head), "\n"]
    parts.append(taxonomy_text(proposal.taxonomy, notes))
    return "".join(parts)


def taxonomy_text(taxonomy: Taxonomy, notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """A taxonomy as the YAML file that a study reads."""
    parts = [dump_yaml({"name": taxonomy.name, "version": taxonomy.version}), "categories:\n"]
    for category in taxonomy.categories:
        parts += [
            "\n",
            *(f"  # {_one_line(note)}\n" for note in (notes or {}).get(category.slug, ())),
        ]
        content = category.model_dump(mode="json", exclude={"level"})
        shown = {key: value for key, value in content.items() if value not in (None, "", [])}
        lines = dump_yaml(shown).splitlines()
        parts += [f"  {'- ' if row == 0 else '  '}{line}\n" for row, line in enumerate(lines)]
    return "".join(parts)


def induced_taxonomy(
    induction: Induction,
    name: str,
    version: str = "1",
    prototypes: Callable[[int], Sequence[str]] | None = None,
) -> Taxonomy:
    """A taxonomy of its own; `prototypes` gives typical texts of a category by its number."""
    return Taxonomy(
        name=name, version=version, categories=_induced(induction, set(), None, prototypes)
    )


def extended_taxonomy(
    old: Taxonomy,
    induction: Induction,
    prototypes: Callable[[int], Sequence[str]] | None = None,
) -> Taxonomy:
    """The next version of `old`, which also has the induced categories.

    A taxonomy of one level gets them at level 1. Otherwise those without a group of their own
    come under a new group `induced`.
    """
    has_two_levels = any(category.level == 2 for category in old.categories)
    fresh = _induced(induction, set(old.slugs), has_two_levels, prototypes)
    return Taxonomy(
        name=old.name, version=next_version(old.version), categories=(*old.categories, *fresh)
    )


def _induced(
    induction: Induction,
    taken: set[str],
    two_levels: bool | None,
    prototypes: Callable[[int], Sequence[str]] | None,
) -> tuple[Category, ...]:
    """Groups with their categories, then the categories of no group."""
    known = set(taken)

    def made(name: CategoryName, parent: str | None, typical: Sequence[str]) -> Category:
        slug = unique_slug(name.name, known)
        known.add(slug)
        return Category(
            slug=slug,
            parent=parent,
            level=1 if parent is None else 2,
            name=_one_line(name.name),
            definition=_one_line(name.definition),
            include_when=_one_line(name.include_when),
            exclude_when=_one_line(name.exclude_when),
            prototypes=tuple(dict.fromkeys(typical))[:MOST_PROTOTYPES],
        )

    def leaf(number: int, parent: str | None) -> Category:
        category = induction.categories[number]
        typical = prototypes(number) if prototypes is not None else category.examples
        return made(category.name, parent, typical)

    found: list[Category] = []
    flat = two_levels is False
    for group, name in enumerate(induction.groups if not flat else ()):
        above = made(name, None, ())
        found.append(above)
        found += [
            leaf(number, above.slug)
            for number, category in enumerate(induction.categories)
            if category.group == group
        ]
    alone = [
        number
        for number, category in enumerate(induction.categories)
        if flat or category.group is None
    ]
    parent: str | None = None
    if alone and two_levels:
        above = made(CategoryName("Induced"), None, ())
        found.append(above)
        parent = above.slug
    return tuple(found + [leaf(number, parent) for number in alone])


def dump_yaml(content: Mapping[str, Any]) -> str:
    """YAML in the order given, wrapped at 100 columns, with readable Unicode."""
    text: str = yaml.safe_dump(
        dict(content), sort_keys=False, allow_unicode=True, width=96, default_flow_style=False
    )
    return text


def _plain(slugs: Sequence[str]) -> str | list[str]:
    return slugs[0] if len(slugs) == 1 else list(slugs)


def _one_line(text: str) -> str:
    return " ".join(text.split())
