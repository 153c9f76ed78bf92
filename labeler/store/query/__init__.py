"""Read-only questions to the database, and how their answers are printed."""
