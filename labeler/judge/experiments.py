"""Requests of an experiment on an explanation: texts to write, and an explanation to revise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labeler.judge.answers import explain_schema, object_schema
from labeler.judge.base import Example, JudgeRequest, LatentRecord
from labeler.judge.prompt_limits import by_turns, cut, fitting
from labeler.judge.prompts import EXPLAIN_TEXTS, LIMITS, make_request, tokens_of, tokens_of_text
from labeler.judge.rendering import escaped, frame, render_evidence, scale_of

LONGEST_TEXT = 800
"""Characters of a written text; what is longer is cut."""
ROLES = ("user", "assistant", "plain")


@dataclass(frozen=True)
class MeasuredText:
    """A text that the judge wrote, with what the latent did on it."""

    is_meant: bool
    """Whether it was meant to activate the latent."""
    role: str
    before: str
    """The user's message before an assistant's text; empty without one."""
    text: str
    activation: float | None = None
    """Largest activation on its tokens; None where none of them takes part."""


def experiment_request(
    explanation: str, roles: Sequence[str], n_texts: int, sample: int = 0
) -> JudgeRequest:
    """Ask for texts that should and texts that should not activate a latent.

    The judge sees the explanation alone, so that it is the explanation that is tested. `roles` are
    those in which the study's text shows the latent.
    """
    framed = frame(f"explanation: {escaped(explanation)}")
    values = {
        "number": str(n_texts),
        "roles": " or ".join(roles),
        "frame": framed.text,
    }
    schema = experiment_schema(roles, n_texts)
    return make_request(
        "experiment", values, schema, token=framed.token, sample=sample, explanation=explanation
    )


def experiment_schema(roles: Sequence[str], n_texts: int) -> dict[str, Any]:
    """JSON schema of the texts."""
    text = {"type": "string", "maxLength": LONGEST_TEXT}
    written = object_schema(
        {"role": {"type": "string", "enum": list(roles)}, "before": text, "text": text}
    )
    texts = {"type": "array", "items": written, "minItems": 1, "maxItems": n_texts}
    return object_schema({"fires": texts, "quiet": texts})


def written_texts(parsed: dict[str, Any], n_texts: int) -> list[MeasuredText]:
    """The texts of an answer, not measured yet: at most `n_texts` of each kind, none empty."""
    found = []
    for key in ("fires", "quiet"):
        rows = [row for row in parsed[key] if row["text"].strip()][:n_texts]
        found += [
            MeasuredText(
                key == "fires",
                row["role"],
                row["before"][:LONGEST_TEXT] if row["role"] == "assistant" else "",
                row["text"][:LONGEST_TEXT],
            )
            for row in rows
        ]
    return found


def revise_request(
    subject: LatentRecord,
    explanation: str,
    texts: Sequence[MeasuredText],
    largest: float,
    threshold: float,
    limit: int = LIMITS.explain,
) -> JudgeRequest:
    """Ask for a better explanation, in a prompt of about `limit` tokens at most.

    `largest` is the strongest activation in the study's text, `threshold` the one from which a text
    counts as active. All texts of the test are shown, then those of the study that fit.
    """
    scale = scale_of(subject.windows)
    measured = [_result_line(each, largest) for each in texts]

    def request(windows: Sequence[Example]) -> JudgeRequest:
        shown = render_evidence(windows, scale)
        framed = frame("\n".join([f"explanation: {escaped(explanation)}", *measured, shown]))
        values = {"threshold": f"{100 * threshold / largest:.0f}", "frame": framed.text}
        return make_request(
            "revise",
            values,
            explain_schema(),
            token=framed.token,
            subject=subject,
            explanation=explanation,
        )

    windows = [cut(window) for window in by_turns(subject.windows)][:EXPLAIN_TEXTS]
    room = limit - tokens_of(request(()))
    return request(fitting(windows, lambda one: tokens_of_text(one, scale), room))


def _result_line(each: MeasuredText, largest: float) -> str:
    said = "fires" if each.is_meant else "quiet"
    shown = "not read" if each.activation is None else f"{100 * each.activation / largest:.0f}%"
    before = f"user: {escaped(each.before)} " if each.before else ""
    return f"{said} {shown} {before}{each.role}: {escaped(each.text)}"
