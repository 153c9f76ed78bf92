"""Puzzles: texts with marked tokens, the explanation that is true of them, and false ones."""
