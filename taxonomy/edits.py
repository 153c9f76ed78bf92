"""What a person does to a taxonomy, and what became of every category of the version before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from taxonomy.errors import InputError
from taxonomy.tree import Category, Taxonomy, next_version, title_of

ChangeKind = Literal["same", "renamed", "merged", "split", "moved", "dropped"]
CARRIED: frozenset[str] = frozenset({"same", "renamed", "merged", "moved"})
"""Kinds under which a label of the old category is one of the new; the others need a new look."""
MOST_PROTOTYPES = 12


@dataclass(frozen=True)
class CategoryEdit:
    """What became of one category; `to` holds one slug, several for a split, none for a drop."""

    kind: ChangeKind
    slug: str
    to: tuple[str, ...] = ()

    @property
    def carries(self) -> bool:
        """Whether labels of the old category stay labels."""
        return self.kind in CARRIED


@dataclass(frozen=True)
class Edit:
    """A new version, and what became of every category of the old one, in its order."""

    taxonomy: Taxonomy
    changes: tuple[CategoryEdit, ...]

    @property
    def added(self) -> tuple[str, ...]:
        """Slugs of the new version that no category of the old one became."""
        reached = {slug for change in self.changes for slug in change.to}
        return tuple(slug for slug in self.taxonomy.slugs if slug not in reached)


def rename(taxonomy: Taxonomy, slug: str, new_slug: str, name: str | None = None) -> Edit:
    """Give a category another slug, and a title: `name`, else one made of the slug."""
    old = taxonomy.get(slug)
    if slug == new_slug and name in (None, old.name):
        raise InputError(f"{slug!r} has that name already")
    _refuse_taken(taxonomy, new_slug, besides=(slug,))
    title = name or (old.name if slug == new_slug else title_of(new_slug))
    renamed = _make_category({**old.model_dump(), "slug": new_slug, "name": title})
    categories = [
        renamed if each.slug == slug else _under(each, {slug: new_slug})
        for each in taxonomy.categories
    ]
    return edited(taxonomy, categories, [CategoryEdit("renamed", slug, (new_slug,))])


def merge(taxonomy: Taxonomy, slugs: Sequence[str], into: str) -> Edit:
    """Make one category of several of the same level; `into` is one of them or a new slug."""
    sources = [taxonomy.get(slug) for slug in dict.fromkeys(slugs)]
    if into in taxonomy and into not in slugs:
        sources.insert(0, taxonomy.get(into))
    if len(sources) < 2:
        raise InputError("merge needs two different categories or more")
    _require_alike(taxonomy, sources)
    first = next((each for each in sources if each.slug == into), sources[0])
    others = [each for each in sources if each is not first]
    name = first.name if first.slug == into else title_of(into)
    merged = _make_category(
        {
            **first.model_dump(),
            "slug": into,
            "name": name,
            "definition": _join(first.definition, [each.definition for each in others]),
            "include_when": _join(first.include_when, [each.include_when for each in others]),
            "prototypes": _interleave([first, *others]),
            "behaviour": _join(first.behaviour, [each.behaviour for each in others]),
        }
    )
    gone = {each.slug: into for each in sources}
    categories: list[Category] = []
    for each in taxonomy.categories:
        if each is first:
            categories.append(merged)
        elif each.slug not in gone:
            categories.append(_under(each, gone))
    changes = [CategoryEdit("merged", each.slug, (into,)) for each in sources]
    return edited(taxonomy, categories, changes)


def split(taxonomy: Taxonomy, slug: str, into: Sequence[str]) -> Edit:
    """Put several categories in the place of a leaf; they need definitions before they are used.

    One of them may keep the slug. All labels of the old category need a new look.
    """
    old = taxonomy.get(slug)
    if taxonomy.children(slug):
        raise InputError(f"{slug!r} has categories under it; split one of those")
    parts = list(dict.fromkeys(into))
    if len(parts) < 2:
        raise InputError(f"split {slug!r} into two different categories or more")
    for part in parts:
        _refuse_taken(taxonomy, part, besides=(slug,))
    made = [
        _make_category({"slug": part, "parent": old.parent}) if part != slug else old
        for part in parts
    ]
    categories: list[Category] = []
    for each in taxonomy.categories:
        categories += made if each.slug == slug else [each]
    return edited(taxonomy, categories, [CategoryEdit("split", slug, tuple(parts))])


def edited(
    old: Taxonomy, categories: Sequence[Category], declared: Sequence[CategoryEdit] = ()
) -> Edit:
    """The version after `old` with these categories, and what the declared changes make of it."""
    new = Taxonomy(name=old.name, version=next_version(old.version), categories=tuple(categories))
    return Edit(new, changes_between(old, new, declared))


def changes_between(
    old: Taxonomy, new: Taxonomy, declared: Sequence[CategoryEdit] = ()
) -> tuple[CategoryEdit, ...]:
    """What became of every category of `old`, in its order.

    A category whose slug is kept is the same one, or moved where its parent is another. What
    became of the others has to be declared. Raises InputError for a category that is not there,
    one that is spoken of twice, and one that is gone without a word.
    """
    spoken: dict[str, CategoryEdit] = {}
    for change in declared:
        _check(change, old, new)
        if change.slug in spoken:
            raise InputError(f"changes: {change.slug!r} is spoken of twice; keep one")
        spoken[change.slug] = change
    parents = {
        slug: change.to[0] for slug, change in spoken.items() if change.carries and change.to
    }
    found = []
    for category in old.categories:
        known = spoken.get(category.slug)
        found.append(known if known is not None else _kept(category, new, parents))
    return tuple(found)


def followed_by(first: Edit, second: Edit) -> Edit:
    """Two edits as one: what became of the first version's categories in the last."""
    later = {change.slug: change for change in second.changes}
    found = []
    for change in first.changes:
        steps = [later[slug] for slug in change.to]
        to = tuple(dict.fromkeys(slug for step in steps for slug in step.to))
        found.append(CategoryEdit(_joint_kind(change, steps, to), change.slug, to))
    return Edit(second.taxonomy, tuple(found))


def _joint_kind(
    change: CategoryEdit, steps: Sequence[CategoryEdit], to: Sequence[str]
) -> ChangeKind:
    """The step that weighs most: a split or drop anywhere, else a merge, a new name, a move."""
    kinds = {change.kind, *(step.kind for step in steps)}
    if not to:
        return "dropped"
    if not kinds <= CARRIED:
        return "split"
    if kinds == {"renamed", "same"} and to == (change.slug,):
        return "same"
    weights: tuple[ChangeKind, ...] = ("merged", "renamed", "moved")
    return next((kind for kind in weights if kind in kinds), "same")


def reworded(old: Category, new: Category) -> bool:
    """Whether the words changed by which a judge tells what belongs."""
    meaning = ("definition", "include_when", "exclude_when")
    return any(getattr(old, key).strip() != getattr(new, key).strip() for key in meaning)


def _kept(category: Category, new: Taxonomy, parents: Mapping[str, str]) -> CategoryEdit:
    slug = category.slug
    if slug not in new:
        raise InputError(
            f"changes: {slug!r} is gone and nothing says what became of it; add "
            f"{{kind: dropped, from: {slug}}}, or renamed, merged or split with its `to`"
        )
    above = category.parent
    expected = None if above is None else parents.get(above, above)
    is_same = new.get(slug).parent == expected
    return CategoryEdit("same" if is_same else "moved", slug, (slug,))


def _check(change: CategoryEdit, old: Taxonomy, new: Taxonomy) -> None:
    old.get(change.slug)
    for slug in change.to:
        new.get(slug)
    stays = change.slug in new and change.slug not in change.to
    if stays and change.kind in ("renamed", "merged", "moved"):
        raise InputError(
            f"changes: {change.slug!r} is {change.kind} and still there; take it out of "
            "`categories`, or out of `changes`"
        )
    wanted = {"dropped": len(change.to) == 0, "split": len(change.to) >= 2}
    if not wanted.get(change.kind, len(change.to) == 1):
        need = {"dropped": "no `to`", "split": "two slugs or more in `to`"}
        raise InputError(
            f"changes: {change.kind} of {change.slug!r} needs "
            f"{need.get(change.kind, 'one slug in `to`')}"
        )
    if change.kind == "dropped" and change.slug in new:
        raise InputError(f"changes: {change.slug!r} is dropped and still there; remove one of both")


def _refuse_taken(taxonomy: Taxonomy, slug: str, besides: Sequence[str]) -> None:
    if slug in taxonomy and slug not in besides:
        raise InputError(f"{slug!r} is a category already; choose another slug, or merge the two")


def _require_alike(taxonomy: Taxonomy, sources: Sequence[Category]) -> None:
    kinds = {bool(taxonomy.children(each.slug)) for each in sources}
    if len(kinds) > 1 or (kinds == {True} and len({each.level for each in sources}) > 1):
        names = ", ".join(repr(each.slug) for each in sources)
        raise InputError(f"{names}: a category can not be merged with one that lies above others")


def _under(category: Category, new_parents: Mapping[str, str]) -> Category:
    parent = new_parents.get(category.parent or "")
    return category if parent is None else category.model_copy(update={"parent": parent})


def _make_category(content: Mapping[str, object]) -> Category:
    try:
        return Category.model_validate(dict(content))
    except ValueError as error:
        words = str(error).splitlines()
        reason = next((line for line in words if "Value error, " in line), words[-1])
        raise InputError(reason.split("Value error, ")[-1].split(" [type=")[0].strip()) from error


def _join(first: str, others: Sequence[str]) -> str:
    return " ".join(text for text in dict.fromkeys([first, *others]) if text)


def _interleave(categories: Sequence[Category]) -> tuple[str, ...]:
    """Prototypes of all, one of each in turn, so that a limit leaves some of every category."""
    longest = max(len(each.prototypes) for each in categories)
    in_turn = [
        each.prototypes[row]
        for row in range(longest)
        for each in categories
        if row < len(each.prototypes)
    ]
    return tuple(dict.fromkeys(in_turn))[:MOST_PROTOTYPES]
