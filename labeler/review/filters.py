"""What the URL of a queue says: which latents, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from labeler.errors import UsageError

ORDERS = {
    "uncertain": "uncertain first",
    "disagreement": "disagreement first",
    "random": "random",
    "index": "by number",
}
CHOICES: dict[str, dict[str, str]] = {
    "side": {"target": "target", "reference": "reference"},
    "source": {"judge": "judge", "human": "reviewer", "import": "import", "nobody": "nobody"},
    "status": {"open": "open", "reviewed": "reviewed", "conflict": "reviewers disagree"},
    "mine": {"todo": "to do", "decided": "decided by me", "skipped": "skipped by me"},
    "confidence": {
        "low": "below 0.5", "middle": "0.5 to 0.8", "high": "0.8 and more", "unknown": "not stated",
    },
    "disagreement": {"yes": "judges disagree", "no": "judges agree"},
    "audit": {"drawn": "in the random draw", "todo": "blind, to do"},
}  # fmt: skip
"""Values of each filter, with the words that a page shows; categories come from the taxonomy."""
LABEL_FILTERS = ("category", "source", "confidence", "disagreement", "text")
"""Filters that would tell a blind reviewer what the judge said."""
LONGEST_TEXT = 200


@dataclass(frozen=True)
class Filters:
    """Empty = all."""

    comparison: str = ""
    side: str = ""
    category: str = ""
    source: str = ""
    status: str = ""
    mine: str = ""
    confidence: str = ""
    disagreement: str = ""
    audit: str = ""
    text: str = ""
    order: str = "uncertain"

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Filters:
        """The filters of a query string; UsageError for a value that a filter does not know."""
        values: dict[str, Any] = {
            field.name: query[field.name].strip()
            for field in fields(cls)
            if query.get(field.name, "").strip()
        }
        for name, known in {**CHOICES, "order": ORDERS}.items():
            if values.get(name) and values[name] not in known:
                raise UsageError(
                    f"{name}: {values[name]!r} is not known; choose from {', '.join(known)}"
                )
        if "text" in values:
            values["text"] = values["text"][:LONGEST_TEXT]
        return cls(**values)

    def query(self, **changes: str) -> str:
        """A query string of these filters with some changed, empty ones left out."""
        changed = replace(self, **changes)
        pairs = {
            field.name: getattr(changed, field.name)
            for field in fields(changed)
            if getattr(changed, field.name) != field.default
        }
        return urlencode(pairs)

    @property
    def tells_label(self) -> bool:
        """Whether being listed would tell something of the judge's label."""
        return any(getattr(self, name) for name in LABEL_FILTERS)

    @property
    def active(self) -> dict[str, str]:
        """The filters that are set, without comparison and order."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("comparison", "order") and getattr(self, field.name)
        }
