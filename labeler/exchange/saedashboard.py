"""SAEDashboard's `batch-N.json`: features with activations in bins; it holds no explanations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosscoder.limits import read_text
from labeler.errors import UsageError
from labeler.exchange.formats import (
    FORMATS,
    ExchangeLatent,
    ExchangeWindow,
    ExportedCrosscoder,
    FolderFormat,
    json_object,
    latent_index,
    window_of,
)

BATCH = 1024
TOP = -1
"""Bin of the strongest texts, for `bin_min` and `bin_max`."""


@FORMATS.register("saedashboard")
class SaeDashboard(FolderFormat):
    """`--format saedashboard`."""

    name = "saedashboard"

    def read(self, folder: Path) -> list[ExchangeLatent]:
        """Latents of all batches."""
        return read_saedashboard(folder)

    def write(
        self,
        folder: Path,
        latents: Sequence[ExchangeLatent],
        crosscoder: ExportedCrosscoder,
        options: Mapping[str, str],
    ) -> int:
        """Batches of features."""
        return write_saedashboard(folder, latents, "difflens", crosscoder.name)


def write_saedashboard(
    folder: Path, latents: Iterable[ExchangeLatent], model_id: str, sae_set: str
) -> int:
    """Write batches of features; returns how many latents were written."""
    members = list(latents)
    for number, first in enumerate(range(0, len(members), BATCH)):
        part = members[first : first + BATCH]
        content = {
            "model_id": model_id,
            "layer": None,
            "sae_set": sae_set,
            "sae_id_suffix": None,
            "features": [_feature(latent) for latent in part],
        }
        (folder / f"batch-{number}.json").write_text(json.dumps(content), encoding="ascii")
    return len(members)


def read_saedashboard(folder: Path) -> list[ExchangeLatent]:
    """Read all batches; UsageError names the file and the feature."""
    paths = sorted(folder.glob("batch-*.json"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise UsageError(f"{folder}: holds no batch-N.json")
    found: dict[int, ExchangeLatent] = {}
    for path in paths:
        features = json_object(path, read_text(path)).get("features")
        if not isinstance(features, list):
            raise UsageError(f"{path}: features is missing")
        for number, feature in enumerate(features):
            where = f"{path}: feature {number}"
            if not isinstance(feature, dict):
                raise UsageError(f"{where}: must be an object")
            latent = _latent(where, feature)
            found[latent.index] = latent
    return [found[index] for index in sorted(found)]


def _feature(latent: ExchangeLatent) -> dict[str, Any]:
    return {
        "feature_index": latent.index,
        "frac_nonzero": latent.density,
        "activations": [_activation(window) for window in latent.windows],
    }


def _activation(window: ExchangeWindow) -> dict[str, Any]:
    bin_of = TOP if window.quantile is None else window.quantile
    largest = max(range(len(window.values)), key=window.values.__getitem__, default=0)
    return {
        "bin_min": bin_of,
        "bin_max": bin_of,
        "bin_contains": None,
        "qualifying_token_index": largest,
        "tokens": list(window.tokens),
        "values": list(window.values),
    }


def _latent(where: str, feature: dict[str, Any]) -> ExchangeLatent:
    rows = feature.get("activations", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{where}: activations must be a list of objects")
    bins = sorted({row.get("bin_min", TOP) for row in rows if _is_bin(row.get("bin_min", TOP))})
    lower = [value for value in bins if value != TOP]
    windows: list[ExchangeWindow] = []
    for row in rows:
        bin_min = row.get("bin_min", TOP)
        # `bin_min` is an activation; the bin's place among the others is its quantile.
        quantile = lower.index(bin_min) if bin_min in lower else None
        windows.append(window_of(where, row.get("tokens"), row.get("values"), quantile))
    density = feature.get("frac_nonzero")
    return ExchangeLatent(
        index=latent_index(where, feature.get("feature_index")),
        windows=tuple(windows),
        density=float(density) if isinstance(density, int | float) else None,
        max_activation=max((max(window.values, default=0.0) for window in windows), default=None),
    )


def _is_bin(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
