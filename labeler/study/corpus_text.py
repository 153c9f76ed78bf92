"""The sources of a study's text: where they lie, what of them decides the text, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscoder.corpus_files import corpus_files
from crosscoder.corpus_settings import HUB, SourceSettings
from crosscoder.files import json_sha256
from labeler.errors import UsageError
from labeler.study.config import CorpusSection
from labeler.study.study_file import StudyFile

if TYPE_CHECKING:
    from crosscoder.corpus import Document
    from crosscoder.corpus_sources import Source
    from crosscoder.model_files import FileHashes

_NAMED = 16
"""Hexadecimal digits of the hash that a kept file is named by."""


@dataclass(frozen=True)
class TextSource:
    """One source as study.toml names it."""

    key: str
    """The key of its path, for messages."""
    name: str
    """Stands before the ids of its documents; empty where it is the only one."""
    path: str
    settings: SourceSettings

    @property
    def hub_name(self) -> str | None:
        """Its name on the Hub, where it lies there."""
        return self.path.removeprefix(HUB) if self.path.startswith(HUB) else None

    @property
    def short_name(self) -> str:
        """What the database calls it: the last part of its path."""
        return self.path if self.hub_name is not None else Path(self.path).name or self.path

    def place(self, study: StudyFile) -> str:
        """Its absolute path, or its name on the Hub."""
        return self.path if self.hub_name is not None else str(study.resolve(self.path))


def text_sources(section: CorpusSection) -> list[TextSource]:
    """The sources of `[corpus]`, each with the part of `corpus.sample` that falls to it."""
    keys = set(SourceSettings.model_fields)
    if section.path is not None:
        settings = SourceSettings(**section.model_dump(include=keys))
        return [TextSource("corpus.path", "", section.path, settings)]
    named = section.named_sources()
    samples: list[int | None] = [source.sample for _, source in named]
    if section.sample is not None:
        from crosscoder.corpus_sources import quotas

        samples = list(quotas(section.sample, [source.weight for _, source in named]))
    return [
        TextSource(
            f"corpus.sources {name}.path",
            name,
            source.path,
            SourceSettings(**source.model_dump(include=keys - {"sample"}), sample=sample),
        )
        for (name, source), sample in zip(named, samples, strict=True)
        if sample != 0
    ]


def missing_sources(study: StudyFile, section: CorpusSection) -> list[TextSource]:
    """Sources that are files or folders and not on this machine."""
    return [
        source
        for source in text_sources(section)
        if source.hub_name is None and not study.resolve(source.path).exists()
    ]


def unread_sources(study: StudyFile, section: CorpusSection) -> list[TextSource]:
    """Sources that are missing, or lie on the Hub and were not fetched yet."""
    return missing_sources(study, section) + [
        source
        for source in text_sources(section)
        if source.hub_name is not None and not _kept_file(study, section, source).is_file()
    ]


def corpus_content(study: StudyFile, section: CorpusSection, hashes: FileHashes) -> str:
    """The hash of a file; of a folder's files; of all sources where there are several.

    A dataset on the Hub counts by its name: what was read of it is kept in the study's folder.
    UsageError where a source is missing.
    """
    contents = [_content(study, source, hashes) for source in text_sources(section)]
    return contents[0] if section.path is not None else json_sha256(contents)


def corpus_reading(section: CorpusSection) -> dict[str, Any]:
    """The keys that decide what is read of the files; empty where all have their defaults."""
    reading: dict[str, Any] = section.deciding()
    if section.sources:
        reading["sources"] = [
            [source.name, source.settings.deciding()] for source in text_sources(section)
        ]
    if "sample" in reading or any(source.sample is not None for source in section.sources):
        reading["seed"] = section.seed
    return reading


def corpus_documents(study: StudyFile, section: CorpusSection) -> Sequence[Document]:
    """The documents of all sources; a dataset on the Hub is fetched first where it is not kept.

    InputError names the source, the row and the fix.
    """
    from crosscoder.corpus_sources import read_sources

    sources = [local_source(study, section, source) for source in text_sources(section)]
    return read_sources(sources, section.seed)


def local_source(study: StudyFile, section: CorpusSection, source: TextSource) -> Source:
    """A source on this machine, fetched from the Hub where it is not kept yet.

    UsageError where it is missing.
    """
    from crosscoder.corpus_hub import keep_hub_rows, kept_settings
    from crosscoder.corpus_sources import Source

    if source.hub_name is None:
        return Source(existing_path(study, source), source.settings, source.name)
    kept = _kept_file(study, section, source)
    if not kept.is_file():
        keep_hub_rows(source.hub_name, source.settings, section.seed, kept)
    return Source(kept, kept_settings(source.settings), source.name)


def _kept_file(study: StudyFile, section: CorpusSection, source: TextSource) -> Path:
    """Where the rows of a dataset on the Hub are kept: a file for each way to read it."""
    chosen = [source.hub_name, source.settings.deciding(), section.seed]
    return study.artifacts / "corpus" / f"{json_sha256(chosen)[:_NAMED]}.jsonl"


def existing_path(study: StudyFile, source: TextSource) -> Path:
    """The file or folder of a source, or UsageError."""
    path = study.resolve(source.path)
    if not path.exists():
        raise UsageError(
            f"{source.key}: no file or folder at {path}; a dataset on the Hub is named {HUB}NAME"
        )
    if path == study.folder:
        raise UsageError(f"{source.key}: {path} is the study's own folder; name the file in it")
    return path


def _content(study: StudyFile, source: TextSource, hashes: FileHashes) -> str:
    if source.hub_name is not None:
        return source.path
    path = existing_path(study, source)
    files = corpus_files(path, source.settings.split)
    found = hashes.sha256_of(files)
    if path.is_file():
        return found[0]
    names = [file.relative_to(path).as_posix() for file in files]
    return json_sha256(list(zip(names, found, strict=True)))
