"""Runs the migrations inside the guard that SQLite's batch mode needs."""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError

from labeler.store.migrate import guarded_connection
from labeler.store.schema import metadata


def run() -> None:
    """Run every step, the views and the triggers in one transaction."""
    if context.is_offline_mode():
        raise CommandError("offline mode is not supported: views and triggers need a connection")
    url = context.config.attributes["url"]
    with guarded_connection(url) as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            compare_server_default=True,
        )
        context.run_migrations()


run()
