"""How an answer travels from the process that runs a question to the one that asked it.

A frame is four bytes of length and a JSON array `[kind, payload]`. JSON, because a statement from
outside runs in the sending process: nothing that it could send is code to the receiving one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Frame = tuple[str, Any]
HEADER_BYTES = 4


def pack(kind: str, payload: Any) -> bytes:
    """One frame."""
    text = json.dumps([kind, payload], ensure_ascii=False, default=_tagged, separators=(",", ":"))
    body = text.encode("utf-8", "surrogatepass")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def unpack(body: bytes) -> Frame:
    """The frame of a body; ValueError for one that is none."""
    try:
        frame = json.loads(body.decode("utf-8", "surrogatepass"), object_hook=_untagged)
        kind, payload = frame
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return str(kind), payload


def as_json(value: Any) -> Any:
    """A value of a row as JSON keeps it; what JSON has no word for is tagged while it is packed."""
    if isinstance(value, dict):
        return {"pairs": [[str(key), as_json(part)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    return value


def _tagged(value: Any) -> dict[str, Any]:
    if isinstance(value, bytes | memoryview):
        return {"bytes": bytes(value).hex()}
    name = type(value).__name__
    if name in ("Decimal", "UUID"):
        return {name: str(value)}
    if name in ("datetime", "date", "time"):
        return {name: value.isoformat()}
    if name == "timedelta":
        return {name: [value.days, value.seconds, value.microseconds]}
    return {"text": str(value)}


def _untagged(found: dict[str, Any]) -> Any:
    (name, value), *further = found.items()
    if further or name not in _READERS:
        raise ValueError(f"{name!r} is no tag")
    return _READERS[name](value)


def _datetime_reader(name: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        import datetime

        kind = getattr(datetime, name)
        return kind(*value) if name == "timedelta" else kind.fromisoformat(value)

    return read


def _read_decimal(value: Any) -> Any:
    from decimal import Decimal

    return Decimal(value)


def _read_uuid(value: Any) -> Any:
    from uuid import UUID

    return UUID(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "bytes": bytes.fromhex,
    "Decimal": _read_decimal,
    "UUID": _read_uuid,
    "pairs": dict,
    "text": str,
    **{name: _datetime_reader(name) for name in ("datetime", "date", "time", "timedelta")},
}
