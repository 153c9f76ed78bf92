"""A crosscoder that was trained elsewhere, in the place of the one that `train` would make."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeler.cache import subject_cache
from labeler.errors import UsageError
from labeler.sections.dictionary import CrosscoderSection
from labeler.stages.base import StageContext, StageOutcome
from labeler.study import StudyFile

if TYPE_CHECKING:
    from crosscoder.model import Crosscoder
    from crosscoder.published import PublishedCrosscoder
    from crosscoder.row_source import TrainingSource

BATCH = 2048
"""Tokens encoded at a time while theta and the quality are measured."""


def loaded_inputs(study: StudyFile) -> dict[str, Any]:
    """Hash of the weights and how they are read; UsageError where there is no such file."""
    from crosscoder.fingerprints import FileHashes
    from crosscoder.folding import UNFOLDING_NAME
    from crosscoder.published_files import weights_file

    section = study.config.crosscoder
    weights = weights_file(existing_path(study))
    hashes = FileHashes(subject_cache() / "file-hashes.json")
    known = {"weights": hashes.sha256(weights)}
    if (unfolding := weights.with_name(UNFOLDING_NAME)).is_file():
        known["unfolding"] = hashes.sha256(unfolding)
    return known | section.model_dump(exclude={"path"}, mode="json")


def existing_path(study: StudyFile) -> Path:
    """`crosscoder.path`, beside study.toml where it is relative; UsageError where it is missing."""
    given = str(study.config.crosscoder.path)
    path = study.resolve(given)
    if not path.exists():
        raise UsageError(
            f"crosscoder.path: nothing at {path}; for one on the Hub, "
            f"`hf download {given} --local-dir {given.rpartition('/')[2]}` and name that folder"
        )
    return path


def load_into(context: StageContext, source: TrainingSource, folder: Path) -> StageOutcome:
    """Load the crosscoder, set theta if need be, measure it, and write it to `folder`."""
    from crosscoder.checkpoints import save_crosscoder
    from crosscoder.quality import measure_quality

    section = context.study.config.crosscoder
    loaded = _published(context.study, source)
    crosscoder = loaded.crosscoder
    _check_width(crosscoder, source, loaded.path)
    notes = [*loaded.notes, *_set_theta(crosscoder, section, source)]
    quality = measure_quality(crosscoder, partial(source.held_out_batches, BATCH))
    provenance = {
        "loaded": {"file": loaded.path.name, "layout": loaded.layout, "notes": notes},
        "settings": section.model_dump(mode="json", exclude={"path"}),
        **source.description(),
    }
    save_crosscoder(crosscoder, folder, provenance)
    shown = ", ".join(f"FVE {row.fve:.3f} {row.model}" for row in quality.fve)
    said = "".join(f"; {note}" for note in notes)
    return StageOutcome(
        f"{crosscoder.config.n_latents:,} latents loaded from {loaded.path.name} "
        f"({loaded.layout}); held out: {shown}, L0 {quality.l0:.1f}, "
        f"{100 * quality.silent_share:.1f}% inactive{said}",
        {
            "fve": {row.model: row.fve for row in quality.fve},
            "l0": quality.l0,
            "silent_share": quality.silent_share,
            "theta": float(crosscoder.theta),
            "layout": loaded.layout,
            "notes": notes,
        },
    )


def _published(study: StudyFile, source: TrainingSource) -> PublishedCrosscoder:
    from crosscoder.published import estimated_factors, load_published

    section = study.config.crosscoder
    factors: tuple[float, ...] | None = None
    if section.scaling_factors == "estimate":
        factors = estimated_factors(source.normaliser_batches(BATCH))
    elif section.scaling_factors is not None:
        factors = tuple(section.scaling_factors)
    return load_published(
        existing_path(study),
        source.model_names,
        layer=source.layer,
        tokenizer_sha256=source.tokenizer_sha256,
        scaling_factors=factors,
        k=section.k,
    )


def _check_width(crosscoder: Crosscoder, source: TrainingSource, path: Path) -> None:
    stored = crosscoder.config
    if stored.d_model != source.d_model:
        raise UsageError(
            f"crosscoder.path: {path} reads activations of width {stored.d_model}, the study's "
            f"models have {source.d_model}; name the models it was trained on"
        )
    if stored.layer is not None and stored.layer != source.layer:
        raise UsageError(
            f"harvest.layer: {source.layer}, but {path} reads layer {stored.layer}; "
            f"set harvest.layer = {stored.layer}"
        )


def _set_theta(
    crosscoder: Crosscoder, section: CrosscoderSection, source: TrainingSource
) -> list[str]:
    """Calibrate theta where the file or the study asks for it; says so."""
    from crosscoder.quality import calibrate_theta

    if crosscoder.config.activation == "l1":
        return []
    if crosscoder.calibrated and section.theta == "stored":
        return []
    k = crosscoder.config.k
    batches = partial(source.held_out_batches, BATCH)
    crosscoder.theta.fill_(calibrate_theta(crosscoder, batches, k))
    return [f"theta set on held-out text to a mean of {k} active latents"]


def is_loaded(study: StudyFile) -> bool:
    """Whether the study names a crosscoder instead of training one."""
    return study.config.crosscoder.path is not None
