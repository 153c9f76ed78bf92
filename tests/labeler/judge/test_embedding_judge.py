from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from judge_subjects import (
    COOKING,
    MULTILINGUAL,
    OPTIONS,
    SAFETY,
    WordEmbedder,
    refusals,
    subject,
    window,
)

from labeler.embedding.base import Embedder
from labeler.embedding.embedders import TfidfEmbedder
from labeler.judge.answers import check_answer
from labeler.judge.background import Background
from labeler.judge.base import Example, JudgeReply, JudgeRequest, ShownExample
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.evidence_statistics import (
    LanguageIdentifier,
    edge_of_turn,
    snippet,
)
from labeler.judge.prompts import categorize_request, explain_request, fuzz_request
from labeler.judge.rendering import strength

RECIPES = (
    "Chop the <<onions>> and fry them in butter until golden.",
    "Add <<salt>>, pepper and basil to the soup.",
    "Bake the <<bread>> in a hot oven for an hour.",
    "Stir the <<sauce>> and add fresh basil.",
)
FRENCH = (
    "Bonjour, je voudrais <<savoir>> quand le marché est ouvert.",
    "Nous avons <<marché>> longtemps dans les rues de la ville.",
    "Il faut que tu <<viennes>> demain avec toute la famille.",
    "Elle ne <<sait>> pas encore ce qu'elle veut faire plus tard.",
)


def ask(request: JudgeRequest, embedder: Embedder | None = None) -> JudgeReply:
    return asyncio.run(EvidenceJudge(embedder or WordEmbedder(), labelled=()).ask(request))


def answer(request: JudgeRequest, embedder: Embedder | None = None) -> dict[str, object]:
    reply = ask(request, embedder)
    assert reply.status == "ok"
    assert reply.parsed is not None
    return reply.parsed


def chosen(windows: Sequence[Example]) -> list[str]:
    parsed = answer(categorize_request(subject(windows), "x", OPTIONS))
    assert isinstance(parsed["categories"], list)
    return [item["category"] for item in parsed["categories"]]


def windows(texts: Sequence[str], role: str = "assistant") -> list[Example]:
    return [window(text, role) for text in texts]


def test_the_explanation_depends_on_the_other_text_and_so_does_the_requests_hash() -> None:
    identity = EvidenceJudge(WordEmbedder()).identity
    alone = explain_request(subject(refusals()))
    sorry = [window(f"We are sorry, truly sorry, {n} times sorry.") for n in range(40)]
    beside = replace(alone, background=Background.of(sorry, LanguageIdentifier()))
    assert alone.sha256(identity) != beside.sha256(identity)
    assert str(answer(alone)["explanation"]).startswith('Fires on "sorry" at the start')
    assert not str(answer(beside)["explanation"]).startswith('Fires on "sorry" at the start')


@pytest.mark.slow
def test_refusals_and_recipes_go_to_their_categories_with_a_verbatim_quote() -> None:
    assert chosen(refusals())[0] == SAFETY.slug
    assert chosen(windows(RECIPES))[0] == COOKING.slug
    parsed = answer(categorize_request(subject(windows(RECIPES)), "x", OPTIONS))
    quote = parsed["categories"][0]["quote"]  # type: ignore[index]
    assert quote in [text.replace("<<", "").replace(">>", "") for text in RECIPES]


def test_text_that_is_not_english_raises_multilingual() -> None:
    assert chosen(windows(FRENCH))[0] == MULTILINGUAL.slug


def test_multilingual_is_not_raised_where_it_is_no_option() -> None:
    request = categorize_request(subject(windows(FRENCH)), "x", (SAFETY, COOKING))
    parsed = answer(request)
    assert parsed["categories"] == [] or parsed["outcome"] == "assigned"
    check_answer(request, parsed)


def test_text_near_to_nothing_is_none() -> None:
    texts = [f"The <<other>> other other number {n} other other." for n in range(5)]
    parsed = answer(categorize_request(subject(windows(texts)), "x", (SAFETY, COOKING)))
    assert (parsed["outcome"], parsed["categories"]) == ("none", [])


@pytest.mark.parametrize(
    "few",
    [
        refusals()[:2],
        [window(f"<<...>> {'!' * n}") for n in range(1, 5)],
        [window("I'm <<sorry>>, the same text again") for _ in range(5)],
        [window("a text without activation") for _ in range(5)],
        [window("the <<score>> half", split="score") for _ in range(5)],
        [],
    ],
    ids=["two", "punctuation", "one-text", "silent", "score-half", "none"],
)
def test_too_little_to_read_is_uninterpretable(few: list[Example]) -> None:
    explanation = answer(explain_request(subject(few)))
    assert explanation["interpretable"] is False
    assert str(explanation["explanation"]).startswith("Too little evidence")
    if few:
        # Without any window an explanation is judged by itself, as an imported one is.
        outcome = answer(categorize_request(subject(few), "x", OPTIONS))
        assert outcome == {"outcome": "uninterpretable", "categories": []}


def test_template_role_and_system_text_is_never_embedded() -> None:
    tokens = ("<|im_start|>", "assistant", "\n", "SYSTEM PROMPT", "Please", " bake", " bread", ".")
    roles = ("template", "template", "template", "system", "user", "user", "user", "user")
    each = [
        Example("top", "explain", (*tokens, f" {n}"), (*roles, "user"), (9.0,) * 9)
        for n in range(4)
    ]
    embedder = WordEmbedder()
    answer(categorize_request(subject(each), "x", OPTIONS), embedder)
    answer(explain_request(subject(each)), embedder)
    snippets = [text for text in embedder.read if "Please" in text]
    assert snippets
    for text in embedder.read:
        assert "im_start" not in text
        assert "SYSTEM" not in text
    assert all(text.startswith("Please bake bread.") for text in snippets)


@pytest.mark.slow
def test_the_same_evidence_gets_the_same_answer_in_any_order() -> None:
    first = answer(categorize_request(subject(refusals()), "x", OPTIONS))
    second = answer(categorize_request(subject(refusals()[::-1]), "x", OPTIONS))
    assert first["outcome"] == second["outcome"]
    assert chosen(refusals()) == chosen(refusals()[::-1])
    assert answer(explain_request(subject(refusals()))) == answer(
        explain_request(subject(refusals()))
    )


@pytest.mark.slow
def test_the_answer_is_the_one_every_judge_gives_and_the_raw_text_holds_it() -> None:
    for request in (
        explain_request(subject(refusals())),
        categorize_request(subject(refusals()), "x", OPTIONS),
    ):
        reply = ask(request)
        assert reply.parsed is not None
        common = {name: value for name, value in reply.parsed.items() if name != "doubt"}
        assert common == check_answer(request, json.loads(str(reply.raw)))


def test_it_says_that_it_reads_no_marks() -> None:
    reply = ask(fuzz_request("x", [ShownExample("a", refusals()[0], frozenset({1}))]))
    assert (reply.status, reply.error) == ("refused", "evidence-words answers no fuzz")


def test_its_name_says_what_it_is_and_its_parameters_what_it_embeds_with() -> None:
    one, other = (
        TfidfEmbedder(texts) for texts in (["one two", "two six"], ["red hat", "big hat"])
    )
    identity = EvidenceJudge(one).identity
    assert (identity.name, identity.endpoint_kind) == ("evidence-tfidf", "evidence")
    assert identity.params_sha256 != EvidenceJudge(other).identity.params_sha256


def test_the_hash_of_a_request_knows_the_evidence_and_not_the_latent() -> None:
    identity = EvidenceJudge(WordEmbedder()).identity
    mine = explain_request(subject(refusals(), latent_id=1))
    twin = explain_request(subject(refusals(), latent_id=2))
    louder = [
        Example(w.kind, w.split, w.tokens, w.roles, tuple(1.001 * a for a in w.activations))
        for w in refusals()
    ]
    assert mine.sha256(identity) == twin.sha256(identity)
    assert mine.sha256(identity) != explain_request(subject(louder)).sha256(identity)


def test_a_snippet_is_the_sentence_where_the_latent_fires() -> None:
    text = "First one here. I'm <<sorry>>, but I can't do that! Ask me something else."
    assert snippet(window(text)).text == "I'm sorry, but I can't do that!"  # type: ignore[union-attr]


def test_a_short_sentence_is_read_with_its_neighbours() -> None:
    found = snippet(window("We talked for a while. <<No>>."))
    assert found is not None
    assert found.text == "We talked for a while. No."


def test_text_without_spaces_is_cut_at_its_own_full_stops() -> None:
    found = snippet(window("今天的<<天气>>非常好，我们去公园散步吧。明天可能会下雨。"))
    assert found is not None
    assert found.text == "今天的天气非常好，我们去公园散步吧。"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("<<Sure>>, here is a long answer with many words in it, as you can see here", "start"),
        ("here is a long answer with many words in it, as you can see here, <<bye>>", "end"),
        ("a b c d e f g h i j <<k>> l m n o p q r s t", "middle"),
    ],
)
def test_place_in_the_turn(text: str, place: str) -> None:
    assert edge_of_turn(window(text)) == place
    assert edge_of_turn(window(text, in_template=False)) == "middle"


def test_strength_is_zero_only_without_activation() -> None:
    assert [strength(value, 10.0) for value in (0.0, 1e-9, 1.0, 1.01, 10.0)] == [0, 1, 1, 2, 10]


@pytest.mark.slow
def test_texts_read_ahead_are_embedded_once_and_answers_stay_what_they_were() -> None:
    subjects = [
        subject(each) for each in (refusals(), windows(RECIPES), windows(FRENCH), refusals())
    ]
    requests = [
        request
        for each in subjects
        for request in (explain_request(each), categorize_request(each, "x", OPTIONS))
    ]
    embedder = WordEmbedder()
    judge = EvidenceJudge(embedder, labelled=())
    judge.read_ahead(requests)
    read = list(embedder.read)
    assert len(read) == len(set(read))
    for request in requests:
        assert asyncio.run(judge.ask(request)).parsed == answer(request)
    options = {text for option in OPTIONS for text in (option.description, *option.prototypes)}
    assert not set(embedder.read[len(read) :]) & set(read) - options
