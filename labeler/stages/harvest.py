"""Harvest: the subject models read the same text, their residual streams go to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crosscoder.fingerprints import FileHashes, fingerprint
from crosscoder.subject_files import SubjectSpec
from labeler.cache import subject_cache
from labeler.errors import UsageError
from labeler.sections.subjects import CorpusSection, HarvestSection, ModelSection
from labeler.stages.base import Stage, StageContext, StageOutcome, required
from labeler.store.engine import write_session
from labeler.store.latent_records import get_or_create_corpus, get_or_create_subject_model
from labeler.study import StudyFile


class HarvestStage:
    """Activations under artifacts/harvest, the models and the corpus in the database."""

    name = "harvest"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """Fingerprints of the models, hash of the corpus, and what decides the numbers."""
        study = context.study
        specs = subject_specs(study)
        corpus, harvest = corpus_section(study), harvest_section(study)
        hashes = FileHashes(subject_cache() / "file-hashes.json")
        return {
            "models": [[spec.name, spec.dtype, fingerprint(spec, hashes)] for spec in specs],
            "corpus": hashes.sha256(existing_corpus(study)),
            "max_length": corpus.max_length,
            "harvest": harvest.model_dump(exclude={"held_out", "batch_tokens"}),
        }

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Let the models read; go on after the last whole shard."""
        from crosscoder.activations import ActivationStore
        from crosscoder.corpus import corpus_sha256, read_corpus
        from crosscoder.harvest import HarvestConfig, harvest

        study = context.study
        documents = read_corpus(existing_corpus(study))
        section = harvest_section(study)
        settings = section.model_dump(exclude={"held_out"})
        config = HarvestConfig(max_length=corpus_section(study).max_length, **settings)
        specs = subject_specs(study)
        manifest = harvest(
            specs,
            documents,
            config,
            context.folder(self.name),
            context.progress,
            subject_cache(),
        )
        store = ActivationStore.open(context.folder(self.name))
        with write_session(context.engine) as session:
            for spec, record in zip(specs, manifest.source.subjects, strict=True):
                get_or_create_subject_model(
                    session,
                    spec.name,
                    record.fingerprint,
                    path=spec.path,
                    adapter=spec.adapter,
                    revision=spec.revision,
                    d_model=store.d_model,
                )
            get_or_create_corpus(
                session,
                existing_corpus(study).name,
                corpus_sha256(documents),
                len(documents),
                path=str(existing_corpus(study)),
                n_tokens=store.n_tokens,
            )
        return StageOutcome(
            f"{store.n_tokens:,} tokens of {store.n_documents:,} documents read by "
            f"{store.n_models} models; {store.n_unmasked:,} take part",
            {"n_tokens": store.n_tokens, "n_unmasked": store.n_unmasked},
        )

    def is_whole(self, context: StageContext) -> bool:
        """Whether the store is complete."""
        from crosscoder.manifest import read_manifest

        manifest = read_manifest(context.folder(self.name))
        folder = context.folder(self.name)
        return (
            manifest is not None
            and manifest.complete
            and all((folder / shard.file).is_file() for shard in manifest.shards)
        )


def subject_specs(study: StudyFile) -> list[SubjectSpec]:
    """The study's models with local paths resolved; UsageError where there are none."""
    models = required(study.config.models, "harvest", "models", "at least two subject models")
    return [_spec(study, model) for model in models]


def _spec(study: StudyFile, model: ModelSection) -> SubjectSpec:
    path, gguf_file = _local_or_hub(study, model.path), None
    if path.endswith(".gguf"):
        path, _, gguf_file = path.rpartition("/")
    return SubjectSpec(
        name=model.name,
        path=path,
        adapter=_local_or_hub(study, model.adapter) if model.adapter else None,
        revision=model.revision,
        gguf_file=gguf_file,
        dtype=model.dtype,
    )


def _local_or_hub(study: StudyFile, path: str) -> str:
    """A path beside study.toml if there is one, else the name as it stands (a Hub name)."""
    local = study.resolve(path)
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    return str(local) if local.exists() or looks_local else path


def corpus_section(study: StudyFile) -> CorpusSection:
    """`[corpus]`, or UsageError."""
    section: CorpusSection = required(study.config.corpus, "harvest", "corpus", "a text to read")
    return section


def harvest_section(study: StudyFile) -> HarvestSection:
    """`[harvest]`, or UsageError."""
    section: HarvestSection = required(
        study.config.harvest, "harvest", "harvest.layer", "the layer to read"
    )
    return section


def existing_corpus(study: StudyFile) -> Path:
    """Path of the corpus file, or UsageError."""
    path = study.resolve(corpus_section(study).path)
    if not path.is_file():
        raise UsageError(f"corpus.path: no file at {path}; give a JSONL file")
    return path


STAGE: Stage = HarvestStage()
