"""What a corpus holds, source by source: formats, keys, roles, lengths, duplicates, faulty rows.

The rows are read once and none is kept: 24 bytes per document (length, hashes of text and id), and
a few hundred texts for whoever wants to guess their language.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from crosscoder.corpus import Document
from crosscoder.corpus_files import CorpusRow, corpus_files, kind_of
from crosscoder.corpus_formats import DocumentReader
from crosscoder.corpus_sources import Source, drawn, source_rows
from crosscoder.errors import InputError

BYTES_PER_TOKEN = 4
"""UTF-8 bytes that a token is taken to have, where no tokenizer is asked."""
SAMPLED_TEXTS = 300
"""Texts whose language may be guessed."""
_SAMPLED_CHARACTERS = 1000
_MAX_KINDS = 1000
"""Different sets of keys, reasons and languages that are counted each; others count as one."""
_POSITION = re.compile(r"\[\d+\]")
_QUOTED = re.compile(r"'[^']{1,200}'")
_REST = "others"


@dataclass
class RoleCount:
    """What the messages of one role hold."""

    n_messages: int = 0
    n_characters: int = 0
    n_bytes: int = 0

    @property
    def n_tokens(self) -> int:
        """Estimated from the bytes."""
        return self.n_bytes // BYTES_PER_TOKEN


@dataclass
class Fault:
    """A reason for which rows are not read."""

    n_rows: int
    first: str
    """The message of the first such row, which names it."""


@dataclass
class SourceCheck:
    """What one source holds."""

    source: Source
    files: Counter[str] = field(default_factory=Counter)
    """Files by how they are read: `json`, `json.gz`, `csv`."""
    n_rows: int = 0
    """Rows that were looked at."""
    n_read: int = 0
    """Rows that were read: of the sample where there is one."""
    formats: Counter[str] = field(default_factory=Counter)
    keys: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Rows by the keys that they have."""
    roles: dict[str, RoleCount] = field(default_factory=dict)
    """By role of the messages; `plain` for text without roles."""
    languages: Counter[str] = field(default_factory=Counter)
    """Documents by the language that they state."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """By reason, without the row's own places and values."""
    sampled_texts: list[str] = field(default_factory=list)
    """The starts of some documents, spread over the source."""
    _lengths: array[int] = field(default_factory=lambda: array("L"))
    _texts: array[int] = field(default_factory=lambda: array("q"))
    _ids: array[int] = field(default_factory=lambda: array("q"))

    @property
    def n_documents(self) -> int:
        """Documents that are read."""
        return len(self._lengths)

    @property
    def n_faulty(self) -> int:
        """Rows that are not read."""
        return sum(fault.n_rows for fault in self.faults.values())

    @property
    def n_duplicates(self) -> int:
        """Documents whose text is that of an earlier one."""
        return _n_repeated(self._texts)

    @property
    def n_same_ids(self) -> int:
        """Documents whose id an earlier one has."""
        return _n_repeated(self._ids)

    def quantiles(self, shares: tuple[float, ...]) -> list[int]:
        """Bytes of UTF-8 that these shares of the documents do not exceed."""
        return [int(value) for value in np.quantile(np.frombuffer(self._lengths, "L"), shares)]

    def n_longer(self, n_tokens: int) -> int:
        """Documents of more tokens than that, estimated from their bytes."""
        lengths = np.frombuffer(self._lengths, "L")
        return int((lengths > n_tokens * BYTES_PER_TOKEN).sum())

    def add(self, document: Document) -> None:
        """Count one document."""
        if document.messages is None:
            said = [("plain", document.text or "")]
        else:
            said = [(message.role, message.content) for message in document.messages]
        length = 0
        for role, text in said:
            count = self.roles.get(role)
            if count is None:
                count = self.roles[role] = RoleCount()
            n_bytes = len(text) if text.isascii() else len(text.encode())
            count.n_messages += 1
            count.n_characters += len(text)
            count.n_bytes += n_bytes
            length += n_bytes
        if document.language is not None:
            _count(self.languages, document.language)
        self._keep_text(said[-1][1])
        self._lengths.append(length)
        self._texts.append(hash(tuple(said)))
        self._ids.append(hash(document.id))

    def add_fault(self, row: CorpusRow, error: InputError) -> None:
        """Count one row that cannot be read."""
        message = str(error)
        reason = _POSITION.sub("[]", message.removeprefix(f"{row.where}: "))
        reason = _QUOTED.sub("'...'", reason)
        if reason not in self.faults and len(self.faults) >= _MAX_KINDS:
            reason = _REST
        fault = self.faults.setdefault(reason, Fault(0, message))
        fault.n_rows += 1

    def _keep_text(self, text: str) -> None:
        """Every document at first, then every second, every fourth: some hundreds over all."""
        step = 1 << max(0, (len(self._lengths) // SAMPLED_TEXTS).bit_length())
        if len(self._lengths) % step == 0:
            self.sampled_texts.append(text[:_SAMPLED_CHARACTERS])
            if len(self.sampled_texts) > 2 * SAMPLED_TEXTS:
                del self.sampled_texts[::2]


def check_source(source: Source, seed: int = 0) -> SourceCheck:
    """Read a source as `read_sources` would, and count; faulty rows are counted, not raised.

    Raises InputError where a file cannot be read on, or a key of the settings is wrong.
    """
    reader = DocumentReader(source.settings)
    check = SourceCheck(source)
    files = corpus_files(source.path, source.settings.split)
    check.files.update(kind_of(file) for file in files)
    rows = _counted(source_rows(source, reader), check)
    for _, read in drawn(rows, reader, seed, check.add_fault):
        check.n_read += 1
        _count(check.formats, read.format)
        _count(check.keys, read.keys)
        for document in read.documents:
            check.add(document)
    return check


def _counted(rows: Iterator[CorpusRow], check: SourceCheck) -> Iterator[CorpusRow]:
    for row in rows:
        check.n_rows += 1
        yield row


def _count(counter: Counter[str] | Counter[tuple[str, ...]], kind: object) -> None:
    """Count one of a kind, within bounds whatever a file holds."""
    if kind not in counter and len(counter) >= _MAX_KINDS:
        kind = (_REST,) if isinstance(kind, tuple) else _REST
    counter[kind] += 1  # type: ignore[index]


def _n_repeated(hashes: array[int]) -> int:
    return len(hashes) - len(np.unique(np.frombuffer(hashes, "q")))
