"""The answers of a judge: their JSON schemas, and how they are found in a text and checked.

The text is untrusted: every function that reads it runs in time proportional to its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crosscoder.errors import InputError
from crosscoder.limits import check_value
from labeler.judge.base import JudgeRequest

Marker = tuple[str, str]
"""Begin and end marker of thinking."""

MARKERS: tuple[Marker, ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("&lt;thinking&gt;", "&lt;/thinking&gt;"),
    ("<|channel>thought", "<channel|>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Markers of public model families; harmony's channels are separate. `judge.thinking_markers` adds
more."""
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^\n{}]{0,80}?<\|message\|>", re.IGNORECASE)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>", re.IGNORECASE)
_FINAL = "final"
"""Harmony's channel for the reader."""
_BARE_CHANNEL = re.compile(r"\s*analysis(?=[A-Z]|\s*[\n{])")
_BARE_FINAL = "assistantfinal"
"""Channels whose marks the server dropped: only their names are left in the text."""

_TAG = re.compile(r"<[\w:]+>")
_ATTRIBUTES = re.compile(r"\s[^<>]*>$")

_FENCE = "```"
_LANGUAGE = re.compile(r"[A-Za-z0-9_+-]*")
_OBJECT = re.compile(r'\{(?=\s*["}])')
LONGEST_TEXT = 400_000
"""Most characters of one answer with its thinking: some 100,000 tokens."""
LONGEST_OBJECT = 64 * 1024
"""Most characters of one JSON object."""
MOST_FAILED, MOST_OBJECTS = 200, 1000
"""Unreadable objects, and readable ones, after which a text is given up."""
MOST_ENDINGS = 16
"""End markers after which the rest of the text is tried as a whole answer."""
MAX_EXPLANATION, MAX_QUOTE = 300, 200
"""Most characters that the schema allows: a small model that repeats itself ends there with a
complete answer."""
MAX_CATEGORIES = 3
"""Most categories of one label."""
NONE, SEE_ALL = "none", "see_all"
"""Keys next to the categories: none fits, and the judge asks for those that it was not shown."""
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'|\u2019)m sorry|i am sorry|sorry\b|i can(?:'|\u2019)?t\b|i cannot\b|"
    r"i am unable|i(?:'|\u2019)m unable|i won(?:'|\u2019)t)",
    re.IGNORECASE,
)


class AnswerError(ValueError):
    """The text holds no valid answer to the request; the message says why."""


class _HopelessError(AnswerError):
    """An error that makes the whole text invalid."""


class _SkippedError(AnswerError):
    """An object that can be read but not used; its parts are skipped."""

    def __init__(self, words: str, length: int) -> None:
        super().__init__(words)
        self.length = length


@dataclass(frozen=True)
class Said:
    """A model's text, separated from its thinking."""

    words: str
    """Text without thinking and outer white space."""
    thinking: str = ""
    is_open: bool = False
    """The thinking never ended, so there is no answer."""


def split_thinking(text: str, markers: Sequence[Marker] = ()) -> Said:
    """Separate thinking from the text, also where its begin or end marker is missing.

    A text that is one JSON object has no thinking, whatever its strings hold. AnswerError for more
    than LONGEST_TEXT characters.
    """
    if len(text) > LONGEST_TEXT:
        raise AnswerError(
            f"the answer has {len(text):,} characters, more than {LONGEST_TEXT:,} are not read"
        )
    if whole_object(text) is not None:
        return Said(text.strip())
    if _CHANNEL.search(text):
        return _split_channels(text)
    if _BARE_CHANNEL.match(text):
        thinking, final, words = text.rpartition(_BARE_FINAL)
        return Said(words.strip(), thinking) if final else Said("", text, is_open=True)
    return _split_marked(text, tuple(markers))


def _split_marked(text: str, markers: tuple[Marker, ...]) -> Said:
    words: list[str] = []
    thinking: list[str] = []
    closed_by: str | None = None
    position = n_endings = depth = 0
    openings, search = _search_for(markers)
    for mark in search.finditer(text):
        passed = text[position : mark.start()]
        found = mark.group().lower()
        bare = _ATTRIBUTES.sub(">", found)
        found = bare if bare in openings else found
        position = mark.end()
        if closed_by is not None and found != closed_by:
            thinking.append(passed)
            depth += openings.get(found) == closed_by
        elif closed_by is None and found in openings:
            words.append(passed)
            closed_by, depth = openings[found], 1
        else:
            # An end marker without a begin marker: everything before it is thinking.
            thinking += [passed] if closed_by is not None else [*words, passed]
            words = words if closed_by is not None else []
            depth = max(depth - 1, 0)
            closed_by = closed_by if depth else None
            n_endings += 1
            if n_endings <= MOST_ENDINGS and whole_object(text[position:]) is not None:
                return Said(text[position:].strip(), "".join(thinking))
    rest = text[position:]
    if closed_by is not None:
        return Said("".join(words).strip(), "".join([*thinking, rest]), is_open=True)
    return Said("".join([*words, rest]).strip(), "".join(thinking))


def _split_channels(text: str) -> Said:
    """Harmony's channels: the final ones are text, all others thinking."""
    words: list[str] = []
    heads = list(_CHANNEL.finditer(text))
    thinking = [text[: heads[0].start()]]
    is_open = False
    for head, after in zip(heads, [*(one.start() for one in heads[1:]), len(text)], strict=True):
        end = _CHANNEL_END.search(text, head.end(), after)
        body = text[head.end() : end.start() if end is not None else after]
        is_final = head.group(1).lower() == _FINAL
        (words if is_final else thinking).append(body)
        is_open = not is_final and end is None
    return Said("".join(words).strip(), "".join(thinking), is_open)


def whole_object(text: str) -> dict[str, Any] | None:
    """The JSON object that makes up the text, apart from code fences and white space; else None."""
    bare = unfenced(text)
    if not bare.startswith("{") or len(bare) > LONGEST_OBJECT:
        return None
    try:
        value, end = _decode(bare)
    except AnswerError:
        return None
    return value if end == len(bare) else None


def unfenced(text: str) -> str:
    """The text inside the code fences, where the whole text is fenced; else the text."""
    bare = text.strip()
    if len(bare) < 2 * len(_FENCE) or not (bare.startswith(_FENCE) and bare.endswith(_FENCE)):
        return bare
    body = bare.removeprefix(_FENCE).removesuffix(_FENCE)
    return _LANGUAGE.sub("", body, count=1).strip()


def json_objects(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in a text, in order.

    AnswerError where an object has two values for a key, or where no object is found.
    """
    found: list[dict[str, Any]] = []
    problem = "no JSON object in the answer"
    n_failed, end = 0, 0
    for at in _starts(text):
        if at < end:
            continue
        if n_failed == MOST_FAILED or len(found) == MOST_OBJECTS:
            raise AnswerError("no JSON object in the answer can be told from its many braces")
        try:
            value, length = _decode(text[at : at + LONGEST_OBJECT])
        except _HopelessError:
            raise
        except AnswerError as error:
            n_failed += 1
            end = at + error.length if isinstance(error, _SkippedError) else end
            problem = f"no JSON object in the answer: {error}"
            continue
        found.append(value)
        end = at + length
    if not found:
        raise AnswerError(problem)
    return found


def _starts(text: str) -> Iterator[int]:
    return (found.start() for found in _OBJECT.finditer(text))


def _decode(text: str) -> tuple[dict[str, Any], int]:
    """The object at the start of a text, and its length."""
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError:
        raise AnswerError("an object is not whole") from None
    except RecursionError:
        raise _HopelessError("an object is nested too deeply") from None
    except AnswerError:
        raise
    except ValueError:
        raise AnswerError("a number is too long") from None
    try:
        check_value(value, "the answer", "JSON")
    except InputError as error:
        raise _SkippedError(str(error), end) from None
    return value, end


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise _HopelessError(f"{key!r} is answered twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise AnswerError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_each_key_once, parse_constant=_no_constant)


@lru_cache(maxsize=16)
def _search_for(markers: tuple[Marker, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    """End marker by begin marker, and a pattern that finds both."""
    pairs = [(begin.lower(), end.lower()) for begin, end in (*markers, *MARKERS)]
    marks = sorted({mark for pair in pairs for mark in pair}, key=len, reverse=True)
    return dict(pairs), re.compile("|".join(map(_pattern_of, marks)), re.IGNORECASE)


def _pattern_of(mark: str) -> str:
    """A marker as a pattern; a tag may have attributes."""
    if _TAG.fullmatch(mark):
        return re.escape(mark[:-1]) + r"(?:\s[^<>{}]{0,200})?>"
    return re.escape(mark)


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

    outcome: Literal["assigned", "none", "see_all", "uninterpretable"]
    categories: tuple[ChosenCategory, ...] = Field(default=(), max_length=MAX_CATEGORIES)

    @model_validator(mode="after")
    def _outcome_agrees_with_categories(self) -> CategorizeAnswer:
        """An outcome other than `assigned` wins, then a first key that is no category; `assigned`
        without a category is none; duplicates and later keys that are no category are dropped."""
        if self.outcome != "assigned":
            return self.model_copy(update={"categories": ()})
        if self.categories and self.categories[0].category in (NONE, SEE_ALL):
            outcome = self.categories[0].category
            return self.model_copy(update={"outcome": outcome, "categories": ()})
        once = {chosen.category: chosen for chosen in reversed(self.categories)}
        kept = tuple(
            chosen
            for chosen in self.categories
            if once[chosen.category] is chosen and chosen.category not in (NONE, SEE_ALL)
        )
        outcome = "assigned" if kept else NONE
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


class WrittenText(Answer):
    """A text that a judge wrote to test an explanation."""

    role: Literal["user", "assistant", "plain"]
    text: str
    before: str = ""


class ExperimentAnswer(Answer):
    """Texts that should and texts that should not activate a latent."""

    fires: tuple[WrittenText, ...]
    quiet: tuple[WrittenText, ...]


_ANSWERS: dict[str, type[Answer]] = {
    "explain": ExplainAnswer,
    "categorize": CategorizeAnswer,
    "detect": ExamplesAnswer,
    "fuzz": ExamplesAnswer,
    "name": NameAnswer,
    "merge": MergeAnswer,
    "behaviour": CategorizeAnswer,
    "experiment": ExperimentAnswer,
    "revise": ExplainAnswer,
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


def categorize_schema(slugs: Sequence[str], keys: Sequence[str] = ()) -> dict[str, Any]:
    """JSON schema of a categorisation among `slugs`, the category before the outcome.

    `keys` (NONE, SEE_ALL) may be given in a category's place as well.
    """
    outcomes = dict.fromkeys(["assigned", NONE, *keys, "uninterpretable"])
    chosen = object_schema(
        {
            "category": {"type": "string", "enum": [*slugs, *keys]},
            "confidence": _share(),
            "quote": {"type": "string", "maxLength": MAX_QUOTE},
        }
    )
    return object_schema(
        {
            "categories": {"type": "array", "items": chosen, "maxItems": MAX_CATEGORIES},
            "outcome": {"type": "string", "enum": list(outcomes)},
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
    if request.token is not None and request.token in json.dumps(value).lower():
        raise AnswerError("the token of the marker lines is in the answer")
    try:
        answer = _ANSWERS[request.stage].model_validate(value)
    except ValidationError as error:
        raise AnswerError(_first_problem(error)) from None
    if isinstance(answer, CategorizeAnswer):
        _require_known([chosen.category for chosen in answer.categories], _slugs(request))
        if answer.outcome == SEE_ALL and not request.further:
            raise AnswerError(f"{SEE_ALL!r} is none of the choices")
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
