"""The tables that say where judges listen and how the study's own server is started."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from labeler.sections.base import Section


def without_secrets(url: str) -> str:
    """The URL; ValueError where it is none, or holds a password or a query that may be a key."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no http(s) URL; write http://HOST:PORT/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "holds a user or a password, which would be stored with the study; take it out and "
            "name the environment variable that holds the key in api_key_env"
        )
    if parts.query or parts.fragment:
        raise ValueError("ends in a query, which may hold a key; write it without")
    return url


BaseUrl = Annotated[str, AfterValidator(without_secrets)]


def without_key(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments; ValueError for a key among them, which would be stored with the study."""
    for argument in arguments:
        if argument.split("=")[0] == "--api-key":
            raise ValueError("holds --api-key; name its environment variable in judge.api_key_env")
    return arguments


class JudgeEndpointSection(Section):
    """`[[judge.endpoints]]`: several servers of one model that share a batch."""

    base_url: BaseUrl
    """The server's URL."""
    model: str | None = None
    """The model's name at this server, where it differs from judge.model."""
    api_key_env: str | None = None
    """Environment variable that holds this server's key; empty: that of [judge]."""
    concurrency: int | None = Field(None, ge=1)
    """Requests in flight at this server; empty: that of [judge]."""


class JudgeServerSection(Section):
    """`[judge.server]`: how `difflens judge serve` starts vLLM."""

    model_path: str | None = None
    """Folder, GGUF file or Hub name of the model; empty: judge.model."""
    python: str | None = None
    """Interpreter that has vLLM; empty: this one, else `.venv-vllm` beside the study or here."""
    device: Literal["cpu", "gpu"] | None = None
    """`cpu` or `gpu`; empty: `gpu` where nvidia-smi or rocm-smi is found."""
    dtype: str | None = None
    """Type of the weights; empty: float32 on a CPU, where 16 bits are far slower, else auto."""
    max_model_len: int | None = Field(None, ge=64)
    """Longest prompt and answer together, in tokens; empty: the model's own."""
    max_num_seqs: int | None = Field(None, ge=1)
    """Requests in one batch; empty: judge.concurrency."""
    enforce_eager: bool | None = None
    """Start without compiling: much faster to start, slower to answer; empty: on a CPU only."""
    kv_cache_gib: int = Field(2, ge=1)
    """CPU: memory for the key-value cache."""
    threads: str | None = None
    """CPU: cores to bind to, e.g. 0-7; empty: as vLLM chooses."""
    start_timeout_s: float = Field(1200.0, gt=0)
    """Seconds until the server must be healthy."""
    args: Annotated[tuple[str, ...], AfterValidator(without_key)] = ()
    """More arguments for vLLM, as they would stand on its command line."""
