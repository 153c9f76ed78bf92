from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from evidence_seeding import add_windows, begin, distinct_windows
from judge_subjects import refusals, window
from seeding import Seed, seed
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from stub_server import Received, Step, StubServer

from labeler.errors import WorkError
from labeler.judge.base import JudgeReply, JudgeRequest
from labeler.judge.batch import FailureLimit
from labeler.judge.calls import CallStore
from labeler.judge.openai import OpenAiJudge
from labeler.judge.prompts import prompt_file
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling import explain as labeling
from labeler.labeling.explain import LabelConfig, label_latents
from labeler.store.engine import read_session, write_session
from labeler.store.judging import lock_latents
from labeler.store.schema import Explanation, JudgeCall, Prompt
from labeler.study.judge_config import JudgeSection

ANSWER = {"explanation": "fires on a word", "interpretable": True, "confidence": 0.75}


def seeded(engine: Engine, n: int = 2, words: tuple[str, ...] = ()) -> Seed:
    """n latents a side, each with windows of its own, or of the given words in turn."""
    with write_session(engine) as session:
        made = seed(session, n, n)
        for number, latent_id in enumerate((*made.target, *made.reference)):
            word = words[number % len(words)] if words else f"word{number}"
            add_windows(session, made.run_id, latent_id, distinct_windows(word))
    return made


def latents(made: Seed) -> list[int]:
    return [*made.target, *made.reference]


def calls(engine: Engine) -> list[JudgeCall]:
    with read_session(engine) as session:
        return list(session.execute(select(JudgeCall).order_by(JudgeCall.id)).scalars())


def explanations(engine: Engine) -> list[Explanation]:
    with read_session(engine) as session:
        return list(session.execute(select(Explanation).order_by(Explanation.id)).scalars())


def constant(_: JudgeRequest) -> dict[str, object]:
    return ANSWER


def test_every_latent_gets_a_call_and_an_explanation(engine: Engine) -> None:
    made = seeded(engine)
    run_id = begin(engine)
    summary = label_latents(engine, ScriptedJudge(constant), run_id, latents(made))
    assert (summary.n_latents, summary.n_explained, summary.n_failed, summary.n_reused) == (
        4, 4, 0, 0,
    )  # fmt: skip
    rows = explanations(engine)
    assert sorted(row.latent_id for row in rows) == latents(made)
    assert {(row.text, row.interpretable, row.confidence, row.run_id) for row in rows} == {
        ("fires on a word", True, 0.75, run_id)
    }
    written = {call.id: call for call in calls(engine)}
    for row in rows:
        assert row.judge_call_id is not None
        call = written[row.judge_call_id]
        assert (call.stage, call.status, call.attempt, call.latent_id) == (
            "explain", "ok", 0, row.latent_id,
        )  # fmt: skip
        assert json.loads(str(call.raw)) == ANSWER


def test_the_prompt_is_stored_once_by_its_hash(engine: Engine) -> None:
    made = seeded(engine)
    label_latents(engine, ScriptedJudge(constant), begin(engine), latents(made))
    with read_session(engine) as session:
        (prompt,) = session.execute(select(Prompt)).scalars()
    assert (prompt.name, prompt.sha256) == ("explain", prompt_file("explain").sha256)
    assert {call.prompt_id for call in calls(engine)} == {prompt.id}


def test_a_second_run_asks_nothing_and_writes_nothing(engine: Engine) -> None:
    made = seeded(engine)
    label_latents(engine, ScriptedJudge(constant), begin(engine), latents(made))
    before = (calls(engine), explanations(engine))
    again = ScriptedJudge(constant)
    summary = label_latents(engine, again, begin(engine), latents(made))
    assert again.asked == []
    assert (summary.n_reused, summary.n_explained) == (4, 4)
    assert [len(rows) for rows in (calls(engine), explanations(engine))] == [
        len(rows) for rows in before
    ]


def test_an_interrupted_batch_goes_on_where_it_stopped(engine: Engine) -> None:
    made = seeded(engine)
    seen: list[int] = []

    def dies_at_the_third(request: JudgeRequest) -> dict[str, object]:
        assert request.subject is not None
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(request.subject.latent_id)
        return ANSWER

    with pytest.raises(KeyboardInterrupt):
        label_latents(
            engine, ScriptedJudge(dies_at_the_third, concurrency=1), begin(engine), latents(made)
        )
    assert len(calls(engine)) == 2
    second = ScriptedJudge(constant)
    label_latents(engine, second, begin(engine), latents(made))
    assert len(second.asked) == 2
    assert sorted(row.latent_id for row in explanations(engine)) == latents(made)


@contextmanager
def ctrl_c_ends_the_work() -> Iterator[None]:
    """SIGINT as in a terminal; a suite that runs in the background inherits it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


Strike = Callable[[], None]
"""Sends Ctrl-C when its time has come."""


def at_the_question(monkeypatch: pytest.MonkeyPatch, strike: Strike) -> ScriptedJudge:
    """Ctrl-C while the judge answers."""

    def script(_: JudgeRequest) -> dict[str, object]:
        strike()
        return ANSWER

    return ScriptedJudge(script)


def at_the_writing(
    monkeypatch: pytest.MonkeyPatch, strike: Strike, method: str = "record_all"
) -> ScriptedJudge:
    """Ctrl-C while the database is written, in a thread next to the event loop."""
    genuine = getattr(CallStore, method)

    def interrupted(self: CallStore, *arguments: object) -> object:
        strike()
        return genuine(self, *arguments)

    monkeypatch.setattr(CallStore, method, interrupted)
    return ScriptedJudge(constant)


def at_the_look_up(monkeypatch: pytest.MonkeyPatch, strike: Strike) -> ScriptedJudge:
    """Ctrl-C while earlier answers are looked up."""
    return at_the_writing(monkeypatch, strike, "reserve")


def at_the_making(monkeypatch: pytest.MonkeyPatch, strike: Strike) -> ScriptedJudge:
    """Ctrl-C while a question is made, in the event loop."""
    return at_the_writing(monkeypatch, strike, "hashed")


def at_the_keeping(monkeypatch: pytest.MonkeyPatch, strike: Strike) -> ScriptedJudge:
    """Ctrl-C while explanations are written."""

    def interrupted(session: Session, latent_ids: Sequence[int]) -> None:
        strike()
        lock_latents(session, latent_ids)

    monkeypatch.setattr(labeling, "lock_latents", interrupted)
    return ScriptedJudge(constant)


def at_the_end(monkeypatch: pytest.MonkeyPatch, strike: Strike) -> ScriptedJudge:
    """Ctrl-C while the last claims are let go, when every answer is in the database."""
    return at_the_writing(monkeypatch, strike, "release_claims")


@pytest.mark.parametrize("nth", [1, 2, 7])
@pytest.mark.parametrize(
    "moment",
    [at_the_making, at_the_look_up, at_the_question, at_the_writing, at_the_keeping, at_the_end],
)
def test_ctrl_c_is_never_lost(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    moment: Callable[[pytest.MonkeyPatch, Strike], ScriptedJudge],
    nth: int,
) -> None:
    made = seeded(engine, n=20)
    times = 0

    def strike() -> None:
        nonlocal times
        times += 1
        if times == nth:
            signal.raise_signal(signal.SIGINT)

    judge = moment(monkeypatch, strike)
    run_id = begin(engine)
    is_interrupted = False
    with ctrl_c_ends_the_work():
        try:
            label_latents(engine, judge, run_id, latents(made))
        except KeyboardInterrupt:
            is_interrupted = True
    monkeypatch.undo()
    assert is_interrupted == (times >= nth)
    assert len({call.request_sha256 for call in calls(engine)}) == len(judge.asked)
    second = ScriptedJudge(constant)
    label_latents(engine, second, run_id, latents(made))
    assert len(judge.asked) + len(second.asked) == 40
    assert sorted(row.latent_id for row in explanations(engine)) == latents(made)


def test_an_answer_whose_explanation_was_lost_is_not_paid_twice(engine: Engine) -> None:
    """Killed between the commit of a call and that of its explanation."""
    made = seeded(engine, words=("same",))
    first = ScriptedJudge(constant)
    label_latents(engine, first, begin(engine), [made.target[0]])
    second = ScriptedJudge(constant)
    label_latents(engine, second, begin(engine), latents(made))
    assert len(first.asked) == 1
    assert second.asked == []
    assert sorted(row.latent_id for row in explanations(engine)) == latents(made)


def test_equal_requests_of_one_batch_are_asked_once(engine: Engine) -> None:
    made = seeded(engine, words=("same",))
    judge = ScriptedJudge(constant, concurrency=4)
    label_latents(engine, judge, begin(engine), latents(made))
    assert len(judge.asked) == 1
    assert len(explanations(engine)) == 4


def test_another_judge_makes_new_rows_and_keeps_the_old(engine: Engine) -> None:
    made = seeded(engine)
    for name in ("first", "second"):
        label_latents(engine, ScriptedJudge(constant, name), begin(engine), latents(made))
    assert len({row.judge_id for row in explanations(engine)}) == 2
    assert len(calls(engine)) == 8


def test_unusable_answers_are_kept_as_they_are_and_make_no_explanation(engine: Engine) -> None:
    made = seeded(engine)
    words = "The latent is about words, I think."
    summary = label_latents(engine, ScriptedJudge(lambda _: words), begin(engine), latents(made))
    assert (summary.n_failed, summary.n_explained) == (4, 0)
    assert explanations(engine) == []
    assert {(call.status, call.raw) for call in calls(engine)} == {("parse_error", words)}
    retried = label_latents(engine, ScriptedJudge(constant), begin(engine), latents(made))
    assert retried.n_explained == 4
    assert [call.attempt for call in calls(engine)] == [0] * 4 + [1] * 4


def test_a_latent_that_nothing_explains_is_recorded_as_uninterpretable(engine: Engine) -> None:
    made = seeded(engine, n=1)
    unclear = {"explanation": "no pattern", "interpretable": False, "confidence": 0.1}
    summary = label_latents(engine, ScriptedJudge(lambda _: unclear), begin(engine), latents(made))
    assert summary.n_uninterpretable == 2
    assert [row.interpretable for row in explanations(engine)] == [False, False]


def test_too_little_evidence_is_recorded_with_its_reason(engine: Engine) -> None:
    with write_session(engine) as session:
        made = seed(session, 1, 1)
        few = [*distinct_windows("rare", 2), window("nothing here", kind="negative")]
        add_windows(session, made.run_id, made.target[0], few)
    judge = ScriptedJudge(constant)
    for _ in range(2):
        summary = label_latents(engine, judge, begin(engine), latents(made))
    assert judge.asked == []
    assert summary.n_too_little_evidence == 2
    texts = {row.latent_id: (row.text, row.interpretable) for row in explanations(engine)}
    assert len(explanations(engine)) == 2
    assert texts[made.target[0]] == (
        "Too little evidence: it fires in 2 texts of the explain half, 3 are needed",
        False,
    )
    assert "fires in 0 texts" in texts[made.reference[0]][0]


def test_the_judge_never_sees_the_score_half(engine: Engine) -> None:
    with write_session(engine) as session:
        made = seed(session, 1, 1)
        hidden = [window("a <<hidden>> thing", split="score")]
        add_windows(session, made.run_id, made.target[0], [*refusals(), *hidden])
    judge = ScriptedJudge(constant)
    label_latents(engine, judge, begin(engine), [made.target[0]])
    (request,) = judge.asked
    assert "hidden" not in request.messages[1].content
    assert "<<sorry>>" in request.messages[1].content


@pytest.mark.parametrize(("n_bad", "stops"), [(4, False), (5, True)])
def test_a_batch_is_given_up_when_more_than_a_fifth_fails(
    engine: Engine, n_bad: int, stops: bool
) -> None:
    made = seeded(engine, n=10)
    asked: list[JudgeRequest] = []

    def fails_first(request: JudgeRequest) -> dict[str, object] | JudgeReply:
        asked.append(request)
        return ANSWER if len(asked) > n_bad else JudgeReply("transport_error", error="down")

    judge = ScriptedJudge(fails_first, concurrency=1)
    config = LabelConfig(failure_limit=FailureLimit(share=0.2, min_calls=20))
    if stops:
        with pytest.raises(WorkError, match=r"5 of 20 calls of scripted failed"):
            label_latents(engine, judge, begin(engine), latents(made), config)
    else:
        label_latents(engine, judge, begin(engine), latents(made), config)
    assert len(calls(engine)) == 20
    assert sum(call.status == "ok" for call in calls(engine)) == 20 - n_bad


def test_the_cause_that_is_named_is_that_of_the_last_failed_call(engine: Engine) -> None:
    made = seeded(engine, n=10)
    asked: list[JudgeRequest] = []

    def fails_then_answers(request: JudgeRequest) -> dict[str, object] | JudgeReply:
        asked.append(request)
        return ANSWER if len(asked) > 12 else JudgeReply("parse_error", error="I\nwon't")

    judge = ScriptedJudge(fails_then_answers, concurrency=1)
    cause = r"^12 of 20 calls of scripted failed, the last of these with parse_error: I won't; what"
    with pytest.raises(WorkError, match=cause):
        label_latents(engine, judge, begin(engine), latents(made))


def test_a_failing_judge_is_left_alone_after_twenty_calls(sqlite_engine: Engine) -> None:
    made = seeded(sqlite_engine, n=15)
    judge = ScriptedJudge(lambda _: JudgeReply("transport_error", error="down"), concurrency=1)
    with pytest.raises(WorkError, match=r"20 of 20 calls of .* failed"):
        label_latents(sqlite_engine, judge, begin(sqlite_engine), latents(made))
    assert len(judge.asked) == 20


@pytest.mark.slow
def test_requests_are_in_flight_together_and_each_attempt_is_a_row(sqlite_engine: Engine) -> None:
    made = seeded(sqlite_engine, n=4)
    together = threading.Barrier(4, timeout=20)

    def answer(_: Received, number: int) -> Step:
        # The first request goes alone; it tells how the server wants to be asked.
        if 1 <= number <= 4:
            together.wait()
        if number == 1:
            return Step(status=503, body="warming up", headers={"Retry-After": "0"})
        return Step(json.dumps(ANSWER))

    with StubServer(answer).running() as server:
        section = JudgeSection(kind="openai", base_url=server.url, model="m", concurrency=4)
        judge = OpenAiJudge.from_section(section)
        summary = label_latents(sqlite_engine, judge, begin(sqlite_engine), latents(made))
    assert summary.n_explained == 8
    rows = calls(sqlite_engine)
    assert sorted(call.status for call in rows) == ["ok"] * 8 + ["transport_error"]
    (failed,) = [call for call in rows if call.status == "transport_error"]
    (retried,) = [call for call in rows if call.request_sha256 == failed.request_sha256][1:]
    assert (failed.attempt, retried.attempt) == (0, 1)
    assert sum(call.prompt_tokens or 0 for call in rows) == 8 * 11


def test_a_call_that_the_server_will_never_take_stops_the_batch(sqlite_engine: Engine) -> None:
    made = seeded(sqlite_engine, n=2)

    def answer(_: Received, number: int) -> Step:
        if number == 0:
            return Step(json.dumps(ANSWER))
        return Step(status=401, body='{"error": {"message": "the key is gone"}}')

    with StubServer(answer).running() as server:
        section = JudgeSection(kind="openai", base_url=server.url, model="m", concurrency=1)
        judge = OpenAiJudge.from_section(section)
        with pytest.raises(WorkError, match="401: the key is gone"):
            label_latents(sqlite_engine, judge, begin(sqlite_engine), latents(made))
    assert [call.status for call in calls(sqlite_engine)] == ["ok", "transport_error"]
    assert len(explanations(sqlite_engine)) == 1
