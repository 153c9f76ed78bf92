"""Train: one crosscoder over all subject models of the study, or those of `[[crosscoders]]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from labeler.sections.dictionary import TrainSection
from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.stages.dictionaries import StudyCrosscoder, study_crosscoders
from labeler.stages.harvest import harvest_section, opened_stream
from labeler.stages.loaded import is_loaded, load_into, loaded_inputs
from labeler.store.engine import write_session
from labeler.store.latent_records import get_or_create_crosscoder, get_or_create_subject_model
from labeler.store.schema import Corpus

if TYPE_CHECKING:
    from crosscoder.activations import ActivationStore
    from crosscoder.model import CrosscoderConfig
    from crosscoder.row_source import TrainingSource
    from crosscoder.stream import ActivationStream
    from crosscoder.train_config import TrainConfig


class TrainStage:
    """The crosscoder under artifacts/train, its row in the database; several in sub-folders."""

    name = "train"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """What decides the weights."""
        if is_loaded(context.study):
            return {
                "crosscoder": loaded_inputs(context.study),
                "held_out": harvest_section(context.study).held_out,
            }
        inputs: dict[str, Any] = {
            "train": context.study.config.train.model_dump(exclude={"checkpoint_every"}),
            "held_out": harvest_section(context.study).held_out,
        }
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
            _register(context, run_id, store, only)
            return outcome
        crosscoders = study_crosscoders(context.study)
        outcomes = [_trained(context, one, store) for one in crosscoders]
        # Only when all are there: the facts of each are read from the run that has its row.
        hashes = [_register(context, run_id, one.of(store), one) for one in crosscoders]
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
            (one.folder(context, self.name) / name).is_file()
            for one in study_crosscoders(context.study)
            for name in ("crosscoder.safetensors", "config.json")
        )


def _trained(
    context: StageContext, crosscoder: StudyCrosscoder, whole: ActivationStore | ActivationStream
) -> StageOutcome:
    from crosscoder.training import train

    store = crosscoder.of(whole)
    crosscoder_config, train_config = configs(context, store)
    result = train(
        training_source(store),
        crosscoder_config,
        train_config,
        crosscoder.folder(context, "train"),
        context.progress,
    )
    quality = result.quality
    shown = ", ".join(f"FVE {row.fve:.3f} {row.model}" for row in quality.fve)
    drift = "" if result.theta_drift is None else f" ({100 * result.theta_drift:+.1f}% of k)"
    return StageOutcome(
        f"{crosscoder_config.n_latents:,} latents, {result.n_steps:,} steps; "
        f"held out: {shown}, L0 {quality.l0:.1f}{drift}, "
        f"{100 * quality.silent_share:.1f}% inactive; "
        f"in training: {100 * result.dead_share:.1f}% dead",
        {
            "fve": {row.model: row.fve for row in quality.fve},
            "l0": quality.l0,
            "silent_share": quality.silent_share,
            "dead_share": result.dead_share,
            "theta": result.theta,
            "theta_drift": result.theta_drift,
            "n_steps": result.n_steps,
        },
    )


def opened_store(context: StageContext) -> ActivationStore | ActivationStream:
    """The harvest's activations, stored or to be read anew, with the study's documents held out."""
    from crosscoder.activations import ActivationStore

    held_out, seed = harvest_section(context.study).held_out, context.study.config.study.seed
    if not harvest_section(context.study).cache:
        return opened_stream(context).split(held_out, seed)
    store = ActivationStore.open(context.folder("harvest"), context.verified)
    return store.split(held_out, seed)


def training_source(store: ActivationStore | ActivationStream) -> TrainingSource:
    """Split activations as training takes them."""
    from crosscoder.activations import ActivationStore
    from crosscoder.store_source import StoreSource
    from crosscoder.stream_source import StreamSource

    return StoreSource(store) if isinstance(store, ActivationStore) else StreamSource(store)


def configs(
    context: StageContext, store: ActivationStore | ActivationStream
) -> tuple[CrosscoderConfig, TrainConfig]:
    """The two configs of the crosscoder package, from `[train]`."""
    from crosscoder.model import CrosscoderConfig
    from crosscoder.train_config import TrainConfig

    section = context.study.config.train
    published = section.preset == "minder2025"
    crosscoder_config = CrosscoderConfig(
        n_models=store.n_models,
        d_model=store.d_model,
        n_latents=section.n_latents,
        k=section.k,
        model_names=store.model_names,
        normalisation="none" if published else "affine",
        layer=store.manifest.source.layer,
        tokenizer_sha256=store.manifest.source.tokenizer_sha256,
    )
    own = {"seed": context.study.config.study.seed, **_own_settings(section)}
    if published:
        stated = {name: own[name] for name in own if name in section.model_fields_set}
        return crosscoder_config, TrainConfig.minder2025(
            **{"seed": own["seed"], "device": own["device"], **stated}
        )
    return crosscoder_config, TrainConfig(**own)


def _own_settings(section: TrainSection) -> dict[str, Any]:
    from crosscoder.settings import TrainSettings

    return section.model_dump(include=set(TrainSettings.model_fields))


def _register(
    context: StageContext,
    run_id: int,
    store: ActivationStore | ActivationStream,
    crosscoder: StudyCrosscoder,
) -> str:
    """Write the crosscoder's row; returns the hash of its weights."""
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
