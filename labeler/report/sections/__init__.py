"""The sections of the report's page; `base` says what a section is."""
