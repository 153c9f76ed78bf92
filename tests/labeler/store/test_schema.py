"""The tables that the models declare, and those that the migration makes: the same."""

from __future__ import annotations

import re
from typing import Any

import pytest
from seeding import seed
from sqlalchemy import CheckConstraint, Column, Engine, Inspector, inspect, select, update
from sqlalchemy.exc import StatementError

from labeler.store.engine import open_engine, write_session
from labeler.store.schema import OneOf, ReviewEvent, Run, metadata

CLOSED_LISTS = {
    "audit_draw.side", "behaviour_label.classified_by", "behaviour_label.outcome",
    "category_behaviour.verdict", "category_change_statistic.counting", "category_effect.kind",
    "category_change_statistic.denominator", "category_change_statistic.verdict",
    "category_mapping.kind", "category_sweep.stability", "effective_label.outcome",
    "effective_label.side", "effective_label.source",
    "effective_label_category.side", "evidence.kind", "evidence.split",
    "evidence_document.split", "explanation_score.method", "explanation_test.verdict",
    "judge_call.stage", "judge_check.verdict",
    "judge_correction.denominator", "judge_correction.estimand", "judge_label.outcome",
    "label_sample.outcome", "null_result.kind", "review_event.action", "review_event.selection",
    "run.kind", "run.status", "seed_change.verdict", "work_item.status",
}  # fmt: skip
"""Columns whose values are in a list of the code."""


def tables_of(engine: Engine) -> dict[str, dict[str, Any]]:
    """All that a database says of its tables, but for the bookkeeping of migrations."""
    inspector = inspect(engine)
    names = set(inspector.get_table_names()) - {"alembic_version"}
    return {name: described(inspector, name) for name in names}


def described(inspector: Inspector, table: str) -> dict[str, Any]:
    """Columns in their order; keys, checks and indexes by their names."""
    return {
        "columns": [
            column | {"type": column["type"].compile(inspector.dialect)}
            for column in inspector.get_columns(table)
        ],
        "primary key": inspector.get_pk_constraint(table),
        "foreign keys": by_name(inspector.get_foreign_keys(table)),
        "unique keys": by_name(inspector.get_unique_constraints(table)),
        "checks": by_name(inspector.get_check_constraints(table)),
        "indexes": by_name(inspector.get_indexes(table)),
    }


def by_name(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda item: str(item["name"]))


def closed_columns() -> dict[str, Column[Any]]:
    columns = (column for table in metadata.tables.values() for column in table.columns)
    return {str(column): column for column in columns if isinstance(column.type, OneOf)}


def test_the_migration_makes_the_tables_that_the_models_declare(
    engine: Engine, empty_url: str
) -> None:
    other = open_engine(empty_url, create=True)
    metadata.create_all(other)
    declared, made = tables_of(other), tables_of(engine)
    other.dispose()
    assert sorted(made) == sorted(declared)
    for name, table in declared.items():
        assert made[name] == table, name


def test_names_of_constraints_fit_into_postgresql() -> None:
    names = [
        str(item.name)
        for table in metadata.tables.values()
        for item in (*table.constraints, *table.indexes)
    ]
    assert [name for name in names if len(name) > 63] == []
    assert "None" not in names


def test_no_foreign_key_deletes_children() -> None:
    cascades = [
        key for table in metadata.tables.values() for key in table.foreign_keys if key.ondelete
    ]
    assert cascades == []


def test_no_check_lists_kinds_so_that_a_further_one_needs_no_migration() -> None:
    checks = [
        str(item.sqltext)
        for table in metadata.tables.values()
        for item in table.constraints
        if isinstance(item, CheckConstraint)
    ]
    assert [check for check in checks if re.search(r"\b(?<!NOT )IN \('", check)] == []


def test_columns_with_closed_lists_are_these() -> None:
    assert set(closed_columns()) == CLOSED_LISTS


@pytest.mark.parametrize("name", sorted(CLOSED_LISTS))
def test_a_value_outside_a_closed_list_is_not_written(name: str, engine: Engine) -> None:
    kind = closed_columns()[name].type
    bind = kind.dialect_impl(engine.dialect).bind_processor(engine.dialect)
    assert bind is not None
    assert [bind(value) for value in (*kind.values, None)] == [*kind.values, None]
    with pytest.raises(ValueError, match=f"'no such' is not one of {kind.values[0]}"):
        bind("no such")


def test_unknown_kinds_are_refused_in_inserts_and_updates_and_found_nowhere(
    engine: Engine,
) -> None:
    with write_session(engine) as session:
        data = seed(session)
        assert session.execute(select(Run).where(Run.kind == "cook")).all() == []
    for statement in (
        update(Run).where(Run.id == data.run_id).values(status="cooked"),
        update(ReviewEvent).values(action="cook"),
    ):
        with (
            pytest.raises(StatementError, match=r"'cook.* is not one of"),
            write_session(engine) as session,
        ):
            session.execute(statement)
    with (
        pytest.raises(StatementError, match="'cook' is not one of harvest, train"),
        write_session(engine) as session,
    ):
        session.add(Run(kind="cook", status="done", config={}, config_sha256="", code_version=""))
