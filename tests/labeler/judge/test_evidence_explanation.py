"""What the evidence judge says: golden texts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from judge_subjects import WordEmbedder, refusals, subject, window

from labeler.judge.background import NO_TEXT, Background
from labeler.judge.base import Example
from labeler.judge.evidence_explanation import explained, quoted, short_form
from labeler.judge.evidence_statistics import LanguageIdentifier, read

OTHER_TEXT = (
    "The morning train was late again, and the people on the platform read their papers.",
    "If it rains, we will stay at home and bake the bread that you asked for.",
    "A good soup needs time, so let it cook slowly and add the salt at the end.",
    "I went to the market and bought three apples, two pears and a bag of flour.",
    "You can see the sea from the top of the hill, but not from the house.",
    "They have lived in the village for years, and no one knows them well.",
    "Is there a way to know what the weather does on the other side of the river?",
    "We help each other in the garden, and the neighbours help us with the fence.",
    "Nous allons au march\u00e9 avec les enfants, et la ville est belle sous la neige de mars.",
)
HELP = (
    "I can't <<help>> plan a robbery, because people get hurt in them.",
    "What he does is wrong. I can't <<help>> with harming him, but I listen.",
    "That would be a crime. I can't <<help>> with the how of it today.",
    "I can't <<help>> invent a story like that about your neighbour.",
)
YOU = (
    "Each question arrives new to me. <<You>> could say it's my saintly quality.",
    "If I'm the small model that I appear to be, <<you>> can download my weights.",
    "Picture a typewriter: <<you>> write something, and the machine writes back.",
    "<<You>>'re right to ask, and the answer is not a simple one for me.",
)
COMMAS = (
    "If the leaf is green<<,>> the plant is well and needs no water today.",
    "If a child asks<<,>> tell the truth in words that are short and plain.",
    "If the bus is late<<,>> walk along the river to the old bridge instead.",
    "If nobody answers<<,>> ring once more and wait at the gate for me.",
)
YEARS = (
    "The wall was raised by dynasties over two thousand <<years>>.",
    "He came back eight <<years later>>, rich and still hurt by it.",
    "The tale appears in chronicles written hundreds of <<years later>>.",
    "You give the money back bit by bit over many <<years>>.",
)
GERMAN = (
    "<<Die Hausaufgaben holt unsere Nachbarin gegen dreizehn Uhr ab>>.",
    "<<Rechnen Sie beide Varianten durch und vergleichen dann die Kosten>>.",
    "<<In der Nacht zum Dienstag hat der erste Frost alles schwarz>> gef\u00e4rbt.",
    "<<Jedes Tier besitzt sein eigenes Muster auf dem Fell und Ohren>>.",
)
QUESTIONS = (
    "Pourquoi les feuilles changent de couleur en automne<<?>>",
    "Est-ce que je peux congeler un reste de quiche<<?>>",
    "Que veut dire cette expression de mon grand-p\u00e8re<<?>>",
    "Quelle est la diff\u00e9rence entre le cidre brut et doux<<?>>",
)
HARM = (
    "She was <<mocked>> in front of the class by those boys.",
    "The <<damage>> to the roof was larger than we had thought.",
    "After the <<loss>> of the farm they moved to the city.",
    "Water <<leaks>> through the wall whenever the wind is strong.",
    "The wound kept <<bleeding>> until the doctor came to see it.",
)


@pytest.fixture(scope="module")
def background() -> Background:
    roles = ("assistant", "assistant", "user")
    texts = [window(text, role) for role in roles for text in OTHER_TEXT] * 12
    return Background.of(texts, LanguageIdentifier())


def said(windows: Sequence[Example], background: Background) -> str:
    reading = read(subject(windows))
    parsed = explained(reading, WordEmbedder(), LanguageIdentifier(), background)
    return str(parsed["explanation"])


@pytest.mark.parametrize(
    ("texts", "role", "whole_turns", "expected"),
    [
        (HELP, "assistant", True,
         'Fires on "I can\'t help" at the start of an answer, as in "can\'t help with". '
         'Example: "I can\'t help plan a robbery, because people get hurt in them."'),
        (YOU, "assistant", False,
         'Fires on second-person words ("you", "You\'re"). '
         'Example: "You could say it\'s my saintly quality."'),
        (COMMAS, "assistant", False,
         'Fires on commas. Often near "If". '
         'Example: "If the leaf is green, the plant is well and needs no water today."'),
        (YEARS, "plain", False,
         'Fires on "years later" and "years" in plain text. Often near "by". '
         'Example: "He came back eight years later, rich and still hurt by it."'),
        (GERMAN, "assistant", False,
         'Fires on capitalised words ("Die", "Hausaufgaben", "Nachbarin") and "und" in German. '
         'Example: "Die Hausaufgaben holt unsere Nachbarin gegen dreizehn Uhr ab."'),
        (QUESTIONS, "user", True,
         'Fires on question marks at the end of a message in French. '
         'Example: "Pourquoi les feuilles changent de couleur en automne?"'),
        (HARM, "assistant", False,
         'Fires on many different words, such as "bleeding", "damage", "leaks", "loss" and '
         '"mocked". Example: "She was mocked in front of the class by those boys."'),
    ],
    ids=["phrase", "kind", "mark", "words", "language", "place", "diffuse"],
)  # fmt: skip
def test_an_explanation_reads_as_a_person_would_say_it(
    texts: Sequence[str], role: str, whole_turns: bool, expected: str, background: Background
) -> None:
    shown = [window(text, role, in_template=whole_turns) for text in texts]
    assert said(shown, background) == expected


def test_the_quote_shows_what_sets_the_latent_off(background: Background) -> None:
    near_the_centre = [window("sorry, <<sorry>> can't, can't won't, won't")]
    found = said([window(text) for text in HELP] + near_the_centre, background)
    assert "help" in found.partition("Example: ")[2]


def test_without_other_text_the_latents_own_text_is_what_it_is_compared_with() -> None:
    found = said(refusals(), NO_TEXT)
    assert found.startswith('Fires on "sorry" at the start of an answer in English, as in ')
    assert found.endswith('Example: "Sorry, I can\'t help you to hurt your neighbour."')


def test_template_and_system_text_is_never_named() -> None:
    tokens = ("<|im_start|>", "system", "SECRET", " user", " Please", " bake", " bread", ".")
    roles = ("template", "template", "system", "template", "user", "user", "user", "user")
    each = [
        Example("top", "explain", (*tokens, f" {n}"), (*roles, "user"), (9.0,) * 4 + (1.0,) * 5)
        for n in range(4)
    ]
    found = said(each, NO_TEXT)
    assert not any(word in found for word in ("im_start", "system", "SECRET"))
    assert "bake" in found


def test_the_same_evidence_gets_the_same_words_in_any_order(background: Background) -> None:
    shown = [window(text) for text in (*YEARS, *HELP)]
    assert (
        said(shown, background).split(" Example:")[0]
        == (said(shown[::-1], background).split(" Example:")[0])
    )


def test_quotes_stay_on_one_line_and_keep_their_own_marks_single() -> None:
    assert quoted('he said\n "no"  twice') == "\"he said 'no' twice\""


def test_the_short_form_is_the_first_statement() -> None:
    assert short_form('Fires on "sorry" in answers. Often near "I".') == '"sorry" in answers'
    assert short_form("Apologies. They occur often.") == "Apologies"
    assert len(short_form("word " * 60)) <= 80
