"""Activations generated from a known dictionary: the truth that isolation is measured against.

A *true latent* fires on some tokens with one strength and adds `strength * direction^m` to the
residual stream of every model m. What it is depends on its directions:

shared     the same direction in every model
own        a direction in some models, none in the others
shrunk     one direction, shorter in all models but one
decoupled  the same tokens in every model, in directions of cosine 0.8 and with a strength of its
           own in each: a crosscoder may say one concept by a latent for each model, each of
           which the other model reconstructs through its own (arXiv 2504.02922, section 3)
rotated    the same tokens and strength in every model, in directions that have nothing in common
stronger   one direction, a little longer in one model than in all others: turned up there
turned     the same tokens, strength and length, in directions of cosine 0.8

Only `own` latents are specific to a model. Any kind has frequent and rare members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from types import MappingProxyType
from typing import Literal

import torch

from crosscoder.memory_store import MemoryStore, memory_store

PlantedKind = Literal["shared", "own", "shrunk", "decoupled", "rotated", "stronger", "turned"]
PairClass = Literal[
    "shared",
    "target_only",
    "reference_only",
    "shrunk",
    "decoupled",
    "rotated",
    "strengthened",
    "weakened",
    "turned",
    "absent",
]

DECOUPLED_COSINE = 0.8
"""Cosine between the directions of a decoupled concept in any two models."""


@dataclass(frozen=True)
class PlantedCount:
    """How many latents of one kind are planted: a model (`own`, `shrunk`), or in all."""

    frequent: int
    rare: int


@dataclass(frozen=True)
class PlantedConfig:
    """What is generated; two configs that are equal give equal activations."""

    model_names: tuple[str, ...] = ("base", "tuned")
    d_model: int = 64
    shared: PlantedCount = PlantedCount(40, 8)
    own: PlantedCount = PlantedCount(8, 4)
    """A model; with three models as many again for every two models that a third lacks."""
    own_length: float = 1.0
    """Length of their directions; small in a close fine-tune."""
    shrunk: PlantedCount = PlantedCount(4, 2)
    """A model in which they have their full length."""
    decoupled: PlantedCount = PlantedCount(4, 2)
    """Concepts; each is one true latent a model."""
    rotated: PlantedCount = PlantedCount(4, 2)
    stronger: PlantedCount = PlantedCount(0, 0)
    """A model in which they are longer."""
    stronger_by: tuple[float, float] = (1.1, 1.5)
    """Range of their length there; 1 elsewhere."""
    turned: PlantedCount = PlantedCount(0, 0)
    density: float = 0.04
    """Share of tokens on which a frequent latent fires."""
    rare_density: float = 0.005
    """Share of tokens on which a rare latent fires."""
    shrunk_to: tuple[float, float] = (0.3, 0.6)
    """Range of the length of a shrunk direction; under 0.2 it would count as absent."""
    noise: float = 0.05
    """Standard deviation of the noise on each coordinate, directions having length 1."""
    shared_noise: float = 0.5
    """Share of the noise's variance that is the same in all models."""
    correlation: float = 0.3
    """Share of a latent's firing that its group has in common, token by token."""
    burstiness: float = 0.3
    """Share of a latent's firing that the tokens of one document have in common."""
    response_noise: float = 0.0
    """Standard deviation of the logarithm by which a model uses a group more or less in a document:
    both models respond to a text a little differently, and to related concepts alike."""
    group_size: int = 6
    """Latents in a group; groups mix the kinds."""
    n_documents: int = 800
    document_tokens: tuple[int, int] = (24, 72)
    """Shortest and longest document."""
    seed: int = 0
    """Seed of the dictionary and, where `text_seed` is None, of the text."""
    text_seed: int | None = None
    """Seed of the documents, firing and noise: other text of the same dictionary and models."""


@dataclass(frozen=True)
class PlantedTruth:
    """The dictionary behind generated activations; T true latents."""

    model_names: tuple[str, ...]
    kind: tuple[PlantedKind, ...]
    """(T,)"""
    rare: torch.Tensor
    """(T,) bool"""
    concept: torch.Tensor
    """(T,) int64; the latents of one decoupled concept, one a model, have the same number."""
    group: torch.Tensor
    """(T,) int64; latents of one group fire together."""
    directions: torch.Tensor
    """(T, M, d) float32 before the models' own scales and offsets; zero where a model lacks it."""
    strengths: torch.Tensor
    """(n, T) float32 strength on every token, 0 where the latent does not fire."""

    @property
    def n_latents(self) -> int:
        """T."""
        return len(self.kind)

    @property
    def mean_active(self) -> float:
        """True latents that fire on a token, on average: the k that a perfect dictionary needs."""
        return float((self.strengths > 0).sum(1).float().mean())

    def classes(self, target: str, reference: str) -> tuple[PairClass, ...]:
        """(T,) what each true latent is between two models."""
        t, r = self.model_names.index(target), self.model_names.index(reference)
        lengths = self.directions.norm(dim=-1)
        return tuple(
            self._pair_class(kind, float(row[t]), float(row[r]))
            for kind, row in zip(self.kind, lengths, strict=True)
        )

    @staticmethod
    def _pair_class(kind: PlantedKind, in_target: float, in_reference: float) -> PairClass:
        if kind == "stronger":
            if in_target == in_reference:
                return "shared"
            return "strengthened" if in_target > in_reference else "weakened"
        if kind == "own":
            if in_target == 0 and in_reference == 0:
                return "absent"
            if in_reference == 0:
                return "target_only"
            return "reference_only" if in_target == 0 else "shared"
        return kind


@dataclass(frozen=True)
class Planted:
    """Generated activations with their truth."""

    config: PlantedConfig
    store: MemoryStore
    truth: PlantedTruth
    scale: torch.Tensor
    """(M, 1) what each model's activations were multiplied with."""


@dataclass(frozen=True)
class _Blueprint:
    """One true latent before any token is drawn."""

    kind: PlantedKind
    rare: bool
    direction: torch.Tensor
    """(M, d)"""
    concept: int
    """Latents of one concept fire on the same tokens, each with strengths of its own."""


def generate_planted(
    config: PlantedConfig, turned_up: Mapping[int, float] = MappingProxyType({})
) -> Planted:
    """Draw a dictionary and the activations of all models at the same tokens.

    Every model has a scale and an offset of its own, as real ones have. Latents fire by a Gaussian
    copula: a token's score is made of a part of the document and latent, a part of the token and
    group, and a part of its own, so that firing comes in bursts within documents and latents of
    one group fire together, at exactly the wanted density. `turned_up` gives, by group, the factor
    by which the last model uses its latents more strongly.
    """
    generator = torch.Generator().manual_seed(config.seed)
    latents = _Draughtsman(config, generator).draw()
    n_models, d_model = len(config.model_names), config.d_model
    scale = torch.exp(0.5 * torch.randn(n_models, 1, generator=generator))
    offset = torch.randn(n_models, d_model, generator=generator)
    groups = _groups(config, latents[-1].concept + 1, generator)
    if config.text_seed is not None:
        generator.manual_seed(config.text_seed)
    document = _documents(config, generator)
    strengths = _strengths(config, latents, groups, document, generator)
    directions = torch.stack([latent.direction for latent in latents])
    of_latent = groups[torch.tensor([latent.concept for latent in latents])]
    for group, factor in turned_up.items():
        directions[of_latent == group, -1] *= factor
    clean = _responses(config, strengths, directions, of_latent, document, generator)
    noisy = clean + _noise(config, clean.shape, generator)
    truth = PlantedTruth(
        model_names=config.model_names,
        kind=tuple(latent.kind for latent in latents),
        rare=torch.tensor([latent.rare for latent in latents]),
        concept=torch.tensor([latent.concept for latent in latents]),
        group=of_latent,
        directions=directions,
        strengths=strengths,
    )
    store = memory_store((noisy + offset) * scale, document, config.model_names)
    return Planted(config, store, truth, scale)


class _Draughtsman:
    """Draws the true latents of a config."""

    def __init__(self, config: PlantedConfig, generator: torch.Generator) -> None:
        self._config = config
        self._generator = generator
        self._n_models = len(config.model_names)
        self._latents: list[_Blueprint] = []
        self._n_concepts = 0

    def draw(self) -> list[_Blueprint]:
        """All latents, kind after kind."""
        config = self._config
        models = range(self._n_models)
        owners = [
            set(owner) for size in range(1, self._n_models) for owner in combinations(models, size)
        ]
        for rare in (False, True):
            for _ in range(_number(config.shared, rare)):
                self._add("shared", rare, self._same())
            for owner in owners:
                for _ in range(_number(config.own, rare)):
                    length = config.own_length
                    self._add("own", rare, length * self._same() * self._present(owner))
            for model in models:
                for _ in range(_number(config.shrunk, rare)):
                    self._add("shrunk", rare, self._shrunk(model))
            for _ in range(_number(config.decoupled, rare)):
                self._add_decoupled(rare)
            for _ in range(_number(config.rotated, rare)):
                self._add("rotated", rare, self._units(self._n_models))
            for model in models:
                for _ in range(_number(config.stronger, rare)):
                    self._add("stronger", rare, self._stronger(model))
            for _ in range(_number(config.turned, rare)):
                self._add("turned", rare, self._turned())
        return self._latents

    def _add(self, kind: PlantedKind, rare: bool, direction: torch.Tensor) -> None:
        self._latents.append(_Blueprint(kind, rare, direction, self._n_concepts))
        self._n_concepts += 1

    def _add_decoupled(self, rare: bool) -> None:
        """One true latent a model, all on the same tokens."""
        rows = self._turned()
        for model in range(self._n_models):
            direction = torch.zeros_like(rows)
            direction[model] = rows[model]
            self._latents.append(_Blueprint("decoupled", rare, direction, self._n_concepts))
        self._n_concepts += 1

    def _turned(self) -> torch.Tensor:
        """A unit direction for each model, any two of cosine DECOUPLED_COSINE."""
        (common,) = self._units(1)
        aside = self._units(self._n_models)
        aside -= (aside @ common)[:, None] * common
        aside /= aside.norm(dim=-1, keepdim=True)
        # Directions of cosine c with one another have cosine sqrt(c) with what they share.
        return math.sqrt(DECOUPLED_COSINE) * common + math.sqrt(1 - DECOUPLED_COSINE) * aside

    def _units(self, n: int) -> torch.Tensor:
        drawn = torch.randn(n, self._config.d_model, generator=self._generator)
        return drawn / drawn.norm(dim=-1, keepdim=True)

    def _same(self) -> torch.Tensor:
        return self._units(1).repeat(self._n_models, 1)

    def _present(self, owner: set[int]) -> torch.Tensor:
        return torch.tensor([[float(model in owner)] for model in range(self._n_models)])

    def _stronger(self, model: int) -> torch.Tensor:
        low, high = self._config.stronger_by
        direction = self._same()
        direction[model] *= low + (high - low) * torch.rand(1, generator=self._generator)
        return direction

    def _shrunk(self, model: int) -> torch.Tensor:
        low, high = self._config.shrunk_to
        lengths = low + (high - low) * torch.rand(self._n_models, 1, generator=self._generator)
        lengths[model] = 1
        return self._same() * lengths


def _number(count: PlantedCount, rare: bool) -> int:
    return count.rare if rare else count.frequent


def _documents(config: PlantedConfig, generator: torch.Generator) -> torch.Tensor:
    """(n,) document of each token."""
    low, high = config.document_tokens
    lengths = torch.randint(low, high + 1, (config.n_documents,), generator=generator)
    return torch.arange(config.n_documents).repeat_interleave(lengths)


def _groups(config: PlantedConfig, n_concepts: int, generator: torch.Generator) -> torch.Tensor:
    """(n_concepts,) group of each concept, dealt at random."""
    group = torch.empty(n_concepts, dtype=torch.int64)
    order = torch.randperm(n_concepts, generator=generator)
    group[order] = torch.arange(n_concepts) // config.group_size
    return group


def _strengths(
    config: PlantedConfig,
    latents: list[_Blueprint],
    group: torch.Tensor,
    document: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """(n, T) lognormal strengths of mean about 1 where a latent fires, 0 elsewhere."""
    n_tokens, n_concepts = len(document), latents[-1].concept + 1
    rare = torch.zeros(n_concepts, dtype=torch.bool)
    rare[[latent.concept for latent in latents]] = torch.tensor([one.rare for one in latents])
    own_share = 1 - config.correlation - config.burstiness
    if own_share <= 0:
        raise ValueError("correlation and burstiness must leave a share to the latent alone")
    n_groups = int(group.max()) + 1
    of_group = torch.randn(n_tokens, n_groups, generator=generator)[:, group]
    of_document = torch.randn(config.n_documents, n_concepts, generator=generator)[document]
    score = math.sqrt(config.correlation) * of_group
    score += math.sqrt(config.burstiness) * of_document
    score += math.sqrt(own_share) * torch.randn(n_tokens, n_concepts, generator=generator)
    normal = NormalDist()
    levels = [normal.inv_cdf(1 - p) for p in (config.density, config.rare_density)]
    fires = score > torch.where(rare, levels[1], levels[0])
    concept = torch.tensor([latent.concept for latent in latents])
    size = torch.exp(0.3 * torch.randn(n_tokens, len(latents), generator=generator))
    return fires[:, concept] * size


def _responses(
    config: PlantedConfig,
    strengths: torch.Tensor,
    directions: torch.Tensor,
    group: torch.Tensor,
    document: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """(n, M, d) what the models make of the strengths (n, T), before noise on coordinates."""
    if config.response_noise == 0:
        return (strengths @ directions.flatten(1)).view(-1, *directions.shape[1:])
    shape = (directions.shape[1], config.n_documents, int(group.max()) + 1)
    factor = torch.exp(config.response_noise * torch.randn(shape, generator=generator))
    return torch.stack(
        [
            (strengths * factor[model][document][:, group]) @ directions[:, model]
            for model in range(directions.shape[1])
        ],
        dim=1,
    )


def _noise(config: PlantedConfig, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise (n, M, d), partly the same in all models."""
    common = torch.randn(shape[0], 1, shape[2], generator=generator)
    alone = torch.randn(shape, generator=generator)
    mixed = math.sqrt(config.shared_noise) * common + math.sqrt(1 - config.shared_noise) * alone
    return config.noise * mixed
