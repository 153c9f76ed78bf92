"""Train: one crosscoder over all subject models, those of `[[crosscoders]]`, or a loaded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.config import (
    ACTIVATIONS,
    OutputTuningSettings,
    SideName,
    SparsitySettings,
    TrainConfig,
    TrainSettings,
)
from labeler.errors import UsageError
from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.stages.harvest import harvest_section, opened_stream
from labeler.store.engine import write_session
from labeler.store.latents import get_or_create_crosscoder, get_or_create_subject_model
from labeler.store.schema import Corpus, Crosscoder
from labeler.study.config import ComparisonSection, CrosscoderSection, TrainSection, crosscoder_of
from labeler.study.study_file import StudyFile, subject_cache
from labeler.text import plural

if TYPE_CHECKING:
    from crosscoder.activations import ActivationStore
    from crosscoder.model import Crosscoder as CrosscoderModule
    from crosscoder.model import CrosscoderConfig
    from crosscoder.published import PublishedCrosscoder
    from crosscoder.sources import TrainingSource
    from crosscoder.stream import ActivationStream
    from crosscoder.train import TrainResult

BATCH = 2048
"""Tokens encoded at a time while theta and the quality are measured."""
UNTUNED = "untuned"
"""Folder, within its own, of a crosscoder whose decoders are tuned after training."""


@dataclass(frozen=True)
class StudyCrosscoder:
    """One crosscoder of the study."""

    name: str | None = None
    """Its name in `[[crosscoders]]`; None for the only one, over all models."""
    models: tuple[str, ...] = ()
    """Its models; none for all."""
    seed: int = 0
    """Its number among the seeds of `train.seeds`; 0 = the one that pages show."""

    def folder(self, context: StageContext, stage: str) -> Path:
        """Folder of what `stage` made of this crosscoder."""
        folder = context.folder(stage)
        if self.name is not None:
            folder /= self.name
        return folder / f"seed-{self.seed}" if self.seed else folder

    def of_seed(self, seed: int) -> StudyCrosscoder:
        """The same crosscoder of another seed."""
        return replace(self, seed=seed)

    def seed_folders(self, context: StageContext) -> tuple[Path, ...]:
        """Folders of the crosscoders of all seeds that `train` makes, the study's own first."""
        seeds = range(context.study.config.train.seeds)
        return tuple(self.of_seed(seed).folder(context, "train") for seed in seeds)

    def database_name(self, study: StudyFile) -> str:
        """Name of its row, where no other weights have that already."""
        parts = [study.config.study.name, self.name, f"seed-{self.seed}" if self.seed else None]
        return "-".join(part for part in parts if part is not None)

    def of(self, store: ActivationStore | ActivationStream) -> ActivationStore | ActivationStream:
        """The activations of its models. A stream is never split: the config refuses that."""
        from crosscoder.activations import ActivationStore

        if self.name is None or not isinstance(store, ActivationStore):
            return store
        return store.select_models(self.models)


def study_crosscoders(study: StudyFile) -> tuple[StudyCrosscoder, ...]:
    """Those of `[[crosscoders]]`, or the one over all models."""
    named = tuple(StudyCrosscoder(row.name, row.models) for row in study.config.crosscoders)
    return named or (StudyCrosscoder(),)


def named_crosscoder(study: StudyFile, name: str | None) -> StudyCrosscoder:
    """The study's crosscoder of that name; without a name, the only one. UsageError where not."""
    found = study_crosscoders(study)
    if name is None and len(found) == 1:
        return found[0]
    for one in found:
        if name is not None and one.name == name:
            return one
    names = ", ".join(one.name for one in found if one.name) or "none in [[crosscoders]]"
    said = "missing" if name is None else f"no crosscoder is named {name!r}"
    raise UsageError(f"--crosscoder: {said} (crosscoders: {names})")


def side_crosscoder(
    study: StudyFile, comparison: ComparisonSection, side: SideName
) -> StudyCrosscoder:
    """The crosscoder that a side of a comparison is read from."""
    if not study.config.crosscoders:
        return StudyCrosscoder()
    row = crosscoder_of(comparison, side, study.config.crosscoders)
    return StudyCrosscoder(row.name, row.models)


def trained_crosscoder(context: StageContext, one: StudyCrosscoder) -> CrosscoderModule:
    """The product of `train`; DamagedFileError as `crosscoder_in`."""
    return crosscoder_in(one.folder(context, "train"))


def crosscoder_in(folder: Path) -> CrosscoderModule:
    """A crosscoder that `train` wrote; DamagedFileError where it is not what was written.

    A damaged file is set aside: `train` makes it again.
    """
    from crosscoder.checkpoints import load_crosscoder
    from crosscoder.files import DamagedFileError, set_aside

    try:
        return load_crosscoder(folder)
    except DamagedFileError as error:
        raise set_aside(error) from None


def crosscoder_row(
    session: Session, context: StageContext, crosscoder: StudyCrosscoder
) -> Crosscoder:
    """The row of a trained crosscoder, by its weights; DamagedFileError as `trained_crosscoder`."""
    from crosscoder.checkpoints import read_crosscoder_file
    from crosscoder.files import DamagedFileError, set_aside

    try:
        sha256 = read_crosscoder_file(crosscoder.folder(context, "train")).weights_sha256
    except DamagedFileError as error:
        raise set_aside(error) from None
    query = select(Crosscoder).where(Crosscoder.sha256 == sha256).order_by(Crosscoder.id)
    row = session.execute(query).scalars().first()
    if row is None:
        raise LookupError("the crosscoder has no row")
    return row


def loaded_inputs(study: StudyFile) -> dict[str, Any]:
    """Hash of the weights and how they are read; UsageError where there is no such file."""
    from crosscoder.model_files import FileHashes
    from crosscoder.published_files import UNFOLDING_NAME, weights_file

    section = study.config.crosscoder
    weights = weights_file(existing_path(study))
    hashes = FileHashes(subject_cache() / "file-hashes.json")
    known = {"weights": hashes.sha256(weights)}
    if (unfolding := weights.with_name(UNFOLDING_NAME)).is_file():
        known["unfolding"] = hashes.sha256(unfolding)
    return known | section.model_dump(exclude={"path"}, mode="json")


def existing_path(study: StudyFile) -> Path:
    """`crosscoder.path`, relative to study.toml's folder; UsageError where it is missing."""
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
    from crosscoder.evaluate import measure_quality

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
        f"{100 * quality.inactive_share:.1f}% inactive{said}",
        {
            "fve": {row.model: row.fve for row in quality.fve},
            "l0": quality.l0,
            "inactive_share": quality.inactive_share,
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


def _check_width(crosscoder: CrosscoderModule, source: TrainingSource, path: Path) -> None:
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
    crosscoder: CrosscoderModule, section: CrosscoderSection, source: TrainingSource
) -> list[str]:
    """Calibrate theta where the file or the study asks for it; says so."""
    from crosscoder.evaluate import calibrate_theta

    if not ACTIVATIONS.get(crosscoder.config.activation).aims_at_k:
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


class TrainStage:
    """The crosscoder under artifacts/train, its row in the database; several in sub-folders."""

    name = "train"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """What decides the weights."""
        if is_loaded(context.study):
            if context.study.config.train.seeds > 1:
                raise UsageError("train.seeds: crosscoder.path names one; leave one of them out")
            return {
                "crosscoder": loaded_inputs(context.study),
                "held_out": harvest_section(context.study).held_out,
            }
        inputs: dict[str, Any] = {
            "train": decisive(context.study.config.train),
            "held_out": harvest_section(context.study).held_out,
        }
        if context.study.config.train.tuning_steps:
            inputs["tuned_pairs"] = _all_tuned_pairs(context.study)
        seed = training_seed(context.study)
        if seed != context.study.config.study.seed:
            inputs["seed"] = seed
        if context.study.config.crosscoders:
            inputs["crosscoders"] = [
                row.model_dump(mode="json") for row in context.study.config.crosscoders
            ]
        return inputs

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Train to the end, going on from the newest checkpoint; or load what is named."""
        store = opened_store(context)
        if is_loaded(context.study):
            only, folder = StudyCrosscoder(), context.folder(self.name)
            outcome = load_into(context, training_source(store), folder)
            register(context, run_id, store, only)
            return outcome
        crosscoders = study_crosscoders(context.study)
        outcomes = [_trained(context, one, store) for one in crosscoders]
        # Only when all are there: the facts of each are read from the run that has its row.
        hashes = [register(context, run_id, one.of(store), one) for one in crosscoders]
        if not context.study.config.crosscoders:
            return outcomes[0]
        named = zip(crosscoders, outcomes, strict=True)
        return StageOutcome(
            " | ".join(f"{one.name}: {outcome.message}" for one, outcome in named),
            {
                "crosscoders": {
                    sha256: outcome.result for sha256, outcome in zip(hashes, outcomes, strict=True)
                }
            },
        )

    def is_whole(self, context: StageContext) -> bool:
        """Whether the weights and their config are there."""
        return all(
            (folder / name).is_file()
            for one in study_crosscoders(context.study)
            for folder in one.seed_folders(context)
            for name in ("crosscoder.safetensors", "config.json")
        )


def _all_tuned_pairs(study: StudyFile) -> dict[str, list[tuple[str, str]]]:
    """The pairs on which each crosscoder is tuned."""
    from labeler.stages.output_tuning import tuned_pairs

    return {one.name or "": tuned_pairs(study, one.name) for one in study_crosscoders(study)}


def training_seed(study: StudyFile) -> int:
    """Seed of the study's crosscoder."""
    seed = study.config.train.seed
    return study.config.study.seed if seed is None else seed


def decisive(section: TrainSection) -> dict[str, Any]:
    """What decides the weights, seed aside; the keys of the activation joined with defaults.

    More seeds leave the weights of the first as they are, so that they can be added later.
    """
    unread = {"checkpoint_every", "seed", "seeds", "label_seeds"}
    if section.tuning_steps == 0:
        unread |= set(OutputTuningSettings.model_fields)
    if section.activation == TrainSection.model_fields["activation"].default:
        unread |= {"activation", *SparsitySettings.model_fields}
    return section.hash_content(exclude=unread)


def _trained(
    context: StageContext, crosscoder: StudyCrosscoder, whole: ActivationStore | ActivationStream
) -> StageOutcome:
    from crosscoder.train import train_seeds

    store = crosscoder.of(whole)
    crosscoder_config, train_config = configs(context, store)
    folders = crosscoder.seed_folders(context)
    is_tuned = context.study.config.train.tuning_steps > 0
    results: Sequence[TrainResult] = train_seeds(
        training_source(store),
        crosscoder_config,
        train_config,
        [folder / UNTUNED for folder in folders] if is_tuned else folders,
        context.progress,
    )
    tuning = ""
    if is_tuned:
        from labeler.stages.output_tuning import tune_trained, tuned_pairs

        pairs = tuned_pairs(context.study, crosscoder.name)
        results, said = tune_trained(context, store, pairs, results, folders)
        tuning = f"; {said}"
    result, *others = results
    quality = result.quality
    shown = ", ".join(f"FVE {row.fve:.3f} {row.model}" for row in quality.fve)
    drift = "" if result.theta_drift is None else f" ({100 * result.theta_drift:+.1f}% of k)"
    return StageOutcome(
        f"{crosscoder_config.n_latents:,} latents, {result.n_steps:,} steps; "
        f"held out: {shown}, L0 {quality.l0:.1f}{drift}, "
        f"{100 * quality.inactive_share:.1f}% inactive; "
        f"in training: {100 * result.dead_share:.1f}% dead{_other_seeds(others)}{tuning}",
        {
            "fve": {row.model: row.fve for row in quality.fve},
            "l0": quality.l0,
            "inactive_share": quality.inactive_share,
            "dead_share": result.dead_share,
            "theta": result.theta,
            "theta_drift": result.theta_drift,
            "n_steps": result.n_steps,
        },
    )


def _other_seeds(results: Sequence[TrainResult]) -> str:
    """How well the crosscoders of the other seeds reconstruct, in words."""
    if not results:
        return ""
    means = [sum(row.fve for row in each.quality.fve) / len(each.quality.fve) for each in results]
    return f"; {plural(len(results), 'other seed')}, mean FVE {min(means):.3f} to {max(means):.3f}"


def opened_store(context: StageContext) -> ActivationStore | ActivationStream:
    """The harvest's activations, stored or streamed, with the study's documents held out."""
    from crosscoder.activations import ActivationStore

    held_out, seed = harvest_section(context.study).held_out, context.study.config.study.seed
    if not harvest_section(context.study).cache:
        return opened_stream(context).split(held_out, seed)
    store = ActivationStore.open(context.folder("harvest"), context.verified)
    return store.split(held_out, seed)


def training_source(store: ActivationStore | ActivationStream) -> TrainingSource:
    """Split activations as training takes them."""
    from crosscoder.activations import ActivationStore
    from crosscoder.training_sources import StoreSource, StreamSource

    return StoreSource(store) if isinstance(store, ActivationStore) else StreamSource(store)


def configs(
    context: StageContext, store: ActivationStore | ActivationStream
) -> tuple[CrosscoderConfig, TrainConfig]:
    """The two configs of the crosscoder package, from `[train]`."""
    from crosscoder.model import CrosscoderConfig

    section = context.study.config.train
    published = section.preset == "minder2025"
    crosscoder_config = CrosscoderConfig(
        n_models=store.n_models,
        d_model=store.d_model,
        n_latents=section.n_latents,
        k=section.k,
        model_names=store.model_names,
        activation=section.activation,
        normalisation="none" if published else "affine",
        layer=store.manifest.source.layer,
        tokenizer_sha256=store.manifest.source.tokenizer_sha256,
    )
    own = {"seed": training_seed(context.study), **_own_settings(section)}
    if published:
        stated = {name: own[name] for name in own if name in section.model_fields_set}
        return crosscoder_config, TrainConfig.minder2025(
            **{"seed": own["seed"], "device": own["device"], **stated}
        )
    return crosscoder_config, TrainConfig(**own)


def _own_settings(section: TrainSection) -> dict[str, Any]:
    names = TrainSettings.model_fields | SparsitySettings.model_fields
    return section.model_dump(include=set(names))


def register(
    context: StageContext,
    run_id: int,
    store: ActivationStore | ActivationStream,
    crosscoder: StudyCrosscoder,
) -> str:
    """Write the crosscoder's row, unless it is there; returns the hash of its weights."""
    from crosscoder.checkpoints import read_crosscoder_file

    directory = crosscoder.folder(context, "train")
    header = read_crosscoder_file(directory)
    source = store.manifest.source
    with write_session(context.engine) as session:
        models = [
            get_or_create_subject_model(session, subject.name, subject.fingerprint)
            for subject in source.subjects
        ]
        corpus = session.execute(
            select(Corpus).where(Corpus.sha256 == source.corpus_sha256)
        ).scalar_one_or_none()
        get_or_create_crosscoder(
            session,
            crosscoder.database_name(context.study),
            header.weights_sha256,
            models,
            run_id=run_id,
            corpus_id=corpus.id if corpus else None,
            path=str(directory.relative_to(context.study.folder)),
            n_latents=header.crosscoder.n_latents,
            config=header.crosscoder.model_dump(mode="json"),
        )
    return header.weights_sha256


STAGE: Stage = TrainStage()
