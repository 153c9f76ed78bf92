"""`difflens judge check` says in one line what is wrong with a judge."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from stub_server import Step, StubServer

from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.judge.factory import make_judge
from labeler.study.study_file import StudyFile

GOOD = json.dumps({"explanation": "apologies", "interpretable": True, "confidence": 0.9})
KEY = "sk-very-secret-0815"


def study(folder: Path, url: str, **judge: object) -> str:
    values = {"kind": "openai", "base_url": url, "model": "m", "max_tokens": 256} | judge
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = folder / "study.toml"
    path.write_text("[judge]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def check(
    folder: Path,
    step: Step,
    capsys: pytest.CaptureFixture[str],
    context: int = 8192,
    **judge: object,
) -> tuple[int, str, str]:
    """Status, stdout and the one line on stderr of a check of a server that answers so."""
    with StubServer(lambda *_: step, models={"m": context, "other": 4096}).running() as server:
        status = run(["judge", "check", "--connection", study(folder, server.url, **judge)])
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) <= 1
    return status, printed.out, printed.err


def test_a_fit_judge_is_named_with_latency_and_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = check(tmp_path, Step(GOOD), capsys)
    assert (status, err) == (0, "")
    assert ": m answered in " in out
    assert out.endswith("s, 11 + 7 tokens\n")


def test_one_constrained_request_is_sent(tmp_path: Path) -> None:
    with StubServer(lambda *_: Step(GOOD), models={"m": 8192}).running() as server:
        assert run(["judge", "check", "--connection", study(tmp_path, server.url)]) == 0
    (request,) = server.received
    assert request.body["response_format"]["type"] == "json_schema"
    assert "guided_json" not in request.body


def test_a_server_that_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert (
        run(["judge", "check", "--connection", study(tmp_path, f"http://127.0.0.1:{port}/v1")]) == 1
    )
    assert "the server is down or not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("step", "judge", "status", "words"),
    [
        (
            Step(status=404, body='{"error": {"message": "The model `big` does not exist."}}'),
            {"model": "big"}, 2, "judge.model: {url} has no 'big'; it has m, other",
        ),
        (
            Step("I'm sorry, but I can't help with that."),
            {}, 1, "{url}: m refused a harmless question: \"I'm sorry, but",
        ),
        (
            Step(status=429, body="busy", headers={"Retry-After": "3600"}),
            {}, 1, "429: busy; it asks to wait 60 min (Retry-After)",
        ),
        (
            Step(status=401, body=json.dumps({"error": {"message": "no\nkey\x1b[31m\r\n\u2028!"}})),
            {}, 2, "said 401: no key\u241b[31m \u27e8U+2028\u27e9!",
        ),
        (Step("They all apologise."), {}, 1, "ignores response_format json_schema"),
        (Step(f"Sure! Here it is: {GOOD}"), {}, 1, "ignores response_format json_schema"),
        (
            Step(status=400, body='{"error": {"message": "unknown field response_format"}}'),
            {}, 1, "takes no response_format json_schema",
        ),
        (
            Step(status=400, body='{"error": {"message": "max_tokens=9 is above max_model_len"}}'),
            {}, 2, "judge.max_tokens: {url} has too short a context",
        ),
        (
            Step(GOOD[:20], finish_reason="length"),
            {}, 2, "judge.max_tokens: 256 end before the answer does",
        ),
        (
            Step(status=401, body='{"error": {"message": "no key"}}'),
            {}, 2, "judge.api_key_env: missing, a key is needed",
        ),
        (
            Step(status=404, body='{"detail": "no route"}'),
            {}, 2, "judge.base_url: nothing at {url}/chat/completions; end it in /v1? "
            "the server said 404: no route",
        ),
        (Step(GOOD), {"model": "big"}, 2, "judge.model: {url} has no 'big'; it has m, other"),
        (
            Step(body='{"object": "error", "message": "queue is full"}'),
            {}, 1, "{url}: the reply is no chat completion: it has no choices; "
            "the server said 'queue is full'",
        ),
        (
            Step(body='{"choices": [{"message": {"content": 123}}]}'),
            {}, 1, "{url}: the reply is no chat completion: the message's content is 123, no text",
        ),
        (Step(status=500, body="boom"), {}, 1, "500: boom"),
        (Step(body="<html>"), {}, 1, "is no chat API"),
    ],
    ids=[
        "model", "refusal", "overload", "lines", "prose", "wrapped", "schema", "context", "cut",
        "key", "path", "other model", "no choices", "number", "broken", "html",
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    step: Step,
    judge: dict[str, object],
    status: int,
    words: str,
) -> None:
    found, out, err = check(tmp_path, step, capsys, **judge)
    assert (found, out) == (status, "")
    for part in words.split("{url}"):
        assert part in err


def test_a_fenced_answer_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = check(tmp_path, Step(f"```json\n{GOOD}\n```"), capsys)
    assert status == 0
    assert ": m answered in " in out
    assert "stood in a code fence" in err
    assert err.endswith("such answers are read all the same\n")


def test_a_context_that_prompts_do_not_fit_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = check(tmp_path, Step(GOOD), capsys, context=1024)
    assert status == 2
    assert "judge.server.max_model_len" in err
    assert "prompts of up to 2500 tokens (judge.explain_tokens) and answers of up to 256" in err
    assert "need 2756, the served context has 1024" in err


def test_a_context_of_the_config_that_prompts_do_not_fit_in_is_said_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    path = Path(study(tmp_path, "http://127.0.0.1:9/v1", categorize_tokens=3000))
    path.write_text(path.read_text() + "[judge.server]\nmax_model_len = 3100\n", encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"judge.categorize_tokens\) .* the served context has 3100"
    ):
        make_judge(StudyFile.read(path).config.judge)


def test_a_wrong_key_is_named_by_its_variable_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    refusal = Step(status=401, body=json.dumps({"error": {"message": f"bad key {KEY}"}}))
    status, _, err = check(tmp_path, refusal, capsys, api_key_env="JUDGE_KEY")
    assert status == 2
    assert "judge.api_key_env: the key in JUDGE_KEY is refused" in err
    assert KEY not in err


@pytest.mark.parametrize("ending", ["\nX", "\u00e9"])
def test_a_key_that_no_header_can_hold_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY + ending)
    status, _, err = check(tmp_path, Step(GOOD), capsys, api_key_env="JUDGE_KEY")
    assert status == 2
    assert "judge.api_key_env: the key in JUDGE_KEY holds a line break or a character" in err
    assert KEY not in err


def test_usage_that_cannot_be_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = {"choices": [{"message": {"content": GOOD}, "finish_reason": "stop"}]}
    for tokens in (-5, 10**30, "many"):
        usage = {"usage": {"prompt_tokens": tokens, "completion_tokens": tokens}}
        status, out, _ = check(tmp_path, Step(body=json.dumps(message | usage)), capsys)
        assert (status, out.endswith("s, no usage told\n")) == (0, True)


def test_an_answer_that_drips_is_given_up_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    started = time.monotonic()
    assert run(["judge", "check", "--connection", study(tmp_path, url, timeout_s=0.5)]) == 1
    assert time.monotonic() - started < 10
    assert "no answer within 0.5 s (judge.timeout_s)" in capsys.readouterr().err
    listener.close()


def test_a_judge_without_a_server_has_nothing_to_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.toml"
    path.write_text('[judge]\nkind = "evidence"\n', encoding="utf-8")
    assert run(["judge", "check", "--connection", str(path)]) == 2
    assert "judge.kind: evidence has no server" in capsys.readouterr().err
