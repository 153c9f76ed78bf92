"""How a judge's server wants to be asked: found out by the first request, and kept with the judge.

Servers differ in the key of the longest answer and in whether they take a temperature. The first
request to each server goes alone; where its words ask for another way it is sent again that way,
which costs nothing, because a request that is refused so early is not paid for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from labeler.http.connections import Endpoint
from labeler.http.errors import ServerError

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
    """What goes into a request besides model and messages."""

    max_tokens_key: MaxTokensKey = "max_tokens"
    sends_temperature: bool = True

    def body(self, temperature: float, max_tokens: int) -> dict[str, Any]:
        """The keys of a request."""
        sent: dict[str, Any] = {"temperature": temperature} if self.sends_temperature else {}
        return sent | {self.max_tokens_key: max_tokens}

    @property
    def as_json(self) -> dict[str, Any]:
        """What the database keeps of a server that answered: it took a JSON schema as well."""
        return asdict(self) | {"json_schema": True}

    @property
    def words(self) -> str:
        """The parameters in words."""
        temperature = "a temperature" if self.sends_temperature else "no temperature"
        return f"takes {self.max_tokens_key}, {temperature} and JSON schemas"


@dataclass(frozen=True)
class Forced:
    """What the config says of the parameters; None where the server is to say it."""

    max_tokens_key: MaxTokensKey | None = None
    sends_temperature: bool | None = None

    def applied_to(self, found: Parameters) -> Parameters:
        """The parameters with what is forced put in."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return replace(found, **given)

    @property
    def is_all(self) -> bool:
        """Whether nothing is left to find out."""
        return None not in asdict(self).values()


def parameters_of(known: Mapping[str, Any]) -> Parameters:
    """The parameters that the database keeps; what a later version wrote beside them is left."""
    key = known.get("max_tokens_key")
    return Parameters(
        max_tokens_key="max_completion_tokens" if key == "max_completion_tokens" else "max_tokens",
        sends_temperature=known.get("sends_temperature") is not False,
    )


def wanted(parameters: Parameters, error: ServerError) -> Parameters | None:
    """The parameters that a server's error asks for; None where it asks for no others."""
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
    """What follows from an error that speaks of parameters."""

    stops_with: str | None = None
    """Why no other parameters are left to try; None = ask again with those in use now."""


class Negotiation:
    """The parameters in use with all servers of a judge, and what each server said of them."""

    def __init__(self, forced: Forced) -> None:
        self._forced = forced
        self._is_known = forced.is_all
        self._opened: set[Endpoint] = set()
        self._gates: dict[Endpoint, asyncio.Lock] = {}
        self._refused: set[Parameters] = set()
        self._answered: dict[Endpoint, Parameters] = {}
        self.current = forced.applied_to(Parameters())

    def start_from(self, known: Mapping[str, Any]) -> None:
        """Use what an earlier run found out."""
        self.current = self._forced.applied_to(parameters_of(known))
        self._is_known = True

    def is_open(self, endpoint: Endpoint) -> bool:
        """Whether requests may go to a server together: nothing is left to find out."""
        return self._is_known or endpoint in self._opened

    def open(self, endpoint: Endpoint) -> None:
        """The first request has told what there is to know."""
        self._opened.add(endpoint)

    def gate(self, endpoint: Endpoint) -> asyncio.Lock:
        """Through which requests to a server go one by one until it is open."""
        return self._gates.setdefault(endpoint, asyncio.Lock())

    def rest(self) -> None:
        """A lock belongs to the loop in which it was first waited for."""
        self._gates.clear()

    def answered(self, endpoint: Endpoint, parameters: Parameters) -> None:
        """A server took a request with these parameters."""
        self._answered[endpoint] = parameters

    def refused(
        self, endpoint: Endpoint, parameters: Parameters, error: ServerError
    ) -> Adapted | None:
        """Change to what a server's error asks for; None where it does not speak of parameters."""
        found = wanted(parameters, error)
        if found is None:
            return None
        if self._forced.applied_to(found) != found:
            return Adapted("; study.toml says judge.max_tokens_key or judge.send_temperature")
        self._refused.add(parameters)
        if parameters != self.current:
            return Adapted()
        others = [one for one, used in self._answered.items() if used == parameters]
        if any(one != endpoint for one in others) or (found in self._refused and others):
            return Adapted(
                f"; {others[0].base_url} takes it, and the servers of one judge must be asked alike"
            )
        if found in self._refused:
            return Adapted("; the other way was refused too")
        self.current = found
        return Adapted()
