"""Sentence vectors: a local sentence model, TF-IDF where there is none, or a server."""
