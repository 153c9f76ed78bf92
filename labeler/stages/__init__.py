"""The stages of the main job, one module each; a module is imported only when its stage runs."""

from __future__ import annotations

from importlib import import_module

from labeler.stages.base import STAGE_NAMES, Stage


def load_stage(name: str) -> Stage:
    """The stage called `name`, one of STAGE_NAMES."""
    if name not in STAGE_NAMES:
        raise KeyError(name)
    stage: Stage = import_module(f"labeler.stages.{name}").STAGE
    return stage
