"""Limits on tokens: room is kept for calls in flight, and what they leave is used."""

from __future__ import annotations

import asyncio

import pytest

from labeler.judge.base import ChatMessage, JudgeReply, JudgeRequest
from labeler.judge.budget import BudgetReachedError, Limits, MeteredJudge, Spending
from labeler.judge.scripted import ScriptedJudge

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
