"""What the stage `label` needs of the models: explanations tested on texts that the judge wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.errors import UsageError, require_extra
from labeler.judge.base import judge_kind
from labeler.judge.latents import latents_of
from labeler.stages.base import StageContext
from labeler.stages.harvest import harvest_config, harvest_section, study_day, subject_specs
from labeler.stages.isolate import comparisons, labelled_crosscoders
from labeler.stages.label import compared
from labeler.stages.train import StudyCrosscoder, crosscoder_row, trained_crosscoder
from labeler.store.engine import read_session
from labeler.store.schema import Latent
from labeler.study.judge_config import JudgeSection
from labeler.study.study_file import subject_cache

if TYPE_CHECKING:
    from crosscoder.probing import TextProbe
    from labeler.judge.base import Judge
    from labeler.judge.experiments import MeasuredText
    from labeler.labeling.revise import ReviseSummary


def require_experiments(section: JudgeSection) -> None:
    """Raise UsageError where explanations are to be revised and nothing here can test them."""
    if not section.revise:
        return
    if not judge_kind(section.kind).writes_texts:
        raise UsageError(
            f"judge.revise: kind = {section.kind} writes no texts; set it to 0, or name a judge "
            "that is a language model"
        )
    require_extra("models", "judge.revise")


def revised(
    context: StageContext, judge: Judge, section: JudgeSection, run_id: int
) -> ReviseSummary:
    """Test the explanations of the sides' latents, and revise those that fail.

    UsageError, before anything is asked, where nothing on this machine can measure them.
    """
    from labeler.labeling.revise import ReviseConfig, revise_explanations

    measurement = LatentMeasurement(context)
    measurement.require_files()
    with read_session(context.engine) as session:
        latents = revised_latents(session, context)
    return revise_explanations(
        context.engine,
        judge,
        run_id,
        latents,
        measurement.measure,
        ReviseConfig(section.revise, section.revise_texts),
        context.progress,
    )


def revised_latents(session: Session, context: StageContext) -> list[int]:
    """The latents whose explanations are tested: those of the sides, without controls."""
    return latents_of(session, compared(session, [row.name for row in comparisons(context)]))


@dataclass(frozen=True)
class _Place:
    """Where a latent is."""

    crosscoder: StudyCrosscoder
    index: int


class LatentMeasurement:
    """Measures latents with the study's models and crosscoders, which are loaded when needed."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._probes: dict[tuple[str, ...], TextProbe] = {}
        self._places: dict[int, _Place] = {}

    def measure(self, texts: Sequence[tuple[int, MeasuredText]]) -> list[float | None]:
        """The largest activation of each latent on its text."""
        from crosscoder.probing import ProbeText

        places = self._known_places([latent_id for latent_id, _ in texts])
        found: list[float | None] = [None] * len(texts)
        for one in dict.fromkeys(place.crosscoder for place in places):
            rows = [row for row, place in enumerate(places) if place.crosscoder == one]
            probes = [
                ProbeText(each.role, each.text, each.before)  # type: ignore[arg-type]
                for _, each in (texts[row] for row in rows)
            ]
            values = self._probe(one).activations(
                trained_crosscoder(self._context, one), probes, [places[row].index for row in rows]
            )
            for row, value in zip(rows, values, strict=True):
                found[row] = value
        return found

    def _known_places(self, latent_ids: Sequence[int]) -> list[_Place]:
        if not self._places:
            with read_session(self._context.engine) as session:
                for one in labelled_crosscoders(self._context.study):
                    row = crosscoder_row(session, self._context, one)
                    query = select(Latent.id, Latent.latent_index)
                    for latent in session.execute(query.where(Latent.crosscoder_id == row.id)):
                        self._places[latent.id] = _Place(one, latent.latent_index)
        return [self._places[latent_id] for latent_id in latent_ids]

    def require_files(self) -> None:
        """Raise UsageError where models or crosscoder are not on this machine."""
        for stage in ("harvest", "train"):
            folder = self._context.folder(stage)
            if not folder.is_dir():
                raise UsageError(
                    f"judge.revise: the product of `{stage}` is not on this machine ({folder}); "
                    "run `label` where the models and the crosscoder are"
                )

    def _probe(self, one: StudyCrosscoder) -> TextProbe:
        from crosscoder.probing import TextProbe

        specs = subject_specs(self._context.study)
        names = one.models or tuple(spec.name for spec in specs)
        if names not in self._probes:
            medians = dict(zip((spec.name for spec in specs), self._median_norms(), strict=True))
            by_name = {spec.name: spec for spec in specs}
            self._probes[names] = TextProbe(
                [by_name[name] for name in names],
                harvest_config(self._context.study),
                [medians[name] for name in names],
                study_day(self._context) or date.today(),
                subject_cache(),
                self._context.progress,
            )
        return self._probes[names]

    def _median_norms(self) -> tuple[float, ...]:
        """The norms that the corpus' mask compares with, by model."""
        from crosscoder.manifest import read_manifest, read_stream_manifest

        folder = self._context.folder("harvest")
        if not harvest_section(self._context.study).cache:
            stream = read_stream_manifest(folder)
            return () if stream is None else stream.median_norms
        manifest = read_manifest(folder)
        return () if manifest is None or manifest.mask is None else manifest.mask.median_norms
