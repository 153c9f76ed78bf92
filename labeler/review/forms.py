"""Submitted forms, read from the body with a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.requests import Request

from labeler.errors import UsageError

MOST_FIELDS = 200
FORM_TYPE = "application/x-www-form-urlencoded"


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
        if not value.isascii() or not value.isdigit() or len(value) > 15:
            raise UsageError(f"{name}: {value[:40]!r} is no number")
        return int(value)


async def read_form(request: Request) -> Form:
    """The form of a request; UsageError for another kind of body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise UsageError(f"form: the body is to be {FORM_TYPE}")
    body = await request.body()
    try:
        fields = parse_qs(
            body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise UsageError(f"form: more than {MOST_FIELDS} fields") from None
    return Form(fields)
