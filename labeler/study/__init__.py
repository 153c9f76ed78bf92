"""The study: its folder, its `study.toml`, and every table of that file."""
