"""The answers every judge gives: their JSON schemas, and how text becomes one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from labeler.judge.base import JudgeRequest

MAX_EXPLANATION, MAX_QUOTE = 300, 200
"""Most characters that the schema allows: a small model that repeats itself ends there, and what
it said is an answer, and not one cut off."""
MAX_CATEGORIES = 3
"""Most categories of one label."""
_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPEN_THINKING = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'|\u2019)m sorry|i am sorry|sorry\b|i can(?:'|\u2019)?t\b|i cannot\b|"
    r"i am unable|i(?:'|\u2019)m unable|i won(?:'|\u2019)t)",
    re.IGNORECASE,
)


class AnswerError(ValueError):
    """The text is no answer to the request; the message says why."""


class Answer(BaseModel):
    """An answer; what it says beyond the asked keys is dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ExplainAnswer(Answer):
    """What a latent stands for."""

    explanation: str
    interpretable: bool
    confidence: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _interpretable_says_something(self) -> ExplainAnswer:
        if self.interpretable and not self.explanation.strip():
            raise ValueError("explanation is empty")
        return self


class ChosenCategory(Answer):
    """One category, with the words of the evidence that speak for it."""

    category: str
    confidence: float = Field(ge=0, le=1)
    quote: str = ""


class CategorizeAnswer(Answer):
    """The categories of a latent, the primary one first."""

    outcome: Literal["assigned", "none", "uninterpretable"]
    categories: tuple[ChosenCategory, ...] = Field(default=(), max_length=MAX_CATEGORIES)

    @model_validator(mode="after")
    def _outcome_agrees_with_categories(self) -> CategorizeAnswer:
        if (self.outcome == "assigned") != bool(self.categories):
            raise ValueError(f"outcome {self.outcome} with {len(self.categories)} categories")
        slugs = [chosen.category for chosen in self.categories]
        if len(set(slugs)) != len(slugs):
            raise ValueError("a category is named twice")
        return self


class ExamplesAnswer(Answer):
    """Yes or no for each shown text, by its id; a missing one counts as not parsed."""

    answers: dict[str, bool]


class NameAnswer(Answer):
    """The name of a cluster, with the words that tell what belongs."""

    name: str
    definition: str = ""
    include_when: str = ""
    exclude_when: str = ""

    @model_validator(mode="after")
    def _has_a_name(self) -> NameAnswer:
        if not self.name.strip():
            raise ValueError("name is empty")
        return self


class MergeAnswer(Answer):
    """Whether two categories are one."""

    same: bool
    reason: str = ""


_ANSWERS: dict[str, type[Answer]] = {
    "explain": ExplainAnswer,
    "categorize": CategorizeAnswer,
    "detect": ExamplesAnswer,
    "fuzz": ExamplesAnswer,
    "name": NameAnswer,
    "merge": MergeAnswer,
}


def explain_schema() -> dict[str, Any]:
    """JSON schema of an explanation."""
    return object_schema(
        {
            "explanation": {"type": "string", "maxLength": MAX_EXPLANATION},
            "interpretable": {"type": "boolean"},
            "confidence": _share(),
        }
    )


def categorize_schema(slugs: Sequence[str]) -> dict[str, Any]:
    """JSON schema of a categorisation among `slugs`."""
    chosen = object_schema(
        {
            "category": {"type": "string", "enum": list(slugs)},
            "confidence": _share(),
            "quote": {"type": "string", "maxLength": MAX_QUOTE},
        }
    )
    outcomes = ["assigned", "none", "uninterpretable"]
    return object_schema(
        {
            "outcome": {"type": "string", "enum": outcomes},
            "categories": {"type": "array", "items": chosen, "maxItems": MAX_CATEGORIES},
        }
    )


def examples_schema(example_ids: Sequence[str]) -> dict[str, Any]:
    """JSON schema of a yes or no for each of `example_ids`, under the id itself."""
    answers = object_schema({key: {"type": "boolean"} for key in example_ids})
    return object_schema({"answers": answers})


def parse_answer(request: JudgeRequest, text: str) -> dict[str, Any]:
    """Find and check the answer in a judge's words; AnswerError says what is wrong with them.

    Thinking, fences and prose around the JSON object are passed over; of several objects the
    last one that is a valid answer counts.
    """
    found = list(_json_objects(_without_thinking(text)))
    if not found:
        raise AnswerError("no JSON object in the answer")
    problem = AnswerError("no JSON object in the answer")
    for candidate in reversed(found):
        try:
            return check_answer(request, candidate)
        except AnswerError as error:
            problem = error
    raise problem


def check_answer(request: JudgeRequest, value: dict[str, Any]) -> dict[str, Any]:
    """Check an answer that is already JSON against the request; AnswerError where it is none."""
    try:
        answer = _ANSWERS[request.stage].model_validate(value)
    except ValidationError as error:
        raise AnswerError(_first_problem(error)) from None
    if isinstance(answer, CategorizeAnswer):
        _require_known([chosen.category for chosen in answer.categories], _slugs(request))
    if isinstance(answer, ExamplesAnswer):
        _require_known(list(answer.answers), request.example_ids)
    return answer.model_dump(mode="json")


def is_refusal(text: str) -> bool:
    """Tell whether a text without an answer is a model declining to give one."""
    return _REFUSAL.match(_without_thinking(text)) is not None


def _slugs(request: JudgeRequest) -> tuple[str, ...]:
    return tuple(option.slug for option in request.options)


def _require_known(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise AnswerError(f"{name!r} is none of the choices")


def _without_thinking(text: str) -> str:
    """Drop thinking, also where its opening tag was part of the prompt."""
    return _OPEN_THINKING.sub("", _THINKING.sub("", text)).strip()


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in a text, in order."""
    decoder = json.JSONDecoder(object_pairs_hook=_each_key_once)
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            end = at + 1
        else:
            if isinstance(value, dict):
                yield value
        at = text.find("{", end)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; AnswerError where a key has two values, of which neither is the answer."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise AnswerError(f"{key!r} is answered twice")
        found[key] = value
    return found


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of an object with exactly these keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _share() -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": 1}
