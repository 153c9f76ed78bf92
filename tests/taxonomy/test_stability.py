from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taxonomy.stability import (
    Rerun,
    category_stability,
    change_signs,
    jaccards,
    renamed_clusters,
    summarise_rerun,
)

PARENTS = {"form": None, "lists": "form", "humour": None}
REFERENCE = ("lists", "lists", "humour", "none", "lists", "humour", "humour", None)
IS_TARGET = (True, True, True, True, False, False, False, False)


def rerun(labels: tuple[str | None, ...], clusters: bool = False) -> Rerun:
    return Rerun("subsample", "seed 0", labels, (1,) * len(labels), not clusters)


def test_the_same_labels_agree_wholly() -> None:
    summary = summarise_rerun(REFERENCE, rerun(REFERENCE))
    assert (summary.n, summary.ami, summary.ari) == (7, pytest.approx(1), 1)
    assert (summary.coverage, summary.overlap) == (6 / 7, 1)
    assert jaccards(REFERENCE, rerun(REFERENCE)) == {"lists": 1.0, "humour": 1.0}


def test_clusters_are_matched_by_what_they_share() -> None:
    labels = ("7", "7", "3", "3", "7", "3", "7", "9")
    found = rerun(labels, clusters=True)
    assert jaccards(REFERENCE, found) == {"lists": 3 / 4, "humour": 2 / 4}
    assert renamed_clusters(REFERENCE, found)[:4] == ("lists", "lists", "humour", "humour")
    assert renamed_clusters(REFERENCE, found)[7] == "cluster 9"


def test_a_category_that_never_comes_back_has_nothing_in_common() -> None:
    assert jaccards(REFERENCE, rerun(("none",) * 8)) == {"lists": 0.0, "humour": 0.0}


def test_signs_use_shares_of_the_labelled_and_count_children_for_parents() -> None:
    """Target 4 labelled: lists 2, humour 1; reference 3 labelled: lists 1, humour 2."""
    assert change_signs(REFERENCE, IS_TARGET, PARENTS) == {"form": 1, "lists": 1, "humour": -1}
    assert change_signs(("humour", "humour"), (True, False), PARENTS) == {
        "form": None, "lists": None, "humour": 0,
    }  # fmt: skip


def test_sign_stability_is_the_share_of_defined_reruns_with_the_reported_sign() -> None:
    other = ("humour", "lists", "humour", "none", "lists", "lists", "humour", None)
    rows = {
        row.category: row
        for row in category_stability(
            REFERENCE, [rerun(REFERENCE), rerun(other)], IS_TARGET, PARENTS
        )
    }
    assert (rows["humour"].same_sign, rows["humour"].n_signed) == (1, 2)
    assert rows["humour"].sign_stability == 0.5
    assert rows["humour"].is_unstable
    assert rows["form"].jaccard_mean is None


@given(st.lists(st.sampled_from(["lists", "humour", "none", None]), min_size=8, max_size=8))
def test_jaccards_lie_between_0_and_1_and_are_1_for_itself(labels: list[str | None]) -> None:
    values = jaccards(REFERENCE, rerun(tuple(labels)))
    assert all(0 <= value <= 1 for value in values.values())
    own = jaccards(tuple(labels), rerun(tuple(labels)))
    assert all(value == 1 for value in own.values())
