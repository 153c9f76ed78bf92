"""Tuning of trained decoders on the models' outputs (`train.tuning_steps`), part of `train`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from crosscoder.config import SIDES, OutputTuningSettings
from labeler.errors import UsageError
from labeler.stages.attribution import UpperModels
from labeler.stages.base import StageContext
from labeler.study.config import crosscoder_of, pair_of
from labeler.study.study_file import StudyFile
from labeler.text import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crosscoder.activations import ActivationStore
    from crosscoder.output_tuning import OutputTuning
    from crosscoder.stream import ActivationStream
    from crosscoder.train import TrainResult

BATCH = 2048
"""Tokens encoded at a time while the quality is measured."""


def tuning_settings(study: StudyFile) -> OutputTuningSettings:
    """The keys of `[train]` that tuning takes."""
    names = set(OutputTuningSettings.model_fields)
    return OutputTuningSettings(**study.config.train.model_dump(include=names))


def tuned_pairs(study: StudyFile, crosscoder: str | None) -> list[tuple[str, str]]:
    """The (target, reference) pairs, both ways, of the comparisons that read a crosscoder.

    `crosscoder` is its name in `[[crosscoders]]`. UsageError where there is none.
    """
    pairs: dict[tuple[str, str], None] = {}
    named = study.config.crosscoders
    for row in study.config.comparison:
        for side in SIDES:
            if not named or crosscoder_of(row, side, named).name == crosscoder:
                target, reference = pair_of(row, side)
                pairs |= {(target, reference): None, (reference, target): None}
    if not pairs:
        raise UsageError(
            "train.tuning_steps: decoders are tuned on the models of a comparison; add a "
            "[[comparison]], or leave it out"
        )
    return list(pairs)


def tune_trained(
    context: StageContext,
    store: ActivationStore | ActivationStream,
    pairs: Sequence[tuple[str, str]],
    trained: Sequence[TrainResult],
    folders: Sequence[Path],
) -> tuple[list[TrainResult], str]:
    """Tune the crosscoder of each training and write it whole to its folder.

    Returns the results with the quality of the tuned crosscoders, and what is said of the first.
    """
    uppers = UpperModels(context)
    outcomes = [
        _tuned(context, store, pairs, uppers, result, folder)
        for result, folder in zip(trained, folders, strict=True)
    ]
    return [result for result, _ in outcomes], outcomes[0][1]


def _tuned(
    context: StageContext,
    store: ActivationStore | ActivationStream,
    pairs: Sequence[tuple[str, str]],
    uppers: UpperModels,
    trained: TrainResult,
    folder: Path,
) -> tuple[TrainResult, str]:
    from crosscoder.attribution import Direction
    from crosscoder.checkpoints import load_crosscoder, read_crosscoder_file, save_crosscoder
    from crosscoder.evaluate import measure_quality
    from crosscoder.output_tuning import tune_decoders
    from crosscoder.train import resolve_device
    from labeler.stages.train import training_seed, training_source

    assert store.held_out is not None
    documents = [
        index
        for index in (~store.held_out).nonzero().flatten().tolist()
        if store.document_lengths[index]
    ]
    ids = store.document_tokens(documents[:1])[documents[0]].token_ids.tolist()
    section = context.study.config.train
    settings = tuning_settings(context.study)
    header = read_crosscoder_file(trained.directory)
    crosscoder = load_crosscoder(trained.directory).to(resolve_device(section.device))
    index_of = crosscoder.config.model_index
    directions = [
        Direction(index_of(target), index_of(reference), uppers.upper(target, ids))
        for target, reference in pairs
    ]
    tuning = tune_decoders(
        crosscoder,
        store,
        documents,
        directions,
        settings,
        training_seed(context.study),
        section.exclusive_fraction,
        context.progress,
    )
    tuned = tuning.crosscoder
    quality = measure_quality(tuned, partial(training_source(store).held_out_batches, BATCH))
    known = {
        **settings.model_dump(mode="json"),
        "pairs": [list(pair) for pair in pairs],
        "n_steps": tuning.n_steps,
        "n_tokens": tuning.n_tokens,
        "first_divergence": tuning.first,
        "last_divergence": tuning.last,
        "untuned_weights_sha256": header.weights_sha256,
    }
    save_crosscoder(tuned.cpu(), folder, {**header.provenance, "output_tuning": known})
    return replace(trained, directory=folder, quality=quality), _message(tuning)


def _message(tuning: OutputTuning) -> str:
    if tuning.n_steps == 0:
        return "decoders not tuned: the models have the same output"
    return (
        f"decoders tuned in {plural(tuning.n_steps, 'step')}: "
        f"divergence {tuning.first:.3g} to {tuning.last:.3g} nats per token"
    )
