"""Scrambled fine-tunes beside a comparison: what a meaningless change of the weights shows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crosscoder.files import json_sha256
from labeler.stages.base import StageContext
from labeler.stages.harvest import harvest_config, study_day, study_text, subject_specs
from labeler.stages.train import StudyCrosscoder, trained_crosscoder
from labeler.study.config import ComparisonSection
from labeler.study.study_file import subject_cache

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scrambles:
    """What scrambled fine-tunes of a comparison show."""

    shifts: NDArray[np.float32] | None
    """(K, F) strength shifts from the target's point of view; None where none were made."""
    note: str
    """How many there are, or why there are none; empty where none are asked for."""


NO_SCRAMBLES = Scrambles(None, "")


def scrambles_of(
    context: StageContext, one: StudyCrosscoder, comparison: ComparisonSection
) -> Scrambles:
    """Scramble the target's difference from the reference, and measure every latent's shift.

    With a common base, both sides' differences from it are scrambled, and the one's shifts are
    less the other's.
    """
    from crosscoder.errors import InputError

    if not context.study.config.isolate.scrambles or not context.study.config.models:
        return NO_SCRAMBLES
    target, reference, base = comparison.target, comparison.reference, comparison.against
    try:
        if base is None:
            shifts = _shifts(context, one, (target, reference))
        else:
            shifts = _shifts(context, one, (target, base)) - _shifts(
                context, one, (reference, base)
            )
    except InputError as error:
        return Scrambles(None, f"no scrambled fine-tunes: {error}")
    return Scrambles(shifts, f"beside {len(shifts)} scrambled fine-tunes")


def _shifts(
    context: StageContext, one: StudyCrosscoder, pair: tuple[str, str]
) -> NDArray[np.float32]:
    """(K, F) of one fine-tune and its base, from its file where an earlier run wrote that."""
    import torch

    from crosscoder.errors import InputError
    from crosscoder.nulls import spread_over
    from crosscoder.scrambled_shifts import scrambled_shifts
    from crosscoder.tensor_files import read_sealed_tensors, write_sealed_tensors

    path = _file(context, one, pair)
    if path.is_file():
        try:
            return _array(read_sealed_tensors(path, "it is made again")[0]["shifts"])
        except InputError as error:
            _LOGGER.warning("%s", error)
    study = context.study
    crosscoder = trained_crosscoder(context, one)
    specs = {spec.name: spec for spec in subject_specs(study)}
    found = scrambled_shifts(
        crosscoder,
        [specs[name] for name in crosscoder.config.model_names],
        pair,
        spread_over(study_text(context).documents, study.config.isolate.scramble_documents),
        harvest_config(study),
        n_scrambles=study.config.isolate.scrambles,
        seed=study.config.study.seed,
        today=study_day(context),
        progress=context.progress,
        cache_dir=subject_cache(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed_tensors(path, {"shifts": torch.from_numpy(found.shifts)}, {})
    return found.shifts


def _array(shifts: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = shifts.numpy()
    return found


def _file(context: StageContext, one: StudyCrosscoder, pair: tuple[str, str]) -> Path:
    """Kept apart from the stage's other files: another rule changes nothing here."""
    study = context.study
    section = study.config.isolate
    key = json_sha256(
        [
            context.folder("train").name,
            one.name,
            *([one.seed] if one.seed else []),
            *pair,
            section.scrambles,
            section.scramble_documents,
            study.config.study.seed,
        ]
    )
    return study.artifacts / "scrambles" / f"{key[:16]}.safetensors"
