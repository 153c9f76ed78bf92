"""The tables of study.toml, one model each."""
