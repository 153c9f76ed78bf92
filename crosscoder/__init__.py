"""Crosscoders between language models: from models and text to model-specific latents."""
