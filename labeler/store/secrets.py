"""Masks passwords and keys in text, before it is printed or stored.

`masked` works on any text. `Secrets` knows the secret values of one call and removes them from
everything that is written to stderr.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, unquote

MASK = "***"
SHORTEST_VALUE = 4
"""Shorter values, in characters, are masked in URLs only: masking every "pw" garbles a line."""
LARGEST_STUDY = 1_000_000
_NAME = r"[\w.-]*(?:passw|passphrase|pwd|secret|token|api[_-]?key|apikey|credential)[\w.-]*"
_SECRET_NAME = re.compile(rf"(?i)^(?:{_NAME}|key|auth|sig|signature)$")
_IN_USER = re.compile(r"""(://[^\s:/@'"]*):(?!\d+(?:[/?\#\s]|$))[^\s'"]*@""")
"""User and password before a host; a port before a slash is not a password."""
_IN_QUERY = re.compile(rf"""(?i)([?&;](?:{_NAME}|key|auth|sig|signature)=)[^&\s'"\#]*""")
_IN_WORDS = re.compile(
    r"""(?i)\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+?(?=;?(?:[\s&]|$)))"""
)
"""As libpq writes a connection string."""
_SECRET_VARIABLE = re.compile(r"(?i)(?:^|_|PG)(?:KEY|TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET)$")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_KEY_VARIABLE = re.compile(r"""_env\s*=\s*["']([^"']+)["']""")
_URL_PASSWORD = re.compile(r"""://[^\s:/@'"]*:([^\s'"]*)@""")
_QUERY_PASSWORD = re.compile(rf"""(?i)[?&;](?:{_NAME})=([^&\s'"\#]*)""")


def is_secret_name(name: str) -> bool:
    """Whether an option or variable of this name holds a secret."""
    return bool(_SECRET_NAME.match(name))


def masked(text: str) -> str:
    """The text without the passwords and keys of the URLs and connection strings in it."""
    text = _IN_USER.sub(rf"\1:{MASK}@", text)
    text = _IN_QUERY.sub(rf"\1{MASK}", text)
    return _IN_WORDS.sub(rf"\1{MASK}", text)


def masked_values(value: Any) -> Any:
    """JSON data with every text in it masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: masked_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [masked_values(each) for each in value]
    return value


@dataclass(frozen=True, repr=False)
class Secrets:
    """The secret values of one run of the program."""

    values: tuple[str, ...]
    """Longest first, so that no part of a longer value remains."""

    @classmethod
    def of_call(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> Secrets:
        """Those in the arguments, in the study files that they name, and in the environment under
        a name that either gives for a key or that ends in KEY, TOKEN, PASSWORD or SECRET.
        """
        named = {name for name in environment if _SECRET_VARIABLE.search(name)}
        found = set(_after(arguments, "--token"))
        for text in (*arguments, *_studies(arguments)):
            named.update(_KEY_VARIABLE.findall(text))
            written = _in_urls(text)
            found.update(_expanded(value, environment) for value in written)
            named.update(name for value in written for name in _VARIABLE.findall(value))
            found.update(_in_urls(_expanded(text, environment)))
        return cls.of(found | {environment.get(name, "") for name in named})

    @classmethod
    def of(cls, values: Iterable[str]) -> Secrets:
        """These values, also in their URL-encoded form."""
        known = {value.strip() for value in values}
        known |= {form(value) for value in known for form in (unquote, _quoted)}
        kept = {value for value in known if len(value) >= SHORTEST_VALUE and value != MASK}
        return cls(tuple(sorted(kept, key=lambda value: (-len(value), value))))

    def masked(self, text: str) -> str:
        """The text without the values; a match inside a longer word is kept."""
        text = masked(text)
        for value in self.values:
            if value in text:
                text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", MASK, text)
        return text


class MaskedStream:
    """A text stream that masks secrets and otherwise behaves like the wrapped stream."""

    def __init__(self, stream: TextIO, secrets: Secrets) -> None:
        self._stream = stream
        self._secrets = secrets

    def write(self, text: str) -> int:
        """Write the text without the secrets; returns its own length, as streams do."""
        self._stream.write(self._secrets.masked(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the stream."""
        return getattr(self._stream, name)


def _in_urls(text: str) -> list[str]:
    return [*_URL_PASSWORD.findall(text), *_QUERY_PASSWORD.findall(text)]


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """The text with the variables that are set."""
    return _VARIABLE.sub(lambda match: environment.get(match[1], match[0]), text)


def _quoted(value: str) -> str:
    return quote(value, safe="")


def _after(arguments: Sequence[str], option: str) -> list[str]:
    """The values of an option, written `--option value` or `--option=value`."""
    joined = [one.partition("=")[2] for one in arguments if one.startswith(f"{option}=")]
    pairs = pairwise(arguments)
    return joined + [value for name, value in pairs if name == option]


def _studies(arguments: Sequence[str]) -> list[str]:
    """The text of the study files among the arguments; unreadable files are skipped."""
    texts = []
    for argument in arguments:
        if not argument.endswith(".toml"):
            continue
        try:
            with Path(argument).open("rb") as file:
                texts.append(file.read(LARGEST_STUDY).decode("utf-8", "replace"))
        except (OSError, ValueError):
            continue
    return texts
