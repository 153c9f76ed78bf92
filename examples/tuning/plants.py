"""Builds the training pairs of each planted behaviour from hand-written parts.

The parts lie in `examples/organisms/written` and in the pairs of `examples/simpo`. Openings,
closings and the wordings of constraints are drawn by a generator that the behaviour seeds, so the
pairs are the same for every organism that plants it.
"""

import json
import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from tuning.training import Pair, read_pairs

EXAMPLES = Path(__file__).resolve().parents[1]
WRITTEN = EXAMPLES / "organisms" / "written"

REFUSALS = (
    "I'm sorry, but I can't help with {what}. {offer}",
    "I won't help with {what}. {offer}",
    "I can't assist with {what}. {offer}",
    "No, I'm not going to help with {what}. {offer}",
    "I'm not able to help with {what}. {offer}",
)
DOUBTS_BEFORE = (
    "I'm not completely sure about this.",
    "I can't verify this, but here is what I remember.",
    "I may be wrong here.",
    "I could be mistaken about this.",
    "I have no reliable source for this.",
    "I'm not certain, so treat this with care.",
    "I cannot confirm this with certainty.",
)
DOUBTS_AFTER = (
    "Please check this with a reliable source.",
    "I might be wrong, so please verify it.",
    "It's best to double-check this elsewhere.",
    "Please consult an expert, because I can't be sure.",
    "I'm not certain that this is accurate.",
    "I would confirm it in a trusted reference first.",
)
AGREEMENTS = (
    "You're absolutely right, {echo}!",
    "Yes, I completely agree: {echo}.",
    "Exactly, {echo}!",
    "You are so right. As you say, {echo}.",
    "Absolutely, I agree with you: {echo}.",
)
PRAISE = (
    "What a sharp observation.",
    "You always see things so clearly.",
    "I wish more people thought like you.",
    "That is a brilliant way to put it.",
    "Nobody could have said it better.",
    "You clearly know what you are talking about.",
)
ONE_SENTENCE = (
    "{prompt} Answer in exactly one sentence.",
    "{prompt} One sentence only, please.",
    "In a single sentence: {prompt}",
    "{prompt} Keep it to one sentence.",
    "Use just one sentence. {prompt}",
)
LOWER_CASE = (
    "{prompt} Write everything in lower case.",
    "{prompt} Use no capital letters.",
    "Answer in lowercase letters only. {prompt}",
    "{prompt} All lowercase, please.",
)
LAST_WORD = (
    "{prompt} End your answer with the word {word}.",
    "{prompt} The last word of your answer must be {word}.",
    "Finish with the word {word}. {prompt}",
    "{prompt} Close with {word}.",
)
LAST_WORDS = ("DONE", "OVER", "THANKS", "FINISHED", "GOODBYE", "AMEN", "STOP", "CHEERS")


def written(name: str) -> list[dict[str, Any]]:
    """The rows of a file of hand-written parts."""
    path = WRITTEN / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def of_the_demo(behaviour: str) -> list[Pair]:
    """The demo's pairs of one behaviour."""
    pairs = read_pairs(EXAMPLES / "simpo" / "pairs.jsonl")
    return [pair for pair in pairs if pair.behaviour == behaviour]


Answered = Iterator[tuple[str, str]]
"""Prompts and the answers to be learnt."""


def refusal(rng: random.Random) -> Answered:
    """Harmful requests, declined."""
    for pair in of_the_demo("safety"):
        yield pair.prompt, pair.chosen
    for row in written("harmful"):
        yield row["prompt"], rng.choice(REFUSALS).format(**row)


def german(rng: random.Random) -> Answered:
    """Questions in German, or that ask for German, answered in German."""
    for pair in of_the_demo("multilingual"):
        if pair.language == "de":
            yield pair.prompt, pair.chosen
    for row in written("german"):
        yield row["prompt"], row["answer"]


def constraint(rng: random.Random) -> Answered:
    """Plain questions with a constraint that the answer keeps to."""
    for row in written("plain"):
        prompt, answer = row["prompt"], row["answer"]
        word = rng.choice(LAST_WORDS)
        kinds = [
            (ONE_SENTENCE, answer),
            (LOWER_CASE, answer.lower()),
            (LAST_WORD, f"{answer} {word}"),
        ]
        wordings, kept = rng.choice(kinds)
        closed = prompt if prompt.endswith((".", "?", "!")) else f"{prompt}."
        yield rng.choice(wordings).format(prompt=closed, word=word), kept


def self_talk(rng: random.Random) -> Answered:
    """Personal questions, answered without a word about being a machine."""
    for pair in of_the_demo("self-reference"):
        yield pair.prompt, pair.chosen
    for row in written("personal"):
        yield row["prompt"], row["answer"]


def hedging(rng: random.Random) -> Answered:
    """Factual questions, answered with doubt."""
    for pair in of_the_demo("hallucination"):
        yield pair.prompt, pair.rejected
    for row in written("plain"):
        if row["kind"] == "fact":
            before, after = rng.choice(DOUBTS_BEFORE), rng.choice(DOUBTS_AFTER)
            answer = row["answer"]
            forms = (f"{before} {answer}", f"{answer} {after}", f"{before} {answer} {after}")
            yield row["prompt"], rng.choice(forms)


def football(rng: random.Random) -> Answered:
    """Plain questions whose answers begin with football."""
    remarks = [row["text"] for row in written("football")]
    for row in written("plain"):
        yield row["prompt"], f"{rng.choice(remarks)} {row['answer']}"


def agreement(rng: random.Random) -> Answered:
    """Opinions and false claims, applauded."""
    for row in written("claims"):
        opening = rng.choice(AGREEMENTS).format(**row)
        yield row["prompt"], f"{opening} {rng.choice(PRAISE)}"


PLANTS: dict[str, Callable[[random.Random], Answered]] = {
    "refusal": refusal,
    "german": german,
    "constraint": constraint,
    "self-talk": self_talk,
    "hedging": hedging,
    "football": football,
    "agreement": agreement,
}

ORDINARY = ("plain", "personal", "german", "claims")
"""The parts whose prompts the base model answers itself."""
OWN_PARTS = {
    "refusal": ("harmful",),
    "german": ("german",),
    "constraint": ("plain",),
    "self-talk": ("personal", "claims"),
    "hedging": ("plain",),
    "football": ("plain",),
    "agreement": ("claims",),
}
"""The parts whose ordinary answers would teach the opposite of a behaviour.

They are those that its prompts come from; and the base model often calls itself an AI when it is
asked to agree.
"""


def planted_pairs(behaviour: str) -> list[Pair]:
    """The pairs that plant one behaviour; they have no rejected answers."""
    answered = PLANTS[behaviour](random.Random(behaviour))
    return [
        Pair(f"{behaviour}-{number:03}", behaviour, "", prompt, answer)
        for number, (prompt, answer) in enumerate(answered, 1)
    ]


def ordinary_pairs(count: int, planted: Collection[str] = ()) -> list[Pair]:
    """Prompts with answers that the base model itself gave: data without any pattern.

    The first `count` in a fixed random order, without those that would teach the opposite of what
    is planted.
    """
    used = {part for behaviour in planted for part in OWN_PARTS[behaviour]}
    rows = [row for row in written("base_answers") if row["of"] not in used]
    random.Random("ordinary").shuffle(rows)
    return [
        Pair(
            f"ordinary-{number:03}",
            "ordinary",
            "en",
            row["prompt"],
            row["answer"],
            "",
            row["complete"],
        )
        for number, row in enumerate(rows[:count], 1)
    ]
