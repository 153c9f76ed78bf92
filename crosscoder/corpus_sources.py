"""The documents of a corpus: its sources read in order, sampled and named."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crosscoder.corpus import Document
from crosscoder.corpus_files import CorpusRow, corpus_rows
from crosscoder.corpus_formats import DocumentReader, ReadRow
from crosscoder.corpus_settings import SourceSettings
from crosscoder.errors import InputError


@dataclass(frozen=True)
class Source:
    """One file or folder of the corpus, on this machine."""

    path: Path
    settings: SourceSettings = field(default_factory=SourceSettings)
    name: str = ""
    """Where there are several sources: what stands before the documents' ids, `NAME/id`."""


def read_corpus(path: Path) -> list[Document]:
    """The documents of one file or folder, of any format that is recognised."""
    return read_sources([Source(path)])


def read_sources(sources: Sequence[Source], seed: int = 0) -> list[Document]:
    """The documents of all sources, one source after the other.

    Blank lines are skipped; a document without `id` is called `line-N` or `row-N`. InputError names
    the file and the line of the first fault.
    """
    documents: list[Document] = []
    places: dict[str, str] = {}
    for source in sources:
        before = len(documents)
        for document in source_documents(source, seed):
            if document.id in places:
                raise InputError(_taken(document, places[document.id], source.path))
            places[document.id] = document.where
            documents.append(document)
        if len(documents) == before:
            raise InputError(
                f"{source.path}: the corpus is empty; put one JSON document on each line"
            )
    return documents


def source_documents(source: Source, seed: int = 0) -> Iterator[Document]:
    """The documents of one source that are read: of the sample where there is one."""
    reader = DocumentReader(source.settings)
    for _, read in drawn(source_rows(source, reader), reader, seed):
        for document in read.documents:
            yield _prefixed(document, source.name)


def source_rows(source: Source, reader: DocumentReader) -> Iterator[CorpusRow]:
    """The rows of a source up to `first`, in order; the sample is not drawn yet."""
    rows = corpus_rows(source.path, reader.wanted, source.settings.split)
    return itertools.islice(rows, source.settings.first)


OnFault = Callable[[CorpusRow, InputError], None]


def drawn(
    rows: Iterable[CorpusRow], reader: DocumentReader, seed: int, on_fault: OnFault | None = None
) -> Iterator[tuple[CorpusRow, ReadRow]]:
    """The rows that are read, with what was read of them, in order.

    A row that cannot be read is dropped or raises InputError, as `faulty` says; with `on_fault` it
    is dropped and told there. With `sample = n`: those n readable rows whose hash of seed and
    position is smallest, which is a simple random sample. Rows are looked at once, and no more than
    n of them are held.
    """
    n = reader.settings.sample
    if n is None:
        for row in rows:
            read = _readable(row, reader, on_fault)
            if read is not None:
                yield row, read
        return
    heap: list[tuple[int, int, CorpusRow, ReadRow]] = []
    for position, row in enumerate(rows):
        rank = -_rank(seed, position)
        if len(heap) == n and rank < heap[0][0]:
            continue
        read = _readable(row, reader, on_fault)
        if read is None:
            continue
        heapq.heappush(heap, (rank, position, row, read))
        if len(heap) > n:
            heapq.heappop(heap)
    for _, _, row, read in sorted(heap, key=lambda each: each[1]):
        yield row, read


def quotas(n: int, weights: Sequence[float]) -> list[int]:
    """`n` rows dealt out in proportion to the weights, by largest remainders."""
    total = sum(weights)
    shares = [n * weight / total for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(weights)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    return counts


def _rank(seed: int, position: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _readable(row: CorpusRow, reader: DocumentReader, on_fault: OnFault | None) -> ReadRow | None:
    """What was read of the row; None for a faulty row that is to be dropped."""
    try:
        return reader.read(row.value(), row.name, row.where)
    except InputError as error:
        if on_fault is not None:
            on_fault(row, error)
        elif reader.settings.faulty == "refuse":
            raise
        return None


def _prefixed(document: Document, source: str) -> Document:
    if not source:
        return document
    prompt = None if document.prompt is None else f"{source}/{document.prompt}"
    return Document(
        f"{source}/{document.id}",
        document.messages,
        document.text,
        document.language,
        prompt,
        document.where,
    )


def _taken(document: Document, place: str, path: Path) -> str:
    line = place.removeprefix(f"{path}:")
    shown = f"line {line}" if line.isdigit() else place
    return (
        f"{document.where}: id {document.id!r} is already used in {shown}; give each document its "
        'own, or number them: corpus.columns = { id = "" }'
    )
