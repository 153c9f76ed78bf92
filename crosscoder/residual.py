"""Reading a model's residual stream after one decoder block, and no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crosscoder.errors import InputError
from crosscoder.pretrained import reading
from crosscoder.shards import STORAGE_DTYPES
from crosscoder.subjects import SubjectModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _BlockReached(Exception):  # noqa: N818 - it ends a forward pass and is no error
    """Carries the hidden states out of a forward pass that need not go on."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass(frozen=True)
class Batch:
    """Some documents side by side, padded on the right."""

    input_ids: torch.Tensor
    """(B, T) int64."""
    attention_mask: torch.Tensor
    """(B, T) int64, 1 where there is a token."""


def pad(token_ids: Sequence[NDArray[np.int32]]) -> Batch:
    """Lay documents side by side; the padding's id is 0 and is never attended to."""
    longest = max(map(len, token_ids))
    input_ids = torch.zeros(len(token_ids), longest, dtype=torch.int64)
    attention_mask = torch.zeros(len(token_ids), longest, dtype=torch.int64)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = torch.from_numpy(ids)
        attention_mask[row, : len(ids)] = 1
    return Batch(input_ids, attention_mask)


class ResidualReader:
    """Reads the output of one decoder block of a subject model.

    The blocks above it are dropped from the model, which is of no other use afterwards.
    """

    def __init__(self, subject: SubjectModel, layer: int) -> None:
        blocks = decoder_blocks(subject.model, subject.n_layers, subject.name)
        self._name = subject.name
        self._model = subject.model
        self._block = blocks[layer]
        # The forward pass never comes to them: their memory is better spent on batches.
        del blocks[layer + 1 :]

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        device: torch.device = self._model.device
        return device

    def require_reach(self, highest_id: int, longest: int) -> None:
        """InputError where the model has no such token or no such position."""
        rows = self._model.get_input_embeddings().num_embeddings
        if highest_id >= rows:
            raise InputError(
                f"model {self._name!r}: its tokenizer has the token {highest_id}, the model only "
                f"{rows}; give the tokenizer that belongs to it"
            )
        positions = getattr(self._model.config, "max_position_embeddings", None)
        if positions is not None and longest > positions:
            raise InputError(
                f"corpus.max_length: a document has {longest} tokens and model {self._name!r} "
                f"reads {positions}; set corpus.max_length to at most {positions}"
            )

    @torch.inference_mode()
    def read(self, batch: Batch) -> torch.Tensor:
        """Hidden states (n, d) after the block at the batch's n real tokens, document by document.

        InputError where they are not finite: the weights' type is too narrow for the model; or
        where its config lets no text through. WorkError where a batch does not fit into memory.
        """
        device = self._model.device
        attention_mask = batch.attention_mask.to(device)
        with reading(f"model {self._name!r}", "cannot read the text"):
            hidden = self.forward(batch.input_ids.to(device))[attention_mask.bool()]
        if not bool(hidden.isfinite().all()):
            raise InputError(
                f"model {self._name!r}: its activations overflow in {hidden.dtype}; "
                "set its dtype to bfloat16 or float32"
            )
        return hidden

    def stored(self, hidden: torch.Tensor, storage_dtype: str) -> torch.Tensor:
        """Hidden states in the storage dtype; InputError where they do not fit into it."""
        narrowed = hidden.to(STORAGE_DTYPES[storage_dtype])
        if not bool(narrowed.isfinite().all()):
            raise InputError(
                f"harvest.storage_dtype: activations of model {self._name!r} do not fit into "
                f"{storage_dtype}; use bfloat16 or float32"
            )
        return narrowed.cpu()

    @torch.inference_mode()
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, d) after the block, padding included, from (B, T) on the device.

        Without an attention mask: the padding lies to the right, where no real token of a causal
        model looks, and attention without a mask takes the faster kernels.
        """
        handle = self._block.register_forward_hook(_stop)
        try:
            self._model(input_ids=input_ids, use_cache=False)
        except _BlockReached as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise RuntimeError("the forward pass ended before it came to the block")


def decoder_blocks(model: PreTrainedModel, n_layers: int, name: str) -> nn.ModuleList:
    """The decoder blocks of any transformers model: its module list of that length.

    InputError where there is none, or more than one such list of blocks that attend.
    """
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if len(lists) > 1:
        lists = [blocks for blocks in lists if _attends(blocks[0])]
    if len(lists) != 1:
        raise InputError(
            f"model {name!r}: found {len(lists)} lists of {n_layers} decoder blocks in "
            f"{type(model).__name__}; this architecture is not supported"
        )
    return lists[0]


def _attends(block: nn.Module) -> bool:
    """Whether a block has a part whose name speaks of attention."""
    return any("attn" in name or "attention" in name for name, _ in block.named_modules())


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _BlockReached(output[0] if isinstance(output, tuple) else output)
