from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from induction_doubles import TOPICS, embed, explanations, name_by_topic, never_merge

from taxonomy.clustering import canonical_text, canonicalise, clustering_of, group_leaves
from taxonomy.errors import InputError
from taxonomy.induction import (
    InductionConfig,
    NamingPlan,
    NamingTask,
    PairTask,
    candidate_pairs,
    chosen_names,
    complete_groups,
    consolidate,
    induce,
    medoid_name,
    naming_tasks,
)
from taxonomy.proposal import extended_taxonomy, induced_taxonomy
from taxonomy.tree import Category, CategoryName, Taxonomy, unique_slug


@pytest.mark.parametrize(
    ("given_text", "canonical"),
    [
        ("This latent fires on words about cooking.", "words about cooking"),
        ("Fires on  apologies", "apologies"),
        ("The feature strongly activates when a refusal begins", "a refusal begins"),
        ("This neuron represents dates", "dates"),
        ("words about fire", "words about fire"),
        ("Fires on", "Fires on"),
        ("", ""),
    ],
)
def test_boilerplate_goes_and_content_stays(given_text: str, canonical: str) -> None:
    assert canonical_text(given_text) == canonical


@given(st.text())
def test_canonical_text_is_settled(text: str) -> None:
    once = canonical_text(text)
    assert "\n" not in once
    assert bool(once) == bool(text.split())


def test_texts_that_differ_in_case_or_boilerplate_are_one() -> None:
    found = canonicalise(["Fires on jokes", "jokes", "Jokes.", "apologies"])
    assert found.texts == ("jokes", "apologies")
    assert found.of == (0, 0, 0, 1)


def test_planted_topics_become_named_categories() -> None:
    found = induce(explanations(), embed, name_by_topic, never_merge)
    assert sorted(each.name.name for each in found.categories) == ["Cooking", "Music", "Weather"]
    assert found.left_out == ()
    assert found.coverage == 1.0
    for category in found.categories:
        texts = [explanations()[row] for row in category.members]
        assert all(category.name.name.lower() in text for text in texts)


def test_induction_is_the_same_every_time() -> None:
    first, second = (induce(explanations(), embed, name_by_topic, never_merge) for _ in range(2))
    assert first == second


def test_clusters_too_small_leave_their_texts_out() -> None:
    texts = [*explanations(), "This latent fires on comets, alone"]
    found = induce(texts, embed, name_by_topic, never_merge, InductionConfig(cluster_distance=0.6))
    assert found.left_out == (len(texts) - 1,)
    assert sum(len(each.members) for each in found.categories) == len(texts) - 1


def test_a_cluster_that_nobody_could_name_is_left_out() -> None:
    def silent(tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
        return [None for _ in tasks]

    found = induce(explanations(), embed, silent, never_merge)
    assert found.categories == ()
    assert len(found.left_out) == len(explanations())


def test_no_texts_make_no_categories() -> None:
    found = induce([], embed, name_by_topic, never_merge, InductionConfig(cluster_distance=0.5))
    assert (found.categories, found.coverage) == ((), 0.0)


def test_too_few_texts_to_sweep_say_so() -> None:
    with pytest.raises(InputError, match="too few to choose a cluster distance"):
        induce(["a", "b", "c"], embed, name_by_topic, never_merge)


def test_categories_judged_the_same_become_one_and_are_named_again() -> None:
    asked: list[NamingTask] = []

    def namer(tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
        asked.extend(tasks)
        return name_by_topic(tasks)

    def merge_all(tasks: Sequence[PairTask]) -> list[bool]:
        return [True for _ in tasks]

    config = InductionConfig(merge_similarity=-1.0)
    found = induce(explanations(), embed, namer, merge_all, config)
    assert len(found.categories) == 1
    assert len(found.categories[0].members) == len(explanations())
    assert asked[-1].size == len(set(explanations()))


def test_a_name_is_asked_for_with_members_outsiders_and_shuffled_samples() -> None:
    texts = [f"{topic} {number}" for topic in ("a", "b") for number in range(20)]
    rows = np.repeat(np.eye(2), 20, axis=0) + 0.01 * np.arange(40)[:, None]
    clustering = clustering_of(rows, np.repeat([0, 1], 20))
    plan = NamingPlan(n_samples=3, n_members=5, n_outsiders=2, seed=1)
    tasks = naming_tasks(clustering, texts, [0], plan)
    assert [task.sample for task in tasks] == [0, 1, 2]
    assert {len(task.members) for task in tasks} == {5}
    assert len({task.members for task in tasks}) == 3
    assert all(text.startswith("b") for task in tasks for text in task.outsiders)
    assert tasks == naming_tasks(clustering, texts, [0], plan)


def test_the_name_most_like_the_others_is_kept() -> None:
    names = [CategoryName("odd"), CategoryName("jokes"), CategoryName("joke")]
    vectors = {"odd": [0.0, 1.0], "jokes": [1.0, 0.1], "joke": [1.0, 0.0]}
    assert medoid_name(names, lambda texts: [vectors[text] for text in texts]).name == "jokes"


def test_a_namer_that_answers_another_number_is_refused() -> None:
    task = NamingTask(2, 0, 0, 1, ("a",), ())
    with pytest.raises(InputError, match="0 names came back for 1 questions"):
        chosen_names([task], lambda tasks: [], embed)


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Code & tests!", "code-tests"), ("Café", "cafe"), ("漢字", "category"), ("none", "none-2")],
)
def test_names_become_slugs(name: str, slug: str) -> None:
    assert unique_slug(name, ()) == slug


def test_a_taken_slug_gets_a_number() -> None:
    assert unique_slug("Jokes", {"jokes", "jokes-2"}) == "jokes-3"


def test_chains_do_not_form() -> None:
    """a is like b and b like c, but a is not like c: complete linkage keeps c apart."""
    assert complete_groups(3, {(0, 1): 0.9, (1, 2): 0.8}) == [(0, 1), (2,)]
    everything = {(0, 1): 0.9, (1, 2): 0.8, (0, 2): 0.7}
    assert complete_groups(3, everything) == [(0, 1, 2)]


@given(
    st.integers(1, 7).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.dictionaries(
                st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(
                    lambda pair: pair[0] < pair[1]
                ),
                st.floats(0, 1),
            ),
        )
    )
)
def test_groups_are_a_partition_of_judged_pairs(given: tuple[int, dict]) -> None:
    n, same = given
    groups = complete_groups(n, same)
    assert sorted(number for group in groups for number in group) == list(range(n))
    for group in groups:
        assert all((a, b) in same for a in group for b in group if a < b)


def test_only_likely_pairs_are_asked_about() -> None:
    vectors = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]
    assert list(candidate_pairs(vectors, least_similarity=0.5)) == [(0, 1)]
    asked: list[PairTask] = []

    def merging(tasks: Sequence[PairTask]) -> list[bool]:
        asked.extend(tasks)
        return [True] * len(tasks)

    names = [CategoryName(name) for name in "abc"]
    groups = consolidate(names, [("x",)] * 3, vectors, merging, least_similarity=0.5)
    assert groups == [(0, 1), (2,)]
    assert [(task.first.name, task.second.name) for task in asked] == [("a", "b")]


def test_leaves_are_grouped_where_groups_are_there() -> None:
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 12), 4, axis=0)
    labels = group_leaves(centres + 0.05 * generator.normal(size=centres.shape))
    assert labels is not None
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert group_leaves(np.eye(4)) is None


def test_an_induced_taxonomy_has_examples_as_prototypes() -> None:
    found = induce(explanations(), embed, name_by_topic, never_merge)
    made = induced_taxonomy(found, "mine")
    assert set(made.slugs) == set(TOPICS)
    assert all(len(category.prototypes) == 6 for category in made.leaves())


def test_an_extended_taxonomy_keeps_the_old_categories_and_their_level() -> None:
    found = induce(explanations(), embed, name_by_topic, never_merge)
    flat = Taxonomy(name="t", version="1", categories=(Category(slug="music"),))
    extended = extended_taxonomy(flat, found)
    assert (extended.version, extended.slugs[0]) == ("2", "music")
    assert all(category.level == 1 for category in extended.categories)
    assert "music-2" in extended
    deep = Taxonomy(
        name="t", version="1", categories=(Category(slug="a"), Category(slug="b", parent="a"))
    )
    assert all(
        category.parent == "induced" for category in extended_taxonomy(deep, found).leaves()[1:]
    )
