"""Request parameters that a judge's server takes, found with the first request to it.

Servers differ in the key for the longest answer and in whether they take a temperature. The first
request to each server goes alone. Where its error names a parameter, the request is sent again
without that parameter. This costs nothing: a request that is refused so early is not paid for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from labeler.http.client import Endpoint, ServerError

MaxTokensKey = Literal["max_tokens", "max_completion_tokens"]
OTHER_KEY: dict[MaxTokensKey, MaxTokensKey] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
_NOT_TAKEN = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|"
    r"deprecated|only .{0,20}(?:default|allowed|supported|be set)|must be 1\b",
    re.IGNORECASE,
)
_SCHEMA = re.compile(r"response_format|json_schema|json schema|structured|guided", re.IGNORECASE)


@dataclass(frozen=True)
class Parameters:
    """Request parameters apart from model and messages."""

    max_tokens_key: MaxTokensKey = "max_tokens"
    sends_temperature: bool = True

    def body(self, temperature: float, max_tokens: int) -> dict[str, Any]:
        """The keys of a request."""
        sent: dict[str, Any] = {"temperature": temperature} if self.sends_temperature else {}
        return sent | {self.max_tokens_key: max_tokens}

    @property
    def as_json(self) -> dict[str, Any]:
        """What the database keeps; a server that answered has also taken a JSON schema."""
        return asdict(self) | {"json_schema": True}

    @property
    def words(self) -> str:
        """The parameters in words."""
        temperature = "a temperature" if self.sends_temperature else "no temperature"
        return f"takes {self.max_tokens_key}, {temperature} and JSON schemas"


@dataclass(frozen=True)
class FixedParameters:
    """Parameters that the config sets; None where the server decides."""

    max_tokens_key: MaxTokensKey | None = None
    sends_temperature: bool | None = None

    def apply_to(self, found: Parameters) -> Parameters:
        """`found` with the fixed parameters put in."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return replace(found, **given)

    @property
    def is_all(self) -> bool:
        """Whether every parameter is fixed."""
        return None not in asdict(self).values()


def parameters_of(known: Mapping[str, Any]) -> Parameters:
    """Parameters from the database; keys that a later version wrote are ignored."""
    key = known.get("max_tokens_key")
    return Parameters(
        max_tokens_key="max_completion_tokens" if key == "max_completion_tokens" else "max_tokens",
        sends_temperature=known.get("sends_temperature") is not False,
    )


def adapt(parameters: Parameters, error: ServerError) -> Parameters | None:
    """The parameters that a server's error asks for; None where it is about something else."""
    if not error.is_of_the_call or not _NOT_TAKEN.search(error.text):
        return None
    if parameters.sends_temperature and "temperature" in error.text:
        return replace(parameters, sends_temperature=False)
    key = parameters.max_tokens_key
    if re.search(rf"\b{key}\b", error.text):
        return replace(parameters, max_tokens_key=OTHER_KEY[key])
    return None


def speaks_of_schema(error: ServerError) -> bool:
    """Whether a server's error says that it takes no JSON schema."""
    return error.is_of_the_call and _SCHEMA.search(error.text) is not None


@dataclass(frozen=True)
class Adapted:
    """What follows from an error about parameters."""

    stops_with: str | None = None
    """Why no other parameters are left to try; None = send again with the current ones."""


class Negotiation:
    """The parameters in use with all servers of a judge, and what each server answered to them."""

    def __init__(self, fixed: FixedParameters) -> None:
        self._fixed = fixed
        self._is_known = fixed.is_all
        self._opened: set[Endpoint] = set()
        self._gates: dict[Endpoint, asyncio.Lock] = {}
        self._refused: set[Parameters] = set()
        self._answered: dict[Endpoint, Parameters] = {}
        self.current = fixed.apply_to(Parameters())

    def start_from(self, known: Mapping[str, Any]) -> None:
        """Start with the parameters that an earlier run found."""
        self.current = self._fixed.apply_to(parameters_of(known))
        self._is_known = True

    def is_open(self, endpoint: Endpoint) -> bool:
        """Whether requests may go to a server together, because its parameters are known."""
        return self._is_known or endpoint in self._opened

    def open(self, endpoint: Endpoint) -> None:
        """The first request has shown which parameters the server takes."""
        self._opened.add(endpoint)

    def gate(self, endpoint: Endpoint) -> asyncio.Lock:
        """Lock that sends requests to a server one by one until it is open."""
        return self._gates.setdefault(endpoint, asyncio.Lock())

    def rest(self) -> None:
        """Drop the locks: each belongs to the event loop in which it was first used."""
        self._gates.clear()

    def answered(self, endpoint: Endpoint, parameters: Parameters) -> None:
        """A server took a request with these parameters."""
        self._answered[endpoint] = parameters

    def refused(
        self, endpoint: Endpoint, parameters: Parameters, error: ServerError
    ) -> Adapted | None:
        """Change to the parameters that a server's error asks for; None where it names none."""
        found = adapt(parameters, error)
        if found is None:
            return None
        if self._fixed.apply_to(found) != found:
            return Adapted("; study.toml says judge.max_tokens_key or judge.send_temperature")
        self._refused.add(parameters)
        if parameters != self.current:
            return Adapted()
        others = [one for one, used in self._answered.items() if used == parameters]
        if any(one != endpoint for one in others) or (found in self._refused and others):
            return Adapted(
                f"; {others[0].base_url} takes it, and the servers of one judge must get the same "
                "parameters"
            )
        if found in self._refused:
            return Adapted("; the other way was refused too")
        self.current = found
        return Adapted()
