"""How the review looks in a real Chromium: phone width, tables, contrast, names of controls.

Screenshots of every page are kept in build/screenshots.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PHONE, WIDE, Page, serving, shot
from review_studies import Study, make_study
from seeding import SMALL, decide
from sqlalchemy import Engine

from labeler.store.engine import write_session
from labeler.store.reviews import draw_audit

pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
CONTRAST = Path(__file__).with_name("contrast.js")


PAGES = {
    "queue": "/queue", "categories": "/categories", "taxonomy": "/taxonomy",
    "progress": "/progress", "audit": "/audit", "sql": "/sql?saved=coverage", "sign-in": "/sign-in",
}  # fmt: skip


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["1200", "420"])
def test_every_page_fits_and_is_kept_as_a_picture(
    chromium: object, address: str, small: Study, size: dict[str, int]
) -> None:
    with write_session(small.engine) as session:
        decide(session, small.seed, small.seed.target[1], "humour", "bob")
        decide(session, small.seed, small.seed.target[1], "lists", "ann")
        draw_audit(session, small.seed.comparison_id, "reference", 2, 0, "ann")
    view = Page(chromium, size)
    latents = {
        "latent": f"/latents/{small.seed.target[0]}",
        "disagreement": f"/latents/{small.seed.target[1]}",
        "blind": f"/latents/{small.seed.reference[0]}?audit=drawn",
    }
    for name, path in (PAGES | latents).items():
        view.page.goto(address + path)
        view.page.screenshot(path=shot(f"{name}-{size['width']}"))
        width = view.page.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], name
    view.page.goto(address + latents["latent"])
    view.page.click("[data-open=palette] >> visible=true")
    view.page.screenshot(path=shot(f"palette-{size['width']}"))
    view.close()


def test_evidence_and_controls_stand_together_at_1200_by_800(
    chromium: object, address: str, small: Study
) -> None:
    view = Page(chromium)
    view.page.goto(f"{address}/latents/{small.seed.target[0]}")
    for selector in (".windows li >> nth=0", "#accept", "#skip", "#explanation", ".runs"):
        box = view.page.locator(selector).bounding_box()
        assert box is not None, selector
        assert box["y"] >= 0, selector
        assert box["y"] + box["height"] <= 800, selector
    view.close()


def test_on_a_phone_the_actions_leave_the_evidence_free(
    chromium: object, address: str, small: Study
) -> None:
    phone = Page(chromium, PHONE)
    phone.page.goto(f"{address}/latents/{small.seed.target[0]}")
    bar = phone.page.locator(".actions").bounding_box()
    assert bar is not None
    assert bar["height"] <= 100
    phone.page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    ends = phone.page.evaluate(
        "[...document.querySelectorAll('main section')].map(s => s.getBoundingClientRect().bottom)"
    )
    assert max(ends) <= bar["y"]
    assert "\n" not in phone.page.inner_text("#accept").strip()
    for name in ("accept", "save", "none", "uninterpretable", "skip"):
        box = phone.page.locator(f"#{name}").bounding_box()
        assert box is not None, name
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= PHONE["width"], name
        assert box["y"] + box["height"] <= PHONE["height"], name
    assert phone.page.locator("kbd >> visible=true").count() == 0
    assert phone.page.locator("[placeholder*=key]").count() == 0
    phone.close()


LINES_OF_CELLS = """selector => [...document.querySelectorAll(selector)].flatMap(cell => {
  const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), broken = [];
  for (let text = walk.nextNode(); text; text = walk.nextNode())
    for (const word of text.data.matchAll(/[^\\s-]+/g)) {
      const range = document.createRange();
      range.setStart(text, word.index); range.setEnd(text, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
      if (lines.size > 1) broken.push(word[0]);
    }
  return broken;
})"""


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["1200", "420"])
def test_no_word_of_a_table_is_broken(
    chromium: object, address: str, small: Study, size: dict[str, int]
) -> None:
    with write_session(small.engine) as session:
        decide(session, small.seed, small.seed.target[1], "humour", "bob")
    view = Page(chromium, size)
    for path in ("/categories", "/taxonomy", "/progress"):
        view.page.goto(address + path)
        assert view.page.evaluate(LINES_OF_CELLS, "th, td") == [], path
    view.page.goto(f"{address}/sql")
    view.page.fill("#statement", "SELECT * FROM v_category_change")
    view.page.click("button.main")
    view.page.wait_for_selector(".result")
    assert view.page.evaluate(LINES_OF_CELLS, "th, td") == []
    assert view.page.evaluate(
        "(box => box.scrollWidth > box.clientWidth)(document.querySelector('.result'))"
    )
    assert view.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    view.page.screenshot(path=shot(f"sql-result-{size['width']}"))
    view.close()


def test_fractions_are_rounded_on_the_sql_page_and_exact_in_its_download(
    chromium: object, address: str
) -> None:
    view = Page(chromium)
    view.page.goto(f"{address}/sql")
    view.page.fill("#statement", "SELECT 499.9999999999999 AS x")
    view.page.click("button.main")
    assert view.page.inner_text(".result td") == "500"
    with view.page.expect_download() as download:
        view.page.click("text=CSV")
    assert "499.9999999999999" in Path(download.value.path()).read_text("utf-8")
    view.close()


@pytest.fixture
def ruled(sqlite_engine: Engine, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on a study whose categories say when they apply."""
    rules = {"include_when": "a refusal", "exclude_when": "a joke"}
    told = [category.model_copy(update=rules) for category in SMALL.categories]
    monkeypatch.setattr("seeding.SMALL", SMALL.model_copy(update={"categories": tuple(told)}))
    yield from serving(make_study(sqlite_engine, sqlite_url))


def test_when_a_category_applies_is_folded_on_a_phone_alone(chromium: object, ruled: str) -> None:
    for size, is_shown in ((WIDE, True), (PHONE, False)):
        view = Page(chromium, size)
        view.page.goto(f"{ruled}/taxonomy")
        rule = view.page.locator(".rules p").first
        assert rule.evaluate("rule => rule.checkVisibility()") == is_shown
        if not is_shown:
            view.page.locator(".rules summary").first.click()
            assert rule.evaluate("rule => rule.checkVisibility()")
        view.close()


def test_a_number_of_the_queue_says_what_it_is(chromium: object, address: str) -> None:
    view = Page(chromium)
    view.page.goto(f"{address}/queue")
    words = view.page.locator(".item .right").all_inner_texts()
    assert any(text.strip().startswith("confidence 0.") for text in words)
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(
    chromium: object, address: str, small: Study, scheme: str
) -> None:
    view = Page(chromium)
    view.page.emulate_media(color_scheme=scheme)
    for path in (f"/latents/{small.seed.target[0]}", *PAGES.values()):
        view.page.goto(address + path)
        assert view.page.evaluate(CONTRAST.read_text("utf-8")) == [], path
    view.close()


def test_every_control_has_a_name(chromium: object, address: str, small: Study) -> None:
    view = Page(chromium)
    for path in (f"/latents/{small.seed.target[0]}", *PAGES.values()):
        view.page.goto(address + path)
        nameless = view.page.evaluate(
            "[...document.querySelectorAll('button,a,input:not([type=hidden]),select,textarea')]"
            ".filter(e => !(e.getAttribute('aria-label') || e.textContent.trim()"
            " || (e.labels && e.labels.length))).map(e => e.outerHTML)"
        )
        assert nameless == [], path
    view.close()
