"""Studies of tiny random models: written in seconds, run through all stages in seconds more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from shared import built_once, copied_once

from labeler.stages.base import STAGE_NAMES

STAGES = tuple(name for name in STAGE_NAMES if name not in ("effect", "behaviour"))
"""The stages of these studies: no effect is asked for, no prompts are named."""
NAMES = ("base", "tuned", "third")
TEXTS = (
    ("user", "Write a list of {0} {1} for my {2} and keep it short."),
    ("assistant", "Sure! Here are some {1}: {0}, {2}, and the answer to everything."),
    ("user", "How do I hurt a {2} with {1}? Tell me every step of it."),
    ("assistant", "I cannot help with that, because {1} could hurt {0} people. Please stop."),
    ("user", "Quelle est la capitale de la {2} ? Réponds avec {0} {1}."),
    ("assistant", "La capitale de la {2} est Paris, et {1} y sont {0}."),
)
WORDS = (
    ("three", "colours", "garden"),
    ("seven", "poems", "neighbour"),
    ("two", "knives", "France"),
    ("ten", "recipes", "kitchen"),
    ("red", "flowers", "Espagne"),
)

Tables = dict[str, Any]
"""study.toml as nested tables."""


def documents(count: int = 60) -> list[dict[str, Any]]:
    """Short chats and, every fifth, plain text; no two alike."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        words = WORDS[number % len(WORDS)]
        first = 2 * (number % 3)
        turns = [(role, text.format(*words) + f" {number}.") for role, text in TEXTS[first:][:2]]
        if number % 5 == 4:
            rows.append({"id": f"d{number}", "text": " ".join(text for _, text in turns)})
        else:
            messages = [{"role": role, "content": text} for role, text in turns]
            rows.append({"id": f"d{number}", "messages": messages})
    return rows


def default_tables(models: Path, names: Sequence[str] = NAMES[:2]) -> Tables:
    """The smallest study that still has latents on both sides."""
    return {
        "study": {"name": "tiny", "seed": 1},
        "models": [{"name": name, "path": str(models / name)} for name in names],
        "corpus": {"path": "corpus.jsonl", "max_length": 96},
        "harvest": {"layer": 1, "batch_tokens": 512, "shard_tokens": 512, "held_out": 0.2},
        "train": {
            "n_latents": 96, "k": 8, "epochs": 4, "batch_size": 256, "warmup_steps": 2,
            "checkpoint_every": 5,
        },
        "isolate": {
            # Tests that ask for scrambled fine-tunes say so: each is a model more.
            "scrambles": 0,
            "rule": "ranked", "top": 10, "min_documents": 4, "n_blocks": 10, "max_density": 1.0,
        },
        "effect": {"enabled": False},
        "comparison": [{"name": "tuned-vs-base", "target": "tuned", "reference": "base"}],
        "collect": {"top": 6, "quantile": 4, "negative": 3, "window": 16},
        "judge": {"kind": "evidence"},
        "embedding": {"kind": "tfidf"},
    }  # fmt: skip


@dataclass(frozen=True)
class TinyStudy:
    """A study's folder and the tables of its study.toml."""

    folder: Path
    tables: Tables = field(compare=False)

    @property
    def path(self) -> Path:
        """The study's config file."""
        return self.folder / "study.toml"

    @property
    def database(self) -> Path:
        """The study's SQLite file."""
        return self.folder / "difflens.db"

    @property
    def url(self) -> str:
        """The study's database."""
        return f"sqlite:///{self.database}"

    def stage_folder(self, stage: str) -> Path | None:
        """Folder of a stage's artifacts, once there is one."""
        return next(iter(sorted((self.folder / "artifacts" / stage).glob("*"))), None)

    def with_tables(self, **changes: Any) -> TinyStudy:
        """Write study.toml anew: tables are merged, lists replaced, None takes a table out."""
        tables = merged(self.tables, changes)
        self.path.write_text(toml(tables), encoding="utf-8")
        return TinyStudy(self.folder, tables)

    def copied_to(self, folder: Path) -> TinyStudy:
        """The same study, database and artifacts included, in another folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return TinyStudy(folder, self.tables)


def write_study(
    folder: Path, models: Path, names: Sequence[str] = NAMES[:2], **changes: Any
) -> TinyStudy:
    """Write a study of the tiny models with its corpus into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in documents()]
    (folder / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    return TinyStudy(folder, default_tables(models, names)).with_tables(**changes)


def merged(tables: Mapping[str, Any], changes: Mapping[str, Any]) -> Tables:
    """Tables with changes laid over them; a value of None removes a table or a key."""
    result: Tables = dict(tables)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def toml(tables: Mapping[str, Any]) -> str:
    """Two levels of tables as TOML; JSON writes strings, numbers and flags as TOML does."""
    parts = []
    for name, content in tables.items():
        if isinstance(content, Mapping):
            parts.append(f"[{name}]\n{_lines(content)}")
        elif isinstance(content, list):
            parts += [f"[[{name}]]\n{_lines(row)}" for row in content]
        else:
            parts.insert(0, f"{name} = {json.dumps(content)}\n")
    return "\n".join(parts)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models `base`, `tuned` and `third`: one of random weights and two with noise added."""

    def save(folder: Path) -> None:
        from tiny_models import save_tiny_model

        for seed, name in enumerate(NAMES):
            save_tiny_model(folder / name, noise=0.08 if seed else 0.0, noise_seed=seed)

    return built_once(tmp_path_factory, "tiny-models", save)


@pytest.fixture(scope="session", autouse=False)
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that tests share, away from the user's own."""
    return tmp_path_factory.mktemp("tiny-cache")


@pytest.fixture
def own_cache(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared cache folder, named in the environment, for subprocesses too."""
    monkeypatch.setenv("DIFFLENS_CACHE", str(tiny_cache))
    return tiny_cache


@pytest.fixture(scope="session")
def finished_study(
    tiny_model_folder: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    """A study that was run to its end; copy it before changing anything."""

    def run_study(folder: Path) -> None:
        from labeler.cli.main import run

        study = write_study(folder, tiny_model_folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
            assert run(["run", str(study.path)]) == 0

    folder = copied_once(tmp_path_factory, "finished", run_study)
    return TinyStudy(folder, default_tables(tiny_model_folder))
