"""The tables of study.toml on judges: which judge, its servers, and how a server is started."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from labeler.study.config import JudgeKindName, Section


def without_secrets(url: str) -> str:
    """The URL; ValueError for an invalid one, and for one with a password or a query."""
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
    """`[[judge.endpoints]]`: one of several servers of the same model that share the requests."""

    base_url: BaseUrl
    """The server's URL."""
    model: str | None = None
    """The model's name at this server, where it differs from judge.model."""
    api_key_env: str | None = None
    """Environment variable that holds this server's key; without it, that of [judge]."""
    concurrency: int | None = Field(None, ge=1)
    """Requests in flight at this server; without it, that of [judge]."""


class JudgeServerSection(Section):
    """`[judge.server]`: how `difflens judge serve` starts vLLM."""

    model_path: str | None = None
    """Folder, GGUF file or Hub name of the model; without it, judge.model."""
    python: str | None = None
    """Python interpreter that has vLLM; without it, the current one, else `.venv-vllm` next to the
    study or in the working directory."""
    device: Literal["cpu", "gpu"] | None = None
    """`cpu` or `gpu`; without it, `gpu` where nvidia-smi or rocm-smi is found."""
    dtype: str | None = None
    """Type of the weights; without it, float32 on a CPU, where 16 bits are far slower, else
    auto."""
    max_model_len: int | None = Field(None, ge=64)
    """Largest number of tokens in prompt and answer together; without it, the model's own limit."""
    max_num_seqs: int | None = Field(None, ge=1)
    """Requests in one batch; without it, judge.concurrency."""
    enforce_eager: bool | None = None
    """Skip compilation: the server starts much faster and answers more slowly; without it, on a CPU
    only."""
    kv_cache_gib: int = Field(2, ge=1)
    """CPU: memory for the key-value cache, in GiB."""
    threads: str | None = None
    """CPU: cores to bind to, e.g. 0-7; without it, as vLLM chooses."""
    start_timeout_s: float = Field(1200.0, gt=0)
    """Seconds within which the server must be healthy."""
    args: Annotated[tuple[str, ...], AfterValidator(without_key)] = ()
    """Additional command-line arguments for vLLM."""


TOKENS_OF_TWO_TEXTS = 120
"""Tokens of an answer with two texts of up to 40 words in JSON."""
Marker = Annotated[str, Field(min_length=1)]


class JudgeSection(Section):
    """`[judge]`: the judge that explains and categorises the latents."""

    kind: JudgeKindName = "evidence"
    """`evidence` is built in and needs no server, `openai` is any OpenAI-compatible server,
    `scripted` reads answers from a file."""
    base_url: BaseUrl | None = None
    """`openai`: the server's URL, e.g. http://127.0.0.1:8000/v1."""
    endpoints: tuple[JudgeEndpointSection, ...] = ()
    """`openai`: several servers of the same model that share the requests, instead of base_url."""
    model: str | None = None
    """`openai`: the model's name at the server."""
    api_key_env: str | None = None
    """`openai`: environment variable that holds the key; the key itself is never stored."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(512, ge=16)
    """Largest number of tokens in an answer."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds before a request is given up."""
    concurrency: int = Field(16, ge=1)
    """Requests in flight."""
    max_attempts: int = Field(5, ge=1)
    """Most attempts per request; transport errors and overload count, a wait that the server asks
    for does not."""
    restart_wait_s: float = Field(180.0, ge=0)
    """Seconds to wait for a server that stops answering during a batch."""
    longest_wait_s: float = Field(3600.0, ge=0)
    """Longest wait that a server may ask for (Retry-After), in seconds, consecutive waits added up;
    beyond it the batch ends."""
    price_prompt_per_million: float | None = Field(None, ge=0)
    """Price per million prompt tokens, in any currency; used by `--plan` and `--max-cost`."""
    price_completion_per_million: float | None = Field(None, ge=0)
    """Price per million completion tokens, in the same currency."""
    server: JudgeServerSection = JudgeServerSection()
    """How `difflens judge serve` starts the judge's own server."""
    categorize_repeats: int = Field(1, ge=1, le=20)
    """Times that each latent is categorised, each with the categories in another order. From the
    second time on the answers only measure the confidence of the first."""
    shortlist: int = Field(8, ge=0)
    """Categories that a judge is shown with their definitions, the nearest by `[embedding]`; it is
    told the others' names and may ask to see all. 0 = all at once, as without a sentence model."""
    explain_tokens: int = Field(2500, ge=400)
    """Most tokens of a prompt that asks for an explanation, as estimated; fewer texts are shown
    where they do not fit."""
    categorize_tokens: int = Field(1500, ge=400)
    """Most tokens of a prompt that asks for categories."""
    learn: bool = False
    """Whether reviews teach the judge: after each review `run` categorises again. The evidence
    judge fits its head on the reviewed latents too; a judge that reads prompts is shown up to three
    similar ones, which costs its calls anew. No latent learns from its own review."""
    random_latents: int = Field(0, ge=0)
    """Latents outside the sides, drawn at random, that a judge which costs something labels too:
    base rates of its categories. collect.latents says which have evidence; the evidence judge
    labels them all."""
    revise: int = Field(0, ge=0, le=5)
    """Times that an explanation may be revised by experiment: the judge writes texts that should
    and texts that should not activate the latent, the models and the crosscoder read them, and the
    judge sees what came of it. An explanation that fails to the end is marked refuted. 0 = no
    experiment; only latents of the sides, only [judge]."""
    revise_texts: int = Field(6, ge=2, le=20)
    """Texts of each kind in an experiment; each needs 120 of the tokens of `max_tokens`."""
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] | None = None
    """`openai`: request key for the largest number of answer tokens; without it, the one that the
    server accepts in the first request."""
    send_temperature: bool | None = None
    """`openai`: whether the temperature is sent; without it, as the server accepts in the first
    request."""
    thinking_markers: tuple[tuple[Marker, Marker], ...] = ()
    """`openai`: additional pairs of markers that begin and end the model's thinking."""
    script: str | None = None
    """`scripted`: JSONL file with the answers."""

    @model_validator(mode="after")
    def _texts_fit_into_an_answer(self) -> JudgeSection:
        needed = TOKENS_OF_TWO_TEXTS * self.revise_texts
        if self.revise and self.max_tokens < needed:
            raise ValueError(
                f"revise_texts: {self.revise_texts} texts of each kind need answers of about "
                f"{needed} tokens; raise max_tokens from {self.max_tokens}, or ask for fewer texts"
            )
        return self


class FurtherJudgeSection(JudgeSection):
    """`[[judges]]`: an additional judge that also labels every latent; it has the keys of [judge].

    Its labels measure agreement and order the review queue; the labels of [judge] are the active
    ones.
    """


class EmbeddingSection(Section):
    """`[embedding]`: the sentence embeddings for clustering and for the evidence judge."""

    kind: Literal["minilm", "tfidf", "openai"] = "minilm"
    """`minilm` is a local sentence model, `tfidf` needs no model, `openai` is a server."""
    path: str | None = None
    """`minilm`: folder of the model; without it, the installed or fetched one."""
    base_url: BaseUrl | None = None
    """`openai`: the server's URL."""
    model: str | None = None
    """`openai`: the model's name at the server."""
    api_key_env: str | None = None
    """`openai`: environment variable that holds the key."""
