"""Harvest: all subject models read the same tokens, their residual stream goes to disk."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from crosscoder.answers import cut_answers
from crosscoder.config import HarvestSettings, TextSettings
from crosscoder.corpus import (
    CONTENT_ROLES,
    Document,
    TokenizedDocument,
    TokenRole,
    corpus_sha256,
    document_units,
)
from crosscoder.errors import InputError
from crosscoder.files import SET_ASIDE, DamagedFileError, VerifiedFiles
from crosscoder.manifest import (
    MANIFEST_NAME,
    MASK_NAME,
    DocumentTable,
    HarvestManifest,
    HarvestSource,
    ShardRecord,
    SubjectRecord,
    TextPlan,
    read_documents,
    read_manifest,
    write_documents,
    write_manifest,
)
from crosscoder.model_files import FileHashes, SubjectSpec, fingerprint, pinned
from crosscoder.models import (
    ModelInfo,
    inspect_subject,
    require_compatible,
    template_subject,
    with_converted_weights,
)
from crosscoder.progress import Progress, SilentProgress
from crosscoder.reading import CorpusReader, open_readers, plan_shards
from crosscoder.shards import ShardFiles, ShardTokens, write_masks, write_shard
from crosscoder.token_roles import TokenizedCorpus, tokenize_corpus


class ShardWriter:
    """Writes shards in the order given, the manifest after each; one waits at most.

    A failure is raised by the next call, or at the end of the `with` block; a block that ends by
    an exception waits for the shard that is being written and raises nothing of its own.
    """

    def __init__(self, directory: Path, manifest: HarvestManifest) -> None:
        self.manifest = manifest
        """Everything that is whole on the disk."""
        self._directory = directory
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard-writer")
        self._pending: Future[None] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait()

    def put(self, index: int, tokens: ShardTokens) -> None:
        """Hand over a new shard, or one that replaces a damaged one.

        WorkError where the one before it could not be written.
        """
        self._wait()
        self._pending = self._pool.submit(self._write, index, tokens)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, index: int, tokens: ShardTokens) -> None:
        record = write_shard(self._directory, index, tokens)
        kept = self.manifest.shards
        shards = (*kept[:index], record, *kept[index + 1 :])
        manifest = self.manifest.model_copy(update={"shards": shards})
        write_manifest(self._directory, manifest)
        self.manifest = manifest


def content_tokens(roles: torch.Tensor) -> torch.Tensor:
    """(n,) bool, true where the role (n,) is that of a user's, an assistant's or plain text."""
    return torch.isin(roles, torch.tensor([int(role) for role in CONTENT_ROLES]).to(roles.dtype))


def median_norms(norms: Sequence[torch.Tensor], roles: Sequence[torch.Tensor]) -> torch.Tensor:
    """Median L2 norm (M,) of the content tokens, from norms (n, M) and roles (n,) per shard.

    NaN where there is no content token.
    """
    content = [part[content_tokens(role)] for part, role in zip(norms, roles, strict=True)]
    if not any(len(part) for part in content):
        return torch.full((norms[0].shape[1],), torch.nan)
    return torch.cat(content).median(dim=0).values


def token_mask(
    norms: torch.Tensor,
    roles: torch.Tensor,
    document: torch.Tensor,
    medians: torch.Tensor,
    skip_first: int,
    max_norm_ratio: float,
) -> torch.Tensor:
    """(n,) bool over tokens of whole documents: content, not first, of ordinary norm.

    The first `skip_first` content tokens of a document are left out, as are tokens whose norm
    (n, M) exceeds `max_norm_ratio` times the median (M,) in any model: both carry outlier norms
    that have nothing to do with their meaning.
    """
    content = content_tokens(roles)
    counted = content.long().cumsum(0)
    first = torch.searchsorted(document, document)
    before_document = counted[first] - content[first].long()
    rank = counted - before_document
    ordinary = (norms <= max_norm_ratio * medians).all(dim=1)
    return content & (rank > skip_first) & ordinary


_log = logging.getLogger(__name__)


class HarvestConfig(HarvestSettings, TextSettings):
    """Which activations are kept, and on which device the models run."""

    device: str = "auto"
    """Torch device of the models; `auto` takes a GPU where there is one."""

    def deciding(self) -> dict[str, object]:
        """The settings that decide what is stored; the others change only the speed."""
        unset = {name for name in ("date", "answer_tokens") if getattr(self, name) is None}
        without = {"batch_tokens", "device", "max_lost"} | unset
        return self.model_dump(mode="json", exclude=without)


def harvest(
    specs: Sequence[SubjectSpec],
    documents: Sequence[Document],
    config: HarvestConfig,
    out_dir: Path,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
    today: dt.date | None = None,
    verified: VerifiedFiles | None = None,
) -> HarvestManifest:
    """Store the residual stream of every model at every token of the documents.

    What is there already is hashed. A harvest that was stopped goes on with the shards that are
    missing; of a complete one, only what differs from the manifest is read by the models again.
    `cache_dir` keeps file hashes and dequantised GGUF models between runs, `verified` the hashes
    of this process.

    The chat template's clock shows `config.date`, else the day on which this harvest was begun:
    `today`, or the machine's day. Stored shards of other tokens than the corpus has now are
    harvested again.

    Raises InputError where models do not fit each other or the text, where `out_dir` holds
    activations of another source, or where the chat template loses more of the messages than
    `config.max_lost`; WorkError where the disk is full (whole shards are kept).
    """
    progress = progress or SilentProgress()
    inputs = harvest_inputs(specs, documents, config, progress, cache_dir)
    facts, verified = inputs.facts, verified or VerifiedFiles()
    manifest = _begin(out_dir, inputs.source, facts[0].d_model, len(documents))
    damaged = _damaged_shards(out_dir, manifest, verified, progress)
    if manifest.complete and not damaged and _has_the_rest(out_dir, manifest, verified):
        return manifest
    begun = manifest.plan.date if manifest.plan is not None else today
    corpus = read_text(inputs, documents, config, begun)
    shards = plan_shards(corpus.documents, config.shard_tokens)
    manifest = _apply_plan(out_dir, manifest, corpus.plan(shards))
    before, manifest = manifest.shards, manifest.model_copy(update={"mask": None})
    damaged = damaged if before else []
    todo = [*damaged, *range(len(before), len(shards))]
    tokenized = corpus.documents
    manifest = _harvest_shards(facts, tokenized, shards, todo, config, out_dir, manifest, progress)
    _tell_of_other_numbers(out_dir, before, manifest, damaged)
    for replaced in out_dir.glob(f"*{SET_ASIDE}"):
        replaced.unlink()
    return _finish(tokenized, config, out_dir, manifest, verified)


@dataclass(frozen=True)
class HarvestInputs:
    """What is known of a harvest before any weights are read."""

    facts: tuple[ModelInfo, ...]
    """The models, in their order."""
    template_model: ModelInfo
    """The model whose tokenizer and template read the corpus."""
    source: HarvestSource


def harvest_inputs(
    specs: Sequence[SubjectSpec],
    documents: Sequence[Document],
    config: HarvestConfig,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
) -> HarvestInputs:
    """Look at the models and the text; InputError where they do not fit each other."""
    progress = progress or SilentProgress()
    hashes = FileHashes(cache_dir / "file-hashes.json" if cache_dir else None)
    # The models that are loaded must be those that were looked at, whatever is uploaded meanwhile.
    specs = [pinned(spec) for spec in specs]
    prints = [fingerprint(spec, hashes) for spec in specs]
    if cache_dir is not None:
        specs = [with_converted_weights(spec, cache_dir, hashes, progress) for spec in specs]
    facts = tuple(inspect_subject(spec) for spec in specs)
    require_compatible(facts, config.layer, config.template_model)
    template_model = template_subject(facts, config.template_model)
    return HarvestInputs(
        facts, template_model, _source(specs, prints, template_model, documents, config)
    )


def _source(
    specs: Sequence[SubjectSpec],
    prints: Sequence[str],
    template_model: ModelInfo,
    documents: Sequence[Document],
    config: HarvestConfig,
) -> HarvestSource:
    return HarvestSource(
        subjects=tuple(
            SubjectRecord(name=spec.name, fingerprint=value, dtype=spec.dtype)
            for spec, value in zip(specs, prints, strict=True)
        ),
        layer=config.layer,
        tokenizer_sha256=template_model.vocabulary_sha256,
        template_sha256=template_model.template_sha256,
        corpus_sha256=corpus_sha256(documents),
        config=config.deciding(),
    )


def read_text(
    inputs: HarvestInputs,
    documents: Sequence[Document],
    config: HarvestConfig,
    begun: dt.date | None = None,
) -> TokenizedCorpus:
    """The tokens of the documents, as the models are to read them.

    `begun` is the day of the template's clock where the config names none; None = today.
    InputError as `tokenize_corpus` raises it, and where more of a role's text is lost than
    `config.max_lost`, or all of it.
    """
    day = config.date or begun or dt.date.today()
    template_model = inputs.template_model
    tokenizer = template_model.tokenizer
    if config.answer_tokens is not None:
        documents = cut_answers(documents, tokenizer, config.answer_tokens)
    corpus = tokenize_corpus(documents, tokenizer, config.max_length, day, template_model.name)
    corpus.counts.require(config.max_lost)
    if not any(len(document.token_ids) for document in corpus.documents):
        raise InputError(no_content(config))
    return corpus


def no_content(config: HarvestConfig) -> str:
    """What is said of a corpus of which nothing takes part."""
    return (
        f"corpus: no document has more than harvest.skip_first = {config.skip_first} tokens of "
        "content; give longer texts"
    )


def _apply_plan(out_dir: Path, manifest: HarvestManifest, plan: TextPlan) -> HarvestManifest:
    """The manifest with its plan; without the shards, where they are not of those tokens."""
    if manifest.plan is not None and manifest.plan.sha256 == plan.sha256:
        return manifest
    if manifest.shards:
        _log.warning(
            "%s: the corpus has other tokens than the stored shards (another version of the "
            "tokenizer or of this program?); harvesting them again",
            out_dir,
        )
        for record in manifest.shards:
            (out_dir / record.file).unlink(missing_ok=True)
    manifest = manifest.model_copy(update={"plan": plan, "shards": (), "mask": None})
    write_manifest(out_dir, manifest)
    return manifest


def _begin(out_dir: Path, source: HarvestSource, d_model: int, n_documents: int) -> HarvestManifest:
    """The manifest to go on from: that of the folder, or a new one without shards."""
    manifest = read_manifest(out_dir)
    if manifest is None:
        manifest = HarvestManifest(source=source, d_model=d_model, n_documents=n_documents)
        write_manifest(out_dir, manifest)
        return manifest
    if manifest.source.key != source.key:
        raise InputError(
            f"{out_dir / MANIFEST_NAME}: activations of other models, text or settings; "
            f"harvest into another folder, or remove {out_dir}"
        )
    if not manifest.complete:
        for leftover in out_dir.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
    return manifest


def _damaged_shards(
    out_dir: Path, manifest: HarvestManifest, verified: VerifiedFiles, progress: Progress
) -> list[int]:
    """Shards of the manifest whose files are missing or differ from it; each is named."""
    files = ShardFiles(out_dir, manifest.shards, verified=verified)
    damaged: list[int] = []
    if not manifest.shards:
        return damaged
    with progress.task("verify", len(manifest.shards), "shards") as advance:
        for index in range(len(manifest.shards)):
            if not files.is_whole(index):
                _log.warning("%s: missing or damaged; it is harvested again", files.path(index))
                damaged.append(index)
            advance(1)
    return damaged


def _has_the_rest(out_dir: Path, manifest: HarvestManifest, verified: VerifiedFiles) -> bool:
    """Whether masks and table of documents are what was written."""
    if not ShardFiles(out_dir, manifest.shards, manifest.mask, verified).has_mask():
        _log.warning("%s: missing or damaged; it is made again", out_dir / MASK_NAME)
        return False
    try:
        read_documents(out_dir)
    except DamagedFileError as error:
        _log.warning("%s", error)
        return False
    return True


def _tell_of_other_numbers(
    out_dir: Path,
    before: Sequence[ShardRecord],
    manifest: HarvestManifest,
    made_again: Sequence[int],
) -> None:
    for index in made_again:
        if before[index].sha256 != manifest.shards[index].sha256:
            _log.warning(
                "%s: made again with other numbers (another device, library or batch size); what "
                "was made from the activations before does not belong to these: train again",
                out_dir / before[index].file,
            )


def _harvest_shards(
    subjects: Sequence[ModelInfo],
    tokenized: Sequence[TokenizedDocument],
    plan: Sequence[range],
    todo: Sequence[int],
    config: HarvestConfig,
    out_dir: Path,
    manifest: HarvestManifest,
    progress: Progress,
) -> HarvestManifest:
    if not todo:
        return manifest
    readers = open_readers(subjects, tokenized, config.layer, config.device)
    reader = CorpusReader(readers, manifest.d_model, config.batch_tokens, config.storage_dtype)
    total = sum(len(document.token_ids) for document in tokenized)
    with (
        progress.task("harvest", total, "tokens") as advance,
        ShardWriter(out_dir, manifest) as writer,
    ):
        advance(total - sum(len(tokenized[i].token_ids) for index in todo for i in plan[index]))
        for index in todo:
            writer.put(index, reader.read([tokenized[i] for i in plan[index]], advance))
    return writer.manifest


def _finish(
    tokenized: Sequence[TokenizedDocument],
    config: HarvestConfig,
    out_dir: Path,
    manifest: HarvestManifest,
    verified: VerifiedFiles,
) -> HarvestManifest:
    """Mask the tokens, now that every norm is known, and declare the harvest complete."""
    names = ["norms", "roles", "document"]
    files = ShardFiles(out_dir, manifest.shards, verified=verified)
    columns = [files.columns(index, names) for index in range(len(manifest.shards))]
    medians = median_norms([norms for norms, _, _ in columns], [roles for _, roles, _ in columns])
    masks: list[torch.Tensor] = []
    by_role = np.zeros(len(TokenRole), dtype=np.int64)
    unmasked = np.zeros(len(tokenized), dtype=np.int64)
    for norms, roles, document in columns:
        mask = token_mask(norms, roles, document, medians, config.skip_first, config.max_norm_ratio)
        unmasked += np.bincount(document[mask].numpy(), minlength=len(tokenized))
        by_role += np.bincount(roles[mask].numpy(), minlength=len(TokenRole))
        masks.append(mask)
    if not unmasked.any():
        raise InputError(no_content(config))
    write_documents(
        out_dir,
        DocumentTable(
            ids=tuple(document.document_id for document in tokenized),
            n_tokens=tuple(len(document.token_ids) for document in tokenized),
            n_unmasked=tuple(unmasked.tolist()),
            units=document_units(tokenized),
        ),
    )
    record = write_masks(out_dir, manifest.shards, masks, medians.tolist())
    plan = manifest.plan.with_tokens(by_role.tolist()) if manifest.plan is not None else None
    manifest = manifest.model_copy(update={"mask": record, "plan": plan})
    write_manifest(out_dir, manifest)
    return manifest
