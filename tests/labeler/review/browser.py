"""A real Chromium on a served study, and pages that fail a test for what the console says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from markdown import ROOT
from review_studies import Study

from labeler.review.server import build_app, listening
from labeler.review.serving import ReviewServer

SCREENSHOTS = ROOT / "build" / "screenshots"
"""Where a test run keeps its pictures."""
WIDE, PHONE = {"width": 1200, "height": 800}, {"width": 420, "height": 860}


def serving(study: Study) -> Iterator[str]:
    context, listener = study.context(), listening("127.0.0.1", 0)
    server = ReviewServer(context, build_app(context))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)


class Page:
    """A page that fails the test, as it is closed, for anything that the console says."""

    def __init__(self, chromium: object, size: dict[str, int] = WIDE) -> None:
        self.context = chromium.new_context(viewport=size)  # type: ignore[attr-defined]
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("dialog", lambda d: (self.complaints.append(d.message), d.dismiss()))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))

    def close(self, *, refusals: int = 0) -> None:
        """Close it; `refusals` answers with an error status were meant, which Chromium reports."""
        refused = [words for words in self.complaints if "the server responded with" in words]
        assert len(refused) == refusals
        assert [words for words in self.complaints if words not in refused] == []
        self.context.close()


def settled(page: object, latent_id: int) -> None:
    """Wait until the page of a latent is in place and takes keys."""
    selector = f"#decide[action^='/latents/{latent_id}?']"
    page.wait_for_selector(selector)  # type: ignore[attr-defined]
    page.wait_for_selector(".htmx-added, .htmx-settling", state="detached")  # type: ignore[attr-defined]
    page.wait_for_timeout(150)  # type: ignore[attr-defined]


def shot(name: str) -> str:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return str(SCREENSHOTS / f"review-{name}.png")
