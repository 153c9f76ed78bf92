"""Asks a judge many requests whose answers go into no database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from crosscoder.progress import Advance
from labeler.judge.base import Judge, JudgeReply, JudgeRequest


def ask_all(judge: Judge, requests: Sequence[JudgeRequest], advance: Advance) -> list[JudgeReply]:
    """The last reply to each request, in order; WorkError where the judge cannot go on."""
    return asyncio.run(_ask(judge, requests, advance))


async def _ask(
    judge: Judge, requests: Sequence[JudgeRequest], advance: Advance
) -> list[JudgeReply]:
    gate = asyncio.Semaphore(judge.concurrency)

    async def one(request: JudgeRequest) -> JudgeReply:
        async with gate:
            reply = await judge.ask(request)
        advance(1)
        return reply

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in requests]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        await judge.aclose()
    return [task.result() for task in tasks]
