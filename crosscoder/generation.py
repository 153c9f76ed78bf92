"""Answers of a subject model to prompts: the one place where a model writes text.

Answers are kept in a JSON lines file as they come, so that a run that was cut off goes on and a
finished one is only read. The file's name is a hash of all that decides the text.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from crosscoder.chat_templates import ChatTemplate, Refusal, render_chat, render_prompt
from crosscoder.config import GenerationSettings
from crosscoder.corpus import Message
from crosscoder.errors import InputError
from crosscoder.files import json_sha256, sha256_text, write_failure
from crosscoder.limits import parse_json
from crosscoder.model_checks import reading
from crosscoder.model_files import FileHashes, SubjectSpec, fingerprint, pinned
from crosscoder.models import (
    ModelInfo,
    SubjectModel,
    inspect_subject,
    load_subject,
    with_converted_weights,
)
from crosscoder.progress import Progress, SilentProgress
from crosscoder.token_roles import TEMPLATE_DATE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_log = logging.getLogger(__name__)
_UNKNOWN = "\ufffd"


@dataclass(frozen=True)
class Answer:
    """What a model wrote in answer to a prompt."""

    text: str
    """Without markers, and without white space at its ends."""
    n_tokens: int
    """Tokens that the model wrote, that which ends the answer left out."""
    is_finished: bool
    """Whether the model ended it; else it was cut at the longest length."""


@dataclass(frozen=True)
class TokenizedPrompts:
    """Prompts as a model reads them, up to where its answer begins."""

    token_ids: tuple[tuple[int, ...], ...]
    """Empty where the chat template refuses the prompt."""
    stop_ids: tuple[int, ...]
    """Tokens that end an answer, by the tokenizer and the template."""


def write_answers(
    spec: SubjectSpec,
    prompts: Sequence[Sequence[Message]],
    settings: GenerationSettings,
    folder: Path,
    *,
    template_model: ModelInfo | None = None,
    day: date = TEMPLATE_DATE,
    longest: int | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[tuple[Answer, ...]]:
    """A model's answers to each prompt, `settings.samples` of them; made once, then read.

    The prompts are rendered with the chat template of `template_model`, None = the model's own;
    its clock shows `day`. A prompt is left without answers where the template refuses it, or it
    has more than `longest` tokens, or so many that the answer would lie beyond the model's
    positions; how many are left is logged. `folder` keeps the answers, `cache_dir` file hashes
    and dequantised GGUF models; `device` "auto" takes a GPU where there is one.

    The likeliest token is taken after noise was added to the logits (the Gumbel-max trick), so a
    sampled answer depends on the prompt, the seed and its number, not on the batch it is in. Two
    models draw the same noise: equal models give equal answers.

    InputError where the model, its template or its files are at fault, WorkError where memory or
    disk are short; what was answered before is kept.
    """
    progress = progress or SilentProgress()
    hashes = FileHashes(cache_dir / "file-hashes.json" if cache_dir else None)
    spec = pinned(spec)
    print_of_model = fingerprint(spec, hashes)
    if cache_dir is not None:
        spec = with_converted_weights(spec, cache_dir, hashes, progress)
    facts = inspect_subject(spec)
    tokenized = tokenize_prompts(prompts, template_model or facts, day)
    key = json_sha256(
        {
            "model": [print_of_model, spec.dtype],
            "prompts": tokenized.token_ids,
            "stop": tokenized.stop_ids,
            "settings": settings.deciding(),
        }
    )
    file = AnswerFile(folder / f"{key[:16]}.jsonl")
    wanted = _answerable(tokenized, spec.name, _longest(facts, settings, longest))
    places = [(prompt, sample) for prompt in wanted for sample in range(settings.samples)]
    found = file.read()
    todo = [place for place in places if place not in found]
    if todo:
        with progress.task(f"{spec.name} answers", len(places), "answers") as advance:
            advance(len(places) - len(todo))
            writer = AnswerWriter(_loaded(facts, device), tokenized, settings)
            for answered in writer.write(todo):
                file.append(answered)
                found |= answered
                advance(len(answered))
    answered_prompts = set(wanted)
    return [
        tuple(found[prompt, sample] for sample in range(settings.samples))
        if prompt in answered_prompts
        else ()
        for prompt in range(len(prompts))
    ]


def tokenize_prompts(
    prompts: Sequence[Sequence[Message]], template_model: ModelInfo, day: date
) -> TokenizedPrompts:
    """Render the prompts with a model's chat template, up to where the answer begins."""
    tokenizer = template_model.tokenizer
    if not tokenizer.chat_template:
        raise InputError(
            f"model {template_model.name!r}: it has no chat template to give prompts in; "
            "use an instruction-tuned model"
        )
    with ChatTemplate(tokenizer, day, template_model.name, opens_answer=True) as template:
        texts = [
            render_prompt(messages, template, f"prompt {number}")
            for number, messages in enumerate(prompts, start=1)
        ]
    shown = [text for text in texts if isinstance(text, str)]
    rows = tokenizer(shown, add_special_tokens=False).input_ids if shown else []
    encoded = iter(rows)
    return TokenizedPrompts(
        tuple(() if isinstance(text, Refusal) else tuple(next(encoded)) for text in texts),
        _stop_ids(template_model, day),
    )


def _stop_ids(template_model: ModelInfo, day: date) -> tuple[int, ...]:
    """The end of a text, and the token that the template writes behind an answer."""
    tokenizer = template_model.tokenizer
    found = {tokenizer.eos_token_id} - {None}
    chat = (Message("user", "Hello"), Message("assistant", "Good morning"))
    with ChatTemplate(tokenizer, day, template_model.name) as template:
        rendered = render_chat(chat, template, "a chat of two messages")
    if not isinstance(rendered, Refusal):
        end = max((span.end for span in rendered.spans if span.message == 1), default=None)
        behind = rendered.text[end:] if end is not None else ""
        ids = tokenizer(behind.lstrip(), add_special_tokens=False).input_ids[:1]
        found |= {id_ for id_ in ids if _is_special(tokenizer, id_)}
    return tuple(sorted(found))


def _is_special(tokenizer: PreTrainedTokenizerFast, token_id: int) -> bool:
    added = tokenizer.added_tokens_decoder.get(token_id)
    return token_id in tokenizer.all_special_ids or (added is not None and added.special)


def _longest(facts: ModelInfo, settings: GenerationSettings, longest: int | None) -> int | None:
    """Most tokens of a prompt that leaves room for its answer."""
    positions = facts.n_positions
    room = None if positions is None else positions - settings.max_new_tokens
    return min((limit for limit in (longest, room) if limit is not None), default=None)


def _answerable(prompts: TokenizedPrompts, name: str, longest: int | None) -> list[int]:
    """The prompts that the model can answer; the others are logged."""
    lengths = [len(ids) for ids in prompts.token_ids]
    n_long = sum(longest is not None and length > longest for length in lengths)
    reasons = {
        "the chat template refuses them": lengths.count(0),
        f"they have more than {longest} tokens": n_long,
    }
    for reason, count in reasons.items():
        if count:
            _log.warning(
                "model %r: %d of %d prompts have no answer: %s", name, count, len(lengths), reason
            )
    return [i for i, n in enumerate(lengths) if n and (longest is None or n <= longest)]


def _loaded(facts: ModelInfo, device: str) -> SubjectModel:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_subject(facts.spec, device, facts.tokenizer)


Place = tuple[int, int]
"""Number of a prompt and number of a sample, from 0."""


class AnswerFile:
    """Answers in a JSON lines file: appended batch by batch, read whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[Place, Answer]:
        """What was answered; a line that is not whole or damaged is left out."""
        found: dict[Place, Answer] = {}
        if not self.path.is_file():
            return found
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                row = parse_json(line, f"{self.path}:{number}")
                answer = Answer(str(row["text"]), int(row["n_tokens"]), bool(row["is_finished"]))
                found[int(row["prompt"]), int(row["sample"])] = answer
            except (InputError, KeyError, TypeError, ValueError):
                _log.warning("%s:%d: no whole answer; it is written again", self.path, number)
        return found

    def append(self, answers: dict[Place, Answer]) -> None:
        """Add answers and have them on the disk; WorkError where it is full."""
        lines = (
            json.dumps({"prompt": prompt, "sample": sample, **asdict(answer)}) + "\n"
            for (prompt, sample), answer in answers.items()
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                self._end_last_line(file)
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failure(self.path, error.errno, str(error)) from error

    def _end_last_line(self, file: Any) -> None:
        """What a run that was ended left half-written must not swallow the next line."""
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


class AnswerWriter:
    """A model in memory, answering prompts batch by batch."""

    def __init__(
        self, subject: SubjectModel, prompts: TokenizedPrompts, settings: GenerationSettings
    ) -> None:
        self._name = subject.name
        self._model: PreTrainedModel = subject.model
        self._tokenizer = subject.tokenizer
        self._prompts = prompts.token_ids
        self._settings = settings
        self._stop_ids = sorted({*prompts.stop_ids, *_own_stop_ids(subject.model)})
        # Penalties and temperatures that come with a model would be taken up without a word.
        self._model.generation_config = GenerationConfig()

    def write(self, places: Sequence[Place]) -> Iterator[dict[Place, Answer]]:
        """Answers to prompts of like length, the longest first."""
        order = sorted(places, key=lambda place: len(self._prompts[place[0]]), reverse=True)
        for start in range(0, len(order), self._settings.batch_size):
            batch = order[start : start + self._settings.batch_size]
            yield dict(zip(batch, self._answer(batch), strict=True))

    @torch.inference_mode()
    def _answer(self, batch: Sequence[Place]) -> list[Answer]:
        ids, mask = _padded_left([self._prompts[prompt] for prompt, _ in batch])
        device = self._model.device
        config = GenerationConfig(
            do_sample=False,
            use_cache=True,
            max_new_tokens=self._settings.max_new_tokens,
            eos_token_id=self._stop_ids or None,
            pad_token_id=self._stop_ids[0] if self._stop_ids else 0,
        )
        with reading(f"model {self._name!r}", "cannot answer prompts"):
            written = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=config,
                logits_processor=LogitsProcessorList([self._sampling(batch)]),
            )
        return [self._read(row) for row in written[:, ids.shape[1] :].tolist()]

    def _sampling(self, batch: Sequence[Place]) -> _Sampling:
        settings = self._settings
        seeds = [
            _seed(f"{settings.seed} {sample} {self._prompts[prompt]}") for prompt, sample in batch
        ]
        return _Sampling(self._name, seeds, settings.temperature)

    def _read(self, row: list[int]) -> Answer:
        end = next((i for i, token in enumerate(row) if token in self._stop_ids), None)
        ids = row[:end]
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        # An answer may be cut within a character.
        text = text.rstrip(_UNKNOWN) if end is None else text
        return Answer(text.strip(), len(ids), end is not None)


def _own_stop_ids(model: PreTrainedModel) -> list[int]:
    """The tokens at which the model's own generation config ends an answer."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    return [ids] if isinstance(ids, int) else list(ids or ())


def _padded_left(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask (B, T); answers begin at the same place in all rows."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    return ids, mask


def _seed(words: str) -> int:
    return int(sha256_text(words)[:15], 16)


class _Sampling:
    """Adds Gumbel noise to the logits of each row, from a generator of its own.

    argmax(logits / T + noise) is a draw from softmax(logits / T).
    """

    def __init__(self, name: str, seeds: Sequence[int], temperature: float) -> None:
        self._name = name
        self._temperature = temperature
        # On the CPU everywhere, so that a seed gives the same noise on every device.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if bool(scores.isnan().any()):
            raise InputError(
                f"model {self._name!r}: its logits overflow; set its dtype to bfloat16 or float32"
            )
        if self._temperature == 0:
            return scores
        rows = [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._generators]
        return scores / self._temperature - torch.stack(rows).log().to(scores.device)
