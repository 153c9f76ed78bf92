"""Neuronpedia's export: folders of JSONL batches of 1024 latents, the number of a latent as text.

<folder>/features/batch-N.jsonl.gz  activations/batch-N.jsonl.gz  explanations/batch-N.jsonl.gz
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from crosscoder import limits
from labeler.errors import UsageError
from labeler.exchange.records import (
    ExchangeExplanation,
    ExchangeLatent,
    ExchangeWindow,
    json_lines,
    latent_index,
    window_of,
)

BATCH = 1024
PARTS = ("features", "activations", "explanations")
HUMAN = "human"
TYPE_NAME = "difflens"
TOP = -1.0
"""Bin of the strongest texts, as SAEDashboard writes it."""


def write_neuronpedia(
    folder: Path, latents: Iterable[ExchangeLatent], model_id: str, source_id: str
) -> int:
    """Write the three folders; returns how many latents were written."""
    batches: dict[int, list[ExchangeLatent]] = defaultdict(list)
    for latent in latents:
        batches[latent.index // BATCH].append(latent)
    for number, members in batches.items():
        for part in PARTS:
            rows = [row for latent in members for row in _rows(part, latent, model_id, source_id)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            path = folder / part / f"batch-{number}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode("ascii"), mtime=0))
    return sum(len(members) for members in batches.values())


def read_neuronpedia(folder: Path) -> list[ExchangeLatent]:
    """Read what is there of the three folders, by latent; UsageError names file and line."""
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
            _number(facts.get(index, {}).get("frac_nonzero")),
            _number(facts.get(index, {}).get("maxActApprox")),
        )
        for index in sorted({*facts, *windows, *explanations})
    ]


def _rows(
    part: str, latent: ExchangeLatent, model_id: str, source_id: str
) -> Iterator[dict[str, Any]]:
    key = {"modelId": model_id, "layer": source_id, "index": str(latent.index)}
    if part == "features":
        yield key | {"maxActApprox": latent.max_activation, "frac_nonzero": latent.density}
    elif part == "activations":
        for number, window in enumerate(latent.windows):
            yield {"id": _id(*key.values(), str(number))} | key | _activation(window)
    else:
        for number, said in enumerate(latent.explanations):
            yield (
                {"id": _id(*key.values(), said.text, str(number))}
                | key
                | {
                    "description": said.text,
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
    """A key of the length that Neuronpedia uses, the same for the same content."""
    content = "\0".join(parts).encode("utf-8", "backslashreplace")
    return "c" + hashlib.sha256(content).hexdigest()[:24]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None
