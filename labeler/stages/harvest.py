"""Harvest: the subject models read the same text, their residual streams go to disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from crosscoder.model_files import FileHashes, SubjectSpec, fingerprint, parts, pinned
from labeler.stages.base import Stage, StageContext, StageOutcome, required
from labeler.store.engine import read_session, write_session
from labeler.store.latents import get_or_create_corpus, get_or_create_subject_model
from labeler.store.runs import first_run_day
from labeler.study.config import CorpusSection, HarvestSection, ModelSection
from labeler.study.corpus_text import (
    corpus_content,
    corpus_documents,
    corpus_reading,
    text_sources,
)
from labeler.study.study_file import StudyFile, subject_cache
from labeler.study.text_read import text_lines

if TYPE_CHECKING:
    from crosscoder.corpus import Document
    from crosscoder.harvest import HarvestConfig
    from crosscoder.manifest import HarvestSource, TextPlan
    from crosscoder.stream import ActivationStream


class HarvestStage:
    """Activations under artifacts/harvest, the models and the corpus in the database."""

    name = "harvest"
    reads_previous = True

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """Fingerprints of the models, hash of the corpus, and what decides the numbers."""
        study = context.study
        specs = subject_specs(study)
        corpus, harvest = corpus_section(study), harvest_section(study)
        hashes = _file_hashes()
        day = {} if corpus.date is None else {"date": corpus.date.isoformat()}
        return {
            "models": [[spec.name, spec.dtype, fingerprint(spec, hashes)] for spec in specs],
            "corpus": corpus_content(study, corpus, hashes),
            "max_length": corpus.max_length,
            "harvest": harvest.model_dump(exclude=fields_not_in_key(harvest)),
            **day,
            **({"corpus_reading": reading} if (reading := corpus_reading(corpus)) else {}),
            **{key: value for key, value in _answer_inputs(corpus).items() if value is not None},
        }

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Let the models read; go on after the last whole shard."""
        from crosscoder.activations import ActivationStore
        from crosscoder.harvest import harvest

        study = context.study
        if not harvest_section(study).cache:
            return self._look(context)
        corpus = study_text(context)
        manifest = harvest(
            subject_specs(study),
            corpus.documents,
            harvest_config(study),
            context.folder(self.name),
            context.progress,
            subject_cache(),
            study_day(context),
            context.verified,
        )
        store = ActivationStore.open(context.folder(self.name), context.verified)
        _register(context, manifest.source, store.d_model, corpus.documents, store.n_tokens)
        facts = {**corpus.facts, **text_facts(manifest.plan)}
        return StageOutcome(
            f"{store.n_tokens:,} tokens of {store.n_documents:,} documents read by "
            f"{store.n_models} models; {store.n_unmasked:,} take part",
            {
                "n_tokens": store.n_tokens,
                "n_unmasked": store.n_unmasked,
                "inputs": named_inputs(study),
                **facts,
            },
            text_lines(facts),
        )

    def _look(self, context: StageContext) -> StageOutcome:
        """Have the models read a sample, and store what it shows in place of activations."""
        corpus = study_text(context)
        stream = _stream(context, corpus.documents)
        source = stream.manifest.source
        _register(context, source, stream.d_model, corpus.documents, stream.n_tokens)
        n_sampled = stream.manifest.n_sampled
        facts = {**corpus.facts, **text_facts(stream.manifest.plan)}
        return StageOutcome(
            f"no cache: {stream.n_tokens:,} tokens of {stream.n_documents:,} documents to be read "
            f"by {stream.n_models} models in every pass; {n_sampled:,} were sampled, about "
            f"{stream.n_unmasked:,} take part",
            {
                "n_tokens": stream.n_tokens,
                "n_unmasked": stream.n_unmasked,
                "cache": False,
                "inputs": named_inputs(context.study),
                **facts,
            },
            text_lines(facts),
        )

    def is_whole(self, context: StageContext) -> bool:
        """Whether the store is complete, or the sample of a study without one is there."""
        from crosscoder.manifest import DOCUMENTS_NAME, MASK_NAME, read_manifest

        folder = context.folder(self.name)
        if not harvest_section(context.study).cache:
            return (folder / "stream.json").is_file()
        manifest = read_manifest(folder)
        return (
            manifest is not None
            and manifest.complete
            and all((folder / shard.file).is_file() for shard in manifest.shards)
            and all((folder / name).is_file() for name in (DOCUMENTS_NAME, MASK_NAME))
        )


def named_inputs(study: StudyFile) -> dict[str, Any]:
    """What a harvest is made from, one value for each thing that a user can change."""
    hashes = _file_hashes()
    named: dict[str, Any] = {}
    for spec in subject_specs(study):
        for kind, content in parts(spec, hashes).items():
            named[f"{kind} of {spec.name}"] = content
        named[f"dtype of {spec.name}"] = spec.dtype
    harvest = harvest_section(study)
    corpus = corpus_section(study)
    named["corpus"] = corpus_content(study, corpus, hashes)
    named |= {f"corpus.{key}": value for key, value in corpus_reading(corpus).items()}
    named["corpus.max_length"] = corpus.max_length
    named["corpus.date"] = corpus.date and corpus.date.isoformat()
    named |= {f"corpus.{key}": value for key, value in _answer_inputs(corpus).items()}
    decided = harvest.model_dump(exclude=fields_not_in_key(harvest))
    return named | {f"harvest.{key}": value for key, value in decided.items()}


def _answer_inputs(corpus: CorpusSection) -> dict[str, Any]:
    """What decides the answers that are read; None for what plays no part."""
    generation = corpus.generation()
    settings = {} if generation is None else generation.deciding()
    return {
        "answers": None if generation is None else corpus.answers,
        "answer_tokens": corpus.answer_tokens,
        "answer_max_tokens": settings.get("max_new_tokens"),
        "answer_temperature": settings.get("temperature"),
        "answer_seed": settings.get("seed"),
    }


def _file_hashes() -> FileHashes:
    return FileHashes(subject_cache() / "file-hashes.json")


def fields_not_in_key(section: HarvestSection) -> set[str]:
    """Settings that change nothing of what is stored; `cache` joined them with its default."""
    fields = {"held_out", "batch_tokens"}
    return fields | {"cache"} if section.cache else fields - {"batch_tokens"}


def harvest_config(study: StudyFile) -> HarvestConfig:
    """`[harvest]` and `[corpus]` as the crosscoder package takes them."""
    from crosscoder.config import HarvestSettings, TextSettings
    from crosscoder.harvest import HarvestConfig

    settings = harvest_section(study).model_dump(include=set(HarvestSettings.model_fields))
    text = corpus_section(study).model_dump(include=set(TextSettings.model_fields))
    return HarvestConfig(**text, **settings)


def study_day(context: StageContext) -> date | None:
    """The day on which the study was made: that of its first run."""
    with read_session(context.engine) as session:
        return first_run_day(session)


def text_facts(plan: TextPlan | None) -> dict[str, Any]:
    """What the run's row keeps of the text that the models read, by role."""
    if plan is None:
        return {}
    return {"date": plan.date.isoformat(), "text": plan.text.model_dump(mode="json")}


@dataclass(frozen=True)
class StudyText:
    """The documents that the models read."""

    documents: Sequence[Document]
    facts: dict[str, Any]
    """What the run's row keeps of whose answers they hold."""


def study_text(context: StageContext) -> StudyText:
    """The documents of the file; with `answers = "both"` the models answer its prompts first."""
    from crosscoder.answers import answered_corpus
    from crosscoder.harvest import harvest_inputs

    study = context.study
    section, specs, config = corpus_section(study), subject_specs(study), harvest_config(study)
    documents = corpus_documents(study, section)
    facts: dict[str, Any] = {"n_documents": len(documents), "answers": section.answers}
    if section.answer_tokens is not None:
        facts["answer_tokens"] = section.answer_tokens
    generation = section.generation()
    if generation is None:
        return StudyText(documents, facts)
    cache, day = subject_cache(), config.date or study_day(context) or date.today()
    # The models are looked at before they are loaded: they may not fit each other.
    inputs = harvest_inputs(specs, documents, config, context.progress, cache)
    answered = answered_corpus(
        documents,
        specs,
        generation,
        study.artifacts / "answers",
        inputs.template_model,
        day,
        config.max_length,
        config.device,
        cache,
        context.progress,
    )
    counts = {name: asdict(count) for name, count in answered.counts.items()}
    facts |= {"n_prompts": answered.n_prompts, "n_unanswered": answered.n_unanswered}
    facts |= {"n_documents": len(answered.documents), "answers_of": counts}
    facts |= {"answer_max_tokens": generation.max_new_tokens}
    return StudyText(answered.documents, facts | {"answer_temperature": generation.temperature})


def opened_stream(context: StageContext) -> ActivationStream:
    """The models reading the study's text; the sample is looked at where it is not yet."""
    return _stream(context, study_text(context).documents)


def _stream(context: StageContext, documents: Sequence[Document]) -> ActivationStream:
    from crosscoder.stream import open_stream

    study = context.study
    return open_stream(
        subject_specs(study),
        documents,
        harvest_config(study),
        context.folder("harvest"),
        context.progress,
        subject_cache(),
        study_day(context),
    )


def _register(
    context: StageContext,
    source: HarvestSource,
    d_model: int,
    documents: Sequence[Document],
    n_tokens: int,
) -> None:
    """Models and corpus in the database."""
    from crosscoder.corpus import corpus_sha256, document_units

    study = context.study
    sources = text_sources(corpus_section(study))
    with write_session(context.engine) as session:
        for record, each in zip(source.subjects, subject_specs(study), strict=True):
            spec = pinned(each)
            commit = f"@{spec.adapter_revision}" if spec.adapter_revision else ""
            get_or_create_subject_model(
                session,
                spec.name,
                record.fingerprint,
                path=spec.path,
                adapter=f"{spec.adapter}{commit}" if spec.adapter else None,
                revision=spec.revision,
                d_model=d_model,
            )
        get_or_create_corpus(
            session,
            " + ".join(source.short_name for source in sources),
            corpus_sha256(documents),
            len(set(document_units(documents))),
            path=" + ".join(source.place(study) for source in sources),
            n_tokens=n_tokens,
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
        adapter_revision=model.adapter_revision,
        gguf_file=gguf_file,
        dtype=model.dtype,
    )


def _local_or_hub(study: StudyFile, path: str) -> str:
    """A path next to study.toml if there is one, else the name as it stands (a Hub name)."""
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


STAGE: Stage = HarvestStage()
