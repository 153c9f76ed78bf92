"""Which comparisons a study shows follows from study.toml, whatever the database went through."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.store.comparisons import StudyComparisons, study_comparisons
from labeler.store.engine import read_session, write_session
from labeler.store.judging import get_or_create_judge
from labeler.store.latents import (
    create_latent_set,
    ensure_comparison,
    ensure_comparison_setting,
    get_or_create_crosscoder,
    get_or_create_subject_model,
)
from labeler.store.runs import begin_run
from labeler.store.taxonomies import ensure_taxonomy_version
from taxonomy.tree import Category, Taxonomy

TREE = Taxonomy(name="t", version="1", categories=(Category(slug="a", level=1, name="A"),))


@dataclass(frozen=True)
class Named:
    """A `[[comparison]]`."""

    name: str
    target: str = "tuned"
    reference: str = "base"
    against: str | None = None


def add(
    session: Session,
    name: str,
    rule: str = "strict",
    target: str = "tuned",
    reference: str = "base",
    labelled: bool = True,
) -> None:
    run_id = begin_run(session, "isolate", {})
    models = [get_or_create_subject_model(session, one, one * 8) for one in (target, reference)]
    crosscoder = get_or_create_crosscoder(session, "cc")
    is_imported = rule == "imported"
    sets = [
        create_latent_set(
            session,
            f"{name}/{side}",
            rule,
            run_id,
            crosscoder_id=None if is_imported else crosscoder.id,
            target_model_id=None if is_imported else own.id,
            against_model_id=None if is_imported else other.id,
        )
        for side, own, other in (
            ("target", models[0], models[1]),
            ("reference", models[1], models[0]),
        )
    ]
    comparison = ensure_comparison(session, name, sets[0].id, sets[1].id)
    if labelled:
        version = ensure_taxonomy_version(session, TREE)
        judge = get_or_create_judge(session, "j", "j", "evidence")
        ensure_comparison_setting(session, comparison.id, version.id, judge.id)


def found(engine: Engine, *named: Named) -> StudyComparisons:
    with read_session(engine) as session:
        return study_comparisons(session, named)


def names(of_study: StudyComparisons) -> tuple[list[str], list[str], list[str]]:
    return (
        [row.name for row in of_study.shown],
        [one.name for one in of_study.absent],
        [one.name for one in of_study.retired],
    )


@pytest.fixture
def filled(sqlite_engine: Engine) -> Engine:
    """Four comparisons, in an order that is neither that of study.toml nor by name."""
    with write_session(sqlite_engine) as session:
        for name, rule in (("m", "strict"), ("z", "imported"), ("b", "strict"), ("c", "imported")):
            add(session, name, rule)
    return sqlite_engine


@pytest.mark.parametrize(
    ("named", "shown", "absent", "retired"),
    [
        pytest.param("bm", "bmcz", "", "", id="order-of-the-file-then-imports-by-name"),
        pytest.param("mb", "mbcz", "", "", id="other-order"),
        pytest.param("m", "mcz", "", "b", id="removed"),
        pytest.param("xb", "bcz", "x", "m", id="renamed"),
        pytest.param("zm", "zmc", "", "b", id="an-import-that-is-named-takes-its-place"),
        pytest.param("", "cz", "", "bm", id="nothing-named"),
    ],
)
def test_the_config_decides_what_is_shown(
    filled: Engine, named: str, shown: str, absent: str, retired: str
) -> None:
    assert names(found(filled, *map(Named, named))) == (list(shown), list(absent), list(retired))


def test_the_order_does_not_depend_on_when_comparisons_were_made(sqlite_engine: Engine) -> None:
    orders = set()
    for order in permutations(("a", "b", "c")):
        with write_session(sqlite_engine) as session:
            for name in order:
                add(session, name, "imported" if name == "c" else "strict")
        orders.add(tuple(names(found(sqlite_engine, Named("b"), Named("a")))[0]))
    assert orders == {("b", "a", "c")}


def test_a_removed_comparison_that_comes_back_is_shown_again(filled: Engine) -> None:
    assert names(found(filled, Named("b")))[2] == ["m"]
    assert names(found(filled, Named("b"), Named("m"))) == (["b", "m", "c", "z"], [], [])


@pytest.mark.parametrize(
    "changed",
    [
        Named("m", target="base", reference="tuned"),
        Named("m", target="other"),
        Named("m", against="root"),
    ],
)
def test_other_models_under_the_same_name_are_not_shown_as_the_new_ones(
    filled: Engine, changed: Named
) -> None:
    of_study = found(filled, changed, Named("b"))
    assert names(of_study) == (["b", "c", "z"], ["m"], [])
    assert of_study.absent[0].reason == (
        "the database still holds tuned (against base) and base (against tuned) under this name"
    )
    with write_session(filled) as session:
        add(session, "n", labelled=False)
    waiting = found(filled, Named("n"))
    assert waiting.absent[0].reason == "not labelled yet"
    assert [row.name for row in waiting.present] == ["n", "c", "z"]


def test_without_a_study_file_everything_is_shown_by_name(filled: Engine) -> None:
    with read_session(filled) as session:
        assert names(study_comparisons(session, None)) == (["b", "c", "m", "z"], [], [])


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ((), "the database holds m, which study.toml does not name; add a [[comparison]]"),
        ((Named("x"),), "x: not isolated yet; `difflens run` makes them"),
    ],
)
def test_a_study_with_nothing_to_show_says_why(
    sqlite_engine: Engine, named: tuple[Named, ...], words: str
) -> None:
    assert "`difflens import` brings labels" in found(sqlite_engine).why_none
    with write_session(sqlite_engine) as session:
        add(session, "m")
    assert words in found(sqlite_engine, *named).why_none
