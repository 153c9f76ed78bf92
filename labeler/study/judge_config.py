"""The tables of study.toml on judges: who judges, where it listens, how its server is started."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from labeler.study.config import Section
from labeler.study.judge_kinds import JudgeKindName


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


Marker = Annotated[str, Field(min_length=1)]


class JudgeSection(Section):
    """`[judge]`: who explains and categorises."""

    kind: JudgeKindName = "evidence"
    """`evidence` is embedded, `openai` any OpenAI-compatible server, `scripted` reads answers."""
    base_url: BaseUrl | None = None
    """`openai`: the server's URL, e.g. http://127.0.0.1:8000/v1."""
    endpoints: tuple[JudgeEndpointSection, ...] = ()
    """`openai`: instead of base_url, several servers of the same model that share the work."""
    model: str | None = None
    """`openai`: the model's name at the server."""
    api_key_env: str | None = None
    """`openai`: environment variable that holds the key; the key itself is never stored."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(512, ge=16)
    """Longest answer."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds for one request."""
    concurrency: int = Field(16, ge=1)
    """Requests in flight."""
    max_attempts: int = Field(5, ge=1)
    """Tries of one request, transport errors and overload included."""
    restart_wait_s: float = Field(180.0, ge=0)
    """Seconds to wait for a server that answered before and went away in mid-batch."""
    longest_wait_s: float = Field(3600.0, ge=0)
    """Seconds that a server may ask to wait (Retry-After), waits in a row together; beyond that
    the batch ends."""
    price_prompt_per_million: float | None = Field(None, ge=0)
    """Price of a million prompt tokens, in any currency; for `label --plan` and --max-cost."""
    price_completion_per_million: float | None = Field(None, ge=0)
    """Price of a million answered tokens, in the same currency."""
    server: JudgeServerSection = JudgeServerSection()
    """How `difflens judge serve` starts the judge's own server."""
    categorize_repeats: int = Field(1, ge=1, le=20)
    """Times each latent is categorised; from the second on the categories are shuffled, and the
    answers only measure how sure the first one is."""
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] | None = None
    """`openai`: key under which the longest answer is sent; empty: as the server's answer to the
    first request says."""
    send_temperature: bool | None = None
    """`openai`: whether the temperature is sent; empty: as the server's answer to the first request
    says."""
    thinking_markers: tuple[tuple[Marker, Marker], ...] = ()
    """`openai`: how the model's thinking begins and ends, in pairs, besides the known ones."""
    script: str | None = None
    """`scripted`: JSONL file of answers."""


class FurtherJudgeSection(JudgeSection):
    """`[[judges]]`: a further judge that labels every latent too, with the keys of [judge].

    Its labels measure agreement and feed the review queue; those of [judge] are in force.
    """


class EmbeddingSection(Section):
    """`[embedding]`: the sentence vectors used for clustering, and by the evidence judge."""

    kind: Literal["minilm", "tfidf", "openai"] = "minilm"
    """`minilm` reads a local sentence model, `tfidf` needs none, `openai` asks a server."""
    path: str | None = None
    """`minilm`: folder of the model."""
    base_url: BaseUrl | None = None
    """`openai`: the server's URL."""
    model: str | None = None
    """`openai`: the model's name at the server."""
    api_key_env: str | None = None
    """`openai`: environment variable that holds the key."""
