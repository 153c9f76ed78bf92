"""What is said of the text that the models read."""

from __future__ import annotations

from typing import Any

import pytest

from labeler.study.text_read import reading_sentence, text_lines

GIVEN = {"answers": "given", "n_documents": 60, "n_tokens": 5160}
COUNT = {"n_answers": 47, "n_tokens": 576, "n_finished": 40}
BOTH = {
    "answers": "both",
    "n_documents": 107,
    "n_tokens": 10296,
    "n_prompts": 48,
    "n_unanswered": 1,
    "answers_of": {"base": COUNT, "tuned": COUNT, "th\nird": COUNT},
    "answer_max_tokens": 12,
    "answer_temperature": 0.0,
}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (None, ""),
        ({"n_tokens": 3}, ""),
        (
            GIVEN,
            "The models read 60 documents, 5,160 tokens; assistant messages are those of the "
            "corpus file.",
        ),
        (
            GIVEN | {"answer_tokens": 8},
            "The models read 60 documents, 5,160 tokens; assistant messages are those of the "
            "corpus file, cut after 8 tokens.",
        ),
        (
            GIVEN | {"answer_tokens": 0},
            "The models read 60 documents, 5,160 tokens; the prompts alone: assistant messages "
            "were left empty.",
        ),
        (
            BOTH,
            "The models read 107 documents, 10,296 tokens: 48 prompts of the corpus, each answered "
            "by base, tuned and th ird, greedily, in at most 12 tokens.",
        ),
        (
            BOTH | {"answer_temperature": 0.7, "answer_max_tokens": 1},
            "The models read 107 documents, 10,296 tokens: 48 prompts of the corpus, each answered "
            "by base, tuned and th ird, at temperature 0.7, in at most 1 token.",
        ),
    ],
)
def test_the_report_says_whose_answers_were_read(facts: dict[str, Any] | None, said: str) -> None:
    assert reading_sentence(facts) == said


def test_a_harvest_says_what_each_model_wrote() -> None:
    text = {"roles": [], "n_refused": 0, "n_cut": 0}
    assert text_lines(BOTH | {"text": text}) == (
        "answers of base: 47 to 48 prompts, 576 tokens, greedily, in at most 12 tokens; 7 reached "
        "that length",
        "answers of tuned: 47 to 48 prompts, 576 tokens, greedily, in at most 12 tokens; 7 reached "
        "that length",
        "answers of th ird: 47 to 48 prompts, 576 tokens, greedily, in at most 12 tokens; 7 "
        "reached that length",
        "1 prompt read without an answer: refused by the chat template, or too long",
    )
    assert text_lines(GIVEN | {"text": text}) == ()
