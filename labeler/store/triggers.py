"""Triggers that keep facts and decisions append-only, for SQLite and PostgreSQL.

They are no part of a migration's difference: they are dropped before and made again after every
upgrade, because SQLite's batch mode silently drops the triggers of a table it rebuilds.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

APPEND_ONLY_TABLES = (
    "audit_draw",
    "audit_member",
    "comparison_setting",
    "control_latent",
    "evidence",
    "evidence_document",
    "explanation",
    "explanation_score",
    "explanation_test",
    "explanation_test_text",
    "judge",
    "judge_call",
    "judge_label",
    "judge_label_category",
    "judge_parameters",
    "label_sample",
    "prompt",
    "review_event",
    "review_event_category",
    "score_call",
    "shuffled_explanation",
)
"""Tables whose rows are never updated nor deleted."""

RUN_FACTS = (
    "id",
    "kind",
    "config",
    "config_sha256",
    "stage_key",
    "code_version",
    "started_at",
    "parent_run_id",
)
"""Columns of `run` that never change."""

_REFUSE = "append-only: rows of {table} are never {verb}; write a new row"
_RUN = "append-only: a run changes only its status, finished_at and result"
_FROZEN = "frozen: categories of a frozen taxonomy version never change; make a new version"
_THAW = "frozen: a frozen taxonomy version never changes; make a new version"
_PREFIX = "tr_difflens_"


def create_triggers(connection: Connection) -> None:
    """Create every trigger."""
    for statement in definitions(connection.dialect.name):
        connection.execute(text(statement.replace(":", r"\:")))


def definitions(dialect: str) -> list[str]:
    """The statements that make every trigger of a dialect."""
    return _sqlite() if dialect == "sqlite" else _postgresql()


def trigger_names(dialect: str) -> set[str]:
    """The names of the triggers, as the database stores them."""
    words = (statement.split() for statement in definitions(dialect))
    names = {part[2] for part in words if part[1] == "TRIGGER"}
    return names if dialect == "sqlite" else {name.lower() for name in names}


def drop_triggers(connection: Connection) -> None:
    """Drop every trigger of this module, of any release."""
    if connection.dialect.name == "sqlite":
        names = connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE :prefix"),
            {"prefix": f"{_PREFIX}%"},
        ).scalars()
        for name in names.all():
            connection.execute(text(f'DROP TRIGGER "{name}"'))
        return
    rows = connection.execute(
        text(
            "SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = current_schema() AND t.tgname LIKE :prefix"
        ),
        {"prefix": f"{_PREFIX}%"},
    ).all()
    for name, table in rows:
        connection.execute(text(f'DROP TRIGGER "{name}" ON "{table}"'))


def _sqlite() -> list[str]:
    statements = [
        f"CREATE TRIGGER {_PREFIX}{table}_{verb} BEFORE {verb} ON {table}"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSE.format(table=table, verb=participle)}'); END"
        for table in APPEND_ONLY_TABLES
        for verb, participle in (("UPDATE", "updated"), ("DELETE", "deleted"))
    ]
    changed = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in RUN_FACTS)
    statements += [
        f"CREATE TRIGGER {_PREFIX}run_UPDATE BEFORE UPDATE ON run WHEN {changed}"
        f" BEGIN SELECT RAISE(ABORT, '{_RUN}'); END",
        f"CREATE TRIGGER {_PREFIX}run_DELETE BEFORE DELETE ON run"
        f" BEGIN SELECT RAISE(ABORT, '{_RUN}'); END",
        f"CREATE TRIGGER {_PREFIX}taxonomy_version_UPDATE BEFORE UPDATE ON taxonomy_version"
        f" WHEN OLD.frozen BEGIN SELECT RAISE(ABORT, '{_THAW}'); END",
        f"CREATE TRIGGER {_PREFIX}taxonomy_version_DELETE BEFORE DELETE ON taxonomy_version"
        f" WHEN OLD.frozen BEGIN SELECT RAISE(ABORT, '{_THAW}'); END",
    ]
    for verb, row in (("INSERT", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD")):
        statements.append(
            f"CREATE TRIGGER {_PREFIX}category_{verb} BEFORE {verb} ON category WHEN"
            f" (SELECT frozen FROM taxonomy_version WHERE id = {row}.taxonomy_version_id)"
            f" BEGIN SELECT RAISE(ABORT, '{_FROZEN}'); END"
        )
    return statements


def _postgresql() -> list[str]:
    changed = " OR ".join(
        f"OLD.{column}::text IS DISTINCT FROM NEW.{column}::text" for column in RUN_FACTS
    )
    statements = [
        "CREATE OR REPLACE FUNCTION difflens_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$",
        "CREATE OR REPLACE FUNCTION difflens_refuse_frozen() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ DECLARE version_id integer; BEGIN"
        " IF TG_OP = 'INSERT' THEN version_id := NEW.taxonomy_version_id;"
        " ELSE version_id := OLD.taxonomy_version_id; END IF;"
        " IF (SELECT frozen FROM taxonomy_version WHERE id = version_id) THEN"
        " RAISE EXCEPTION '%', TG_ARGV[0]; END IF;"
        " IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$",
    ]
    statements += [
        f"CREATE TRIGGER {_PREFIX}{table}_{verb} BEFORE {verb} ON {table} FOR EACH ROW"
        f" EXECUTE FUNCTION"
        f" difflens_refuse('{_REFUSE.format(table=table, verb=participle)}')"
        for table in APPEND_ONLY_TABLES
        for verb, participle in (("UPDATE", "updated"), ("DELETE", "deleted"))
    ]
    statements += [
        f"CREATE TRIGGER {_PREFIX}{table}_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        f" EXECUTE FUNCTION"
        f" difflens_refuse('{_REFUSE.format(table=table, verb='deleted')}')"
        for table in APPEND_ONLY_TABLES
    ]
    statements += [
        f"CREATE TRIGGER {_PREFIX}run_UPDATE BEFORE UPDATE ON run FOR EACH ROW"
        f" WHEN ({changed}) EXECUTE FUNCTION difflens_refuse('{_RUN}')",
        f"CREATE TRIGGER {_PREFIX}run_DELETE BEFORE DELETE ON run FOR EACH ROW"
        f" EXECUTE FUNCTION difflens_refuse('{_RUN}')",
        f"CREATE TRIGGER {_PREFIX}taxonomy_version_UPDATE BEFORE UPDATE OR DELETE"
        f" ON taxonomy_version FOR EACH ROW WHEN (OLD.frozen)"
        f" EXECUTE FUNCTION difflens_refuse('{_THAW}')",
        f"CREATE TRIGGER {_PREFIX}category_change BEFORE INSERT OR UPDATE OR DELETE ON category"
        f" FOR EACH ROW EXECUTE FUNCTION difflens_refuse_frozen('{_FROZEN}')",
    ]
    return statements
