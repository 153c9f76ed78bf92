"""A study to review: two sides, two judges, evidence, and a server on it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from evidence_seeding import add_windows
from judge_subjects import window
from seeding import Seed, label, seed
from sqlalchemy import Engine, make_url
from starlette.testclient import TestClient

from labeler.review.context import Context
from labeler.review.server import build_app, build_context
from labeler.store.engine import open_engine, write_session

ADDRESS = "http://127.0.0.1:8400"
SAME_ORIGIN = {"sec-fetch-site": "same-origin", "origin": ADDRESS}
ANSWERS = ("safety", "humour", "lists", "none", "safety", "humour")
CONFIDENCES = (0.9, 0.3, 0.7, None, 0.55, 0.2)


@dataclass(frozen=True)
class Study:
    """The keys of what was seeded, and the database."""

    engine: Engine
    url: str
    seed: Seed

    def context(self, reviewer: str | None = "ann", token: str | None = None) -> Context:
        return build_context(
            self.engine, self.url, study="study", title="A study", reviewer=reviewer, token=token
        )

    def browser(self, reviewer: str = "ann") -> TestClient:
        """A client that sends what a page of the server itself would send."""
        app = build_app(self.context(reviewer))
        return TestClient(app, ADDRESS, headers=SAME_ORIGIN, follow_redirects=False)


def make_study(engine: Engine, url: str, words: str = "refuse") -> Study:
    """Six latents, three a side; the second judge differs on the second one."""
    with write_session(engine) as session:
        data = seed(session, 3, 3)
        latents = [*data.target, *data.reference]
        for latent_id, answer, confidence in zip(latents, ANSWERS, CONFIDENCES, strict=True):
            text = f"fires on {answer} number {latent_id}"
            label(session, data, latent_id, answer, explanation=text, confidence=confidence)
            windows = [window(f"we <<{words}>> to say {n} things.") for n in range(3)]
            add_windows(session, data.run_id, latent_id, windows)
        label(session, data, latents[0], "safety", judge_id=data.other_judge_id)
        label(session, data, latents[1], "lists", judge_id=data.other_judge_id)
    return Study(engine, url, data)


def copy_study(study: Study, path: Path) -> Study:
    """A copy of a study on SQLite, at `path`."""
    shutil.copy(str(make_url(study.url).database), path)
    url = f"sqlite:///{path}"
    return Study(open_engine(url), url, study.seed)


def form(action: str, base_revision: int = 0, **values: object) -> dict[str, object]:
    """The fields of a decision, as the page sends them."""
    return {"action": action, "base_revision": base_revision, "shown": 1, **values}
