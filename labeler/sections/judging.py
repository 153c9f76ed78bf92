"""The tables of the judge and the sentence vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from labeler.sections.base import Section
from labeler.sections.judge_server import BaseUrl, JudgeEndpointSection, JudgeServerSection

Marker = Annotated[str, Field(min_length=1)]


class JudgeSection(Section):
    """`[judge]`: who explains and categorises."""

    kind: Literal["evidence", "openai", "scripted"] = "evidence"
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
