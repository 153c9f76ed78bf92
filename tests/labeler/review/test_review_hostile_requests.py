"""Whatever a request holds is answered with a page or a line, never with a traceback."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

import pytest
from review_studies import ADDRESS, SAME_ORIGIN, Study, form
from seeding import rows
from starlette.testclient import TestClient

from labeler.review.access import LARGEST_BODY
from labeler.review.deciding import LARGEST_NUMBER, whole_number
from labeler.review.server import build_app
from labeler.store.engine import read_session

VALUES = [
    "0", "-1", "1.5", "1e9", "2147483647", "2147483648", "9" * 19, "9" * 40, "9" * 5000, "٣", "²",
    "\x00", "1\x00", "%00", "\ud800".encode("utf-8", "replace").decode(), "x" * 3000, "'", '"',
    "; drop table run", "../../etc/passwd", "{{7*7}}", "<script>alert(1)</script>", "\r\n\r\n", " ",
    "id:" + "9" * 5000, "x:" + "9" * 5000, "NaN", "null", "none", "\u202e", "😀",
]  # fmt: skip
QUERY_KEYS = [
    "comparison", "side", "category", "source", "status", "mine", "confidence", "disagreement",
    "audit", "text", "order", "after", "done", "bulk", "undone", "saved", "as",
]  # fmt: skip
FIELDS = [
    "action", "base_revision", "category", "explanation", "explanation_was", "label_id", "reason",
    "note", "shown", "elapsed_ms", "adjudicate", "event_id", "digest", "size", "seed", "statement",
    "format", "name", "token",
]  # fmt: skip
PAGES = ["/queue", "/start", "/find", "/categories", "/taxonomy", "/progress", "/audit", "/sql"]


@pytest.fixture
def browser(small: Study) -> TestClient:
    """A client to which a traceback is an error of the test."""
    app = build_app(small.context())
    return TestClient(app, ADDRESS, headers=SAME_ORIGIN, follow_redirects=False)


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:24])
def test_every_value_in_every_place_of_a_url(small: Study, browser: TestClient, value: str) -> None:
    latent = f"/latents/{small.seed.target[0]}"
    for key in QUERY_KEYS:
        for path in ("/queue", latent):
            assert browser.get(path, params={key: value}).status_code < 500, (path, key)
    for path in PAGES:
        # The client itself refuses a URL of more than 65,536 characters.
        everything = [(key, value[:1000]) for key in QUERY_KEYS] * 2
        assert browser.get(path, params=everything).status_code < 500, path
    assert browser.get(f"/find?text={'9' * 5000}").status_code < 500


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:24])
def test_every_value_in_every_field_of_a_form(
    small: Study, browser: TestClient, value: str
) -> None:
    latent = f"/latents/{small.seed.target[0]}"
    good: dict[str, Any] = form("none", size=1, seed=0, statement="select 1", name="ann")
    for path in (latent, "/undo", "/bulk", "/bulk/apply", "/audit", "/sign-in"):
        for key in FIELDS:
            sent = good | {key: [value, value]}
            assert browser.post(path, data=sent).status_code < 500, (path, key)
    assert browser.post("/sql", data={"statement": value, "format": value}).status_code < 500


@pytest.mark.parametrize("path", ["9" * 5000, "-1", "٣", "x", "1.0", "2147483648", "%00", "0x1"])
def test_a_latent_that_cannot_be_is_a_page_with_404(browser: TestClient, path: str) -> None:
    for answer in (browser.get(f"/latents/{path}"), browser.post(f"/latents/{path}")):
        assert answer.status_code in (400, 404)
    answer = browser.get(f"/latents/{path}")
    assert answer.status_code == 404
    assert "there is none of that number" in answer.text
    assert len(answer.text) < 5000


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("0007", 7), (str(LARGEST_NUMBER), LARGEST_NUMBER),
        (str(LARGEST_NUMBER + 1), None),
        ("", None), (None, None), ("-1", None), ("+1", None), (" 1", None), ("1_0", None),
        ("٣", None), ("²", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_a_number_has_bounds(text: str | None, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("size", ["4", "999999999", "999999999999999", "0", "-3"])
def test_an_audit_is_at_most_what_there_is_to_draw(
    small: Study, browser: TestClient, size: str
) -> None:
    answer = browser.post("/audit", data={"size": size, "seed": "0"})
    assert answer.status_code == 400
    assert "audit size" in answer.text or "size:" in answer.text
    with read_session(small.engine) as session:
        assert rows(session, "SELECT count(*) FROM audit_draw") == [(0,)]
    assert browser.post("/audit", data={"size": "3", "seed": "0"}).status_code == 303


def asked_directly(study: Study, messages: list[dict[str, Any]], **headers: str) -> int:
    """The status of a POST whose body comes in these messages; what the app raises is raised."""
    app = build_app(study.context())
    sent: list[Any] = []
    names = {"host": "127.0.0.1:8400", **SAME_ORIGIN, **headers}
    names["content-type"] = "application/x-www-form-urlencoded"
    scope = {
        "type": "http", "method": "POST", "path": f"/latents/{study.seed.target[0]}",
        "raw_path": b"/", "query_string": b"", "root_path": "", "scheme": "http",
        "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8400),
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in names.items()],
    }  # fmt: skip
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


PART = {"type": "http.request", "body": b"action=none&base_revision=0", "more_body": True}
GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("messages", "length"),
    [
        ([GONE], "100"),
        ([PART, GONE], "100"),
        ([PART, PART, GONE], "100"),
        ([{**PART, "body": b"x" * (LARGEST_BODY + 1)}], "100"),
        ([PART], "\xb2"),
        ([PART], "9" * 5000),
        ([PART], "-1"),
        ([PART], ""),
    ],
)
def test_a_body_that_ends_early_is_an_answer_and_records_nothing(
    small: Study, messages: list[dict[str, Any]], length: str
) -> None:
    assert asked_directly(small, messages, **{"content-length": length}) in (400, 413)
    with read_session(small.engine) as session:
        assert rows(session, "SELECT count(*) FROM review_event") == [(0,)]


def test_the_sql_pages_csv_runs_nothing_in_a_spreadsheet(browser: TestClient) -> None:
    statement = (
        "select '=1+1' as a, '+A1' as b, '@x' as c, -1 as d, -2.5 as e, '-3' as f, 'ü' as \"=g\","
        " '-A1' as h, char(9) || 'x' as i"
    )
    answer = browser.post("/sql", data={"statement": statement, "format": "csv"})
    assert answer.content.startswith(b"\xef\xbb\xbf")
    header, values = csv.reader(io.StringIO(answer.content.decode("utf-8-sig"), newline=""))
    assert values == ["'=1+1", "'+A1", "'@x", "-1", "-2.5", "-3", "ü", "'-A1", "'\tx"]
    assert header[6] == "'=g"
