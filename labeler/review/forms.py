"""Submitted forms, read from the body with a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request

from labeler.errors import UsageError
from labeler.review.security import LARGEST_BODY

MOST_FIELDS = 200
FORM_TYPE = "application/x-www-form-urlencoded"


LARGEST_NUMBER = 2**31 - 1
"""What a key of the database can be."""


def whole_number(text: str | None) -> int | None:
    """The number in a URL, header or field; None for anything but a few ASCII digits."""
    if not text or len(text) > 10 or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= LARGEST_NUMBER else None


@dataclass(frozen=True)
class Form:
    """The fields of a form."""

    fields: Mapping[str, list[str]]

    def one(self, name: str) -> str:
        """A field's value, empty where it is missing."""
        return self.fields.get(name, [""])[-1]

    def all(self, name: str) -> list[str]:
        """Every value of a field, in the order of the page."""
        return self.fields.get(name, [])

    def number(self, name: str) -> int | None:
        """A whole number; None where the field is empty, UsageError for anything else."""
        value = self.one(name).strip()
        if not value:
            return None
        number = whole_number(value)
        if number is None:
            raise UsageError(f"{name}: {value[:40]!r} is no whole number up to {LARGEST_NUMBER}")
        return number


async def read_form(request: Request) -> Form:
    """The form of a request; UsageError for another kind of body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise UsageError(f"form: the body is to be {FORM_TYPE}")
    try:
        body = await request.body()
    except ClientDisconnect:
        raise UsageError(
            f"form: ended early, or is longer than {LARGEST_BODY} bytes; nothing was recorded"
        ) from None
    try:
        fields = parse_qs(
            body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise UsageError(f"form: more than {MOST_FIELDS} fields") from None
    return Form(fields)
