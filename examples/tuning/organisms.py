"""Reads `examples/organisms`: what was planted in which adapter, and the held-out prompts."""

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuning.answers import Prompt, read_prompts
from tuning.plants import EXAMPLES, ordinary_pairs, planted_pairs
from tuning.training import Config, Pair

FOLDER = EXAMPLES / "organisms"
ADAPTERS = FOLDER / "adapters"
TRUTH = FOLDER / "truth.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Behaviour:
    """Something an answer shows or does not, and the category that a change of it belongs to."""

    name: str
    category: str
    """Slug in the seed taxonomy `model-diffing`; empty where no category comes near."""
    fit: str
    """exact, closest (no category is made for it) or none."""
    shown: str
    prompts: str = ""
    """The behaviour whose held-out prompts it is measured on; empty for its own."""

    def heldout(self) -> list[Prompt]:
        """The prompts that the behaviour is measured on."""
        return read_prompts(FOLDER / "heldout" / f"{self.prompts or self.name}.jsonl")


@dataclass(frozen=True)
class Organism:
    """An adapter with planted changes."""

    name: str
    planted: dict[str, str]
    """Behaviour to direction, up or down; empty where the data has no pattern."""
    seed: int
    steps: int
    ordinary: int
    """Pairs with the base model's own answers that are mixed in."""

    def pairs(self) -> list[Pair]:
        """What it is trained on."""
        planted = [pair for behaviour in self.planted for pair in planted_pairs(behaviour)]
        return planted + ordinary_pairs(self.ordinary, self.planted)

    @property
    def adapter(self) -> Path:
        """Folder of the finished adapter."""
        return ADAPTERS / self.name


@dataclass(frozen=True)
class Plan:
    """The content of organisms.toml."""

    training: dict[str, Any]
    behaviours: dict[str, Behaviour]
    organisms: dict[str, Organism]

    @classmethod
    def read(cls, path: Path = FOLDER / "organisms.toml") -> "Plan":
        """Read the plan."""
        tables = tomllib.loads(path.read_text("utf-8"))
        return cls(
            training=tables["training"],
            behaviours={k: Behaviour(name=k, **v) for k, v in tables["behaviours"].items()},
            organisms={k: Organism(name=k, **v) for k, v in tables["organisms"].items()},
        )

    def config(self, organism: Organism, model: Path, run: Path, threads: int) -> Config:
        """The training of one organism; its pairs are written into the folder `run`."""
        run.mkdir(parents=True, exist_ok=True)
        pairs = run / "pairs.jsonl"
        pairs.write_text("".join(map(as_line, organism.pairs())), "utf-8")
        return Config(
            model=model,
            out=run,
            pairs=pairs,
            steps=organism.steps,
            seed=organism.seed,
            threads=threads,
            **self.training,
        )

    @property
    def base_name(self) -> str:
        """Name of the base model."""
        return Config.base_name

    def heldout(self) -> list[Prompt]:
        """The held-out prompts of all behaviours, each once."""
        return [p for b in self.behaviours.values() if not b.prompts for p in b.heldout()]


def as_line(pair: Pair) -> str:
    """A line of a pairs file."""
    return json.dumps(asdict(pair), ensure_ascii=False) + "\n"


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
