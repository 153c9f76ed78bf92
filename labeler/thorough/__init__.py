"""Null runs: what the study finds where there is nothing to find."""
