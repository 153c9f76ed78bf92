"""Tiny subject models on disk, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import save_tiny_adapter, save_tiny_gguf, save_tiny_model


@pytest.fixture(scope="session")
def subject_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models `base`, `tuned` (base with noise), `adapter` and `base.gguf`."""
    folder = tmp_path_factory.mktemp("subjects")
    save_tiny_model(folder / "base")
    save_tiny_model(folder / "tuned", noise=0.05)
    save_tiny_adapter(folder / "adapter")
    save_tiny_gguf(folder / "base.gguf")
    return folder
