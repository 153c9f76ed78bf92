"""Published tables of latent statistics (`feature_df.csv`) as latents with their scaling."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from crosscoder.limits import csv_rows, read_text
from labeler.errors import UsageError
from labeler.store.engine import write_session
from labeler.store.latents import (
    LARGEST_INDEX,
    add_latents,
    add_scaling,
    get_or_create_crosscoder,
    get_or_create_subject_model,
)
from labeler.store.runs import begin_run, finish_run
from labeler.text import clip

_INDEX_NAMES = ("", "Unnamed: 0", "latent", "latent_index", "feature", "feature_idx", "index")


@dataclass(frozen=True)
class FeatureRow:
    """One latent as the table states it; None = not stated."""

    latent_index: int
    delta_norm: float | None
    """1 = only the fine-tuned model: the table's `dec_norm_diff` runs the other way."""
    nu_error: float | None
    nu_reconstruction: float | None
    density: float | None


@dataclass(frozen=True)
class FeatureTableResult:
    """What an import added."""

    crosscoder: str
    n_rows: int
    n_scaled: int
    """Latents that got a scaling by this import; those that have one keep it."""


def import_feature_table(
    engine: Engine, path: Path, target: str, reference: str, crosscoder: str | None = None
) -> FeatureTableResult:
    """Import a table: everything in it, or on any mistake nothing.

    `target` is the fine-tuned model, `reference` the base model. The crosscoder is called
    `imported:<file stem>` unless named. A table has no intervals: theirs stay NULL.
    """
    if target == reference:
        raise UsageError("--target and --reference name the same model; name two")
    rows = list(read_feature_table(path))
    name = crosscoder or f"imported:{path.stem}"
    with write_session(engine) as session:
        models = [get_or_create_subject_model(session, model, "") for model in (reference, target)]
        stored = get_or_create_crosscoder(session, name, None, models)
        ids = add_latents(
            session,
            stored.id,
            ({"latent_index": row.latent_index, "density": row.density} for row in rows),
        )
        n_scaled = add_scaling(
            session, models[1].id, models[0].id, (_scaling(row, ids) for row in rows)
        )
        add_scaling(session, models[0].id, models[1].id, (_reverse(row, ids) for row in rows))
        result = FeatureTableResult(stored.name, len(rows), n_scaled)
        run_id = begin_run(
            session,
            "import",
            {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        )
        finish_run(session, run_id, "done", asdict(result))
        return result


def read_feature_table(path: Path) -> Iterator[FeatureRow]:
    """Read the rows; UsageError names the column or the row that is wrong."""
    rows = ((number, row) for number, row in csv_rows(read_text(path), path) if row)
    _, columns = next(rows, (1, []))
    index = _index_column(columns, path)
    if "dec_norm_diff" not in columns:
        raise UsageError(
            f"{path}: no column dec_norm_diff; give the feature_df.csv of a crosscoder"
        )
    seen: dict[int, int] = {}
    for number, values in rows:
        cells = dict(zip(columns, values, strict=False))
        parsed = _row(cells, index, f"{path}: row {number}")
        if parsed.latent_index in seen:
            raise UsageError(
                f"{path}: rows {seen[parsed.latent_index]} and {number} are both latent "
                f"{parsed.latent_index}"
            )
        seen[parsed.latent_index] = number
        yield parsed


def _index_column(columns: Sequence[str], path: Path) -> str:
    for name in _INDEX_NAMES:
        if name in columns:
            return name
    raise UsageError(f"{path}: no column of latent indices; the first is usually unnamed")


def _row(row: Mapping[str, str], index: str, where: str) -> FeatureRow:
    latent = _number(row.get(index), index or "index", where)
    if latent is None or not 0 <= latent <= LARGEST_INDEX or latent != int(latent):
        raise UsageError(f"{where}: {clip(row.get(index) or '', 40)!r} is no latent index")
    difference = _number(row.get("dec_norm_diff"), "dec_norm_diff", where)
    return FeatureRow(
        latent_index=int(latent),
        delta_norm=None if difference is None else 1 - difference,
        nu_error=_number(row.get("beta_ratio_error"), "beta_ratio_error", where),
        nu_reconstruction=_number(
            row.get("beta_ratio_reconstruction"), "beta_ratio_reconstruction", where
        ),
        density=_number(row.get("freq"), "freq", where),
    )


def _number(text: str | None, column: str, where: str) -> float | None:
    """A finite number; None where the cell is empty, nan or infinite."""
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{where}: {column} is {clip(text, 40)!r}, no number") from None
    return value if math.isfinite(value) else None


def _reverse(row: FeatureRow, ids: Mapping[int, int]) -> dict[str, Any]:
    """The base against the fine-tuned model: of that pair a table knows the norms alone."""
    mirrored = None if row.delta_norm is None else 1 - row.delta_norm
    return _scaling(FeatureRow(row.latent_index, mirrored, None, None, None), ids)


def _scaling(row: FeatureRow, ids: Mapping[int, int]) -> dict[str, Any]:
    return {
        "latent_id": ids[row.latent_index],
        "delta_norm": row.delta_norm,
        "nu_error": row.nu_error,
        "nu_reconstruction": row.nu_reconstruction,
    }
