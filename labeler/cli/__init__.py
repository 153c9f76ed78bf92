"""The command line: one command, `difflens`, over one file, `study.toml`."""
