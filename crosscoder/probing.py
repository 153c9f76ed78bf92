"""What latents do on texts that are not of the corpus.

The models read them as they read the corpus: the same template, layer, mask and threshold.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from crosscoder.corpus import Document, Message, TokenizedDocument, TokenRole
from crosscoder.evaluate import restrict
from crosscoder.evidence_pass import active_codes, document_maxima
from crosscoder.harvest import HarvestConfig, harvest_inputs, token_mask
from crosscoder.model import Crosscoder
from crosscoder.model_files import SubjectSpec
from crosscoder.progress import Progress, SilentProgress
from crosscoder.reading import CorpusReader, ResidualReader, open_readers, plan_shards
from crosscoder.shards import Shard
from crosscoder.token_roles import tokenize_corpus

ProbeRole = Literal["user", "assistant", "plain"]


@dataclass(frozen=True)
class ProbeText:
    """A text and who writes it."""

    role: ProbeRole
    text: str
    before: str = ""
    """The user's message before an assistant's text."""

    def document(self, name: str) -> Document:
        """The text as a document: a chat, or plain text."""
        if self.role == "plain":
            return Document(name, text=self.text)
        own = Message(self.role, self.text)
        before = (Message("user", self.before),) if self.role == "assistant" else ()
        return Document(name, messages=(*before, own))


class TextProbe:
    """Measures latents on texts; the models are loaded at the first text and kept."""

    def __init__(
        self,
        specs: Sequence[SubjectSpec],
        config: HarvestConfig,
        median_norms: Sequence[float],
        day: dt.date,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`median_norms` (M,) are those of the corpus, which the mask compares with.

        InputError where the models do not fit each other.
        """
        self._config = config.model_copy(update={"answer_tokens": None})
        self._medians = torch.tensor(list(median_norms))
        self._day = config.date or day
        self._progress = progress or SilentProgress()
        self._inputs = harvest_inputs(specs, (), config, progress, cache_dir)
        self._readers: list[ResidualReader] = []

    def activations(
        self, crosscoder: Crosscoder, texts: Sequence[ProbeText], latents: Sequence[int]
    ) -> list[float | None]:
        """The largest activation of latent `latents[i]` on the tokens of `texts[i]`, unscaled.

        Only tokens of the text's own role count that the mask lets through; None where there is
        none. Below the crosscoder's threshold an activation is 0.
        """
        wanted = sorted(set(latents))
        place = {latent: at for at, latent in enumerate(wanted)}
        part = restrict(crosscoder, wanted)
        tokenized = self._tokenized(texts)
        roles = torch.tensor([int(TokenRole[each.role.upper()]) for each in texts])
        found: list[float | None] = [None] * len(texts)
        n_tokens = sum(len(document.token_ids) for document in tokenized)
        with self._progress.task("probe", n_tokens, "tokens") as advance:
            for members in plan_shards(tokenized, self._config.shard_tokens):
                shard = self._read([tokenized[index] for index in members], roles)
                maxima = document_maxima(active_codes(part, shard), shard)
                largest = {
                    (int(latent), int(document)): float(value)
                    for latent, document, value in zip(
                        maxima.latent, maxima.document, maxima.value, strict=True
                    )
                }
                for index in set(shard.document[shard.mask].tolist()):
                    found[index] = largest.get((place[latents[index]], index), 0.0)
                advance(shard.n_tokens)
        return found

    def _tokenized(self, texts: Sequence[ProbeText]) -> Sequence[TokenizedDocument]:
        documents = [each.document(str(number)) for number, each in enumerate(texts)]
        model = self._inputs.template_model
        longest = self._config.max_length
        return tokenize_corpus(documents, model.tokenizer, longest, self._day, model.name).documents

    def _read(self, documents: Sequence[TokenizedDocument], roles: torch.Tensor) -> Shard:
        config, facts = self._config, self._inputs.facts
        if not self._readers:
            self._readers = open_readers(facts, documents, config.layer, config.device)
        reader = CorpusReader(
            self._readers, facts[0].d_model, config.batch_tokens, config.storage_dtype
        )
        for each in self._readers:
            highest = max(int(document.token_ids.max(initial=0)) for document in documents)
            each.require_reach(highest, max(len(document.token_ids) for document in documents))
        tokens = reader.read(documents, lambda n: None)
        mask = token_mask(
            tokens.norms, tokens.roles, tokens.document, self._medians, config.skip_first,
            config.max_norm_ratio,
        )  # fmt: skip
        return Shard(
            index=0,
            activations=tokens.activations.float(),
            token_ids=tokens.token_ids,
            roles=tokens.roles,
            document=tokens.document,
            position=tokens.position,
            mask=mask & (tokens.roles == roles[tokens.document.long()]),
        )
