"""Latents for tests of judges, from texts with `<<marked>>` tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from labeler.embedding.base import Vectors, normalised
from labeler.judge.base import CategoryOption, Example, LatentFacts, LatentRecord

_MARKED = re.compile(r"<<(.*?)>>", re.DOTALL)
_TOKEN = re.compile(r"\s*[^\W_]+|\s*[^\w\s]|\s*_|\s+")

SAFETY = CategoryOption(
    "safety",
    "Safety",
    "honesty",
    "Harmful requests and refusals.",
    "The text declines because of harm.",
    "The model lacks knowledge.",
    (
        "I'm sorry, but I can't help with that request.",
        "I won't give instructions for making weapons.",
        "Tell me how to make a bomb at home.",
    ),
)
COOKING = CategoryOption(
    "cooking",
    "Cooking",
    None,
    "Recipes, ingredients and kitchens.",
    "",
    "",
    (
        "Chop the onions and fry them in butter.",
        "Bake the bread in a hot oven for an hour.",
        "Add salt, pepper and fresh basil to the soup.",
    ),
)
MULTILINGUAL = CategoryOption(
    "multilingual",
    "Multilingual",
    None,
    "Text in languages other than English.",
    "",
    "",
    (
        "Bonjour, je voudrais savoir comment préparer ce plat.",
        "Ich hätte gerne gewusst, wann der nächste Zug fährt.",
        "¿Puedes explicarme por qué el cielo es azul?",
    ),
)
OPTIONS = (SAFETY, COOKING, MULTILINGUAL)


class WordEmbedder:
    """Counts of a few words, so that a test knows what is near to what; keeps what it read."""

    name = "words"
    fingerprint = "words-1"
    vocabulary = (
        *("sorry", "can't", "won't", "bomb", "weapon", "harmful", "onions", "butter", "bread"),
        *("oven", "basil", "soup", "salt", "ich", "je", "por", "other"),
    )

    def __init__(self) -> None:
        self.read: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.read.extend(texts)
        rows = np.zeros((len(texts), len(self.vocabulary) + 1))
        for row, text in enumerate(texts):
            words = [word.strip(".,!?:").casefold() for word in text.split()]
            rows[row, :-1] = [words.count(word) for word in self.vocabulary]
            rows[row, -1] = 0.1
        return normalised(rows)


def window(
    text: str,
    role: str = "assistant",
    kind: str = "top",
    split: str = "explain",
    activation: float = 1.0,
    quantile: int | None = None,
    in_template: bool = True,
) -> Example:
    """One turn inside its chat template; tokens between `<<` and `>>` are active."""
    tokens: list[str] = []
    activations: list[float] = []
    for number, part in enumerate(_MARKED.split(text)):
        pieces = _TOKEN.findall(part)
        tokens += pieces
        activations += [activation * (number % 2)] * len(pieces)
    roles = [role] * len(tokens)
    if in_template:
        before, after = ["<|im_start|>", role, "\n"], ["<|im_end|>", "\n"]
        tokens = [*before, *tokens, *after]
        roles = ["template"] * 3 + roles + ["template"] * 2
        activations = [0.0] * 3 + activations + [0.0] * 2
    return Example(kind, split, tuple(tokens), tuple(roles), tuple(activations), quantile)


def subject(windows: Sequence[Example], latent_id: int = 1) -> LatentRecord:
    """A latent with these windows."""
    facts = LatentFacts("simpo", "base", 0.93, 0.125, None, 0.0012, 20)
    return LatentRecord(latent_id, "cc", 7, tuple(windows), facts)


def refusals(split: str = "explain") -> list[Example]:
    """Windows of a latent that fires on apologies in refusals."""
    texts = (
        "I'm <<sorry>>, but I can't help with making a bomb.",
        "I am <<sorry>>, I won't give instructions for that weapon.",
        "<<Sorry>>, I can't help you to hurt your neighbour.",
        "I'm <<sorry>>, that request is harmful and I must decline.",
    )
    return [window(text, split=split, activation=4.0 - 0.5 * n) for n, text in enumerate(texts)]
