"""The category tree: two levels, immutable, addressed by slug and hash."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from rapidfuzz import fuzz, utils

from taxonomy.errors import InputError

RESERVED_SLUGS = frozenset({"none", "uninterpretable"})
"""Outcomes of a label; they can not be the names of categories."""

SLUG_PATTERN = r"[a-z0-9]+(?:-[a-z0-9]+)*"
"""Lower-case words of letters and digits joined by single hyphens."""

UNSORTED = "unsorted"
"""Parent of categories that were added by name and not yet placed in a two-level tree."""

MAX_SLUG_LENGTH = 64
"""Longest slug in characters."""

NEAR = 60.0
"""Percent of edit similarity from which one slug is named in the place of another."""
LISTED = 8
"""Slugs that are named where none is near."""


@dataclass(frozen=True)
class CategoryName:
    """A name with the words by which a judge tells what belongs."""

    name: str
    definition: str = ""
    include_when: str = ""
    exclude_when: str = ""

    @property
    def description(self) -> str:
        """Name and definition in one sentence."""
        return f"{self.name}: {self.definition}" if self.definition else self.name


class Category(BaseModel):
    """One category; `parent` is None exactly where `level` is 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slug: str = Field(max_length=MAX_SLUG_LENGTH)
    """Stable key, the same in every version of a taxonomy."""
    parent: str | None = None
    """Slug of the category above, None at level 1."""
    level: Literal[1, 2]
    """1 for the groups, 2 for what lies under a group."""
    name: str = Field(min_length=1)
    """Title that people read."""
    definition: str = ""
    """One sentence: what a latent of this category responds to."""
    include_when: str = ""
    """When a latent belongs here."""
    exclude_when: str = ""
    """When it does not, and where it belongs instead."""
    prototypes: tuple[str, ...] = ()
    """Short typical texts on which such a latent fires."""
    behaviour: str = ""
    """What a model's answer of this category looks like; by it a judge classifies answers."""

    @model_validator(mode="before")
    @classmethod
    def _fill_level_and_name(cls, data: object) -> object:
        if not isinstance(data, dict) or not isinstance(data.get("slug"), str):
            return data
        level = 1 if data.get("parent") is None else 2
        return {"level": level, "name": title_of(data["slug"])} | data

    @field_validator("slug")
    @classmethod
    def _slug_is_usable(cls, slug: str) -> str:
        if slug in RESERVED_SLUGS:
            raise ValueError(f"{slug!r} is an outcome, not a category; choose another slug")
        if not re.fullmatch(SLUG_PATTERN, slug):
            raise ValueError(
                f"{slug!r} is no slug; use lower-case letters, digits and single hyphens"
            )
        return slug

    @model_validator(mode="after")
    def _level_follows_parent(self) -> Category:
        expected = 1 if self.parent is None else 2
        if self.level != expected:
            where = "no parent" if self.parent is None else f"parent {self.parent!r}"
            raise ValueError(
                f"level {self.level} of {self.slug!r} contradicts {where}; "
                f"write level {expected} or leave level out"
            )
        return self

    @property
    def description(self) -> str:
        """Name and definition in one sentence, as a judge or an embedder reads it."""
        return f"{self.name}: {self.definition}" if self.definition else self.name


class Taxonomy(BaseModel):
    """A version of a category tree; nothing in it changes after it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    """Name that all versions of this taxonomy share."""
    version: str = Field(min_length=1)
    """Version label; it ends in a number that `with_added` raises."""
    categories: tuple[Category, ...] = Field(min_length=1)
    """All categories, in the order in which reports show them."""

    @field_validator("version", mode="before")
    @classmethod
    def _version_may_be_a_number(cls, version: object) -> object:
        is_number = isinstance(version, int | float) and not isinstance(version, bool)
        return str(version) if is_number else version

    @model_validator(mode="after")
    def _tree_is_whole(self) -> Taxonomy:
        by_slug: dict[str, Category] = {}
        for category in self.categories:
            if category.slug in by_slug:
                raise ValueError(f"slug {category.slug!r} occurs twice; keep one")
            by_slug[category.slug] = category
        for category in self.categories:
            _check_parent(category, by_slug)
        return self

    @cached_property
    def _by_slug(self) -> dict[str, Category]:
        return {category.slug: category for category in self.categories}

    @property
    def slugs(self) -> tuple[str, ...]:
        """Slugs of all categories, parents included, in order."""
        return tuple(category.slug for category in self.categories)

    def __contains__(self, slug: object) -> bool:
        """Tell whether `slug` is a category of this version."""
        return slug in self._by_slug

    def get(self, slug: str) -> Category:
        """Return the category of `slug`; InputError names the nearest slug where there is none."""
        found = self._by_slug.get(slug)
        if found is None:
            raise InputError(
                f"taxonomy {self.name} {self.version} has no category {slug!r}; "
                f"{self.nearest_hint(slug)}"
            )
        return found

    def children(self, slug: str) -> tuple[Category, ...]:
        """Categories right under `slug`."""
        return tuple(category for category in self.categories if category.parent == slug)

    def leaves(self) -> tuple[Category, ...]:
        """Categories without children: what a latent is mapped to."""
        parents = {category.parent for category in self.categories}
        return tuple(category for category in self.categories if category.slug not in parents)

    def nearest_slug(self, text: str) -> str:
        """Return the slug that looks most like `text` (normalised edit similarity; first wins)."""
        return max(
            self.slugs, key=lambda slug: fuzz.ratio(text, slug, processor=utils.default_process)
        )

    def nearest_hint(self, text: str) -> str:
        """Name the nearest slug where one is near, else the first slugs that there are."""
        nearest = self.nearest_slug(text)
        if fuzz.ratio(text, nearest, processor=utils.default_process) >= NEAR:
            return f"the nearest is {nearest!r}"
        listed = ", ".join(self.slugs[:LISTED])
        more = len(self.slugs) - LISTED
        return f"there are {listed}{f' and {more} more' if more > 0 else ''}"

    def sha256(self) -> str:
        """Hash of name, version and categories; their order in the file does not matter.

        A category without `behaviour` hashes as it did before there was that key.
        """
        content = self.model_dump(mode="json")
        for category in content["categories"]:
            if not category["behaviour"]:
                del category["behaviour"]
        content["categories"].sort(key=lambda category: category["slug"])
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def with_added(
        self, slugs: Iterable[str], *, parent: str | None = None, version: str | None = None
    ) -> Taxonomy:
        """Return a new version that also has `slugs`, or this very version if it has them all.

        Without `parent`, a one-level taxonomy gets them at level 1 and a two-level one under the
        parent `unsorted`. Raises InputError for a slug that can not be one.
        """
        missing = [slug for slug in dict.fromkeys(slugs) if slug not in self]
        if not missing:
            return self
        above = self.get(parent).slug if parent is not None else self._default_parent()
        added = [_named(slug, above) for slug in missing if slug != above]
        if above is not None and above not in self:
            added.insert(0, _unsorted_category())
        return Taxonomy(
            name=self.name,
            version=version or next_version(self.version),
            categories=self.categories + tuple(added),
        )

    def _default_parent(self) -> str | None:
        has_two_levels = any(category.level == 2 for category in self.categories)
        return UNSORTED if has_two_levels else None


def unique_slug(name: str, taken: Collection[str]) -> str:
    """A slug made of a name that no other category has; a number is added where one does."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_only.lower()).strip("-")
    base = words[: MAX_SLUG_LENGTH - 4].strip("-") or "category"
    slug, number = base, 2
    while slug in taken or slug in RESERVED_SLUGS:
        slug, number = f"{base}-{number}", number + 1
    return slug


def title_of(slug: str) -> str:
    """Turn `code-generation` into `Code generation`."""
    return slug.replace("-", " ").strip().capitalize()


def next_version(version: str) -> str:
    """Raise the number that ends a version label: `1` -> `2`, `draft` -> `draft-2`."""
    number = re.search(r"\d+$", version)
    if number is None:
        return f"{version}-2"
    return f"{version[: number.start()]}{int(number.group()) + 1}"


def seed_taxonomy(name: str = "model-diffing") -> Taxonomy:
    """Return a taxonomy that comes with the package."""
    resource = resources.files("taxonomy").joinpath("seeds", f"{name}.yaml")
    if not resource.is_file():
        raise InputError(f"no taxonomy named {name!r} comes with the package; give a file instead")
    return parse_taxonomy(resource.read_text(encoding="utf-8"), f"seed {name}")


def parse_taxonomy(text: str, source: str) -> Taxonomy:
    """Check trusted YAML text key by key; `source` stands for the file in messages of InputError.

    Files of others are parsed within limits by their reader, which calls `taxonomy_from`.
    """
    try:
        content = yaml.load(text, Loader=UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: is no YAML: {_yaml_problem(error)}") from error
    return taxonomy_from(content, source)


def taxonomy_from(content: Any, source: str) -> Taxonomy:
    """Check the parsed content of a taxonomy file; InputError names the key that is wrong."""
    if not isinstance(content, dict):
        raise InputError(f"{source}: must hold the keys name, version and categories")
    try:
        return Taxonomy.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_problem(error, content)}") from error


class UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, of which YAML would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping after its keys were found to be distinct."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is written twice", node.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _unsorted_category() -> Category:
    return Category(
        slug=UNSORTED,
        level=1,
        name="Unsorted",
        definition="Categories that came with a file and have no place in the tree yet.",
    )


def _named(slug: str, parent: str | None) -> Category:
    """Make a category of which only the slug is known."""
    try:
        return Category.model_validate({"slug": slug, "parent": parent})
    except ValidationError as error:
        raise InputError(f"category {slug!r}: {_reason(error.errors()[0])}") from error


def _check_parent(category: Category, by_slug: dict[str, Category]) -> None:
    if category.parent is None:
        return
    parent = by_slug.get(category.parent)
    if parent is None:
        raise ValueError(f"parent {category.parent!r} of {category.slug!r} is no category; add it")
    if parent.level != 1:
        raise ValueError(
            f"parent {category.parent!r} of {category.slug!r} has a parent itself; "
            "a taxonomy has two levels"
        )


def _first_problem(error: ValidationError, content: dict[Hashable, Any]) -> str:
    """Say where the first problem lies, and next to the position the slug, if there is one."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    location = problem["loc"]
    if len(location) >= 2 and location[0] == "categories" and isinstance(location[1], int):
        row = content["categories"][location[1]]
        slug = row.get("slug") if isinstance(row, dict) else None
        where += f" (slug {slug})" if slug else ""
    return f"{where}: {_reason(problem)}" if where else _reason(problem)


def _reason(problem: ErrorDetails) -> str:
    """Put a problem found by pydantic into the words of a taxonomy file."""
    if problem["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its name"
    if problem["type"] == "missing":
        return "is missing; add it"
    return _one_line(problem["msg"].removeprefix("Value error, "))


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Say what the YAML parser stumbled over, and in which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {_one_line(str(error.problem))}"
    return _one_line(str(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())
