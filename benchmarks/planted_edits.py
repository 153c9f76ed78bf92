"""Rank-1 weight edits of tiny models: exactly these things differ, and a dictionary knows them.

A block's MLP output matrix gains u v^T: where its neuron v is active, the block writes more of u.
Two latents of the dictionary hold the difference of each edit, for either sign; the others claim
random differences of like magnitude that are not there. SmolLM2 takes edits in the same way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from crosscoder.corpus import DocumentTokens, TokenizedDocument, TokenRole
from crosscoder.effect_text import EffectText
from crosscoder.harvest import content_tokens
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.models import SubjectModel
from crosscoder.reading import decoder_blocks
from crosscoder.shards import Shard
from crosscoder.upper_blocks import UpperBlocks

VOCABULARY, WIDTH, N_LAYERS, LAYER = 97, 32, 4, 1
N_DOCUMENTS, LENGTH, MASKED = 16, 24, 3
N_DECOYS = 400
STRENGTHS = (1.2, 1.4, 1.6, 1.8)
"""Norm of u in each edit of a pair."""
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_model(architecture: str, seed: int) -> Any:
    """A random `llama`, or a `gemma2`: soft caps, norms after each part, local attention."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if architecture == "llama":
            model: Any = LlamaForCausalLM(LlamaConfig(**_COMMON))
        else:
            soft_capped = Gemma2Config(
                **_COMMON, head_dim=8, sliding_window=8, attn_implementation="eager"
            )
            model = Gemma2ForCausalLM(soft_capped)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 1.5 * WIDTH**-0.5)
    return model.eval().requires_grad_(False)


def subject(name: str, model: Any) -> SubjectModel:
    """A copy of a model, which may be taken apart."""
    model, config = copy.deepcopy(model), model.config
    return SubjectModel(name, model, None, config.num_hidden_layers, config.hidden_size)  # type: ignore[arg-type]


def planted(edit: int) -> NDArray[np.int64]:
    """The latents that hold an edit's difference, one for each sign."""
    return np.array([2 * edit, 2 * edit + 1])


def written_directions(n_edits: int, seed: int, width: int = WIDTH) -> torch.Tensor:
    """(n_edits, d) orthonormal directions that the edits write."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, n_edits, generator=generator)
    return torch.linalg.qr(drawn).Q.T.contiguous()


@torch.no_grad()
def edited(
    model: Any,
    layer: int,
    directions: torch.Tensor,
    strengths: Sequence[float],
    neurons: Sequence[int] | None = None,
) -> Any:
    """A copy of a model whose MLP of block `layer` writes a direction where a neuron is active.

    Without `neurons` the first ones.
    """
    tuned = copy.deepcopy(model)
    weight = mlp(tuned, layer).down_proj.weight
    chosen = range(len(directions)) if neurons is None else neurons
    for neuron, direction, strength in zip(chosen, directions, strengths, strict=True):
        weight[:, neuron] += strength * direction
    return tuned


def mlp(model: Any, layer: int) -> Any:
    """The MLP of a block."""
    return decoder_blocks(model, model.config.num_hidden_layers, "model")[layer].mlp


@dataclass(frozen=True)
class MemoryDocuments:
    """Documents of one length with what two models make of them, as a DocumentSource."""

    input_ids: torch.Tensor
    """(D, T) int64."""
    activations: torch.Tensor
    """(D, T, M, d)."""
    roles: torch.Tensor
    """(D, T) uint8."""
    mask: torch.Tensor
    """(D, T) bool."""
    model_names: tuple[str, ...] = ("base", "tuned")

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.activations.shape[-1]

    @property
    def document_lengths(self) -> tuple[int, ...]:
        """Tokens of each document."""
        return (self.input_ids.shape[1],) * len(self.input_ids)

    @property
    def document_ids(self) -> tuple[str, ...]:
        """Names of the documents."""
        return tuple(f"d{i}" for i in range(len(self.input_ids)))

    @property
    def document_units(self) -> tuple[int, ...]:
        """Each document is a unit."""
        return tuple(range(len(self.input_ids)))

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        return self.input_ids.numel()

    @property
    def n_unmasked(self) -> int:
        """Tokens of the mask."""
        return int(self.mask.sum())

    def shards(self) -> Iterator[Shard]:
        """All documents."""
        return self.read_documents(range(len(self.input_ids)))

    def document_tokens(self, documents: Sequence[int]) -> dict[int, DocumentTokens]:
        """Tokens of some documents."""
        return {
            i: DocumentTokens(*(x[i].numpy() for x in (self.input_ids, self.roles, self.mask)))
            for i in documents
        }

    def read_documents(self, documents: Sequence[int]) -> Iterator[Shard]:
        """Some documents, four at a time."""
        length = self.input_ids.shape[1]
        for index, start in enumerate(range(0, len(documents), 4)):
            part = list(documents[start : start + 4])
            yield Shard(
                index=index,
                activations=self.activations[part].flatten(0, 1),
                token_ids=self.input_ids[part].flatten().int(),
                roles=self.roles[part].flatten(),
                document=torch.tensor(part).repeat_interleave(length).int(),
                position=torch.arange(length).repeat(len(part)).int(),
                mask=self.mask[part].flatten(),
            )


@torch.no_grad()
def hooked(model: Any, layer: int, input_ids: torch.Tensor) -> torch.Tensor:
    """Output (D, T, d) of a block."""
    seen: list[Any] = []
    block = decoder_blocks(model, model.config.num_hidden_layers, "model")[layer]
    handle = block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(input_ids=input_ids, use_cache=False)
    handle.remove()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    return output.float()


def read_by(base: Any, tuned: Any, seed: int, n_documents: int = N_DOCUMENTS) -> MemoryDocuments:
    """Random chats of a few template tokens, a question and an answer, read by both models."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, VOCABULARY, (n_documents, LENGTH), generator=generator)
    activations = torch.stack([hooked(each, LAYER, input_ids) for each in (base, tuned)], dim=2)
    roles = torch.full((LENGTH,), int(TokenRole.ASSISTANT), dtype=torch.uint8)
    roles[:MASKED] = int(TokenRole.TEMPLATE)
    roles[MASKED:8] = int(TokenRole.USER)
    mask = torch.arange(LENGTH) >= MASKED
    shape = (n_documents, LENGTH)
    return MemoryDocuments(input_ids, activations, roles.expand(shape), mask.expand(shape))


def text_of(documents: MemoryDocuments) -> EffectText:
    """All of the documents."""
    return EffectText.draw(documents, range(len(documents.input_ids)), 1 << 20, 256, 0)


@torch.no_grad()
def dictionary(documents: MemoryDocuments, directions: torch.Tensor, seed: int) -> Crosscoder:
    """Latents of the planted differences, and decoys whose magnitudes lie around theirs."""
    generator = torch.Generator().manual_seed(seed)
    x = documents.activations[documents.mask]
    n_planted = 2 * len(directions)
    width = documents.d_model
    config = CrosscoderConfig(
        n_models=2,
        d_model=width,
        n_latents=n_planted + N_DECOYS,
        k=4,
        model_names=("base", "tuned"),
        code_norm="none",
        normalisation="none",
    )
    crosscoder = Crosscoder(config)
    signed = torch.stack([directions, -directions], dim=1).flatten(0, 1)
    crosscoder.W_enc[1, :, :n_planted] = signed.T
    crosscoder.W_enc[0, :, :n_planted] = -signed.T
    crosscoder.W_dec[:n_planted, 1] = signed
    drawn = torch.randn(3, N_DECOYS, width, generator=generator)
    readers, moved = torch.nn.functional.normalize(drawn[:2], dim=-1)
    signal = x.mean(dim=1) @ readers.T
    bias = -signal.quantile(0.8, dim=0)
    square = (signal + bias).relu().square().sum(dim=0).clamp_min(1e-9)
    squares = ((x[:, 1] - x[:, 0]) @ directions.T).square().sum(dim=0) / 2
    wanted = squares[torch.randint(len(squares), (N_DECOYS,), generator=generator)]
    wanted = wanted * (0.3 * torch.randn(N_DECOYS, generator=generator)).exp()
    crosscoder.W_enc[:, :, n_planted:] = readers.T / 2
    crosscoder.b_enc[n_planted:] = bias
    crosscoder.W_dec[n_planted:, 0] = drawn[2]
    crosscoder.W_dec[n_planted:, 1] = drawn[2] + moved * (wanted / square).sqrt()[:, None]
    crosscoder.theta.fill_(0.0)
    return crosscoder


@dataclass(frozen=True)
class EditTrial:
    """A pair with planted edits, ready to be measured."""

    crosscoder: Crosscoder
    documents: MemoryDocuments
    text: EffectText
    uppers: dict[str, UpperBlocks]
    models: dict[str, Any]


def make_trial(
    architecture: str,
    seed: int,
    layer: int = LAYER,
    strengths: Sequence[float] = STRENGTHS,
    n_documents: int = N_DOCUMENTS,
) -> EditTrial:
    """Edit block `layer`, read text with both models, make the dictionary; strengths 0: no edit."""
    base = tiny_model(architecture, seed)
    directions = written_directions(len(strengths), seed + 1)
    tuned = edited(base, layer, directions, strengths)
    documents = read_by(base, tuned, seed + 2, n_documents)
    return _trial(base, tuned, LAYER, documents, directions, seed + 3)


def _trial(
    base: Any,
    tuned: Any,
    layer: int,
    documents: MemoryDocuments,
    directions: torch.Tensor,
    seed: int,
) -> EditTrial:
    ids = documents.input_ids[0].numpy().astype(np.int32)
    models = {"base": base, "tuned": tuned}
    uppers = {name: UpperBlocks(subject(name, each), layer, ids) for name, each in models.items()}
    crosscoder = dictionary(documents, directions, seed)
    return EditTrial(crosscoder, documents, text_of(documents), uppers, models)


SMOLLM2_LAYER, SMOLLM2_DOCUMENTS, SMOLLM2_LENGTH = 22, 9, 96
ADDED_NORM = (0.10, 0.13, 0.16, 0.2)
"""Root mean square of what each edit of SmolLM2 adds, as a share of the residual stream's norm."""


def make_smollm2_trial(
    base: SubjectModel, chats: Sequence[TokenizedDocument], seed: int, with_edits: bool = True
) -> EditTrial:
    """Four edits of the demo's model, at random neurons of the hooked block that are often active.

    Both models read random `chats`, cut to one length; those that are shorter are left out.
    """
    generator = np.random.default_rng(seed)
    long = [chat for chat in chats if len(chat.token_ids) >= SMOLLM2_LENGTH]
    read = [long[i] for i in generator.permutation(len(long))[:SMOLLM2_DOCUMENTS]]
    input_ids = torch.tensor(np.stack([chat.token_ids[:SMOLLM2_LENGTH] for chat in read])).long()
    roles = torch.tensor(np.stack([chat.roles[:SMOLLM2_LENGTH] for chat in read]))
    mask = content_tokens(roles)
    mask[:, :MASKED] = False
    model, layer = base.model, SMOLLM2_LAYER
    active = neuron_rms(model, layer, input_ids, mask)
    often = active.argsort(descending=True)[: len(active) // 4].numpy()
    neurons = generator.permutation(often)[: len(ADDED_NORM)]
    plain = hooked(model, layer, input_ids)
    size = float(plain[mask].norm(dim=-1).median())
    strengths = [
        with_edits * share * size / float(active[neuron])
        for share, neuron in zip(ADDED_NORM, neurons, strict=True)
    ]
    directions = written_directions(len(ADDED_NORM), seed + 1, base.d_model)
    tuned = edited(model, layer, directions, strengths, neurons.tolist())
    activations = torch.stack([plain, hooked(tuned, layer, input_ids)], dim=2)
    documents = MemoryDocuments(input_ids, activations, roles, mask)
    return _trial(model, tuned, layer, documents, directions, seed + 2)


@torch.no_grad()
def neuron_rms(model: Any, layer: int, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Root mean square (n_neurons,) over the mask's tokens of the MLP's neurons."""
    seen: list[torch.Tensor] = []
    down = mlp(model, layer).down_proj
    handle = down.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(input_ids=input_ids, use_cache=False)
    handle.remove()
    return seen[0][mask].float().square().mean(dim=0).sqrt()
