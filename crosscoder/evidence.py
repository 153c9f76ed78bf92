"""Evidence for latents: windows of text where a latent fires, and where it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from crosscoder.activations import ActivationStore
from crosscoder.corpus import TokenRole
from crosscoder.encoding import restrict
from crosscoder.errors import InputError
from crosscoder.evidence_plan import (
    ActiveCodes,
    Candidate,
    CandidatePlanner,
    EvidenceConfig,
    EvidenceKind,
    active_codes,
    find_maxima,
)
from crosscoder.model import Crosscoder
from crosscoder.progress import Progress, SilentProgress
from crosscoder.scaling import check_store
from crosscoder.shards import Shard
from crosscoder.token_text import token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Evidence", "EvidenceConfig", "EvidenceKind", "Split", "collect_evidence"]

Split = Literal["explain", "score"]

_HIDDEN_ROLES = (int(TokenRole.TEMPLATE), int(TokenRole.BOS))


@dataclass(frozen=True)
class Evidence:
    """A window of one document, with the activation of one latent on each token."""

    latent_index: int
    kind: EvidenceKind
    """`top`: among the strongest documents; `quantile`: drawn below them; `negative`: the
    latent fires nowhere in the document."""
    split: Split
    """Half to which the document belongs for this latent; the halves share no document."""
    document_id: str
    start: int
    """Position of the first token within the document."""
    tokens: tuple[str, ...]
    """The text of each token, template tokens included."""
    token_ids: tuple[int, ...]
    roles: tuple[str, ...]
    """Lower-case name of each token's TokenRole."""
    activations: tuple[float, ...]
    """Unscaled activation; 0 where the latent is not active or the token is masked."""
    quantile: int | None
    """Stratum of a `quantile` window, 0 = weakest."""

    @property
    def max_activation(self) -> float:
        """Strongest activation in the window."""
        return max(self.activations, default=0.0)


@dataclass(frozen=True)
class _Window:
    """A candidate with its text."""

    candidate: Candidate
    start: int
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    role_numbers: tuple[int, ...]
    activations: tuple[float, ...]

    @property
    def content(self) -> str:
        """The text without template tokens and without differences of white space."""
        shown = zip(self.tokens, self.role_numbers, strict=True)
        return " ".join("".join(t for t, role in shown if role not in _HIDDEN_ROLES).split())


@torch.no_grad()
def collect_evidence(
    crosscoder: Crosscoder,
    store: ActivationStore,
    tokenizer: PreTrainedTokenizerBase,
    latents: Iterable[int],
    config: EvidenceConfig | None = None,
    progress: Progress | None = None,
) -> list[Evidence]:
    """Collect windows for some latents, in the order given, by two sequential passes.

    A window is centred on the strongest token of its document, or, for a negative, where an
    active document of similar length has its own. Windows of one latent differ in their text,
    and each comes from a document of its own. A latent that never fires gets nothing.
    Same seed, same evidence, whatever the size of the shards. Memory grows with the number of
    latents and not with the store: give very many latents in parts.
    InputError where a latent does not exist, where store and crosscoder do not fit, or where
    theta is not calibrated.
    """
    config = config or EvidenceConfig()
    progress = progress or SilentProgress()
    wanted = list(dict.fromkeys(int(latent) for latent in latents))
    _check_latents(wanted, crosscoder.config.n_latents)
    check_store(crosscoder, store)
    if not wanted or store.n_unmasked == 0:
        return []
    part = restrict(crosscoder, wanted)
    with progress.task("collect: where latents fire", store.n_tokens, "tokens") as advance:
        maxima = find_maxima(part, store, advance)
    planner = CandidatePlanner(store, config)
    candidates = [
        candidate
        for place, latent in enumerate(wanted)
        for candidate in planner.candidates(maxima.of(place), place, latent)
    ]
    by_document: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        by_document.setdefault(candidate.document, []).append(candidate)
    windows: dict[Candidate, _Window] = {}
    with progress.task("collect: read the text", store.n_tokens, "tokens") as advance:
        for shard in store.shards():
            documents = shard.document.unique().tolist()
            here = [c for document in documents for c in by_document.get(document, ())]
            if here:
                reader = _WindowReader(shard, active_codes(part, shard), tokenizer, config.window)
                windows |= {candidate: reader.read(candidate) for candidate in here}
            advance(shard.n_tokens)
    by_latent: dict[int, list[_Window]] = {place: [] for place in range(len(wanted))}
    for candidate in candidates:
        by_latent[candidate.latent].append(windows[candidate])
    return [
        evidence
        for place, latent in enumerate(wanted)
        for evidence in _choose(by_latent[place], latent, store.document_ids, config)
    ]


def _check_latents(latents: Sequence[int], n_latents: int) -> None:
    for latent in latents:
        if not 0 <= latent < n_latents:
            raise InputError(f"latent {latent}: this crosscoder has latents 0 to {n_latents - 1}")


class _WindowReader:
    """Cuts windows out of one shard; the text of a document is decoded once."""

    def __init__(
        self,
        shard: Shard,
        codes: ActiveCodes,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
    ) -> None:
        self._codes = codes
        self._tokenizer = tokenizer
        self._length = length
        self._n_rows = shard.n_tokens
        self._document = shard.document.numpy()
        self._token_ids = shard.token_ids.numpy()
        self._roles = shard.roles.numpy()
        self._mask = shard.mask.numpy()
        self._key = codes.latent * self._n_rows + codes.row
        self._texts: dict[int, list[str]] = {}

    def read(self, candidate: Candidate) -> _Window:
        """The window of a candidate, moved inwards where the document begins or ends."""
        first, end = np.searchsorted(
            self._document, [candidate.document, candidate.document + 1]
        ).tolist()
        n_tokens = end - first
        centre = int(candidate.centre * n_tokens)
        if candidate.kind == "negative":
            unmasked = np.flatnonzero(self._mask[first:end])
            centre = int(unmasked[np.abs(unmasked - centre).argmin()])
        start = min(max(0, centre - self._length // 2), max(0, n_tokens - self._length))
        rows = slice(first + start, min(first + start + self._length, end))
        texts = self._document_texts(candidate.document, slice(first, end))
        return _Window(
            candidate=candidate,
            start=start,
            tokens=tuple(texts[start : start + self._length]),
            token_ids=tuple(self._token_ids[rows].tolist()),
            role_numbers=tuple(self._roles[rows].tolist()),
            activations=self._activations(candidate.latent, rows),
        )

    def _document_texts(self, document: int, rows: slice) -> list[str]:
        if document not in self._texts:
            self._texts[document] = token_texts(self._tokenizer, self._token_ids[rows].tolist())
        return self._texts[document]

    def _activations(self, latent: int, rows: slice) -> tuple[float, ...]:
        offset = latent * self._n_rows
        low, high = np.searchsorted(self._key, [offset + rows.start, offset + rows.stop])
        values = np.zeros(rows.stop - rows.start, dtype=np.float64)
        values[self._codes.row[low:high] - rows.start] = self._codes.value[low:high]
        return tuple(values.tolist())


def _choose(
    windows: Sequence[_Window], latent: int, document_ids: Sequence[str], config: EvidenceConfig
) -> list[Evidence]:
    """The first windows of each kind whose document and text this latent has not used yet."""
    wanted: dict[EvidenceKind, int] = {
        "top": config.top,
        "quantile": config.quantile,
        "negative": config.negative,
    }
    used_documents: set[int] = set()
    used_texts: set[str] = set()
    chosen: list[Evidence] = []
    for kind, number in wanted.items():
        kept: list[_Window] = []
        for window in windows:
            if window.candidate.kind != kind or len(kept) == number:
                continue
            if window.candidate.document in used_documents or window.content in used_texts:
                continue
            used_documents.add(window.candidate.document)
            used_texts.add(window.content)
            kept.append(window)
        chosen += _with_splits(kept, latent, document_ids, config.seed)
    return chosen


def _with_splits(
    windows: Sequence[_Window], latent: int, document_ids: Sequence[str], seed: int
) -> list[Evidence]:
    """Deal neighbouring windows of one kind out to the two halves.

    Of each two windows, which are of similar strength, a hash of latent and document sends one
    to each half; a last single one goes to `explain` if it is a top window, else to `score`.
    """
    chosen: list[Evidence] = []
    for place, window in enumerate(windows):
        partner = place ^ 1
        if partner < len(windows):
            own, other = (
                _hash(seed, latent, document_ids[windows[i].candidate.document])
                for i in (place, partner)
            )
            first_half = own < other
        else:
            first_half = window.candidate.kind == "top"
        chosen.append(
            Evidence(
                latent_index=latent,
                kind=window.candidate.kind,
                split="explain" if first_half else "score",
                document_id=document_ids[window.candidate.document],
                start=window.start,
                tokens=window.tokens,
                token_ids=window.token_ids,
                roles=tuple(TokenRole(role).name.lower() for role in window.role_numbers),
                activations=window.activations,
                quantile=window.candidate.quantile,
            )
        )
    return chosen


def _hash(seed: int, latent: int, document_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{latent}\0{document_id}".encode()).digest()
