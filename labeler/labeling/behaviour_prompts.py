"""The held-out prompts of a study: a JSON lines file, read line by line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from crosscoder.config import Settings
from crosscoder.limits import lines_of, parse_json, read_text
from labeler.errors import UsageError
from labeler.labeling.behaviour_checks import SAME, Check, language_of
from taxonomy.tree import Taxonomy


class Turn(Settings):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class _Line(Settings):
    """One line of the file."""

    id: str = Field(min_length=1, max_length=300)
    prompt: str | None = Field(None, min_length=1)
    messages: tuple[Turn, ...] = ()
    category: str | None = None
    check: Check | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> _Line:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give either prompt or messages")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("messages: the last one must be the user's; the model answers it")
        if self.check is not None and self.category is None:
            raise ValueError("category: missing; a check needs the category that it shows")
        return self


@dataclass(frozen=True)
class BehaviourPrompt:
    """A prompt that both models answer."""

    id: str
    messages: tuple[tuple[str, str], ...]
    """Role and content of each turn; the last one is the user's."""
    category: str | None
    """The category whose behaviour it can show; None = any that the taxonomy describes."""
    check: Check | None
    """What code looks for in the answers; None = the judge classifies them."""

    @property
    def text(self) -> str:
        """The user's last words."""
        return self.messages[-1][1]


def read_prompts(path: Path, taxonomy: Taxonomy | None) -> tuple[BehaviourPrompt, ...]:
    """Read a prompt file; UsageError names the file, the line and the key that is wrong.

    With a taxonomy, each category must be a leaf of it, and one that the judge decides must have
    its `behaviour` line there.
    """
    found: dict[str, BehaviourPrompt] = {}
    for number, text in lines_of(read_text(path), path):
        where = f"{path}:{number}"
        prompt = _parsed(text, where)
        if prompt.id in found:
            raise UsageError(f"{where}: id {prompt.id!r} is used before; give each prompt its own")
        if taxonomy is not None:
            _check_category(prompt, taxonomy, where)
        found[prompt.id] = prompt
    if not found:
        raise UsageError(f"{path}: holds no prompt; put one JSON object on each line")
    return tuple(found.values())


def _parsed(text: str, where: str) -> BehaviourPrompt:
    content = parse_json(text, where)
    if not isinstance(content, dict):
        raise UsageError(f"{where}: not a JSON object; write {{'id': ..., 'prompt': ...}}")
    try:
        line = _Line.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{where}: {_first_problem(error)}") from None
    turns = tuple((turn.role, turn.content) for turn in line.messages)
    messages = turns or (("user", str(line.prompt)),)
    return BehaviourPrompt(
        line.id, messages, line.category, _with_language(line.check, messages[-1][1], where)
    )


def _with_language(check: Check | None, prompt: str, where: str) -> Check | None:
    """The check with the prompt's own language in place of `same as prompt`."""
    if check is None or check.language != SAME:
        return check
    language = language_of(prompt)
    if language is None:
        raise UsageError(
            f"{where}: check.language: the prompt is too short to tell its language; write its "
            "code, such as 'de'"
        )
    return check.model_copy(update={"language": language})


def _check_category(prompt: BehaviourPrompt, taxonomy: Taxonomy, where: str) -> None:
    slug = prompt.category
    if slug is None:
        if not any(leaf.behaviour for leaf in taxonomy.leaves()):
            raise UsageError(
                f"{where}: category: missing, and no category of the taxonomy has a `behaviour` "
                "line; add one of the two"
            )
        return
    if slug not in taxonomy:
        raise UsageError(
            f"{where}: category: the taxonomy has no {slug!r}; {taxonomy.nearest_hint(slug)}"
        )
    if taxonomy.children(slug):
        raise UsageError(f"{where}: category: {slug!r} is a group; name one of its categories")
    if prompt.check is None and not taxonomy.get(slug).behaviour:
        raise UsageError(
            f"{where}: category {slug!r} has no `behaviour` line in the taxonomy, by which the "
            "judge would classify the answers; add the line there, or a check here"
        )


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key; remove it or correct its spelling"
    if first["type"] == "missing":
        message = "missing; add it"
    return f"{where}: {message}" if where else message
