"""The SQL of the views, a module per concern; one text serves SQLite and PostgreSQL."""
