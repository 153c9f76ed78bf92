"""Whose answers the corpus holds: those of the file, cut or whole, or each model's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from crosscoder.config import GenerationSettings
from crosscoder.corpus import Document, Message
from crosscoder.errors import InputError
from crosscoder.generation import Answer, write_answers
from crosscoder.model_files import SubjectSpec
from crosscoder.models import ModelInfo
from crosscoder.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def cut_answers(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast, n_tokens: int
) -> list[Document]:
    """The documents with each assistant message cut after its first `n_tokens` tokens.

    Tokens are counted in the message alone. With 0 the messages are there without text: a template
    that asks for turns in order still renders the chat.
    """
    return [
        replace(document, messages=tuple(_cut(m, tokenizer, n_tokens) for m in document.messages))
        if document.messages is not None
        else document
        for document in documents
    ]


def _cut(message: Message, tokenizer: PreTrainedTokenizerFast, n_tokens: int) -> Message:
    if message.role != "assistant":
        return message
    encoding = tokenizer(
        message.content, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    offsets = encoding["offset_mapping"]
    if len(offsets) <= n_tokens:
        return message
    end = offsets[n_tokens - 1][1] if n_tokens else 0
    return Message(message.role, message.content[:end])


@dataclass(frozen=True)
class AnswerCount:
    """What one model wrote."""

    n_answers: int
    n_tokens: int
    n_finished: int
    """Answers that the model ended itself; the others were cut at the longest length."""


@dataclass(frozen=True)
class AnsweredCorpus:
    """A corpus that holds every model's answer to each prompt."""

    documents: tuple[Document, ...]
    """The answers to one prompt lie next to each other, in the models' order."""
    counts: dict[str, AnswerCount]
    """By name of the model."""
    n_prompts: int
    n_unanswered: int
    """Prompts that the template refuses or that are too long; read without an answer."""


def answered_corpus(
    documents: Sequence[Document],
    specs: Sequence[SubjectSpec],
    settings: GenerationSettings,
    folder: Path,
    template_model: ModelInfo,
    day: date,
    longest: int,
    device: str = "auto",
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> AnsweredCorpus:
    """Have each model answer the prompts of the corpus, in place of the answers of the file.

    A prompt is what comes before the first assistant message of a document; later turns are left
    out. For each prompt and model there is one document, `<id>/<model>`; those of one prompt are
    one unit (`crosscoder.corpus.document_units`). Plain text, and chats that begin with an answer,
    stay as they are. A prompt of more than `longest` tokens is read without an answer.

    Raises InputError where a new identifier is in the corpus already, and errors as
    `crosscoder.generation.write_answers` does.
    """
    prompts = {i: prompt for i, each in enumerate(documents) if (prompt := prompt_of(each))}
    answers: dict[str, dict[int, Answer]] = {}
    for spec in specs:
        written = write_answers(
            spec,
            list(prompts.values()),
            settings,
            folder,
            template_model=template_model,
            day=day,
            longest=longest,
            device=device,
            cache_dir=cache_dir,
            progress=progress,
        )
        pairs = zip(prompts, written, strict=True)
        answers[spec.name] = {index: found[0] for index, found in pairs if found}
    # Models of one corpus may differ in their positions: a prompt is answered by all or none.
    answered = set.intersection(*(set(each) for each in answers.values()))
    found: list[Document] = []
    for index, document in enumerate(documents):
        if index in answered:
            found += [
                _answered(document, prompts[index], name, answers[name][index]) for name in answers
            ]
        elif index in prompts:
            found.append(replace(document, messages=prompts[index]))
        else:
            found.append(document)
    _require_unique(found)
    counts = {
        name: _count([row for index, row in rows.items() if index in answered])
        for name, rows in answers.items()
    }
    return AnsweredCorpus(tuple(found), counts, len(prompts), len(prompts) - len(answered))


def prompt_of(document: Document) -> tuple[Message, ...]:
    """The messages before the first answer; none where there is no user's among them."""
    prompt: list[Message] = []
    for message in document.messages or ():
        if message.role == "assistant":
            break
        prompt.append(message)
    return tuple(prompt) if any(message.role == "user" for message in prompt) else ()


def _answered(
    document: Document, prompt: tuple[Message, ...], model: str, answer: Answer
) -> Document:
    return replace(
        document,
        id=f"{document.id}/{model}",
        messages=(*prompt, Message("assistant", answer.text)),
        prompt=document.id,
    )


def _require_unique(documents: Sequence[Document]) -> None:
    identifier, count = Counter(document.id for document in documents).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"corpus: the answers to a prompt would be named {identifier!r}, as another document "
            "is; rename that document"
        )


def _count(answers: Sequence[Answer]) -> AnswerCount:
    return AnswerCount(
        len(answers),
        sum(answer.n_tokens for answer in answers),
        sum(answer.is_finished for answer in answers),
    )
