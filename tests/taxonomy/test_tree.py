from __future__ import annotations

import hashlib
import json
import re

import pytest
from pydantic import ValidationError

from taxonomy.errors import InputError
from taxonomy.tree import Category, Taxonomy, next_version, parse_taxonomy, seed_taxonomy

REPORTED_LEAVES = {
    "safety",
    "multilingual",
    "instruction-following",
    "factual-verification",
    "hallucination",
    "self-reference",
    "query-classification",
    "structured-output",
    "code-generation",
}

SMALL = """
name: small
version: 1
categories:
  - {slug: animals, definition: Living things.}
  - {slug: cats, parent: animals, prototypes: [a cat purrs]}
  - {slug: dogs, parent: animals, level: 2, name: Hounds}
  - {slug: weather}
"""


def small() -> Taxonomy:
    return parse_taxonomy(SMALL, "small.yaml")


def file_of(row: str) -> str:
    return f"name: n\nversion: 1\ncategories:\n  - {{slug: a}}\n  - {row}\n"


def test_the_seed_has_every_category_of_the_published_table() -> None:
    seed = seed_taxonomy()
    assert {leaf.slug for leaf in seed.leaves()} >= REPORTED_LEAVES
    technical = seed.get("technical")
    assert technical.level == 1
    assert {child.slug for child in seed.children("technical")} >= {
        "code-generation",
        "mathematics",
        "technical-explanation",
    }
    assert seed.get("structured-output").parent != "technical"


def test_every_leaf_of_the_seed_can_be_applied() -> None:
    seed = seed_taxonomy()
    for leaf in seed.leaves():
        assert leaf.level == 2
        assert leaf.definition
        assert leaf.include_when
        assert leaf.exclude_when
        assert 3 <= len(leaf.prototypes) <= 6
    for root in (category for category in seed.categories if category.parent is None):
        assert root.definition
        assert len(seed.children(root.slug)) >= 2


def test_no_prototype_of_the_seed_belongs_to_two_leaves() -> None:
    prototypes = [text for leaf in seed_taxonomy().leaves() for text in leaf.prototypes]
    assert len(prototypes) == len(set(prototypes))


def test_references_to_other_slugs_in_the_seed_exist() -> None:
    seed = seed_taxonomy()
    for leaf in seed.leaves():
        for named in leaf.exclude_when.split("(")[1:]:
            assert named.split(")")[0] in seed


def test_an_unknown_seed_is_refused() -> None:
    with pytest.raises(InputError, match="no taxonomy named 'other'"):
        seed_taxonomy("other")


def test_level_and_name_follow_from_slug_and_parent() -> None:
    tree = small()
    assert tree.version == "1"
    assert (tree.get("cats").level, tree.get("cats").name) == (2, "Cats")
    assert (tree.get("animals").level, tree.get("dogs").name) == (1, "Hounds")
    assert tree.get("animals").description == "Animals: Living things."
    assert tree.get("cats").description == "Cats"


def test_leaves_are_the_categories_without_children() -> None:
    tree = small()
    assert [leaf.slug for leaf in tree.leaves()] == ["cats", "dogs", "weather"]
    assert [child.slug for child in tree.children("animals")] == ["cats", "dogs"]
    assert tree.children("cats") == ()
    assert tree.slugs == ("animals", "cats", "dogs", "weather")


def test_an_unknown_slug_names_the_nearest() -> None:
    assert small().nearest_slug("wether") == "weather"
    assert seed_taxonomy().nearest_slug("Code Generation") == "code-generation"
    assert seed_taxonomy().nearest_slug("halucination") == "hallucination"


def test_a_slug_that_is_not_near_is_not_suggested() -> None:
    assert seed_taxonomy().nearest_hint("halucination") == "the nearest is 'hallucination'"
    for text in ("nosuch", "#NAME?", "zzz"):
        hint = seed_taxonomy().nearest_hint(text)
        assert hint.startswith("there are ")
        assert re.search(r" and \d+ more$", hint)
    assert "catz" not in small()
    with pytest.raises(InputError, match="no category 'catz'; the nearest is 'cats'"):
        small().get("catz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (file_of("{slug: b, colour: red}"), r"categories\.1\.colour \(slug b\): unknown key"),
        (file_of("{slug: a}"), "slug 'a' occurs twice"),
        (file_of("{slug: b, parent: c}"), "parent 'c' of 'b' is no category"),
        (file_of("{slug: b, level: 2}"), "level 2 of 'b' contradicts no parent"),
        (file_of("{slug: b, parent: a, level: 1}"), "contradicts parent 'a'"),
        (file_of("{slug: b, level: 3}"), r"categories\.1\.level \(slug b\)"),
        (file_of("{slug: none}"), "'none' is an outcome"),
        (file_of("{slug: uninterpretable}"), "'uninterpretable' is an outcome"),
        (file_of("{slug: Not a slug}"), "'Not a slug' is no slug"),
        (file_of("{slug: a--b}"), "'a--b' is no slug"),
        (file_of("{slug: no}"), r"categories\.1\.slug: .*string"),
        (file_of("{name: b}"), r"categories\.1\.slug: is missing"),
        (file_of("{slug: b, parent: a}\n  - {slug: c, parent: b}"), "has two levels"),
        (file_of("{slug: b, slug: c}"), "line 5: key 'slug' is written twice"),
        (file_of("7"), r"categories\.1: "),
        ("name: n\nversion: 1\ncategories: []", "categories: "),
        ("name: n\ncategories: [{slug: a}]", "version: is missing"),
        ("name: n\nversion: 1\ncategories: [{slug: a}]\nextra: 1", "extra: unknown key"),
        ("- a", "must hold the keys name, version and categories"),
        ("", "must hold the keys name, version and categories"),
        ("name: [", "is no YAML: line 1"),
    ],
)
def test_a_wrong_file_gets_one_line_that_names_file_and_key(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_taxonomy(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_taxonomy_can_not_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        small().get("cats").name = "Lions"  # type: ignore[misc]


def test_the_hash_follows_the_content_and_not_the_order() -> None:
    tree = small()
    turned = Taxonomy(name="small", version="1", categories=tree.categories[::-1])
    assert turned.sha256() == tree.sha256() == small().sha256()
    assert len(tree.sha256()) == 64
    renamed = Taxonomy(
        name="small",
        version="1",
        categories=(*tree.categories[:-1], Category(slug="weather", level=1, name="Climate")),
    )
    assert renamed.sha256() != tree.sha256()
    assert tree.sha256() != Taxonomy(name="small", version="2", categories=tree.categories).sha256()


def test_added_slugs_come_under_unsorted_in_a_new_version() -> None:
    tree = small()
    grown = tree.with_added(["birds", "cats", "fish", "birds"])
    assert (tree.version, grown.version) == ("1", "2")
    assert grown.slugs == (*tree.slugs, "unsorted", "birds", "fish")
    assert grown.get("birds").parent == "unsorted"
    assert grown.get("unsorted").level == 1
    again = grown.with_added(["mice"])
    assert (again.version, again.slugs) == ("3", (*grown.slugs, "mice"))


def test_added_slugs_can_be_given_a_parent() -> None:
    assert small().with_added(["birds"], parent="animals").get("birds").parent == "animals"
    with pytest.raises(InputError, match="no category 'animal'; the nearest is 'animals'"):
        small().with_added(["birds"], parent="animal")


def test_a_taxonomy_of_one_level_grows_on_that_level() -> None:
    flat = parse_taxonomy("name: flat\nversion: v1\ncategories: [{slug: a}]", "flat.yaml")
    grown = flat.with_added(["b"])
    assert (grown.version, grown.get("b").level) == ("v2", 1)


def test_nothing_to_add_gives_the_same_version() -> None:
    tree = small()
    assert tree.with_added(["cats"]) is tree
    assert tree.with_added([]) is tree


@pytest.mark.parametrize("slug", ["none", "Not a slug", ""])
def test_a_slug_that_can_not_be_one_is_not_added(slug: str) -> None:
    with pytest.raises(InputError, match=f"category '{slug}': "):
        small().with_added([slug])


@pytest.mark.parametrize(
    ("version", "following"), [("1", "2"), ("v1.9", "v1.10"), ("draft", "draft-2")]
)
def test_versions_count_up(version: str, following: str) -> None:
    assert next_version(version) == following


def test_behaviour_is_part_of_the_version_and_older_hashes_stay() -> None:
    tree = small()
    plain = tree.categories[0]
    described = plain.model_copy(update={"behaviour": "The answer mews."})
    changed = Taxonomy(name="small", version="1", categories=(described, *tree.categories[1:]))
    assert changed.sha256() != tree.sha256()
    content = tree.model_dump(mode="json")
    content["categories"].sort(key=lambda category: category["slug"])
    for category in content["categories"]:
        del category["behaviour"]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert tree.sha256() == hashlib.sha256(text.encode()).hexdigest()
