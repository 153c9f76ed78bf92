"""A server that judges by rule: the same chat always gets the same answer."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stub_server import Received, Step, StubServer

OUTCOMES = ("assigned", "assigned", "assigned", "none")


def judging_server(delay_s: float = 0.0) -> StubServer:
    """A server that explains, scores and categorises, each answer after `delay_s` seconds."""
    return StubServer(lambda request, _: Step(json.dumps(answer(request)), delay_s=delay_s))


def answer(request: Received) -> dict[str, Any]:
    """The answer that the request's schema asks for, drawn by a hash of its messages."""
    messages = json.dumps(request.body["messages"], sort_keys=True)
    draw = int(hashlib.sha256(messages.encode()).hexdigest(), 16)
    wanted = request.body["response_format"]["json_schema"]
    if wanted["name"] == "explain":
        return {
            "explanation": f"fires on pattern {draw % 1000}",
            "interpretable": draw % 7 != 0,
            "confidence": draw % 100 / 100,
        }
    if wanted["name"] in ("detect", "fuzz"):
        ids = wanted["schema"]["properties"]["answers"]["properties"]
        return {"answers": {key: draw >> at & 1 == 1 for at, key in enumerate(ids)}}
    if wanted["name"] in ("detect", "fuzz"):
        examples = wanted["schema"]["properties"]["answers"]["required"]
        return {"answers": {key: (draw + at) % 3 == 0 for at, key in enumerate(examples)}}
    slugs = slugs_of(wanted["schema"])
    outcome = OUTCOMES[draw % len(OUTCOMES)]
    chosen = {"category": slugs[draw % len(slugs)], "confidence": 0.75, "quote": ""}
    return {"outcome": outcome, "categories": [chosen] if outcome == "assigned" else []}


def slugs_of(schema: dict[str, Any]) -> list[str]:
    """The categories that a schema allows."""
    item = schema["properties"]["categories"]["items"]
    slugs: list[str] = item["properties"]["category"]["enum"]
    return slugs
