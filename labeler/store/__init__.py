"""The database: tables, views, triggers, migrations, and the functions that write to it."""
