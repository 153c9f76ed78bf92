"""A decision is recorded under the name that its reviewer gave, whatever became of the server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from browser import serving
from review_studies import ADDRESS, SAME_ORIGIN, Study, copy_study, form
from seeding import rows
from starlette.testclient import TestClient

from labeler.review.access import (
    COOKIE_SECONDS,
    MOST_BY_ADDRESS,
    MOST_IN_TOTAL,
    SECONDS_BY_ADDRESS,
    Access,
    Guesses,
)
from labeler.review.server import build_app
from labeler.store.engine import read_session

TOKEN = "a-token-of-some-length"


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def client(study: Study, reviewer: str | None = "ann", token: str | None = None) -> TestClient:
    """A browser at a server that has just started."""
    app = build_app(study.context(reviewer, token), "127.0.0.1")
    return TestClient(app, ADDRESS, headers=SAME_ORIGIN, follow_redirects=False)


def signed_in(browser: TestClient, name: str, token: str = "") -> TestClient:
    answer = browser.post("/sign-in", data={"name": name, "token": token})
    assert answer.status_code == 303
    return browser


def reviewers(study: Study) -> list[str]:
    with read_session(study.engine) as session:
        return [row[0] for row in rows(session, "SELECT reviewer FROM review_event ORDER BY id")]


@pytest.mark.parametrize(("token", "survives"), [(None, False), (TOKEN, True)])
def test_a_sign_in_survives_a_restart_with_a_token_only(
    small: Study, token: str | None, survives: bool
) -> None:
    before = signed_in(client(small, "ann", token), "bob", token or "")
    after = client(small, "ann", token)
    after.cookies = before.cookies
    first = small.seed.target[0]
    answer = after.post(f"/latents/{first}", data=form("none"))
    if survives:
        assert reviewers(small) == ["bob"]
        return
    assert answer.headers["location"] == "/sign-in"
    assert reviewers(small) == []
    page = after.get("/sign-in").text
    assert 'value="bob"' in page
    assert "Your sign-in is over" in page
    signed_in(after, "bob").post(f"/latents/{first}", data=form("none"))
    assert reviewers(small) == ["bob"]


def tampered(cookie: str) -> list[str]:
    """A good cookie made bad in each of the ways that there are."""
    name, begun, signature = cookie.rsplit(".", 2)
    return [
        "", ".", "..", "...", "ann", "ann.", name, f"{name}.{signature}",
        f"ann.{begun}.{signature}",
        f"{name}.{int(begun) + 1}.{signature}", f"{name}.{begun}.{signature[:-1]}0",
        f"{name}.{begun}.{signature}0", f"{name}..{signature}", f"{name}.x.{signature}",
        f"{name}.{begun}.\u00e9", "a" * 5000, f"{name}.{'9' * 5000}.{signature}", "%00.1.2",
    ]  # fmt: skip


def test_a_cookie_that_is_not_good_leads_to_the_sign_in_and_never_to_another_name(
    small: Study,
) -> None:
    browser = signed_in(client(small), "bob")
    name, cookie = next(iter(browser.cookies.items()))
    for bad in tampered(cookie):
        headers = {"cookie": f"{name}={bad}".encode("latin-1")}
        stranger = client(small)
        for path in ("/queue", f"/latents/{small.seed.target[0]}", "/sql"):
            answer = stranger.get(path, headers=headers)
            assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in"), bad
        answer = stranger.post(
            f"/latents/{small.seed.target[0]}", data=form("none"), headers=headers
        )
        assert answer.headers["location"] == "/sign-in"
        assert stranger.get("/sign-in", headers=headers).status_code == 200
    assert reviewers(small) == []
    assert client(small).get("/queue").status_code == 200


@pytest.mark.parametrize("name", ["bob", "J. R. Doe", "größe 模型", "a=b;c", "x" * 100, "模" * 100])
def test_a_cookie_is_good_for_its_time_its_study_and_its_token(name: str) -> None:
    clock = Clock()
    access = Access.build(TOKEN, None, b"", "study", clock)
    cookie = access.cookie(name)
    assert access.reviewer(cookie) == name
    for other in (
        Access.build(TOKEN, None, b"", "another study", clock),
        Access.build(TOKEN + "x", None, b"", "study", clock),
        Access.build(None, "ann", b"noise", "study", clock),
    ):
        assert other.reviewer(cookie) is None
    clock.now += COOKIE_SECONDS
    assert access.reviewer(cookie) == name
    clock.now += 1
    assert access.reviewer(cookie) is None
    assert access.claimed_name(cookie) == name
    clock.now -= 2 * COOKIE_SECONDS
    assert access.reviewer(cookie) is None


def test_two_studies_on_two_ports_keep_their_own_sign_ins(small: Study, tmp_path: Path) -> None:
    other = copy_study(small, tmp_path / "other.db")
    one_server, two_server = serving(small), serving(other)
    one, two = next(one_server), next(two_server)
    with httpx.Client() as browser:
        for address, name in ((one, "bob"), (two, "eve")):
            headers = {"origin": address, "sec-fetch-site": "same-origin"}
            sent = {"name": name, "token": ""}
            assert browser.post(f"{address}/sign-in", data=sent, headers=headers).is_redirect
        assert len(list(browser.cookies.jar)) == 2
        for address, study in ((one, small), (two, other)):
            headers = {"origin": address, "sec-fetch-site": "same-origin"}
            latent = f"{address}/latents/{study.seed.target[0]}"
            assert browser.post(latent, data=form("none"), headers=headers).is_redirect
    for server in (one_server, two_server):
        assert next(server, None) is None
    assert (reviewers(small), reviewers(other)) == (["bob"], ["eve"])


def test_a_page_made_for_another_reviewer_records_nothing(small: Study) -> None:
    browser, first = client(small), small.seed.target[0]
    page = browser.get(f"/latents/{first}").text
    made_for = page.split('name="made_for" value="')[1].split('"')[0]
    assert made_for == "ann"
    signed_in(browser, "bob")
    answer = browser.post(f"/latents/{first}", data=form("none", made_for=made_for))
    assert answer.status_code == 409
    assert "made for ann" in answer.text
    assert reviewers(small) == []
    assert browser.post(f"/latents/{first}", data=form("none", made_for="bob")).status_code == 303


def test_every_form_that_records_names_its_reviewer(small: Study) -> None:
    browser = client(small)
    first = small.seed.target[0]
    browser.post(f"/latents/{first}", data=form("none"))
    bulk = browser.post("/bulk", data={"action": "none"}).text
    conflict = browser.post(f"/latents/{first}", data=form("set", category="humour")).text
    pages = [browser.get(path).text for path in (f"/latents/{first}", "/queue?bulk=1", "/audit")]
    for page in (*pages, bulk, conflict):
        forms = [part.split("</form>")[0] for part in page.split('method="post"')[1:]]
        recording = [part for part in forms if "/sign-" not in part and "/sql" not in part]
        assert recording
        assert all('name="made_for" value="ann"' in part for part in recording)


def test_wrong_tokens_are_slowed_down_by_address_and_it_wears_off(small: Study) -> None:
    clock = Clock()
    context = small.context(None, TOKEN)
    object.__setattr__(context, "guesses", Guesses(clock))
    browser = TestClient(build_app(context), ADDRESS, headers=SAME_ORIGIN, follow_redirects=False)
    wrong, right = {"name": "eve", "token": "x"}, {"name": "ann", "token": TOKEN}
    for _ in range(MOST_BY_ADDRESS):
        assert browser.post("/sign-in", data=wrong).status_code == 403
    answer = browser.post("/sign-in", data=right)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == str(int(SECONDS_BY_ADDRESS))
    assert "too many wrong ones" in answer.text
    clock.now += SECONDS_BY_ADDRESS
    assert browser.post("/sign-in", data=right).status_code == 303
    for _ in range(MOST_BY_ADDRESS):
        assert browser.post("/sign-in", data=wrong).status_code == 403
    assert browser.get("/queue").status_code == 200


def test_many_addresses_guess_no_faster_than_one_allowance_for_all() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    tried = 0
    for second in range(100):
        for number in range(50):
            if not guesses.wait(f"10.0.{second}.{number}"):
                guesses.wrong(f"10.0.{second}.{number}")
                tried += 1
        clock.now += 1
    assert tried <= MOST_IN_TOTAL + 100
    clock.now += 1
    assert guesses.wait("192.0.2.1") == 0
    assert guesses.wait("2001:db8::1") == 0


def test_one_ipv6_network_is_one_address() -> None:
    guesses = Guesses(Clock())
    for number in range(MOST_BY_ADDRESS):
        guesses.wrong(f"2001:db8::{number}")
    assert guesses.wait("2001:db8::ffff") > 0
    assert guesses.wait("2001:db8:1::1") == 0
