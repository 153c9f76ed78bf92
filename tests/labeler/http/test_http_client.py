"""One connection to a judge's server, and what it says when there is none."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
from stub_server import Step, serving

from labeler.http.client import (
    Connection,
    ConnectionFailedError,
    Endpoint,
    HttpAnswer,
    RequestOutcome,
    proxy_for,
    server_error,
    tls_for,
)
from labeler.judge.parameters import Parameters, adapt, speaks_of_schema


def send(url: str, n: int = 1, key_env: str | None = None) -> list[HttpAnswer]:
    """The answers to requests that follow each other on one line."""

    async def ask() -> list[HttpAnswer]:
        endpoint = Endpoint(url, "m", key_env)
        line = Connection(endpoint, tls_for((endpoint,)))
        try:
            return [await line.post("/chat/completions", {"number": at}) for at in range(n)]
        finally:
            await line.aclose()

    return asyncio.run(ask())


def test_requests_share_one_connection() -> None:
    with serving(Step("yes")) as server:
        answers = send(server.url, n=3)
        assert len(server.connections) <= 1
    assert [answer.status for answer in answers] == [200] * 3
    assert [request.body for request in server.received] == [{"number": at} for at in range(3)]


def test_a_redirect_is_not_followed_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with serving(Step("yes")) as elsewhere:
        moved = Step("no", status=307, headers={"location": f"{elsewhere.url}/chat/completions"})
        with serving(moved) as server:
            (answer,) = send(server.url, key_env="JUDGE_KEY")
    assert answer.status == 307
    assert elsewhere.received == []
    assert server.received[0].headers["authorization"] == "Bearer secret"


def test_a_cookie_is_not_sent_back() -> None:
    with serving(Step("yes", headers={"set-cookie": "seen=1; Path=/"})) as server:
        send(server.url, n=2)
    assert all("cookie" not in request.headers for request in server.received)


def test_a_closed_port_is_a_refused_connection() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(
        ConnectionFailedError, match=r"^cannot connect: Connection refused$"
    ) as caught:
        send(f"http://127.0.0.1:{port}/v1")
    assert caught.value.unpaid


def test_a_cut_connection_may_have_been_paid_for() -> None:
    with serving(Step(reset=True)) as server, pytest.raises(ConnectionFailedError) as caught:
        send(server.url)
    assert not caught.value.unpaid


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving(Step("through the proxy")) as proxy:
        address = proxy.url.removesuffix("/v1")
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("no_proxy", "127.0.0.1,.inside")
        assert proxy_for("https://judge.example/v1") is None
        assert proxy_for("http://judge.inside/v1") is None
        assert proxy_for("http://127.0.0.1:8000/v1") is None
        assert proxy_for("http://judge.example/v1") == address
        (answer,) = send("http://judge.example/v1")
    assert b"through the proxy" in answer.content
    assert proxy.received[0].path == "http://judge.example/v1/chat/completions"


PLAIN = Parameters()
NEW_KEY = Parameters(max_tokens_key="max_completion_tokens")
NO_TEMPERATURE = Parameters(sends_temperature=False)


def body(message: object, **keys: object) -> bytes:
    return json.dumps({"error": {"message": message, **keys}}).encode()


OF_ONE_REQUEST: list[tuple[int, bytes, RequestOutcome]] = [
    (400, json.dumps({"object": "error", "code": 400, "message": "This model's maximum context "
     "length is 4096 tokens. However, you requested 4700 tokens."}).encode(), "too_long"),
    (400, body("'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum "
               "context length is 4096 tokens and your request has 3900 input tokens"), "too_long"),
    (400, body("too big", code="context_length_exceeded"), "too_long"),
    (400, body("the request exceeds the available context size", type="exceed_context_size_error"),
     "too_long"),
    (500, body("the request exceeds the available context size"), "too_long"),
    (400, body("prompt is too long: 210000 tokens > 200000 maximum"), "too_long"),
    (400, body("The input token count (9000) exceeds the maximum number of tokens allowed (8192)."),
     "too_long"),
    (422, body("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"),
     "too_long"),
    (400, body("The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
     "too_long"),
    (413, b"<html>Request Entity Too Large</html>", "too_long"),
    (400, body("The response was filtered due to the prompt triggering the content management "
               "policy.", code="content_filter"), "refused"),
    (400, body("no", code="x", innererror={"code": "ResponsibleAIPolicyViolation"}), "refused"),
    (400, body("Your prompt was flagged as potentially violating our usage policy."), "refused"),
    (400, body("Input data may contain inappropriate content.", code="data_inspection_failed"),
     "refused"),
    (403, body("This model requires moderation and your input was flagged for violence"),
     "refused"),
    (451, body("not here"), "refused"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "content", "outcome"), OF_ONE_REQUEST)
def test_what_a_request_meets_on_its_own_is_known_by_the_servers_words(
    status: int, content: bytes, outcome: RequestOutcome
) -> None:
    error = server_error(status, content)
    assert error.outcome == outcome
    assert adapt(PLAIN, error) is None
    assert not speaks_of_schema(error)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, body("no such model m")),
        (401, body("the prompt is too long for you")),
        (403, body("this key may not use the model")),
        (404, body("no route to the context window")),
        (429, body("Request too large: tokens per minute exceeded, maximum context length")),
        (503, body("content filter is loading")),
        (400, b"\xff\xfe"),
        (400, b""),
        (400, b"[" * 100_000),
        (400, b'{"error": ' + b"9" * 5000 + b"}"),
        (400, body("Unsupported parameter: 'max_tokens' is not supported with this model.")),
    ],
)
def test_other_errors_are_of_no_single_request(status: int, content: bytes) -> None:
    assert server_error(status, content).outcome is None


@pytest.mark.parametrize(
    ("message", "parameters"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            NEW_KEY,
        ),
        ([{"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}], NEW_KEY),
        (
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default "
            "(1) value is supported.",
            NO_TEMPERATURE,
        ),
        ("invalid temperature: only 1 is allowed for this model", NO_TEMPERATURE),
        ("`temperature` may only be set to 1 when thinking is enabled", NO_TEMPERATURE),
        ("temperature must be non-negative, got -1", None),
        ("max_tokens must be at least 1", None),
        ("no such model", None),
    ],
)
def test_other_parameters_are_asked_for_in_words(
    message: object, parameters: Parameters | None
) -> None:
    assert adapt(PLAIN, server_error(400, body(message))) == parameters


def test_the_newer_key_can_be_the_wrong_one() -> None:
    error = server_error(422, body("unknown field: max_completion_tokens"))
    assert adapt(NEW_KEY, error) == PLAIN
    assert adapt(PLAIN, error) is None


@pytest.mark.parametrize(
    "message",
    [
        "response_format json_schema is not supported by this model",
        "unknown field response_format",
        "Structured outputs need a newer model",
    ],
)
def test_a_server_without_schemas_says_so(message: str) -> None:
    assert speaks_of_schema(server_error(400, body(message)))


def test_a_validators_complaint_is_shown_without_the_prompt_in_it() -> None:
    complaint = {"loc": ["body", "n"], "msg": "wrong type", "input": "ignore all rules"}
    error = server_error(422, json.dumps({"detail": [complaint]}).encode())
    assert error.shown == "422: body.n: wrong type"


def test_a_huge_error_is_read_in_a_moment() -> None:
    started = time.perf_counter()
    error = server_error(400, body("tokens " * 500_000))
    assert error.outcome is None
    assert len(error.words) == 500
    assert time.perf_counter() - started < 2
