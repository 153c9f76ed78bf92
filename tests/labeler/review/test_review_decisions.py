"""Decisions through the pages: what is recorded, what is refused, and what a conflict keeps."""

from __future__ import annotations

import pytest
from review_studies import Study, form
from seeding import assert_table_equals_view, decide, rows
from sqlalchemy import update
from starlette.testclient import TestClient

from labeler.store.engine import read_session, write_session
from labeler.store.reviews import draw_audit
from labeler.store.schema import Latent, utc_now

EVENTS = (
    "SELECT reviewer, revision, action, explanation_text, was_blind, selection"
    " FROM review_event ORDER BY id"
)


def events(study: Study, query: str = EVENTS) -> list[tuple[object, ...]]:
    with read_session(study.engine) as session:
        return rows(session, query)


def label_id(study: Study, latent_id: int) -> int:
    query = f"SELECT id FROM judge_label WHERE latent_id = {latent_id} ORDER BY id LIMIT 1"
    return int(str(events(study, query)[0][0]))


def test_accept_records_the_label_and_goes_on_to_the_next(study: Study) -> None:
    browser, first = study.browser(), study.seed.target[0]
    said = form("accept", label_id=label_id(study, first), elapsed_ms=1200)
    answer = browser.post(f"/latents/{first}?order=index", data=said)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"/latents/{study.seed.target[1]}?")
    assert events(study) == [("ann", 1, "accept", None, False, "manual")]
    assert "reviewed" in browser.get("/queue?status=reviewed").text
    with read_session(study.engine) as session:
        assert_table_equals_view(session)


def test_own_words_and_several_categories_are_kept_in_their_order(small: Study) -> None:
    browser, first = small.browser(), small.seed.target[0]
    said = form(
        "set",
        category=["humour", "safety"],
        explanation="puns on refusals",
        note="n",
        reason="other",
    )
    assert browser.post(f"/latents/{first}", data=said).status_code == 303
    assert events(small) == [("ann", 1, "set", "puns on refusals", False, "uncertain")]
    query = "SELECT category, explanation FROM v_effective_label WHERE latent_id = {} ORDER BY rank"
    assert events(small, query.format(first)) == [
        ("humour", "puns on refusals"),
        ("safety", "puns on refusals"),
    ]


def test_the_judges_own_words_are_no_words_of_the_reviewer(small: Study) -> None:
    first = small.seed.target[0]
    said = form(
        "none", label_id=label_id(small, first), explanation=f" fires on safety  number {first} "
    )
    small.browser().post(f"/latents/{first}", data=said)
    assert events(small) == [("ann", 1, "none", None, False, "uncertain")]


def test_undo_is_an_event_and_brings_the_judges_label_back(study: Study) -> None:
    browser, first = study.browser(), study.seed.target[0]
    browser.post(f"/latents/{first}", data=form("set", category="lists"))
    (event_id,) = events(study, "SELECT id FROM review_event")[0]
    answer = browser.post("/undo", data={"event_id": event_id})
    assert answer.headers["location"].startswith(f"/latents/{first}")
    assert [row[2] for row in events(study)] == ["set", "undo"]
    query = f"SELECT category, source FROM v_effective_label WHERE latent_id = {first}"
    assert events(study, query) == [("safety", "judge")]
    assert browser.post("/undo", data={"event_id": event_id}).status_code == 400
    assert study.browser("bob").post("/undo", data={"event_id": event_id}).status_code == 400
    assert len(events(study)) == 2


def test_a_stale_revision_is_409_with_both_versions_and_can_be_sent_again(study: Study) -> None:
    first = study.seed.target[0]
    one, other = study.browser(), study.browser()
    one.post(f"/latents/{first}", data=form("set", category="lists", note="from the first"))
    mine = form("set", category="humour", explanation="my own words", note="from the second")
    answer = other.post(f"/latents/{first}", data=mine)
    assert answer.status_code == 409
    for words in (
        "Lists",
        "from the first",
        "Humour",
        "my own words",
        "from the second",
        "revision 1",
    ):
        assert words in answer.text
    assert len(events(study)) == 1
    assert other.post(f"/latents/{first}", data=mine | {"base_revision": 1}).status_code == 303
    assert [row[:3] for row in events(study)] == [("ann", 1, "set"), ("ann", 2, "set")]


def test_reviewers_have_streams_of_their_own_and_a_conflict_is_settled_by_name(
    small: Study,
) -> None:
    first = small.seed.target[0]
    small.browser("ann").post(f"/latents/{first}", data=form("set", category="humour"))
    bob = small.browser("bob")
    assert bob.post(f"/latents/{first}", data=form("none")).status_code == 303
    assert f"/latents/{first}?" in bob.get("/queue?status=conflict").text
    page = bob.get(f"/latents/{first}?as=adjudicated").text
    assert "You settle this for everybody" in page
    settled = form("set", category="humour", adjudicate=1)
    assert bob.post(f"/latents/{first}", data=settled).status_code == 303
    query = "SELECT reviewer, entered_by, action FROM review_event ORDER BY id"
    assert events(small, query)[-1] == ("adjudicated", "bob", "set")
    assert "Nothing matches" in bob.get("/queue?status=conflict").text
    assert "0 of 1 equal" in bob.get("/progress").text


@pytest.mark.slow
def test_a_latent_says_in_how_many_other_seeds_it_comes_again(small: Study) -> None:
    with write_session(small.engine) as session:
        session.execute(update(Latent).values(n_seeds=3, p_reappear=1.0))
    page = small.browser().get(f"/latents/{small.seed.target[0]}").text
    assert "comes again in <b>100%</b> of 3 other seeds" in page


@pytest.mark.slow
def test_a_blind_latent_shows_nothing_of_the_judge_until_it_is_decided(small: Study) -> None:
    with write_session(small.engine) as session:
        draw_audit(session, small.seed.comparison_id, "target", 3, 0, "ann")
    browser, first = small.browser(), small.seed.target[0]
    page = browser.get(f"/latents/{first}?audit=todo&order=random").text
    assert "blind audit" in page
    assert "fires on" not in page.replace("fires on <b>", "")
    assert "evidence-tfidf" not in page
    assert "Accept and go on" not in page
    assert (
        browser.post(f"/latents/{first}", data=form("accept", shown=0, label_id=1)).status_code
        == 400
    )
    sent = {"action": "set", "category": "humour", "base_revision": 0, "shown": 0}
    answer = browser.post(f"/latents/{first}?audit=todo&order=random", data=sent)
    assert "the judge said <b>Safety" in browser.get(answer.headers["location"]).text
    query = "SELECT was_blind, selection, inclusion_prob, based_on_judge_label_id FROM review_event"
    assert [tuple(map(float_or_text, row)) for row in events(small, query)] == [
        (1.0, "random", 1.0, None)
    ]
    assert "fires on safety" in browser.get(f"/latents/{first}").text
    (event_id,) = events(small, "SELECT id FROM review_event")[0]
    browser.post("/undo", data={"event_id": event_id})
    browser.post(f"/latents/{first}", data=form("none", base_revision=2))
    blind = events(small, "SELECT was_blind FROM review_event ORDER BY id")
    assert [bool(row[0]) for row in blind] == [True, False, False]


def float_or_text(value: object) -> object:
    return float(value) if isinstance(value, int | float) else value


def test_a_skipped_blind_latent_stays_hidden_and_stays_in_the_queue(small: Study) -> None:
    with write_session(small.engine) as session:
        draw_audit(session, small.seed.comparison_id, "target", 3, 0, "ann")
    browser, first = small.browser(), small.seed.target[0]
    browser.post(f"/latents/{first}", data={"action": "skip", "base_revision": 0, "shown": 0})
    assert "blind audit" in browser.get(f"/latents/{first}").text
    assert f"/latents/{first}?" in browser.get("/queue?audit=todo").text


def test_the_queue_view_calls_drawn_latents_random_until_they_are_audited(small: Study) -> None:
    with write_session(small.engine) as session:
        draw_audit(session, small.seed.comparison_id, "target", 2, 5, "ann")
        drawn = [
            row[0] for row in rows(session, "SELECT latent_id FROM audit_member ORDER BY position")
        ]
        decide(session, small.seed, drawn[0], "humour")
    query = (
        "SELECT latent_id, reason, inclusion_prob FROM v_review_queue WHERE selection = 'random'"
    )
    found = {row[0]: row[1:] for row in events(small, query)}
    assert set(found) == set(drawn)
    assert all(row[1] == 2 / 3 for row in found.values())
    with write_session(small.engine) as session:
        decide(
            session, small.seed, drawn[0], "humour", "bob", selection="random", inclusion_prob=2 / 3
        )
    assert drawn[0] not in {row[0] for row in events(small, query)}


def test_bulk_shows_first_and_does_all_or_nothing(study: Study) -> None:
    browser = study.browser()
    shown = browser.post("/bulk?side=target", data={"action": "set", "category": "lists"})
    assert "<strong>3 latents</strong> would get a decision" in shown.text
    assert events(study) == []
    digest = shown.text.split('name="digest" value="')[1].split('"')[0]
    sent = {"action": "set", "category": "lists", "digest": digest}
    with write_session(study.engine) as session:
        decide(session, study.seed, study.seed.target[0], "humour", "bob")
    refused = browser.post("/bulk/apply?side=target", data=sent)
    assert refused.status_code == 409
    assert "Nothing was done" in refused.text
    assert len(events(study)) == 1
    digest = refused.text.split('name="digest" value="')[1].split('"')[0]
    done = browser.post("/bulk/apply?side=target", data=sent | {"digest": digest})
    assert "bulk=3" in done.headers["location"]
    assert [row[0] for row in events(study)] == ["bob", "ann", "ann", "ann"]
    with read_session(study.engine) as session:
        assert_table_equals_view(session)
    again = browser.post("/bulk?side=target", data={"action": "set", "category": "lists"})
    assert "3 have that decision already" in again.text


def bulk(browser: TestClient, query: str, **sent: str) -> None:
    shown = browser.post(f"/bulk?{query}", data=sent)
    digest = shown.text.split('name="digest" value="')[1].split('"')[0]
    assert browser.post(f"/bulk/apply?{query}", data=sent | {"digest": digest}).status_code == 303


def test_a_bulk_action_is_undone_as_a_whole(study: Study) -> None:
    browser = study.browser()
    first, second, third = study.seed.target
    bulk(browser, "side=target", action="set", category="lists")
    page = browser.get("/queue?bulk=3").text
    assert "Undo all of them" in page
    with write_session(study.engine) as session:
        decide(session, study.seed, second, "humour", "ann")
    page = browser.get(f"/latents/{first}").text
    assert "Undo my last <kbd>" in page
    browser.post("/undo", data={"event_id": undo_key(page)})
    page = browser.get(f"/latents/{first}").text
    assert "Undo my last 3 decisions, recorded together" in page
    answer = browser.post("/undo", data={"event_id": undo_key(page)})
    assert "undone=3" in answer.headers["location"]
    assert "3 decisions undone" in browser.get(answer.headers["location"]).text
    undone = [row for row in events(study) if row[2] == "undo"]
    assert len(undone) == 4
    assert 'id="undo"' not in browser.get(f"/latents/{third}").text
    with read_session(study.engine) as session:
        assert_table_equals_view(session)


@pytest.mark.slow
def test_acts_are_told_apart_at_one_clock_value(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = utc_now()
    monkeypatch.setattr("labeler.store.reviews.utc_now", lambda: moment)
    browser = study.browser()
    bulk(browser, "side=target", action="set", category="lists")
    for latent_id in study.seed.reference:
        assert browser.post(f"/latents/{latent_id}", data=form("set", category="lists"))
    page = browser.get(f"/latents/{study.seed.reference[0]}").text
    assert "Undo my last <kbd>" in page
    browser.post("/undo", data={"event_id": undo_key(page)})
    undone = events(study, "SELECT latent_id FROM review_event WHERE action = 'undo'")
    assert undone == [(study.seed.reference[-1],)]
    (event_id,) = events(study, "SELECT min(id) FROM review_event")[0]
    answer = browser.post("/undo", data={"event_id": event_id})
    assert "undone=3" in answer.headers["location"]
    assert len(events(study, "SELECT DISTINCT created_at FROM review_event")) == 1
    left = "SELECT latent_id FROM v_effective_label WHERE source = 'human' ORDER BY latent_id"
    assert events(study, left) == [(latent_id,) for latent_id in study.seed.reference[:-1]]


def test_what_was_decided_again_since_stays_when_its_act_is_undone(study: Study) -> None:
    browser = study.browser()
    bulk(browser, "side=target", action="none")
    with write_session(study.engine) as session:
        decide(session, study.seed, study.seed.target[1], "humour", "ann")
    (event_id,) = events(
        study, f"SELECT id FROM review_event WHERE latent_id = {study.seed.target[0]}"
    )[0]
    answer = browser.post("/undo", data={"event_id": event_id})
    assert "undone=2" in answer.headers["location"]
    query = "SELECT latent_id FROM v_effective_label WHERE source = 'human'"
    assert events(study, query) == [(study.seed.target[1],)]


def test_a_bulk_action_without_its_category_stays_in_the_form(study: Study) -> None:
    sent = {"action": "set", "category": "", "note": "kept words"}
    answer = study.browser().post("/bulk?side=target", data=sent)
    assert answer.status_code == 400
    for words in ("Choose the category to set.", 'value="kept words"', 'card" open'):
        assert words in answer.text
    assert '<option value="set" selected>' in answer.text
    assert events(study) == []


def undo_key(page: str) -> str:
    """The decision that the page's undo button names."""
    return page.split('name="event_id" value="')[1].split('"')[0]


def test_bulk_leaves_blind_latents_alone(small: Study) -> None:
    with write_session(small.engine) as session:
        draw_audit(session, small.seed.comparison_id, "target", 2, 0, "ann")
    shown = small.browser().post("/bulk?side=target", data={"action": "accept"})
    assert "<strong>1 latent</strong>" in shown.text
    assert "2 belong to the blind audit" in shown.text


def test_another_runs_label_comes_with_its_own_words(small: Study) -> None:
    second = small.seed.target[1]
    query = f"SELECT id FROM judge_label WHERE latent_id = {second} ORDER BY id DESC LIMIT 1"
    (other,) = events(small, query)[0]
    judge = f"fires on humour number {second}"
    said = form("accept", label_id=other, explanation=judge, explanation_was=judge)
    assert small.browser().post(f"/latents/{second}", data=said).status_code == 303
    query = f"SELECT category, explanation FROM v_effective_label WHERE latent_id = {second}"
    assert events(small, query) == [("lists", "an explanation")]
    assert "Keep mine and go on" in small.browser().get(f"/latents/{second}").text


def test_a_category_that_is_none_is_refused_as_other_filters_are(small: Study) -> None:
    browser = small.browser()
    answer = browser.get("/queue?category=nosuch")
    assert answer.status_code == 400
    assert "is not known; choose from" in answer.text
    for known in ("humour", "none", "unlabelled"):
        assert browser.get(f"/queue?category={known}").status_code == 200
