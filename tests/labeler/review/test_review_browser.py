"""The review in a real Chromium: keys, two browsers at once, hostile text."""

from __future__ import annotations

import time

import pytest
from browser import Page, serving, settled, shot
from evidence_seeding import add_windows
from hostile import hostile_texts
from judge_subjects import window
from review_studies import Study
from seeding import decide, label, rows

from labeler.judge.base import Example
from labeler.store.engine import read_session, write_session

pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def events(study: Study) -> list[tuple[object, ...]]:
    with read_session(study.engine) as session:
        return rows(session, "SELECT latent_id, reviewer, action FROM review_event ORDER BY id")


def wait_for_events(study: Study, n: int) -> None:
    deadline = time.monotonic() + 20
    while len(events(study)) < n and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(events(study)) == n


def test_a_queue_is_worked_through_by_keys_alone(
    chromium: object, address: str, small: Study
) -> None:
    view = Page(chromium)
    page = view.page
    page.goto(f"{address}/queue?order=index")
    page.keyboard.press("Enter")
    page.wait_for_selector("#decide")
    first, second, third = small.seed.target
    page.keyboard.press("Enter")
    settled(page, second)
    page.keyboard.press("c")
    page.keyboard.type("form li")
    page.keyboard.press("Enter")
    settled(page, third)
    page.keyboard.press("m")
    page.keyboard.type("no pattern n x s")
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    settled(page, small.seed.reference[0])
    wait_for_events(small, 3)
    page.keyboard.press("u")
    settled(page, third)
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    settled(page, small.seed.reference[0])
    wait_for_events(small, 5)
    assert events(small) == [
        (first, "ann", "accept"),
        (second, "ann", "set"),
        (third, "ann", "uninterpretable"),
        (third, "ann", "undo"),
        (third, "ann", "skip"),
    ]
    view.close()


def focused(page: object) -> str:
    """The id of what has the keyboard, or its class where it has none."""
    return page.evaluate("document.activeElement.id || document.activeElement.className")  # type: ignore[attr-defined,no-any-return]


def listed_keys(page: object) -> set[str]:
    """The keys that the list under `?` names."""
    return set(page.locator("#help kbd").all_inner_texts())  # type: ignore[attr-defined]


def test_every_listed_key_of_the_queue_does_what_the_list_says(
    chromium: object, address: str, small: Study
) -> None:
    view = Page(chromium)
    page, keys = view.page, view.page.keyboard
    page.goto(f"{address}/queue?order=index")
    keys.press("?")
    assert page.locator("#help").is_visible()
    assert listed_keys(page) == {"/", "j", "k", "Enter", "b", "u", "?"}
    keys.press("Escape")
    keys.press("/")
    assert focused(page) == "search"
    keys.press("Escape")
    keys.press("u")
    assert page.inner_text("#told") == "Nothing of yours is left to undo here."
    keys.press("j")
    keys.press("j")
    keys.press("k")
    assert page.evaluate("document.activeElement === document.querySelector('.item')")
    keys.press("b")
    assert page.locator("#bulk-action").is_visible()
    assert focused(page) == "bulk-action"
    page.select_option("#bulk-action", "none")
    page.click("details.bulk button")
    page.click("button.main")
    page.wait_for_selector("#undo")
    wait_for_events(small, 6)
    page.wait_for_timeout(150)
    keys.press("u")
    wait_for_events(small, 12)
    page.wait_for_selector("text=6 decisions undone")
    page.wait_for_timeout(150)
    keys.press("j")
    keys.press("Enter")
    settled(page, small.seed.target[0])
    page.goto(f"{address}/queue?order=index")
    keys.press("Enter")
    settled(page, small.seed.target[0])
    view.close()


def test_every_listed_key_of_a_latent_does_what_the_list_says(
    chromium: object, address: str, small: Study
) -> None:
    view = Page(chromium)
    page, keys = view.page, view.page.keyboard
    first, second, third = small.seed.target
    other = small.seed.reference[0]
    page.goto(f"{address}/latents/{first}?order=index")
    keys.press("?")
    assert listed_keys(page) == {
        "Enter", "1", "9", "c", "/", "e", "Ctrl+Enter", "w", "n", "x", "s", "m", "r", "u", "a",
        "j", "k", "q", "?",
    }  # fmt: skip
    keys.press("Escape")
    keys.press("u")
    assert page.inner_text("#told") == "Nothing of yours is left to undo here."
    for key, field in (("e", "explanation"), ("m", "note"), ("r", "reason")):
        keys.press(key)
        assert focused(page) == field
        keys.press("Escape")
    for key in ("c", "/"):
        keys.press(key)
        assert page.locator("#palette").is_visible()
        keys.press("Escape")
        assert not page.locator("#palette").is_visible()
    keys.press("j")
    settled(page, second)
    keys.press("k")
    settled(page, first)
    assert events(small) == []
    keys.press("1")
    settled(page, second)
    keys.press("n")
    settled(page, third)
    keys.press("u")
    settled(page, second)
    keys.press("w")
    settled(page, third)
    keys.press("s")
    settled(page, other)
    keys.press("e")
    keys.type(" indeed")
    keys.press("Control+Enter")
    settled(page, small.seed.reference[1])
    keys.press("x")
    settled(page, small.seed.reference[2])
    keys.press("Enter")
    wait_for_events(small, 8)
    assert events(small) == [
        (first, "ann", "accept"),
        (second, "ann", "none"),
        (second, "ann", "undo"),
        (second, "ann", "set"),
        (third, "ann", "skip"),
        (other, "ann", "accept"),
        (small.seed.reference[1], "ann", "uninterpretable"),
        (small.seed.reference[2], "ann", "accept"),
    ]
    with write_session(small.engine) as session:
        decide(session, small.seed, first, "lists", "bob")
    page.goto(f"{address}/latents/{first}")
    keys.press("a")
    page.wait_for_url("**as=adjudicated**")
    settled(page, first)
    keys.press("q")
    page.wait_for_selector("#start")
    view.close()


def test_a_key_struck_in_the_frame_in_which_the_palette_closes_belongs_to_the_page(
    chromium: object, address: str, small: Study
) -> None:
    view = Page(chromium)
    view.page.goto(f"{address}/latents/{small.seed.target[0]}?order=index")
    view.page.keyboard.press("c")
    assert view.page.evaluate(
        """() => {
          const field = document.querySelector('#palette input');
          document.querySelector('#palette').close();
          const key = new KeyboardEvent('keydown', {key: 'j', bubbles: true, cancelable: true});
          return !field.dispatchEvent(key);
        }"""
    )
    settled(view.page, small.seed.target[1])
    view.close()


def test_two_browsers_on_one_latent_lose_nothing(
    chromium: object, address: str, small: Study
) -> None:
    one, other = Page(chromium), Page(chromium)
    latent = f"{address}/latents/{small.seed.target[0]}"
    one.page.goto(latent)
    other.page.goto(latent)
    one.page.keyboard.press("n")
    wait_for_events(small, 1)
    other.page.fill("#explanation", "words of the second browser")
    other.page.keyboard.press("Escape")
    other.page.keyboard.press("x")
    other.page.wait_for_selector("#theirs")
    assert "none fits" in other.page.inner_text("#theirs")
    assert "words of the second browser" in other.page.inner_text("#mine")
    other.page.screenshot(path=shot("conflict-1200"), full_page=True)
    assert len(events(small)) == 1
    other.page.click("#resend")
    wait_for_events(small, 2)
    with read_session(small.engine) as session:
        kept = rows(
            session, "SELECT revision, action, explanation_text FROM review_event ORDER BY id"
        )
    assert kept == [
        (1, "none", None),
        (2, "uninterpretable", "words of the second browser"),
    ]
    one.close()
    other.close(refusals=1)


def hostile_windows() -> list[Example]:
    tokens = [text.text for text in hostile_texts()] + ["x" * 20_000]
    return [window(f"before <<{token}>> after") for token in tokens if "<<" not in token]


@pytest.fixture
def hostile(small: Study) -> Study:
    """The small study whose corpus, explanations and notes attack the page."""
    with write_session(small.engine) as session:
        data = small.seed
        add_windows(session, data.run_id, data.target[0], hostile_windows())
        words = " ".join(text.text for text in hostile_texts())
        label(session, data, data.target[0], "safety", explanation=words)
        decide(session, data, data.target[1], "humour", note=words, explanation_text=words)
    return small


def test_a_hostile_corpus_is_text(chromium: object, hostile: Study) -> None:
    (address,) = ((served := serving(hostile)).__next__(),)
    view = Page(chromium)
    for path in (
        f"/latents/{hostile.seed.target[0]}",
        f"/latents/{hostile.seed.target[1]}",
        "/queue",
    ):
        view.page.goto(address + path)
        assert (
            view.page.locator("main img, main iframe, main svg, main style, main script").count()
            == 0
        )
        assert view.page.title().endswith("difflens")
        assert (
            view.page.evaluate("document.querySelectorAll('[onerror],[onclick],[onload]').length")
            == 0
        )
        assert view.page.evaluate("document.documentElement.scrollWidth") <= 1200
    view.page.screenshot(path=shot("hostile-1200"))
    view.close()
    for _ in served:
        pass
