"""The table of study.toml on the models' own answers to held-out prompts."""

from __future__ import annotations

from pydantic import Field, model_validator

from crosscoder.config import GenerationSettings
from labeler.study.config import Section
from labeler.study.judge_config import BaseUrl


class BehaviourSection(Section, GenerationSettings):
    """`[behaviour]`: held-out prompts that the models of each comparison answer.

    Without `prompts` there is no stage `behaviour`.
    """

    prompts: str | None = None
    """JSONL file with `{"id", "prompt" or "messages", "category", "check"}` per line; without it,
    the stage is left out."""
    base_url: BaseUrl | None = None
    """OpenAI-compatible server that serves the models, e.g. http://127.0.0.1:8000/v1; without it,
    they answer on this machine."""
    server_models: dict[str, str] = Field(default_factory=dict)
    """Name at the server of each model, by its name in the comparison; without an entry, the same
    name."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key; the key itself is never stored."""
    concurrency: int = Field(16, ge=1)
    """Requests in flight at the server."""
    timeout_s: float = Field(300.0, gt=0)
    """Seconds before a request is given up."""
    max_attempts: int = Field(5, ge=1)
    """Most attempts per request at the server."""

    @model_validator(mode="after")
    def _server_keys_need_a_server(self) -> BehaviourSection:
        if self.base_url is None and self.server_models:
            raise ValueError("server_models: there is no base_url; add it or remove this key")
        return self

    def generation(self) -> GenerationSettings:
        """The keys that decide the answers, without those of the server."""
        return GenerationSettings(**self.model_dump(include=set(GenerationSettings.model_fields)))
