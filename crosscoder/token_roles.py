"""Documents as tokens with roles, and how much of their text a chat template left."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crosscoder.chat_templates import ChatTemplate, Refusal, render_chat
from crosscoder.corpus import Document, TokenizedDocument, TokenRole
from crosscoder.errors import InputError
from crosscoder.manifest import RoleText, TextPlan, TextRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


ROLE_OF_MESSAGE = {
    "system": TokenRole.SYSTEM,
    "user": TokenRole.USER,
    "assistant": TokenRole.ASSISTANT,
    "tool": TokenRole.TOOL,
}
_CLOSING = re.compile(r"(</[^<>\s]{1,30}>|\[/[A-Z_]{1,30}\])\s*\Z")
_SHOWN = 40
"""Characters of lost text that a message shows."""


@dataclass
class _RoleCounts:
    """What is counted of the messages of one role."""

    n_whole: int = 0
    n_in_part: int = 0
    n_absent: int = 0
    n_characters: int = 0
    n_lost: int = 0
    n_cut: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    """Characters lost, by what the template does."""
    first: dict[str, str] = field(default_factory=dict)
    """Where each of these was first seen."""

    @property
    def n_messages(self) -> int:
        return self.n_whole + self.n_in_part + self.n_absent

    @property
    def lost_share(self) -> float:
        return self.n_lost / self.n_characters if self.n_characters else 0.0


class TextCounts:
    """Counts messages, characters and tokens by role, document by document."""

    def __init__(self, model: str) -> None:
        """`model` is the one whose template renders the corpus."""
        self._model = model
        self._roles: dict[TokenRole, _RoleCounts] = {}
        self._n_refused = 0
        self._n_cut = 0

    def add_text(self, document: Document) -> None:
        """Count a document without messages: all of it is there."""
        counts = self._counts(TokenRole.PLAIN)
        counts.n_whole += 1
        counts.n_characters += _n_visible(document.text or "")

    def add_chat(self, document: Document, lost: dict[int, tuple[str, ...]]) -> None:
        """Count a chat; `lost` holds the stretches that its rendering lacks, by message."""
        for index, message in enumerate(document.messages or ()):
            counts = self._counts(ROLE_OF_MESSAGE[message.role])
            stretches = lost.get(index, ())
            n_visible = _n_visible(message.content)
            n_lost = sum(_n_visible(stretch) for stretch in stretches)
            counts.n_characters += n_visible
            counts.n_lost += n_lost
            counts.n_whole += not n_lost
            counts.n_in_part += 0 < n_lost < n_visible
            counts.n_absent += 0 < n_lost == n_visible
            for stretch in stretches:
                words = _what_is_done(stretch, message.role, n_lost == n_visible)
                counts.losses[words] += _n_visible(stretch)
                counts.first.setdefault(words, _seen(document, stretch))

    def add_refused(self, document: Document, reason: str) -> None:
        """Count a chat that the template refuses: all of it is lost."""
        self._n_refused += 1
        for message in document.messages or ():
            counts = self._counts(ROLE_OF_MESSAGE[message.role])
            n_visible = _n_visible(message.content)
            counts.n_absent += 1
            counts.n_characters += n_visible
            counts.n_lost += n_visible
            words = f"refuses documents ({reason})"
            counts.losses[words] += n_visible
            counts.first.setdefault(words, document.place)

    def add_cut(self, roles: NDArray[np.uint8]) -> None:
        """Count the tokens of a document that lie beyond the longest length, by their roles."""
        self._n_cut += bool(len(roles))
        for role, n_tokens in zip(*np.unique(roles, return_counts=True), strict=True):
            self._counts(TokenRole(role)).n_cut += int(n_tokens)

    def require(self, max_lost: float) -> None:
        """InputError where more than that share of the characters of a role is lost."""
        role, counts = max(
            self._roles.items(), key=lambda each: each[1].lost_share, default=(None, _RoleCounts())
        )
        if role is None or counts.lost_share <= max_lost:
            return
        words, _ = counts.losses.most_common(1)[0]
        name = f"{role.name.lower()} messages"
        raise InputError(
            f"corpus: the chat template of model {self._model!r} {words}: of "
            f"{counts.n_messages:,} {name} {counts.n_in_part:,} are found in part and "
            f"{counts.n_absent:,} not at all, {100 * counts.lost_share:.1f}% of their characters "
            f"are lost (first: {counts.first[words]}); change those documents, or set "
            f"corpus.max_lost = {math.ceil(100 * counts.lost_share) / 100:g} to go on without "
            "that text"
        )

    def record(self) -> TextRecord:
        """The counts so far, without the tokens that take part."""
        rows = [
            RoleText(
                role=role.name.lower(),
                n_messages=counts.n_messages,
                n_whole=counts.n_whole,
                n_in_part=counts.n_in_part,
                n_absent=counts.n_absent,
                n_characters=counts.n_characters,
                n_lost=counts.n_lost,
                n_cut=counts.n_cut,
                losses=tuple(f"{words} (first: {counts.first[words]})" for words in counts.losses),
            )
            for role, counts in sorted(self._roles.items())
            if counts.n_messages
        ]
        return TextRecord(roles=tuple(rows), n_refused=self._n_refused, n_cut=self._n_cut)

    def _counts(self, role: TokenRole) -> _RoleCounts:
        return self._roles.setdefault(role, _RoleCounts())


def _what_is_done(stretch: str, role: str, is_all: bool) -> str:
    """What a template does to a stretch of a message that its text lacks."""
    if is_all:
        return f"leaves out {role} messages"
    closing = _CLOSING.search(stretch)
    if closing is None:
        return f"drops or rewrites parts of {role} messages"
    opening = closing[1].replace("/", "", 1)
    if stretch.lstrip().startswith(opening):
        return f"drops text between {opening} and {closing[1]} of {role} messages"
    return f"drops text up to {closing[1]} of {role} messages"


def _seen(document: Document, stretch: str) -> str:
    """Where something was lost, and what, for one line."""
    words = " ".join(stretch.split())
    return f"{document.place}: {words[:_SHOWN] + '...' if len(words) > _SHOWN else words!r}"


def _n_visible(text: str) -> int:
    """Characters other than white space."""
    return len("".join(text.split()))


TEMPLATE_DATE = date(2025, 1, 1)
"""What a template's clock shows where the caller names no day."""

_BATCH = 256
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype="<u4")


@dataclass(frozen=True)
class _RoleSpan:
    """Characters [start, end) of a rendered text that come from the document."""

    start: int
    end: int
    role: TokenRole


@dataclass(frozen=True)
class _Rendered:
    """A document as the tokenizer reads it."""

    text: str
    spans: tuple[_RoleSpan, ...]


@dataclass(frozen=True)
class TokenizedCorpus:
    """The tokens of every document, and what became of its text."""

    documents: tuple[TokenizedDocument, ...]
    """In corpus order; one that the chat template refuses has no tokens."""
    day: date
    """What the chat template's clock showed."""
    counts: TextCounts

    def plan(self, shards: Sequence[range]) -> TextPlan:
        """The record of these tokens, cut into `shards`."""
        digest = hashlib.sha256()
        for row in self.documents:
            digest.update(len(row.token_ids).to_bytes(8, "little"))
            digest.update(row.token_ids.astype("<i4").tobytes() + row.roles.tobytes())
        digest.update(repr([(shard.start, shard.stop) for shard in shards]).encode())
        return TextPlan(date=self.day, sha256=digest.hexdigest(), text=self.counts.record())


def tokenize_corpus(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    day: date = TEMPLATE_DATE,
    model: str = "",
) -> TokenizedCorpus:
    """Tokenise each document, cut it to `max_length` tokens and mark every token's role.

    Chats are rendered with the tokenizer's chat template, which brings its own special tokens and
    whose clock shows `day`; plain text gets those that the tokenizer adds. `model` is the name of
    the tokenizer's model in messages. InputError where there is no template for a chat, or it is
    no valid one or goes beyond the limits of `crosscoder.limits`.
    """
    if not tokenizer.is_fast:
        raise InputError(
            "the tokenizer gives no character offsets; use a model with a tokenizer.json"
        )
    counts = TextCounts(model)
    tokenized: list[TokenizedDocument] = []
    with ChatTemplate(tokenizer, day, model) as template:
        for start in range(0, len(documents), _BATCH):
            batch = documents[start : start + _BATCH]
            chats = [i for i, document in enumerate(batch) if document.messages is not None]
            plain = [i for i, document in enumerate(batch) if document.messages is None]
            rows: dict[int, TokenizedDocument] = {}
            for members, special in ((chats, False), (plain, True)):
                rendered = [_render(batch[i], tokenizer, template, counts) for i in members]
                encoded = _encode(rendered, tokenizer, special)
                for i, row, text in zip(members, encoded, rendered, strict=True):
                    ids, roles = _with_roles(row, text, tokenizer)
                    counts.add_cut(roles[max_length:])
                    kept = ids[:max_length], roles[:max_length]
                    rows[i] = TokenizedDocument(start + i, batch[i].id, *kept, batch[i].prompt)
            tokenized.extend(rows[i] for i in range(len(batch)))
    return TokenizedCorpus(tuple(tokenized), day, counts)


def _encode(
    rendered: Sequence[_Rendered], tokenizer: PreTrainedTokenizerFast, special: bool
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids and character offsets of each text."""
    if not rendered:
        return []
    encoding = tokenizer(
        [row.text for row in rendered],
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_attention_mask=False,
        padding=False,
        truncation=False,
        verbose=False,
    )
    return list(zip(encoding["input_ids"], encoding["offset_mapping"], strict=True))


def _render(
    document: Document,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    counts: TextCounts,
) -> _Rendered:
    """The document's text; empty, and counted as lost, where the template refuses it."""
    if document.messages is None:
        counts.add_text(document)
        text = document.text or ""
        return _Rendered(text, (_RoleSpan(0, len(text), TokenRole.PLAIN),))
    if not tokenizer.chat_template:
        raise InputError(
            f"corpus document {document.id!r} is a chat, and no model has a chat template; "
            "use an instruction-tuned model or give the corpus as text"
        )
    chat = render_chat(document.messages, template, f"corpus {document.place}")
    if isinstance(chat, Refusal):
        counts.add_refused(document, chat.reason)
        return _Rendered("", ())
    counts.add_chat(document, chat.lost)
    roles = [ROLE_OF_MESSAGE[message.role] for message in document.messages]
    spans = (_RoleSpan(span.start, span.end, roles[span.message]) for span in chat.spans)
    return _Rendered(chat.text, tuple(spans))


def _with_roles(
    row: tuple[list[int], list[tuple[int, int]]],
    rendered: _Rendered,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    ids = np.asarray(row[0], dtype=np.int32)
    offsets = np.asarray(row[1], dtype=np.int64).reshape(-1, 2)
    roles = _majority_roles(rendered, offsets)
    special = _special_tokens(tokenizer)
    for i in np.flatnonzero(np.isin(ids, list(special))).tolist():
        start, end = offsets[i]
        # A document that spells out a special token holds the template's marker, no content;
        # an unknown character that became the unknown token stays content.
        if start == end or rendered.text[start:end].strip() == special[int(ids[i])]:
            roles[i] = TokenRole.TEMPLATE
    if len(ids) and int(ids[0]) == tokenizer.bos_token_id and roles[0] == TokenRole.TEMPLATE:
        roles[0] = TokenRole.BOS
    return ids, roles


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special:
            special[token_id] = token.content
    return special


def _majority_roles(rendered: _Rendered, offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The role of most visible characters of each token; TEMPLATE on a tie or without characters.

    Spaces count only where there is nothing else: a token may take the template's space along.
    """
    characters = np.frombuffer(rendered.text.encode("utf-32-le"), dtype="<u4")
    by_character = np.zeros(len(characters), dtype=np.uint8)
    for span in rendered.spans:
        by_character[span.start : span.end] = span.role
    of_role = by_character == np.arange(len(TokenRole), dtype=np.uint8)[:, None]
    of_visible = of_role & ~np.isin(characters, _SPACES)
    counts = _counts_between(of_visible, offsets)
    blank = counts.sum(axis=0) == 0
    counts[:, blank] = _counts_between(of_role, offsets[blank])
    roles: NDArray[np.uint8] = counts.argmax(axis=0).astype(np.uint8)
    return roles


def _counts_between(flags: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many flags (R, L) are set in each [start, end) of offsets (T, 2): (R, T)."""
    totals = np.zeros((flags.shape[0], flags.shape[1] + 1), dtype=np.int64)
    np.cumsum(flags, axis=1, out=totals[:, 1:])
    difference: NDArray[np.int64] = totals[:, offsets[:, 1]] - totals[:, offsets[:, 0]]
    return difference
