"""What text the models read, in words: from the facts that a harvest's run has recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labeler.text import listed, one_line, plural


def text_lines(facts: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Whose answers were read, a line for each role, and what was refused or cut.

    `facts` is the result of a harvest's run; one of an earlier version has nothing to say.
    """
    text = (facts or {}).get("text")
    if facts is None or not isinstance(text, Mapping):
        return ()
    lines = [*_answer_lines(facts), *(_role_line(row) for row in text["roles"])]
    lines += [f"the chat template {one_line(words)}" for words in _losses(text)]
    if text["n_refused"]:
        refused = plural(text["n_refused"], "document")
        lines.append(f"{refused} left out, refused by the chat template")
    if text["n_cut"]:
        lines.append(f"{plural(text['n_cut'], 'document')} cut at corpus.max_length")
    return tuple(lines)


def reading_sentence(facts: Mapping[str, Any] | None) -> str:
    """What the models read and whose answers those were, for the report; empty where unknown."""
    if facts is None or "answers" not in facts:
        return ""
    read = (
        f"The models read {plural(facts['n_documents'], 'document')}, "
        f"{plural(facts['n_tokens'], 'token')}"
    )
    models = listed([one_line(name) for name in facts.get("answers_of", {})])
    if models:
        prompts = plural(facts["n_prompts"], "prompt")
        return f"{read}: {prompts} of the corpus, each answered by {models}, {_decoding(facts)}."
    return f"{read}; {_given_words(facts)}."


def _answer_lines(facts: Mapping[str, Any]) -> list[str]:
    """What each model wrote; nothing where the text was read as it was given."""
    lines = []
    for name, count in facts.get("answers_of", {}).items():
        cut = count["n_answers"] - count["n_finished"]
        lines.append(
            f"answers of {one_line(name)}: {count['n_answers']:,} to "
            f"{plural(facts['n_prompts'], 'prompt')}, {plural(count['n_tokens'], 'token')}, "
            f"{_decoding(facts)}; {cut:,} reached that length"
        )
    if facts.get("n_unanswered"):
        lines.append(
            f"{plural(facts['n_unanswered'], 'prompt')} read without an answer: refused by the "
            "chat template, or too long"
        )
    if "answer_tokens" in facts and "answers_of" not in facts:
        lines.append(_given_words(facts))
    return lines


def _decoding(facts: Mapping[str, Any]) -> str:
    temperature = facts["answer_temperature"]
    how = f"at temperature {temperature:g}" if temperature else "greedily"
    return f"{how}, in at most {plural(facts['answer_max_tokens'], 'token')}"


def _given_words(facts: Mapping[str, Any]) -> str:
    """What of the assistant messages of the corpus file was read."""
    n_tokens = facts.get("answer_tokens")
    if n_tokens == 0:
        return "the prompts alone: assistant messages were left empty"
    words = "assistant messages are those of the corpus file"
    return words if n_tokens is None else f"{words}, cut after {plural(n_tokens, 'token')}"


def _role_line(row: Mapping[str, Any]) -> str:
    if row["role"] == "plain":
        parts = [plural(row["n_messages"], "document") + " without roles"]
    else:
        found = (
            f"{row['n_whole']:,} found whole, {row['n_in_part']:,} in part, "
            f"{row['n_absent']:,} not at all"
        )
        parts = [f"{row['role']}: {plural(row['n_messages'], 'message')}, {found}"]
    if row["n_lost"]:
        parts.append(f"{100 * row['n_lost'] / row['n_characters']:.1f}% of the characters lost")
    if row["n_cut"]:
        parts.append(f"{plural(row['n_cut'], 'token')} cut off")
    if row["n_tokens"] is not None:
        parts.append(f"{plural(row['n_tokens'], 'token')} take part")
    return "; ".join(parts)


def _losses(text: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(words for row in text["roles"] for words in row["losses"]))
