from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from published_table import COMPARISON, COUNTS, PUBLISHED, TECHNICAL, TOTALS, write_table
from sqlalchemy import Engine, func, select, text

from labeler.errors import UsageError
from labeler.exchange.latents_import import import_latents
from labeler.store.engine import read_session, write_session
from labeler.store.latents import (
    add_latents,
    create_latent_set,
    current_setting,
    ensure_comparison,
    find_comparison,
    get_or_create_crosscoder,
)
from labeler.store.query.query import run_query
from labeler.store.runs import begin_run
from labeler.store.schema import metadata
from taxonomy.tree import Category, Taxonomy, seed_taxonomy

HEADER = "comparison,side,latent_index,explanation,category"
SMALL = Taxonomy(
    name="small",
    version="1",
    categories=(
        Category(slug="behaviour", level=1, name="Behaviour"),
        Category(slug="safety", parent="behaviour", level=2, name="Safety"),
        Category(slug="humour", parent="behaviour", level=2, name="Humour"),
    ),
)


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    file = path / "latents.csv"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


def counts(engine: Engine) -> dict[str, int]:
    with read_session(engine) as session:
        return {
            table.name: session.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }


def effective(engine: Engine, columns: str = "side, latent_index, category") -> list[Any]:
    with read_session(engine) as session:
        rows = session.execute(
            text(f"SELECT {columns} FROM v_effective_label ORDER BY side DESC, latent_index")
        )
        return [tuple(row) for row in rows]


def change(engine: Engine, category: str) -> Sequence[Any]:
    with read_session(engine) as session:
        return session.execute(
            text(
                "SELECT target_count, target_total, reference_count, reference_total,"
                " percent_change FROM v_category_change WHERE category = :category"
            ),
            {"category": category},
        ).one()


def test_the_published_table_comes_out_to_the_decimal(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    file = write_table(tmp_path / "latents.csv", "mathematics")
    result = import_latents(engine, file, seed_taxonomy())
    assert result.n_new_labels == sum(TOTALS.values())
    answer = run_query(
        database_url,
        "SELECT category, target_count, reference_count, target_total, reference_total,"
        f" percent_change FROM v_category_change WHERE comparison = '{COMPARISON}'",
    )
    rows = {row[0]: row[1:] for row in answer.rows}
    assert len(rows) == len(seed_taxonomy().slugs)
    for category, published in PUBLISHED.items():
        target, reference, target_total, reference_total, percent = rows[category]
        assert (target, reference) == {**COUNTS, "technical": TECHNICAL}[category]
        assert (target_total, reference_total) == (89, 112)
        assert f"{percent:.1f}" == f"{published:.1f}", category


def test_importing_the_same_file_twice_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    file = write_table(tmp_path / "latents.csv", "mathematics")
    import_latents(engine, file, seed_taxonomy())
    before, labels = counts(engine), effective(engine, "*")
    again = import_latents(engine, file, seed_taxonomy())
    assert (again.n_new_labels, again.n_new_latents, again.n_unchanged) == (0, 0, 201)
    assert counts(engine) == before
    assert effective(engine, "*") == labels


def test_every_category_has_a_row_and_one_without_a_latent_is_zero_of_the_total(
    engine: Engine, tmp_path: Path
) -> None:
    import_latents(engine, write(tmp_path, "c,target,0,x,safety", "c,reference,1,y,none"), SMALL)
    assert tuple(change(engine, "humour")) == (0, 1, 0, 1, None)
    assert tuple(change(engine, "safety")) == (1, 1, 0, 1, None)
    assert tuple(change(engine, "behaviour")) == (1, 1, 0, 1, None)


def test_a_changed_row_is_a_new_label_and_the_newest_wins(engine: Engine, tmp_path: Path) -> None:
    import_latents(engine, write(tmp_path, "c,target,0,jokes,safety"), SMALL)
    result = import_latents(engine, write(tmp_path, "c,target,0,jokes,humour"), SMALL)
    assert (result.n_new_labels, result.n_unchanged) == (1, 0)
    assert effective(engine) == [("target", 0, "humour")]
    assert counts(engine)["judge_label"] == 2
    assert counts(engine)["explanation"] == 1


def test_a_later_import_adds_members_and_removes_none(engine: Engine, tmp_path: Path) -> None:
    import_latents(engine, write(tmp_path, "c,target,0,a,safety"), SMALL)
    result = import_latents(engine, write(tmp_path, "c,target,7,b,humour"), SMALL)
    assert result.n_new_latents == 1
    assert effective(engine) == [("target", 0, "safety"), ("target", 7, "humour")]


def test_reserved_words_and_empty_categories_have_their_outcomes(
    engine: Engine, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        "c,target,0,a,none",
        "c,target,1,b,uninterpretable",
        "c,target,2,c,",
        "c,target,3,d,safety",
    )
    result = import_latents(engine, file, SMALL)
    assert (result.n_new_labels, result.n_unlabelled) == (3, 1)
    assert effective(engine, "outcome, category, explanation, source") == [
        ("none", None, "a", "import"),
        ("uninterpretable", None, "b", "import"),
        ("unlabelled", None, "c", None),
        ("assigned", "safety", "d", "import"),
    ]
    assert change(engine, "safety")[1] == 2


def test_names_default_to_imported(engine: Engine, tmp_path: Path) -> None:
    import_latents(engine, write(tmp_path, "c,target,4,a,safety"), SMALL)
    assert effective(engine, "crosscoder, judge, confidence") == [
        ("imported:c:target", "imported", None)
    ]
    with read_session(engine) as session:
        sets = session.execute(text("SELECT name, rule FROM latent_set ORDER BY name")).all()
    assert [tuple(row) for row in sets] == [
        ("c/reference", "imported"),
        ("c/target", "imported"),
    ]


def test_optional_columns_are_read(engine: Engine, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "c,target,4,a,safety,pt-it,gpt,0.25",
        header=f"{HEADER},crosscoder,judge,confidence",
    )
    import_latents(engine, file, SMALL)
    assert effective(engine, "crosscoder, judge, confidence") == [("pt-it", "gpt", 0.25)]


def test_the_judge_of_most_rows_is_active_and_the_others_are_noted(
    engine: Engine, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        "c,target,0,a,safety,first",
        "c,target,0,a,humour,second",
        "c,target,1,b,humour,second",
        header=f"{HEADER},judge",
    )
    result = import_latents(engine, file, SMALL)
    assert [row[2] for row in effective(engine)] == ["humour", "humour"]
    assert result.notes == (
        "c: 1 rows are labels of a judge that is not active; they are in v_judge_label only",
    )


def test_a_dry_run_counts_and_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    before = counts(engine)
    result = import_latents(engine, write(tmp_path, "c,target,0,a,safety"), SMALL, dry_run=True)
    assert (result.dry_run, result.n_new_labels, result.n_new_latents) == (True, 1, 1)
    assert "would add 1 latents and 1 labels" in result.summary()
    assert counts(engine) == before


def test_unknown_slug_names_row_and_nearest_and_loses_nothing(
    engine: Engine, tmp_path: Path
) -> None:
    before = counts(engine)
    file = write(tmp_path, "c,target,0,a,safety", "c,target,1,b,saftey")
    with pytest.raises(UsageError, match=r"row 3: category 'saftey'.*nearest is 'safety'"):
        import_latents(engine, file, SMALL)
    assert counts(engine) == before


def test_create_categories_adds_to_a_new_version_and_keeps_the_labels(
    engine: Engine, tmp_path: Path
) -> None:
    import_latents(engine, write(tmp_path, "c,target,0,a,safety"), SMALL)
    result = import_latents(
        engine, write(tmp_path, "c,target,1,b,irony"), SMALL, create_categories=True
    )
    assert result.created_categories == ("irony",)
    assert result.taxonomy_version == "small 2"
    assert effective(engine) == [("target", 0, "safety"), ("target", 1, "irony")]
    assert change(engine, "irony")[0] == 1
    with read_session(engine) as session:
        versions = session.execute(
            text("SELECT version, frozen FROM taxonomy_version ORDER BY id")
        ).all()
    assert [tuple(row) for row in versions] == [("1", True), ("2", True)]


@pytest.mark.slow
def test_create_categories_twice_changes_nothing_and_later_imports_know_them(
    engine: Engine, tmp_path: Path
) -> None:
    file = write(tmp_path, "c,target,0,a,safety", "c,target,1,b,irony")
    import_latents(engine, file, SMALL, create_categories=True)
    before = counts(engine)
    import_latents(engine, file, SMALL, create_categories=True)
    assert import_latents(engine, file, SMALL).n_new_labels == 0
    assert counts(engine) == before


def test_a_category_that_cannot_be_a_slug_is_refused_with_its_row(
    engine: Engine, tmp_path: Path
) -> None:
    file = write(tmp_path, "c,target,0,a,safety", "c,target,1,b,Not A Slug!")
    with pytest.raises(UsageError, match="row 3: category 'Not A Slug!'"):
        import_latents(engine, file, SMALL, create_categories=True)


def test_an_empty_category_does_not_take_a_label_back(engine: Engine, tmp_path: Path) -> None:
    import_latents(engine, write(tmp_path, "c,target,0,a,safety"), SMALL)
    with pytest.raises(UsageError, match=r"row 2: 'imported' labelled this latent 'safety'"):
        import_latents(engine, write(tmp_path, "c,target,0,a,"), SMALL)
    assert effective(engine) == [("target", 0, "safety")]


def test_a_latent_may_not_change_sides_in_a_later_import(engine: Engine, tmp_path: Path) -> None:
    header = f"{HEADER},crosscoder"
    import_latents(engine, write(tmp_path, "c,target,0,a,safety,x", header=header), SMALL)
    with pytest.raises(UsageError, match="row 2: latent 0 of x lies on the target side"):
        import_latents(engine, write(tmp_path, "c,reference,0,a,safety,x", header=header), SMALL)


def test_labels_for_latents_that_a_rule_isolated(engine: Engine, tmp_path: Path) -> None:
    with write_session(engine) as session:
        run_id = begin_run(session, "isolate", {})
        crosscoder = get_or_create_crosscoder(session, "trained", sha256="ab" * 32)
        ids = add_latents(
            session, crosscoder.id, [{"latent_index": 0}, {"latent_index": 1}, {"latent_index": 2}]
        )
        target = create_latent_set(session, "c/target", "ranked", run_id, [{"latent_id": ids[0]}])
        reference = create_latent_set(
            session, "c/reference", "ranked", run_id, [{"latent_id": ids[1]}]
        )
        ensure_comparison(session, "c", target.id, reference.id)
    header = f"{HEADER},crosscoder"
    import_latents(engine, write(tmp_path, "c,target,0,a,safety,trained", header=header), SMALL)
    assert effective(engine) == [("target", 0, "safety"), ("reference", 1, None)]
    with pytest.raises(UsageError, match="row 2: latent 2 of trained is not in the target set"):
        import_latents(engine, write(tmp_path, "c,target,2,a,safety,trained", header=header), SMALL)
    with pytest.raises(UsageError, match="row 2: crosscoder trained has no latent 9"):
        import_latents(engine, write(tmp_path, "c,target,9,a,safety,trained", header=header), SMALL)


def test_the_active_judge_of_a_comparison_stays(engine: Engine, tmp_path: Path) -> None:
    header = f"{HEADER},judge"
    import_latents(engine, write(tmp_path, "c,target,0,a,safety,first", header=header), SMALL)
    import_latents(engine, write(tmp_path, "c,target,0,a,humour,second", header=header), SMALL)
    assert effective(engine, "category, judge") == [("safety", "first")]
    with read_session(engine) as session:
        comparison = find_comparison(session, "c")
        assert comparison is not None
        assert current_setting(session, comparison.id) is not None
        judges = session.execute(text("SELECT judge, category FROM v_judge_label ORDER BY 1"))
        assert [tuple(row) for row in judges] == [("first", "safety"), ("second", "humour")]
