from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from taxonomy.edits import CategoryEdit, changes_between, merge, rename, reworded, split
from taxonomy.errors import InputError
from taxonomy.proposal import Proposal, follow, proposal_from, proposal_text, taxonomy_text
from taxonomy.tree import Category, Taxonomy, seed_taxonomy, taxonomy_from

TREE = Taxonomy(
    name="small",
    version="1",
    categories=(
        Category(slug="behaviour", name="Behaviour"),
        Category(slug="safety", parent="behaviour", definition="Refusals.", prototypes=("no",)),
        Category(slug="humour", parent="behaviour", definition="Jokes.", prototypes=("ha", "hi")),
        Category(slug="form", name="Form"),
        Category(slug="lists", parent="form"),
    ),
)


def kinds(changes: tuple[CategoryEdit, ...]) -> dict[str, str]:
    return {change.slug: change.kind for change in changes}


def test_a_rename_keeps_everything_but_the_name() -> None:
    edit = rename(TREE, "humour", "jokes")
    assert edit.taxonomy.slugs == ("behaviour", "safety", "jokes", "form", "lists")
    assert (edit.taxonomy.version, edit.taxonomy.get("jokes").definition) == ("2", "Jokes.")
    assert kinds(edit.changes)["humour"] == "renamed"


def test_renaming_a_parent_moves_no_child() -> None:
    edit = rename(TREE, "behaviour", "conduct")
    assert edit.taxonomy.get("safety").parent == "conduct"
    assert kinds(edit.changes)["safety"] == "same"


def test_a_merge_joins_words_and_prototypes() -> None:
    edit = merge(TREE, ["safety", "humour"], "safety")
    merged = edit.taxonomy.get("safety")
    assert merged.definition == "Refusals. Jokes."
    assert merged.prototypes == ("no", "ha", "hi")
    assert kinds(edit.changes) == {
        "behaviour": "same", "safety": "merged", "humour": "merged", "form": "same",
        "lists": "same",
    }  # fmt: skip


def test_a_merge_may_have_a_new_name_and_cross_parents() -> None:
    edit = merge(TREE, ["lists", "humour"], "fun")
    assert edit.taxonomy.get("fun").parent == "form"
    assert edit.taxonomy.slugs == ("behaviour", "safety", "form", "fun")


def test_merged_parents_take_their_children_along() -> None:
    edit = merge(TREE, ["behaviour", "form"], "all")
    assert {category.parent for category in edit.taxonomy.leaves()} == {"all"}
    assert kinds(edit.changes)["lists"] == "same"


def test_a_split_sends_labels_back_and_may_keep_the_slug() -> None:
    edit = split(TREE, "humour", ["humour", "puns"])
    assert edit.taxonomy.slugs == ("behaviour", "safety", "humour", "puns", "form", "lists")
    assert next(c for c in edit.changes if c.slug == "humour").carries is False


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda: rename(TREE, "humor", "x"), "the nearest is 'humour'"),
        (lambda: rename(TREE, "humour", "safety"), "is a category already"),
        (lambda: rename(TREE, "humour", "humour"), "has that name already"),
        (lambda: rename(TREE, "humour", "No Slug"), "is no slug"),
        (lambda: rename(TREE, "humour", "none"), "is an outcome"),
        (lambda: merge(TREE, ["humour"], "humour"), "two different categories"),
        (lambda: merge(TREE, ["humour", "form"], "x"), "can not be merged"),
        (lambda: split(TREE, "form", ["a", "b"]), "split one of those"),
        (lambda: split(TREE, "humour", ["a"]), "two different categories"),
        (lambda: split(TREE, "humour", ["a", "lists"]), "is a category already"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(edit: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        edit()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_every_category_is_accounted_for() -> None:
    without = Taxonomy(name="small", version="2", categories=TREE.categories[:-1])
    with pytest.raises(InputError, match="'lists' is gone and nothing says"):
        changes_between(TREE, without)
    changes = changes_between(TREE, without, [CategoryEdit("dropped", "lists")])
    assert kinds(changes)["lists"] == "dropped"
    with pytest.raises(InputError, match="dropped and still there"):
        changes_between(TREE, TREE, [CategoryEdit("dropped", "lists")])
    with pytest.raises(InputError, match="needs one slug"):
        changes_between(TREE, without, [CategoryEdit("renamed", "lists")])


def test_another_parent_is_a_move_and_other_words_are_seen() -> None:
    moved = TREE.get("lists").model_copy(update={"parent": "behaviour", "definition": "New."})
    new = Taxonomy(name="small", version="2", categories=(*TREE.categories[:-1], moved))
    assert kinds(changes_between(TREE, new))["lists"] == "moved"
    assert reworded(TREE.get("lists"), moved)
    assert not reworded(TREE.get("lists"), TREE.get("lists"))


def load_proposal(path: Path) -> Proposal:
    return proposal_from(yaml.safe_load(path.read_text()), str(path))


def test_a_taxonomy_is_written_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "seed.yaml"
    path.write_text(taxonomy_text(seed_taxonomy(), {"safety": ["a note: with a colon"]}))
    assert taxonomy_from(yaml.safe_load(path.read_text()), "seed.yaml") == seed_taxonomy()


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1)


@pytest.mark.slow
@given(TEXTS.filter(lambda text: text.strip() != ""), TEXTS, st.lists(TEXTS, max_size=2))
def test_any_words_survive_the_file(name: str, definition: str, prototypes: list[str]) -> None:
    import yaml

    tree = Taxonomy(
        name="t",
        version="1",
        categories=(
            Category(slug="on", name=name, definition=definition, prototypes=tuple(prototypes)),
        ),
    )
    assert Taxonomy.model_validate(yaml.safe_load(taxonomy_text(tree))) == tree


def test_a_proposal_says_what_it_follows_and_what_changed(tmp_path: Path) -> None:
    edit = merge(TREE, ["safety", "humour"], "safety")
    proposal = Proposal(
        taxonomy=edit.taxonomy,
        based_on=follow(TREE),
        changes=({"kind": "merged", "from": ["safety", "humour"], "to": "safety"},),  # type: ignore[arg-type]
    )
    path = tmp_path / "proposal.yaml"
    path.write_text(proposal_text(proposal, "difflens taxonomy accept study.toml proposal.yaml"))
    read = load_proposal(path)
    assert read == proposal
    assert read.edit_of(TREE) == edit


def test_a_wrong_change_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(taxonomy_text(TREE) + "changes: [{kind: eaten, from: lists}]\n")
    with pytest.raises(InputError, match=r"changes\.0\.kind"):
        load_proposal(path)
    path.write_text(taxonomy_text(TREE) + "changes: [{kind: dropped, from: listz}]\n")
    with pytest.raises(InputError, match="nearest is 'lists'"):
        load_proposal(path).edit_of(TREE)
