"""Evidence for latents: windows of text where a latent fires, and where it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from crosscoder.config import EvidenceConfig, EvidenceKind
from crosscoder.corpus import DocumentTokens, TokenRole, token_texts
from crosscoder.errors import InputError
from crosscoder.evaluate import restrict
from crosscoder.evidence_pass import EvidencePass, window_start
from crosscoder.evidence_plan import Candidate, CandidatePlanner, Wanted
from crosscoder.model import Crosscoder
from crosscoder.progress import Progress, SilentProgress
from crosscoder.scaling import check_store
from crosscoder.sources import ActivationSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


__all__ = [
    "Evidence",
    "EvidenceConfig",
    "EvidenceKind",
    "Gathered",
    "Split",
    "collect_evidence",
    "gather",
]

Split = Literal["explain", "score"]


@dataclass(frozen=True)
class Evidence:
    """A window of one document, with the activation of one latent on each token."""

    latent_index: int
    kind: EvidenceKind
    """`top`: among the strongest documents; `quantile`: drawn below them; `negative`: the
    latent fires nowhere in the document; `other_model`: the counterpart on the other side fires
    there, and this latent nowhere in the document."""
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


@torch.no_grad()
def collect_evidence(
    crosscoder: Crosscoder,
    source: ActivationSource,
    tokenizer: PreTrainedTokenizerBase,
    latents: Iterable[int],
    config: EvidenceConfig | None = None,
    progress: Progress | None = None,
    counterparts: Mapping[int, int] | None = None,
) -> list[Evidence]:
    """Collect windows for some latents, in the order given: `gather`, then `Gathered.evidence`."""
    wanted = list(dict.fromkeys(int(latent) for latent in latents))
    gathered = gather(crosscoder, source, wanted, config, progress, counterparts)
    return list(gathered.evidence(wanted, tokenizer))


@torch.no_grad()
def gather(
    crosscoder: Crosscoder,
    source: ActivationSource,
    latents: Iterable[int] | None = None,
    config: EvidenceConfig | None = None,
    progress: Progress | None = None,
    counterparts: Mapping[int, int] | None = None,
) -> Gathered:
    """Read all activations once and keep the best documents of some latents, or of all.

    A window is centred on the strongest token of its document. A negative has its centre where an
    active document of similar length has it; `other_model`, where the counterpart fires.
    `counterparts` maps a latent to the other side's. The windows of a latent differ in text, and
    each comes from a different document. The same seed gives the same evidence, whatever the size
    of the shards and whichever other latents are wanted. Memory depends on the number of latents
    only, not on the data or on how often a latent fires.
    InputError where a latent does not exist, where source and crosscoder do not fit, or where
    theta is not calibrated.
    """
    config = config or EvidenceConfig()
    counterparts = dict(counterparts or {}) if config.other_model else {}
    n_latents = crosscoder.config.n_latents
    wanted = list(range(n_latents)) if latents is None else list(dict.fromkeys(map(int, latents)))
    wanted += sorted(set(counterparts.values()) - set(wanted))
    _check_latents(wanted, n_latents)
    check_store(crosscoder, source)
    kept = EvidencePass(wanted, counterparts, config)
    if wanted:
        part = crosscoder if wanted == list(range(n_latents)) else restrict(crosscoder, wanted)
        with (progress or SilentProgress()).task("collect", source.n_tokens, "tokens") as advance:
            for shard in source.shards():
                kept.add(part, shard)
                advance(shard.n_tokens)
    return Gathered(kept, source)


class Gathered:
    """What a pass kept, ready to be shown latent by latent."""

    def __init__(self, kept: EvidencePass, source: ActivationSource) -> None:
        self._kept = kept
        self._source = source
        self._place = {int(latent): place for place, latent in enumerate(kept.latents)}

    @property
    def n_bytes(self) -> int:
        """Memory of what was kept."""
        return self._kept.n_bytes

    def evidence(
        self, latents: Sequence[int], tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Evidence]:
        """The windows of some gathered latents; only the text of their documents is read.

        A latent that never fires gets nothing.
        """
        config, lengths = self._kept.config, self._source.document_lengths
        places = [self._place[latent] for latent in latents]
        planner = CandidatePlanner(self._kept, lengths)
        compared = set().union(*(planner.compared_documents(place) for place in places))
        texts = self._source.document_tokens(sorted(compared))
        planner = CandidatePlanner(self._kept, lengths, texts)
        plans = [planner.plan(place) for place in places]
        shown = {
            candidate.document
            for plan in plans
            for wanted in plan
            for candidate in wanted.candidates
        }
        texts |= self._source.document_tokens(sorted(shown - compared))
        reader = WindowReader(texts, tokenizer, config.window)
        for latent, plan in zip(latents, plans, strict=True):
            yield from _choose(plan, reader, latent, self._source.document_ids, config)


def _check_latents(latents: Sequence[int], n_latents: int) -> None:
    for latent in latents:
        if not 0 <= latent < n_latents:
            raise InputError(f"latent {latent}: this crosscoder has latents 0 to {n_latents - 1}")


def _choose(
    plan: Iterable[Wanted],
    reader: WindowReader,
    latent: int,
    document_ids: Sequence[str],
    config: EvidenceConfig,
) -> list[Evidence]:
    """The first windows of each kind whose document and text this latent has not used yet."""
    used_documents: set[int] = set()
    used_texts: set[str] = set()
    chosen: list[Evidence] = []
    for wanted in plan:
        kept: list[Window] = []
        for candidate in wanted.candidates:
            if len(kept) == wanted.number:
                break
            if candidate.document in used_documents:
                continue
            window = reader.read(candidate)
            if window.content in used_texts:
                continue
            used_documents.add(candidate.document)
            used_texts.add(window.content)
            kept.append(window)
        chosen += _with_splits(kept, latent, document_ids, config.seed)
    return chosen


def _with_splits(
    windows: Sequence[Window], latent: int, document_ids: Sequence[str], seed: int
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


_HIDDEN_ROLES = (int(TokenRole.TEMPLATE), int(TokenRole.BOS))


@dataclass(frozen=True)
class Window:
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


class WindowReader:
    """Cuts windows out of some documents; the text of a document is decoded once."""

    def __init__(
        self,
        documents: Mapping[int, DocumentTokens],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
    ) -> None:
        self._documents = documents
        self._tokenizer = tokenizer
        self._length = length
        self._texts: dict[int, list[str]] = {}

    def read(self, candidate: Candidate) -> Window:
        """The window of a candidate, moved inwards where the document begins or ends.

        An inactive one is centred on the nearest token that takes part.
        """
        document = self._documents[candidate.document]
        n_tokens = len(document.token_ids)
        centre = int(candidate.centre * n_tokens)
        if candidate.kind == "negative" and document.mask.any():
            unmasked = np.flatnonzero(document.mask)
            centre = int(unmasked[np.abs(unmasked - centre).argmin()])
        start = int(window_start(np.array(centre), np.array(n_tokens), self._length))
        shown = slice(start, min(start + self._length, n_tokens))
        n_shown = shown.stop - start
        return Window(
            candidate=candidate,
            start=start,
            tokens=tuple(self._text(candidate.document)[shown]),
            token_ids=tuple(document.token_ids[shown].tolist()),
            role_numbers=tuple(document.roles[shown].tolist()),
            activations=(candidate.activations or (0.0,) * n_shown)[:n_shown],
        )

    def _text(self, document: int) -> list[str]:
        if document not in self._texts:
            token_ids = self._documents[document].token_ids.tolist()
            self._texts[document] = token_texts(self._tokenizer, token_ids)
        return self._texts[document]
