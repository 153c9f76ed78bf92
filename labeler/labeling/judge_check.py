"""Measures what a judge's labels are worth: right, biased, swayed by order, overconfident.

The judge explains and categorises latents that people labelled, as many of each category, with the
prompts of the study. Nothing of them is in the study.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy.orm import Session

from crosscoder.files import sha256_text
from crosscoder.progress import Advance, Progress, SilentProgress
from labeler.judge.answers import NONE, SEE_ALL
from labeler.judge.base import Judge, JudgeIdentity, JudgeReply, JudgeRequest, LatentRecord
from labeler.judge.labelled_evidence import LabelledLatent, window_of
from labeler.judge.prompt_limits import PromptLimits
from labeler.judge.prompts import explain_request, prompt_file
from labeler.labeling.asking import ask_all
from labeler.labeling.category_questions import CategoryQuestions
from labeler.store.judging import get_or_create_judge
from labeler.store.schema import JudgeCheck
from taxonomy.counts import Interval, Side
from taxonomy.intervals import wilson_interval
from taxonomy.tree import Taxonomy

PER_CATEGORY = 2
"""Labelled latents of each category, and of none, that a judge is asked about."""
ORDERS = 2
"""Orders of the categories in which each is asked."""
CONTENT_FREE = ("N/A", "...", "text", "( )", "xxx")
"""Evidence that says nothing (Zhao et al. 2021, arXiv 2102.09690); none of it has a category."""
BINS = 10
"""Bins of equal width of the expected calibration error (Guo et al. 2017, arXiv 1706.04599)."""
NEARLY_ALWAYS = 0.6
"""Share of one answer on the balanced set from which a judge is refused."""
LEAST_ANSWERED = 0.5
"""Share of latents with an answer below which a judge is refused."""
GOOD_ACCURACY, GOOD_ORDER, GOOD_CALIBRATION = 0.5, 0.7, 0.2
"""A usable judge is right and keeps its answer at least so often, and its calibration error is at
most so large."""


@dataclass(frozen=True)
class CheckedLatent:
    """A labelled latent and what a judge made of it; None where it gave no usable answer."""

    category: str
    answer: str | None
    """Slug of the first category, or an outcome without one."""
    confidence: float | None = None
    """Of the first category, where there is one."""
    reordered: str | None = None
    """The answer with the categories in another order; None where it was not asked."""

    @property
    def is_right(self) -> bool:
        """Whether the judge said what the people said."""
        return self.answer == self.category


@dataclass(frozen=True)
class JudgeMeasures:
    """What the check of a judge found."""

    judge: str
    latents: tuple[CheckedLatent, ...]
    content_free: tuple[str | None, ...]
    """Answers to evidence that says nothing."""
    chance: float
    """Share that a blind draw among the shown answers gets right, at most."""
    puzzle_accuracy: float | None = None

    @cached_property
    def answered(self) -> tuple[CheckedLatent, ...]:
        """Latents with an answer."""
        return tuple(latent for latent in self.latents if latent.answer is not None)

    @property
    def n_right(self) -> int:
        """Latents whose answer is the people's."""
        return sum(latent.is_right for latent in self.latents)

    @property
    def accuracy(self) -> Interval:
        """Interval (95 %, Wilson) of the share of latents that it gets right."""
        return wilson_interval(Side(self.n_right, len(self.latents))) or Interval(0.0, 1.0)

    @cached_property
    def top_answer(self) -> tuple[str | None, int]:
        """The most frequent answer, and how often it was given; (None, 0) without answers."""
        return _most_frequent([latent.answer for latent in self.latents])

    @property
    def top_share(self) -> float:
        """Share of the most frequent answer among the answers; 0 without any."""
        return self.top_answer[1] / len(self.answered) if self.answered else 0.0

    @cached_property
    def reordered(self) -> tuple[CheckedLatent, ...]:
        """Latents with an answer in both orders."""
        return tuple(latent for latent in self.answered if latent.reordered is not None)

    @property
    def n_same_answer(self) -> int:
        """Latents with the same answer in both orders."""
        return sum(latent.answer == latent.reordered for latent in self.reordered)

    @property
    def n_content_free_assigned(self) -> int:
        """Answers that see a category in evidence that says nothing."""
        return sum(answer not in (None, *NO_CATEGORY) for answer in self.content_free)

    @property
    def mean_confidence(self) -> float | None:
        """Mean confidence of the assigned categories; None where there is none."""
        values = [each.confidence for each in self.latents if each.confidence is not None]
        return sum(values) / len(values) if values else None

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error of the assigned categories; None where there is none."""
        return expected_calibration_error(
            [
                (each.confidence, each.is_right)
                for each in self.latents
                if each.confidence is not None
            ]
        )

    @property
    def verdict(self) -> str:
        """`refused`, `weak` or `usable`."""
        if self.refusal is not None:
            return "refused"
        return "weak" if self.weaknesses else "usable"

    @property
    def refusal(self) -> str | None:
        """Why its labels are worth nothing; None where they are worth something."""
        answer, count = self.top_answer
        if len(self.answered) < LEAST_ANSWERED * len(self.latents):
            return f"gives no usable answer for {len(self.latents) - len(self.answered)} of them"
        if self.top_share >= NEARLY_ALWAYS:
            return f"answers {answer!r} for {count} of them"
        if self.accuracy.low <= self.chance:
            return f"is right for {self.n_right} of them, no more than by chance"
        return None

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """What is not as good as it should be."""
        same = self.n_same_answer / len(self.reordered) if self.reordered else 1.0
        error = self.calibration_error
        found = {
            "often wrong": self.n_right < GOOD_ACCURACY * len(self.latents),
            "swayed by the order of the categories": same < GOOD_ORDER,
            "sees categories where there is nothing": (
                2 * self.n_content_free_assigned > len(self.content_free)
            ),
            "its confidence says little": error is not None and error > GOOD_CALIBRATION,
        }
        return tuple(words for words, holds in found.items() if holds)

    @property
    def words(self) -> str:
        """What its labels are worth, in one line."""
        if self.refusal is not None:
            return f"worth nothing: of {len(self.latents)} labelled latents, it {self.refusal}"
        low, high = 100 * self.accuracy.low, 100 * self.accuracy.high
        parts = [
            f"right for {self.n_right} of {len(self.latents)} labelled latents "
            f"[{low:.0f}, {high:.0f}]%, chance {self.chance:.0%}",
            f"most frequent answer {self.top_answer[0]} {self.top_share:.0%}",
            f"same answer in another order {self.n_same_answer} of {len(self.reordered)}",
            f"a category for {self.n_content_free_assigned} of {len(self.content_free)} texts "
            "that say nothing",
        ]
        if self.mean_confidence is not None and self.calibration_error is not None:
            parts.append(
                f"mean confidence {self.mean_confidence:.2f}, "
                f"calibration error {self.calibration_error:.2f}"
            )
        if self.puzzle_accuracy is not None:
            parts.append(f"puzzles {self.puzzle_accuracy:.2f}")
        why = f" ({', '.join(self.weaknesses)})" if self.weaknesses else ""
        return f"{self.verdict}{why}: {'; '.join(parts)}"


NO_CATEGORY = (NONE, "uninterpretable")
"""Answers that are no category."""


def expected_calibration_error(answers: Sequence[tuple[float, bool]]) -> float | None:
    """Mean distance, over answers, of a bin's mean confidence from its share of right answers."""
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, is_right in answers:
        bins[min(int(confidence * BINS), BINS - 1)].append((confidence, is_right))
    if not answers:
        return None
    gaps = (
        abs(sum(confidence for confidence, _ in each) - sum(right for _, right in each))
        for each in bins.values()
    )
    return sum(gaps) / len(answers)


def balanced(
    latents: Sequence[LabelledLatent], taxonomy: Taxonomy, per_category: int = PER_CATEGORY
) -> list[LabelledLatent]:
    """The first latents of every leaf and of none, as many of each as there are of the fewest."""
    grouped: dict[str, list[LabelledLatent]] = defaultdict(list)
    for latent in latents:
        grouped[latent.category].append(latent)
    wanted = [*(leaf.slug for leaf in taxonomy.leaves()), NONE]
    n_each = min(per_category, *(len(grouped[slug]) for slug in wanted))
    return [latent for slug in wanted for latent in grouped[slug][:n_each]]


def others(
    latents: Sequence[LabelledLatent], checked: Sequence[LabelledLatent]
) -> list[LabelledLatent]:
    """The latents that are not checked: the shortlist's ranking is fitted on these."""
    names = {latent.name for latent in checked}
    return [latent for latent in latents if latent.name not in names]


def n_calls(n_latents: int) -> int:
    """Calls of a check, without those that ask to see all categories and without puzzles."""
    return (1 + ORDERS) * n_latents + len(CONTENT_FREE)


def store_check(session: Session, identity: JudgeIdentity, measures: JudgeMeasures) -> None:
    """Write what a check found, under its judge."""
    judge = get_or_create_judge(
        session,
        identity.name,
        identity.model,
        identity.endpoint_kind,
        params=identity.params,
        params_sha256=identity.params_sha256,
    )
    prompts = " ".join(prompt_file(name).sha256 for name in ("explain", "categorize"))
    top_answer, n_top_answer = measures.top_answer
    session.add(
        JudgeCheck(
            judge_id=judge.id,
            prompts_sha256=sha256_text(prompts),
            n_latents=len(measures.latents),
            n_answered=len(measures.answered),
            n_right=measures.n_right,
            top_answer=top_answer,
            n_top_answer=n_top_answer,
            n_content_free=len(measures.content_free),
            n_content_free_assigned=measures.n_content_free_assigned,
            n_reordered=len(measures.reordered),
            n_same_answer=measures.n_same_answer,
            calibration_error=measures.calibration_error,
            mean_confidence=measures.mean_confidence,
            puzzle_accuracy=measures.puzzle_accuracy,
            verdict=measures.verdict,
            words=measures.words,
        )
    )


def measure_judge(
    judge: Judge,
    questions: CategoryQuestions,
    latents: Sequence[LabelledLatent],
    limits: PromptLimits | None = None,
    progress: Progress | None = None,
) -> JudgeMeasures:
    """Let a judge explain and categorise labelled latents; nothing is written to a database.

    WorkError from the judge where it cannot go on.
    """
    progress = progress or SilentProgress()
    limits = limits or PromptLimits()
    with progress.task("judge check", n_calls(len(latents)), "calls") as advance:
        asked = [explain_request(each.subject, limit=limits.explain) for each in latents]
        explained = ask_all(judge, asked, advance)
        requests = [
            questions.first(latent.subject, _text(reply), sample)
            for latent, reply in zip(latents, explained, strict=True)
            if _is_interpretable(reply)
            for sample in range(ORDERS)
        ]
        empty = [questions.everything(_content_free(text), text) for text in CONTENT_FREE]
        replies = _categorised(judge, questions, [*requests, *empty], advance)
    answers = iter(replies[: len(requests)])
    return JudgeMeasures(
        judge.identity.name,
        tuple(
            _checked(latent.category, [next(answers) for _ in range(ORDERS)])
            if _is_interpretable(reply)
            else CheckedLatent(latent.category, _answer(reply, "uninterpretable"))
            for latent, reply in zip(latents, explained, strict=True)
        ),
        tuple(_category(reply) for reply in replies[len(requests) :]),
        _chance(requests or empty),
    )


def _categorised(
    judge: Judge,
    questions: CategoryQuestions,
    requests: Sequence[JudgeRequest],
    advance: Advance,
) -> list[JudgeReply]:
    """The final reply to each request: the second one where the judge asked to see all."""
    replies = ask_all(judge, requests, advance)
    again = [at for at, reply in enumerate(replies) if _outcome(reply) == SEE_ALL]
    whole = [questions.whole(requests[at]) for at in again]
    for at, reply in zip(again, ask_all(judge, whole, lambda _: None), strict=True):
        replies[at] = reply
    return replies


def _chance(requests: Sequence[JudgeRequest]) -> float:
    """Mean share of one answer among those that a request offers; `none` is one of them."""
    return sum(1 / (len(request.options) + 1) for request in requests) / len(requests)


def _content_free(text: str) -> LatentRecord:
    window = window_of("plain", f"<<{text}>>")
    return LatentRecord(0, "content-free", CONTENT_FREE.index(text), (window,) * 3)


def _checked(category: str, replies: Sequence[JudgeReply]) -> CheckedLatent:
    first, *others = replies
    chosen = first.parsed["categories"] if first.parsed is not None else []
    return CheckedLatent(
        category,
        _category(first),
        float(chosen[0]["confidence"]) if chosen else None,
        _category(others[0]),
    )


def _category(reply: JudgeReply) -> str | None:
    if reply.parsed is None:
        return None
    chosen = reply.parsed["categories"]
    return str(chosen[0]["category"] if chosen else reply.parsed["outcome"])


def _answer(reply: JudgeReply, answer: str) -> str | None:
    return answer if reply.status == "ok" else None


def _outcome(reply: JudgeReply) -> str | None:
    return None if reply.parsed is None else str(reply.parsed["outcome"])


def _is_interpretable(reply: JudgeReply) -> bool:
    return reply.parsed is not None and bool(reply.parsed["interpretable"])


def _text(reply: JudgeReply) -> str:
    return "" if reply.parsed is None else str(reply.parsed["explanation"])


def _most_frequent(answers: Sequence[str | None]) -> tuple[str | None, int]:
    counted = Counter(answer for answer in answers if answer is not None)
    return min(counted.items(), key=lambda item: (-item[1], item[0])) if counted else (None, 0)
