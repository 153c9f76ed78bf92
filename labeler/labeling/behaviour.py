"""Classifies answers to held-out prompts, blind to the model, and pairs them by prompt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosscoder.files import sha256_text
from labeler.judge.base import CategoryOption, JudgeRequest
from labeler.judge.calls import StoredCall
from labeler.judge.prompts import behaviour_request
from labeler.labeling.behaviour_prompts import BehaviourPrompt
from labeler.store.outcomes import failed_outcome
from labeler.store.schema import BehaviourAnswer
from labeler.store.schema.behaviour import UNANSWERED
from taxonomy.behaviour_change import PairedAnswers

_SHOWS = {"assigned": 1.0, "none": 0.0}
"""What an outcome says of the behaviour; the others say nothing."""
AskJudge = Callable[[Sequence[JudgeRequest]], Sequence[StoredCall]]
"""Asks the judge; called only where there is something to ask."""


@dataclass(frozen=True)
class AnswerClass:
    """Whether one answer shows the behaviour of one category."""

    answer_id: int
    model: str
    prompt_id: str
    sample: int
    category: str
    outcome: str
    classified_by: str
    """`check`, `judge`, or `nobody` where there is no answer."""
    reason: str | None = None
    judge_call_id: int | None = None


@dataclass(frozen=True)
class _Question:
    """An answer that the judge is asked about."""

    prompt: BehaviourPrompt
    answer: BehaviourAnswer
    text: str


def classify(
    answers: Sequence[BehaviourAnswer],
    prompts: Sequence[BehaviourPrompt],
    options: Sequence[CategoryOption],
    ask: AskJudge,
) -> list[AnswerClass]:
    """The class of every answer in each category that its prompt is about.

    Checks are applied where a prompt has one. The judge is asked about the rest: it sees the
    prompt, the answer and the categories' `behaviour` lines, in an order by hash, and no model.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    described = tuple(option for option in options if option.behaviour)
    found: list[AnswerClass] = []
    questions: list[_Question] = []
    for answer in answers:
        prompt = by_id[answer.prompt_id]
        if answer.text is None:
            found += _unanswered(prompt, answer, described)
        elif prompt.check is not None:
            found.append(_checked(prompt, answer, answer.text))
        else:
            questions.append(_Question(prompt, answer, answer.text))
    questions.sort(key=lambda each: sha256_text(f"{each.prompt.id}\n{each.text}"))
    requests = [behaviour_request(each.prompt.messages, each.text, options) for each in questions]
    calls = ask(requests) if requests else ()
    for question, call in zip(questions, calls, strict=True):
        found += _judged(question, call, described)
    return found


def _asked_about(prompt: BehaviourPrompt, described: Sequence[CategoryOption]) -> list[str]:
    """The categories whose behaviour a prompt can show."""
    return [option.slug for option in described] if prompt.category is None else [prompt.category]


def _unanswered(
    prompt: BehaviourPrompt, answer: BehaviourAnswer, described: Sequence[CategoryOption]
) -> Iterator[AnswerClass]:
    for slug in _asked_about(prompt, described):
        yield _class(answer, slug, UNANSWERED, "nobody", "the model gave no answer")


def _checked(prompt: BehaviourPrompt, answer: BehaviourAnswer, text: str) -> AnswerClass:
    assert prompt.check is not None
    assert prompt.category is not None
    holds = prompt.check.holds(text, answer.is_finished)
    words = prompt.check.model_dump_json(exclude_defaults=True)
    if holds is None:
        reason = f"{words}: cannot be told, the answer was cut or its language is unclear"
        return _class(answer, prompt.category, "uninterpretable", "check", reason)
    return _class(answer, prompt.category, "assigned" if holds else "none", "check", words)


def _judged(
    question: _Question, call: StoredCall, described: Sequence[CategoryOption]
) -> Iterator[AnswerClass]:
    answered = call.parsed
    for slug in _asked_about(question.prompt, described):
        if answered is None:
            outcome, reason = failed_outcome(call.status), call.error
        elif slug in answered.get("undecided", ()):
            outcome, reason = "uninterpretable", "the judge cannot tell from the answer"
        elif answered["outcome"] == "uninterpretable":
            outcome, reason = "uninterpretable", None
        else:
            chosen = {each["category"] for each in answered["categories"]}
            outcome, reason = "assigned" if slug in chosen else "none", None
        yield _class(question.answer, slug, outcome, "judge", reason, call.id)


def _class(
    answer: BehaviourAnswer,
    category: str,
    outcome: str,
    classified_by: str,
    reason: str | None = None,
    judge_call_id: int | None = None,
) -> AnswerClass:
    return AnswerClass(
        answer.id,
        answer.model,
        answer.prompt_id,
        answer.sample,
        category,
        outcome,
        classified_by,
        reason,
        judge_call_id,
    )


def group_classes(
    classes: Sequence[AnswerClass], parent_of: Mapping[str, str]
) -> list[AnswerClass]:
    """Whether each answer shows each group: it does if it shows any category of the group.

    An answer that shows none, and whose class in some category is unknown, has no class.
    """
    by_answer: dict[tuple[int, str], list[AnswerClass]] = defaultdict(list)
    for each in classes:
        if each.category in parent_of:
            by_answer[each.answer_id, parent_of[each.category]].append(each)
    return [replace(_deciding(found), category=group) for (_, group), found in by_answer.items()]


def _deciding(classes: Sequence[AnswerClass]) -> AnswerClass:
    """The class that decides for the group: one that shows, else one that is unknown."""
    for each in classes:
        if each.outcome == "assigned":
            return each
    return next((each for each in classes if each.outcome not in _SHOWS), classes[0])


def paired_answers(
    classes: Sequence[AnswerClass], target: str, reference: str, order: Sequence[str]
) -> list[PairedAnswers]:
    """The classes of two models as one pair of matrices per category, in the given order."""
    by_category: dict[str, list[AnswerClass]] = defaultdict(list)
    for each in classes:
        by_category[each.category].append(each)
    return [
        _pair(slug, by_category[slug], target, reference) for slug in order if by_category[slug]
    ]


def _pair(slug: str, classes: Sequence[AnswerClass], target: str, reference: str) -> PairedAnswers:
    rows = {name: row for row, name in enumerate(dict.fromkeys(c.prompt_id for c in classes))}
    n_samples = 1 + max(each.sample for each in classes)
    matrices = {name: np.full((len(rows), n_samples), np.nan) for name in (target, reference)}
    for each in classes:
        if each.model in matrices:
            value = _SHOWS.get(each.outcome, np.nan)
            matrices[each.model][rows[each.prompt_id], each.sample] = value
    return PairedAnswers(slug, matrices[target], matrices[reference])


def count_words(classes: Sequence[AnswerClass]) -> str:
    """How many answers were classified by whom, and how many were not, in words."""
    by = Counter(each.classified_by for each in classes if each.outcome in _SHOWS)
    left = Counter(each.outcome for each in classes if each.outcome not in _SHOWS)
    parts = [f"{by['check']} by a check", f"{by['judge']} by the judge"]
    parts += [f"{n} {outcome}" for outcome, n in sorted(left.items())]
    return ", ".join(parts)
