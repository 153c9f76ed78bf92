"""Cutting windows of text out of documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crosscoder.corpus import DocumentTokens, TokenRole, token_texts
from crosscoder.evidence_pass import window_start
from crosscoder.evidence_plan import Candidate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
