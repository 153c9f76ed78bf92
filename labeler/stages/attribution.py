"""Attribution of a study's latents: what `isolate` chooses by under the rule `effect`, and `effect`
measures under every rule.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crosscoder.config import SIDES, EffectSettings, SideName
from crosscoder.model_files import FileHashes
from labeler.stages.base import StageContext
from labeler.stages.harvest import harvest_config, subject_specs
from labeler.stages.train import (
    StudyCrosscoder,
    opened_store,
    side_crosscoder,
    trained_crosscoder,
)
from labeler.study.config import ComparisonSection, pair_of
from labeler.study.study_file import StudyFile, subject_cache

if TYPE_CHECKING:
    from crosscoder.attribution import Attribution
    from crosscoder.effect_text import EffectText
    from crosscoder.upper_blocks import UpperBlocks

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class EffectPair:
    """Two models of one crosscoder whose effects are measured, with the sides they stand for."""

    comparison: str
    crosscoder: StudyCrosscoder
    models: tuple[str, str]
    """(target, reference)."""
    sides: tuple[SideName, ...]

    @property
    def file_name(self) -> str:
        """Name of a file about the pair."""
        side = "" if len(self.sides) > 1 else f"-{self.sides[0]}"
        return f"{self.comparison}{side}.safetensors"


def effect_pairs(study: StudyFile, row: ComparisonSection) -> list[EffectPair]:
    """One pair where the sides are compared directly, one for each where they have a base."""
    pairs = [
        EffectPair(row.name, side_crosscoder(study, row, side), pair_of(row, side), (side,))
        for side in SIDES
    ]
    target, reference = pairs
    is_direct = set(target.models) == set(reference.models)
    if is_direct and target.crosscoder == reference.crosscoder:
        return [EffectPair(row.name, target.crosscoder, target.models, SIDES)]
    return pairs


class UpperModels:
    """The upper blocks of the study's models, each loaded when it is first asked for."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._opened: dict[str, UpperBlocks] = {}

    def of(self, pair: EffectPair, text: EffectText) -> dict[str, UpperBlocks]:
        """Those of a pair, by name; `text` has tokens that the models can read."""
        first = text.documents[0]
        token_ids = text.source.document_tokens([first])[first].token_ids.tolist()
        return {name: self.upper(name, token_ids) for name in pair.models}

    def upper(self, name: str, token_ids: list[int]) -> UpperBlocks:
        """Those of one model; `token_ids` are some that it can read."""
        from crosscoder.models import inspect_subject, with_converted_weights
        from crosscoder.upper_blocks import open_upper_blocks

        if name not in self._opened:
            config = harvest_config(self._context.study)
            spec = next(each for each in subject_specs(self._context.study) if each.name == name)
            hashes = FileHashes(subject_cache() / "file-hashes.json")
            spec = with_converted_weights(spec, subject_cache(), hashes, self._context.progress)
            facts = inspect_subject(spec)
            self._opened[name] = open_upper_blocks(facts, config.layer, config.device, token_ids)
        return self._opened[name]


def effect_settings(study: StudyFile) -> EffectSettings:
    """`[effect]`, as the measurement takes it."""
    names = EffectSettings.model_fields
    return EffectSettings(**study.config.effect.model_dump(include=set(names)))


def effect_text(context: StageContext, pair: EffectPair) -> EffectText:
    """Random documents that training did not see; the same in every stage."""
    from crosscoder.effect_text import EffectText

    store = pair.crosscoder.of(opened_store(context))
    held_out = store.held_out
    candidates = range(store.n_documents) if held_out is None else held_out.nonzero().flatten()
    return EffectText.draw(
        store,
        [int(index) for index in candidates],
        effect_settings(context.study).max_tokens,
        harvest_config(context.study).batch_tokens,
        context.study.config.study.seed,
    )


def pair_attributions(
    context: StageContext, models: UpperModels, pair: EffectPair
) -> tuple[Attribution, ...]:
    """Attribution in both directions of a pair, the given one first.

    From the file in the folder of `isolate`, where that is whole; else computed and written.
    """
    from crosscoder.attribution import attribute
    from crosscoder.attribution_file import load_attributions, save_attributions
    from crosscoder.effects import directions_of
    from crosscoder.errors import InputError

    path = _file(context, pair)
    if path.is_file():
        try:
            return load_attributions(path)
        except InputError as error:
            _LOGGER.warning("%s", error)
    text = effect_text(context, pair)
    crosscoder = trained_crosscoder(context, pair.crosscoder)
    directions = directions_of(crosscoder, models.of(pair, text), pair.models)
    points = effect_settings(context.study).points
    _LOGGER.info(
        "attribution: %s: %s tokens; %s forward and %s backward passes of the upper blocks over "
        "them",
        pair.comparison,
        f"{text.n_tokens:,}",
        2 * (2 + points),
        2 * points,
    )
    found = tuple(attribute(crosscoder, text, directions, points, context.progress))
    save_attributions(found, path)
    return found


def _file(context: StageContext, pair: EffectPair) -> Path:
    return context.folder("isolate") / f"attribution-{pair.file_name}"
