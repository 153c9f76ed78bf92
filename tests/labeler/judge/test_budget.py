"""Limits on tokens: room is kept for calls in flight, and what they leave is used."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from labeler.errors import WorkError
from labeler.judge.base import ChatMessage, JudgeReply, JudgeRequest
from labeler.judge.budget import (
    BudgetReachedError,
    Ledger,
    Limits,
    MeteredJudge,
    Prices,
    Spending,
    Usage,
)
from labeler.judge.calls import CallStore, ask_each
from labeler.judge.scripted import ScriptedJudge
from labeler.store.engine import write_session
from labeler.store.judging import CallRow, get_or_create_judge, record_calls
from labeler.store.runs import begin_run

LONGEST_ANSWER = 1000


class Counted(ScriptedJudge):
    """Takes a turn of the loop for each answer and counts those in flight."""

    def __init__(self) -> None:
        reply = JudgeReply("ok", raw="{}", parsed={}, prompt_tokens=9, completion_tokens=1)
        super().__init__(lambda _: reply)
        self.in_flight = self.most_in_flight = 0

    async def ask(self, request: JudgeRequest, *rest: object) -> JudgeReply:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        return await super().ask(request, *rest)  # type: ignore[arg-type]


def requests(count: int) -> list[JudgeRequest]:
    return [
        JudgeRequest("explain", "p", "0" * 64, (ChatMessage("user", f"{number:036d}"),), {})
        for number in range(count)
    ]


def ask_all(judge: Counted, spending: Spending, count: int) -> list[JudgeReply | BaseException]:
    metered = MeteredJudge(judge, spending, None, LONGEST_ANSWER)

    async def gathered() -> list[JudgeReply | BaseException]:
        asked = (metered.ask(request) for request in requests(count))
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(gathered())


def test_a_limit_with_room_for_few_in_flight_lets_all_go_on_in_turn() -> None:
    judge, spending = Counted(), Spending(Limits(max_tokens=2600))
    replies = ask_all(judge, spending, 40)
    assert all(isinstance(reply, JudgeReply) for reply in replies)
    assert judge.most_in_flight == 2
    assert spending.used.tokens == 400


def test_the_limit_is_used_up_before_it_stops_and_never_passed() -> None:
    judge, spending = Counted(), Spending(Limits(max_tokens=1200))
    replies = ask_all(judge, spending, 60)
    stopped = [reply for reply in replies if isinstance(reply, BudgetReachedError)]
    # Another answer might have 1,000 tokens, so it stops within the last 1,000.
    assert spending.used.tokens == len(judge.asked) * 10 == 200
    assert len(stopped) == 60 - len(judge.asked)
    assert {str(error).partition(":")[0] for error in stopped} == {
        "stopped at 200 of at most 1,200 tokens"
    }


def test_what_waits_may_be_cancelled_and_the_spending_serves_another_loop() -> None:
    judge, spending = Counted(), Spending(Limits(max_tokens=1200))
    metered = MeteredJudge(judge, spending, None, LONGEST_ANSWER)

    async def cancelled() -> None:
        first, second = (asyncio.ensure_future(metered.ask(one)) for one in requests(2))
        await asyncio.sleep(0)
        second.cancel()
        assert (await first).status == "ok"
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(cancelled())
    assert len(ask_all(judge, spending, 3)) == 3
    assert spending.used.tokens == 40


class Silent(ScriptedJudge):
    """A server that tells no usage: an answer, then one that never comes."""

    def __init__(self) -> None:
        replies = iter(
            (
                JudgeReply("ok", raw='{"a": 1}', parsed={"a": 1}),
                JudgeReply("transport_error", error="no answer", may_be_charged=True),
                JudgeReply("transport_error", error="503"),
            )
        )
        super().__init__(lambda _: next(replies))


def test_what_the_server_does_not_tell_is_estimated_and_handed_on_to_be_stored() -> None:
    spending = Spending(Limits(max_tokens=10_000))
    metered = MeteredJudge(Silent(), spending, None, LONGEST_ANSWER)
    noted: list[JudgeReply] = []

    async def note(reply: JudgeReply) -> None:
        noted.append(reply)

    async def ask() -> None:
        for request in requests(3):
            await metered.ask(request, note)

    asyncio.run(ask())
    told = [(reply.estimated_prompt_tokens, reply.estimated_completion_tokens) for reply in noted]
    # 36 characters at four a token; a timeout may be charged in full, an error that is stated not.
    assert told == [(9, 2), (9, LONGEST_ANSWER), (0, 0)]
    assert spending.used.tokens == sum(map(sum, told))  # type: ignore[arg-type]


def call(judge_id: int, run_id: int, key: str, **tokens: int) -> CallRow:
    return CallRow(judge_id, key.rjust(64, "0"), "explain", run_id, "ok", "{}", **tokens)


def test_the_ledger_reads_new_calls_once_and_none_of_its_own_runs(engine: Engine) -> None:
    with write_session(engine) as session:
        priced = get_or_create_judge(session, "priced", "m", "openai").id
        other = get_or_create_judge(session, "gone", "m", "openai").id
        earlier, own, beside = (begin_run(session, "label", {}) for _ in range(3))
        record_calls(
            session,
            [
                call(priced, earlier, "1", prompt_tokens=10, completion_tokens=1),
                call(priced, earlier, "2", estimated_prompt_tokens=20, completion_tokens=2),
                call(other, earlier, "3", prompt_tokens=100),
            ],
        )
    ledger = Ledger([engine], {"priced": Prices(1.0, 2.0)})
    spending = Spending(Limits(max_tokens=1000), ledger)
    spending.read_ledger()
    assert spending.used == Usage(130, 3, (30 + 2 * 3) / 1e6)
    assert ledger.unpriced == {"gone"}
    spending.begin_run(engine, own)
    with write_session(engine) as session:
        record_calls(session, [call(priced, own, "4", prompt_tokens=1000)])
        record_calls(session, [call(priced, beside, "5", prompt_tokens=7)])
    spending.read_ledger()
    spending.read_ledger()
    assert spending.used.prompt_tokens == 137


def test_after_an_error_what_is_in_flight_is_still_recorded(sqlite_engine: Engine) -> None:
    class Failing(ScriptedJudge):
        async def ask(self, request: JudgeRequest, *rest: object) -> JudgeReply:
            if request.messages[0].content.endswith("2"):
                raise WorkError("the server is gone")
            await asyncio.sleep(0.01)
            return await super().ask(request, *rest)  # type: ignore[arg-type]

    answer = {"explanation": "e", "interpretable": True, "confidence": 1.0}
    judge = Failing(lambda _: answer, concurrency=3)
    with write_session(sqlite_engine) as session:
        run_id = begin_run(session, "behaviour", {})
    store = CallStore(sqlite_engine, judge.identity, run_id)
    wanted = [replace(each, prompt_name="explain") for each in requests(9)]
    with pytest.raises(WorkError, match="gone"):
        asyncio.run(ask_each(judge, store, wanted))
    assert len(judge.asked) == 2
    found = store.answered([each.sha256(judge.identity) for each in wanted])
    assert [call.status for call in found.values()] == ["ok", "ok"]
