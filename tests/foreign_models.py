"""Model folders as strangers make them: with code, damaged, absurd; a faked cache of the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


class Payload:
    """A pickle of it writes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.marker,))


def copy_of(folder: Path, target: Path, *left_out: str) -> Path:
    """A copy of a folder without some files."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*left_out))
    return target


def with_json(path: Path, **changes: Any) -> Path:
    """Write a JSON file again with some keys changed."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def with_code(folder: Path, marker: Path) -> Path:
    """Put modules into a model's folder that write a file when they are imported."""
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    bodies = {
        "configuration_own.py": "from transformers import LlamaConfig as OwnConfig\n",
        "modeling_own.py": "from transformers import LlamaForCausalLM as OwnModel\n",
        "tokenization_own.py": "from transformers import PreTrainedTokenizerFast as OwnTokenizer\n",
        "custom_generate/generate.py": "def generate(model, **kwargs): ...\n",
    }
    for name, body in bodies.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code + body, encoding="utf-8")
    return folder


def in_hub_cache(
    cache: Path, name: str, commit: str, folder: Path, branch: str | None = "main"
) -> None:
    """Lay a folder out as a commit of a repository in a cache of the Hub; a branch points to it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / commit)
    if branch is not None:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit, encoding="utf-8")


def use_hub_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Have the libraries take a folder for the Hub's cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
