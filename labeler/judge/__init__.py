"""Judges: who explains a latent and puts it into a category."""
