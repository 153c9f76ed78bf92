"""The answers of a judge: their JSON schemas, and how they are parsed from text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from labeler.judge.base import JudgeRequest
from labeler.judge.parsing import AnswerError, json_objects, split_thinking

MAX_EXPLANATION, MAX_QUOTE = 300, 200
"""Most characters that the schema allows: a small model that repeats itself ends there with a
complete answer."""
MAX_CATEGORIES = 3
"""Most categories of one label."""
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'|\u2019)m sorry|i am sorry|sorry\b|i can(?:'|\u2019)?t\b|i cannot\b|"
    r"i am unable|i(?:'|\u2019)m unable|i won(?:'|\u2019)t)",
    re.IGNORECASE,
)


class Answer(BaseModel):
    """An answer; further keys are dropped.

    Everything that the schema allows is accepted. Contradictions are resolved here; the raw answer
    of the call stays as it was.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")


class ExplainAnswer(Answer):
    """What a latent stands for."""

    explanation: str
    interpretable: bool
    confidence: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _empty_is_uninterpretable(self) -> ExplainAnswer:
        if self.interpretable and not self.explanation.strip():
            return self.model_copy(update={"interpretable": False})
        return self


class ChosenCategory(Answer):
    """One category, with a quote from the evidence that supports it."""

    category: str
    confidence: float = Field(ge=0, le=1)
    quote: str = ""


class CategorizeAnswer(Answer):
    """The categories of a latent, the primary one first."""

    outcome: Literal["assigned", "none", "uninterpretable"]
    categories: tuple[ChosenCategory, ...] = Field(default=(), max_length=MAX_CATEGORIES)

    @model_validator(mode="after")
    def _outcome_agrees_with_categories(self) -> CategorizeAnswer:
        """The outcome wins; `assigned` without a category is none; duplicates are dropped."""
        if self.outcome != "assigned":
            return self.model_copy(update={"categories": ()})
        once = {chosen.category: chosen for chosen in reversed(self.categories)}
        kept = tuple(chosen for chosen in self.categories if once[chosen.category] is chosen)
        outcome = "assigned" if kept else "none"
        return self.model_copy(update={"outcome": outcome, "categories": kept})


class ExamplesAnswer(Answer):
    """Yes or no for each shown text, by its id; a missing one counts as not parsed."""

    answers: dict[str, bool]


class NameAnswer(Answer):
    """Name and definition of a cluster; an empty name is none."""

    name: str
    definition: str = ""
    include_when: str = ""
    exclude_when: str = ""


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
    """Find and check the answer in a model's text; AnswerError says what is wrong with it.

    Thinking, code fences and prose around the JSON object are ignored. Of several objects the last
    valid answer counts.
    """
    return find_answer(request, split_thinking(text).words)


def find_answer(request: JudgeRequest, words: str) -> dict[str, Any]:
    """The last valid answer in a model's text without its thinking; AnswerError without one."""
    found = json_objects(words)
    problem = AnswerError("no JSON object in the answer")
    for candidate in reversed(found):
        try:
            return check_answer(request, candidate)
        except AnswerError as error:
            problem = error
    raise problem


def check_answer(request: JudgeRequest, value: dict[str, Any]) -> dict[str, Any]:
    """Check a JSON answer against the request; AnswerError where it is invalid."""
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
    """Whether a text without an answer is a refusal."""
    return _REFUSAL.match(split_thinking(text).words) is not None


def _slugs(request: JudgeRequest) -> tuple[str, ...]:
    return tuple(option.slug for option in request.options)


def _require_known(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise AnswerError(f"{name!r} is none of the choices")


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
