"""Neuronpedia's export: one folder per source, with every table that its importer reads.

    <folder>/release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl     one row each
    <folder>/features/batch-N.jsonl.gz  activations/...  explanations/...  1024 latents per batch
    <folder>/config/explanation_type.jsonl  explanation_model_type.jsonl   what explanations name

The importer (apps/webapp/lib/db/import.ts of hijohnnylin/neuronpedia, read at ebb8426) takes the
columns of a batch from its first row, fails on an empty batch, and writes an absent value as NULL.
Therefore all rows of a table have the same keys, a table without rows has no file, and columns that
must not be null have a number. Every row belongs to a user of Neuronpedia; the caller gives the id.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from crosscoder import limits
from labeler.errors import UsageError
from labeler.exchange.formats import (
    FORMATS,
    HUMAN,
    ExchangeExplanation,
    ExchangeLatent,
    ExchangeWindow,
    ExportedCrosscoder,
    FolderFormat,
    json_lines,
    latent_index,
    window_of,
)

BATCH = 1024
PARTS = ("features", "activations", "explanations")
TYPE_NAME = "difflens"
NOT_KNOWN = "frac_nonzero_not_known"
TOP = -1.0
"""Bin of the strongest texts, as SAEDashboard writes it."""


@dataclass(frozen=True)
class NeuronpediaSource:
    """Owner, model and source of the latents on Neuronpedia."""

    creator_id: str
    """Id of the user of Neuronpedia who owns every row."""
    name: str
    """The crosscoder's name."""
    models: tuple[str, ...] = ()
    """Names of its subject models."""
    layer: int = 0
    d_model: int | None = None

    @property
    def model_id(self) -> str:
        """Neuronpedia's latents have one model; a crosscoder's models are joined to one name."""
        return slug("-".join(self.models)) or TYPE_NAME

    @property
    def set_name(self) -> str:
        """Name of the source set and of the release."""
        return slug(f"crosscoder-{self.name}")

    @property
    def id(self) -> str:
        """Id of the source: layer, dash, set."""
        return f"{self.layer}-{self.set_name}"


@FORMATS.register("neuronpedia")
class Neuronpedia(FolderFormat):
    """`--format neuronpedia`: its rows belong to the user `creator_id` of the instance."""

    name = "neuronpedia"
    options = MappingProxyType(
        {
            "creator_id": "every table of Neuronpedia names the user that its rows belong "
            "to: give the id of a user of the instance that is to import them"
        }
    )

    def read(self, folder: Path) -> list[ExchangeLatent]:
        """Latents of a folder with features, activations and explanations."""
        return read_neuronpedia(folder)

    def write(
        self,
        folder: Path,
        latents: Sequence[ExchangeLatent],
        crosscoder: ExportedCrosscoder,
        options: Mapping[str, str],
    ) -> int:
        """All tables."""
        source = NeuronpediaSource(options["creator_id"], **vars(crosscoder))
        return write_neuronpedia(folder, latents, source)


def slug(text: str) -> str:
    """A text as an id that Neuronpedia takes: letters, digits, dashes and underscores."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:100]


def write_neuronpedia(
    folder: Path, latents: Iterable[ExchangeLatent], source: NeuronpediaSource
) -> int:
    """Write all tables; returns how many latents were written."""
    batches: dict[int, list[ExchangeLatent]] = defaultdict(list)
    for latent in latents:
        batches[latent.index // BATCH].append(latent)
    for name, row in _single_rows(source).items():
        _write_lines(folder / f"{name}.jsonl", [row])
    authors: set[str] = set()
    for number, members in batches.items():
        authors |= {said.author for latent in members for said in latent.explanations}
        for part in PARTS:
            rows = [row for latent in members for row in _rows(part, latent, source)]
            _write_lines(folder / part / f"batch-{number}.jsonl.gz", rows)
    for name, rows in _config_rows(source, sorted(authors)).items():
        _write_lines(folder / "config" / f"{name}.jsonl", rows)
    return sum(len(members) for members in batches.values())


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, compressed where the name says so; a table without rows gets no file."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    content = "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _single_rows(source: NeuronpediaSource) -> dict[str, dict[str, Any]]:
    """The tables with one row per source, in the order of their foreign keys."""
    owner = {"creatorId": source.creator_id}
    described = f"Crosscoder {source.name} over {', '.join(source.models) or 'unnamed models'}"
    return {
        "release": {
            "name": source.set_name,
            "description": described,
            "descriptionShort": described,
            "urls": [],
            "creatorName": TYPE_NAME,
            "creatorNameShort": TYPE_NAME,
            "visibility": "PUBLIC",
            **owner,
        },
        "model": {
            "id": source.model_id,
            "displayName": source.model_id,
            "displayNameShort": source.model_id,
            "owner": TYPE_NAME,
            "layers": 0,
            "neuronsPerLayer": 0,
            "dimension": source.d_model,
            "visibility": "PUBLIC",
            **owner,
        },
        "sourceset": {
            "modelId": source.model_id,
            "name": source.set_name,
            "description": described,
            "type": "crosscoder",
            "creatorName": TYPE_NAME,
            "urls": [],
            "releaseName": source.set_name,
            "visibility": "PUBLIC",
            **owner,
        },
        "source": {
            "modelId": source.model_id,
            "id": source.id,
            "setName": source.set_name,
            "notes": described,
            "visibility": "PUBLIC",
            **owner,
        },
    }


def _config_rows(
    source: NeuronpediaSource, authors: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Rows that explanations refer to by name: types of explanation, and models."""
    judges = [author for author in authors if author != HUMAN]
    words = {HUMAN: "Written or approved by a person", TYPE_NAME: "Explained by difflens's judge"}
    names = ([HUMAN] if HUMAN in authors else []) + ([TYPE_NAME] if judges else [])
    return {
        "explanation_type": [
            {
                "name": name,
                "displayName": name,
                "description": words[name],
                "creatorName": TYPE_NAME,
                "creatorId": source.creator_id,
            }
            for name in names
        ],
        "explanation_model_type": [
            {"name": judge, "displayName": judge, "description": judge, "creatorName": TYPE_NAME}
            for judge in judges
        ],
    }


def read_neuronpedia(folder: Path) -> list[ExchangeLatent]:
    """Read the three folders of latents, as far as present; UsageError names file and line."""
    if not any((folder / part).is_dir() for part in PARTS):
        raise UsageError(f"{folder}: has no folder {', '.join(PARTS)}; name a Neuronpedia export")
    facts: dict[int, dict[str, Any]] = {}
    windows: dict[int, list[ExchangeWindow]] = defaultdict(list)
    explanations: dict[int, list[ExchangeExplanation]] = defaultdict(list)
    for where, row in _read_part(folder, "features"):
        facts[latent_index(where, row.get("index"))] = row
    for where, row in _read_part(folder, "activations"):
        windows[latent_index(where, row.get("index"))].append(_window(where, row))
    for where, row in _read_part(folder, "explanations"):
        text = row.get("description")
        if not isinstance(text, str):
            raise UsageError(f"{where}: description is missing")
        author = row.get("explanationModelName") or row.get("typeName") or "neuronpedia"
        index = latent_index(where, row.get("index"))
        explanations[index].append(ExchangeExplanation(text, str(author)))
    return [
        ExchangeLatent(
            index,
            tuple(explanations[index]),
            tuple(windows[index]),
            _density(facts.get(index, {})),
            _number(facts.get(index, {}).get("maxActApprox")),
        )
        for index in sorted({*facts, *windows, *explanations})
    ]


def _rows(part: str, latent: ExchangeLatent, source: NeuronpediaSource) -> Iterator[dict[str, Any]]:
    key = {"modelId": source.model_id, "layer": source.id, "index": str(latent.index)}
    if part == "features":
        # The column must not be null; an extra key that the importer ignores marks it as unknown.
        yield key | {
            "sourceSetName": source.set_name,
            "creatorId": source.creator_id,
            "maxActApprox": latent.max_activation,
            "frac_nonzero": latent.density or 0.0,
            NOT_KNOWN: latent.density is None,
        }
    elif part == "activations":
        for number, window in enumerate(latent.windows):
            row_id = {"id": _id(*key.values(), str(number))}
            yield row_id | key | _activation(window) | {"creatorId": source.creator_id}
    else:
        for number, said in enumerate(latent.explanations):
            yield (
                {"id": _id(*key.values(), said.text, str(number))}
                | key
                | {
                    "description": said.text,
                    "authorId": source.creator_id,
                    "typeName": HUMAN if said.author == HUMAN else TYPE_NAME,
                    "explanationModelName": None if said.author == HUMAN else said.author,
                }
            )


def _activation(window: ExchangeWindow) -> dict[str, Any]:
    largest = max(range(len(window.values)), key=window.values.__getitem__, default=0)
    bin_of = TOP if window.quantile is None else float(window.quantile)
    return {
        "tokens": list(window.tokens),
        "values": list(window.values),
        "maxValue": max(window.values, default=0.0),
        "minValue": min(window.values, default=0.0),
        "maxValueTokenIndex": largest,
        "binMin": bin_of,
        "binMax": bin_of,
    }


def _window(where: str, row: dict[str, Any]) -> ExchangeWindow:
    low = _number(row.get("binMin"))
    quantile = None if low is None or low < 0 or low != int(low) else int(low)
    return window_of(where, row.get("tokens"), row.get("values"), quantile)


def _read_part(folder: Path, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in _in_order((folder / part).glob("batch-*.jsonl*")):
        content = limits.read_bytes(path)
        if path.suffix == ".gz":
            content = limits.gunzip(content, path)
        yield from json_lines(path, limits.decoded(content, path))


def _in_order(paths: Iterable[Path]) -> Sequence[Path]:
    return sorted(paths, key=lambda path: (len(path.name), path.name))


def _id(*parts: str) -> str:
    """A key of Neuronpedia's length, derived from the content."""
    content = "\0".join(parts).encode("utf-8", "backslashreplace")
    return "c" + hashlib.sha256(content).hexdigest()[:24]


def _density(row: Mapping[str, Any]) -> float | None:
    return None if row.get(NOT_KNOWN) is True else _number(row.get("frac_nonzero"))


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None
