"""Who may ask, from where, and what every answer says to the browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import Hostile, hostile_texts
from review_studies import ADDRESS, SAME_ORIGIN, Study, form
from seeding import rows
from starlette.testclient import TestClient

from labeler.errors import UsageError
from labeler.review.access import LARGEST_BODY, POLICY, Access, HostRule, checked_name, host_name
from labeler.review.server import ServerOptions, build_app, read_token, require_token
from labeler.store.engine import read_session

TOKEN = "a-token-of-some-length"


def n_events(study: Study) -> int:
    with read_session(study.engine) as session:
        return int(rows(session, "SELECT count(*) FROM review_event")[0][0])


@pytest.mark.parametrize(
    ("host", "header", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8400", True),
        ("127.0.0.1", "localhost:8400", True),
        ("127.0.0.1", "[::1]:8400", True),
        ("127.0.0.1", "rebound.example:8400", False),
        ("127.0.0.1", "127.0.0.1.rebound.example", False),
        ("127.0.0.1", "192.168.1.9", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[::1", False),
        ("0.0.0.0", "192.168.1.9:8400", True),
        ("0.0.0.0", "rebound.example", False),
        ("review.lab", "REVIEW.lab.:80", True),
    ],
)
def test_only_the_servers_own_names_are_answered(host: str, header: str, allowed: bool) -> None:
    assert HostRule.of(host).allows(header) is allowed


def test_a_host_that_is_none_has_no_name() -> None:
    assert host_name(None) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://[bad"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site", "origin": ADDRESS},
        {"sec-fetch-site": "same-site", "origin": ADDRESS},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_write_from_elsewhere_is_refused_and_changes_nothing(
    small: Study, headers: dict[str, str]
) -> None:
    browser = TestClient(build_app(small.context()), ADDRESS, follow_redirects=False)
    latent = f"/latents/{small.seed.target[0]}"
    for path in (
        latent,
        "/undo",
        "/bulk",
        "/bulk/apply",
        "/audit",
        "/sql",
        "/sign-in",
        "/sign-out",
    ):
        assert browser.post(path, data=form("none"), headers=headers).status_code == 403
    assert n_events(small) == 0


def test_other_methods_large_bodies_and_other_forms_are_refused(small: Study) -> None:
    browser, latent = small.browser(), f"/latents/{small.seed.target[0]}"
    assert browser.put(latent, content="x").status_code == 405
    assert browser.post(latent, data={"note": "x" * LARGEST_BODY}).status_code == 413
    assert browser.post(latent, json={"action": "none"}).status_code == 400
    assert browser.post(latent, data={f"k{n}": "v" for n in range(300)}).status_code == 400
    assert n_events(small) == 0


def test_every_answer_carries_the_security_headers(small: Study) -> None:
    browser = small.browser()
    for path in (
        "/queue",
        "/nothing",
        "/static/review.js",
        "/latents/999999",
        "/queue?order=wrong",
    ):
        headers = browser.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
    assert "unsafe" not in POLICY
    assert "frame-ancestors 'none'" in POLICY


@pytest.mark.parametrize(
    "name", ["../app.py", "%2e%2e%2fapp.py", "..%5capp.py", "/etc/passwd", "review.js%00.css"]
)
def test_no_path_of_a_request_reaches_the_file_system(small: Study, name: str) -> None:
    assert small.browser().get(f"/static/{name}").status_code == 404
    assert small.browser().get(f"/sql?saved={name}").status_code == 200


def test_pages_hold_no_inline_script_or_style(small: Study) -> None:
    browser = small.browser()
    for path in ("/queue", f"/latents/{small.seed.target[0]}", "/categories", "/progress", "/sql"):
        page = browser.get(path).text
        assert "style=" not in page
        assert "<style" not in page
        assert all(' src="/static/' in part[:60] for part in page.split("<script")[1:])
        assert not any(f" {event}=" in page for event in ("onclick", "onload", "onerror"))


def test_a_shared_server_asks_for_its_token(small: Study) -> None:
    app = build_app(small.context(None, TOKEN), "0.0.0.0")
    browser = TestClient(app, ADDRESS, headers=SAME_ORIGIN, follow_redirects=False)
    assert browser.get("/queue").headers["location"] == "/sign-in"
    latent = f"/latents/{small.seed.target[0]}"
    assert browser.post(latent, data=form("none")).headers["location"] == "/sign-in"
    assert browser.post("/sign-in", data={"name": "ann", "token": "wrong"}).status_code == 403
    answer = browser.post("/sign-in", data={"name": "ann", "token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert browser.post(latent, data=form("none")).status_code == 303
    assert n_events(small) == 1


def test_a_cookie_is_good_for_its_own_name_and_token_only() -> None:
    access = Access.build(TOKEN, None, b"")
    cookie = access.cookie("ann")
    assert access.reviewer(cookie) == "ann"
    assert access.reviewer(cookie.replace("ann", "bob")) is None
    assert access.reviewer("ann.") is None
    assert access.reviewer("ann.\u00e9") is None
    assert Access.build(TOKEN + "x", None, b"").reviewer(cookie) is None


def test_no_token_no_name_no_short_token() -> None:
    with pytest.raises(UsageError, match="needs --token or --token-file"):
        require_token("0.0.0.0", None)
    require_token("0.0.0.0", TOKEN)
    require_token("127.0.0.1", None)
    with pytest.raises(UsageError, match="shorter than 16"):
        Access.build("short", None, b"")
    for name in ("", "  ", "Adjudicated", "a\u202eb", "x" * 101):
        with pytest.raises(UsageError, match="reviewer"):
            checked_name(name)


def test_the_token_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\nmore\n", encoding="utf-8")
    assert read_token(ServerOptions(token_file=path)) == TOKEN
    with pytest.raises(UsageError, match="name one of them"):
        read_token(ServerOptions(token="x", token_file=path))
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(ServerOptions(token_file=tmp_path / "missing"))
    path.write_text("short\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--token-file: .* is shorter than 16 characters"):
        read_token(ServerOptions(token_file=path))
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is empty"):
        read_token(ServerOptions(token_file=path))


@pytest.mark.slow
@pytest.mark.parametrize("text", hostile_texts(), ids=str)
def test_hostile_words_in_urls_and_forms_come_back_as_text(small: Study, text: Hostile) -> None:
    browser = small.browser()
    words = text.text.encode("utf-8", "replace").decode()
    page = browser.get("/queue", params={"text": words}).text
    assert "<script>alert" not in page
    sent = form("none", note=words, explanation=words)
    answer = browser.post(f"/latents/{small.seed.target[0]}", data=sent)
    assert answer.status_code == 303
    shown = browser.get(f"/latents/{small.seed.target[0]}").text
    scripts = shown.split("<script")[1:]
    assert all(' src="/static/' in part[:60] for part in scripts)
