"""The upper part of a subject model: the blocks above the hook, the final norm and the head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crosscoder.errors import InputError
from crosscoder.model_checks import reading
from crosscoder.models import ModelInfo, SubjectModel, load_subject
from crosscoder.reading import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHECKED_TOKENS = 16
"""Tokens on which the upper part is compared with the whole model."""
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest difference of the logits, as a share of their standard deviation."""


@contextmanager
def reduced_products() -> Iterator[None]:
    """Multiply float32 matrices in bfloat16 where the CPU has AMX; their sums stay float32.

    On a pair of SmolLM2-135M this moved restored and carried shares of 28 sets by at most 0.003,
    half of them by less than 0.0005, and took two thirds of the time.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    if matmul is None or not has_amx():
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


class UpperBlocks:
    """What a subject model makes of activations at the hook (the output of one decoder block).

    The blocks up to the hook are dropped from the model. Everything else is the model's own code,
    so that final norms, soft caps and scales of the logits are what the architecture has.
    """

    def __init__(self, subject: SubjectModel, layer: int, token_ids: NDArray[np.int32]) -> None:
        """Take a subject model apart; it is of no other use afterwards.

        `token_ids` (n,) are some tokens on which the parts are compared with the whole model.
        InputError where they differ: the architecture is not supported.
        """
        self.name = subject.name
        model = subject.model
        blocks = decoder_blocks(model, subject.n_layers, subject.name)
        ids = torch.from_numpy(token_ids[:CHECKED_TOKENS].astype(np.int64)).to(model.device)
        activations, logits, is_tuple = _whole_pass(model, blocks[layer], ids[None])
        self._hook = _Given(blocks[layer], is_tuple)
        for place in range(layer):
            blocks[place] = _Passed(blocks[place], is_tuple)
        blocks[layer] = self._hook
        self._trunk, self._final, self._lm = _without_trunk(model, subject.name)
        self.vocabulary = logits.shape[-1]
        """V, the number of logits."""
        self._check(ids[None], activations, logits)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self._lm.device
        return device

    def hidden(self, input_ids: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, d) behind the last norm, from activations (B, T, d) at the hook.

        `input_ids` (B, T) are padded on the right. Differentiable in `activations`.
        """
        self._hook.activations = activations.to(self._lm.dtype)
        try:
            with reading(f"model {self.name!r}", "cannot run its upper blocks"):
                output = self._trunk(input_ids=input_ids, use_cache=False)
        finally:
            self._hook.activations = None
        # The head is given an output of the trunk's own kind.
        self._final.kind = type(output)
        last: torch.Tensor = output[0]
        return last

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (n, V) float32 of hidden states (n, d) from `hidden`; differentiable."""
        self._final.hidden = hidden[None]
        try:
            # The ids are not looked at: the trunk's place is taken.
            ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
            logits: torch.Tensor = self._lm(input_ids=ids, use_cache=False).logits[0]
        finally:
            self._final.hidden = None
        return logits.float()

    @torch.no_grad()
    def _check(
        self, input_ids: torch.Tensor, activations: torch.Tensor, logits: torch.Tensor
    ) -> None:
        """InputError where the parts do not give the logits of the whole model."""
        refusal = (
            f"model {self.name!r}: the blocks above the hook cannot be run on their own in this "
            "architecture; set effect.enabled = false"
        )
        try:
            again = self.logits(self.hidden(input_ids, activations)[0])
        except (TypeError, AttributeError, IndexError, KeyError, ValueError) as error:
            raise InputError(f"{refusal} ({type(error).__name__}: {error})") from None
        tolerance = _TOLERANCE.get(self._lm.dtype, 1e-1)
        difference = float((again - logits).abs().max() / logits.std().clamp_min(1e-30))
        if not difference <= tolerance:
            raise InputError(f"{refusal} (logits differ by {difference:.2g} of their spread)")


class _Passed(nn.Module):
    """Stands for a dropped block: hands on what it is given."""

    def __init__(self, block: nn.Module, is_tuple: bool) -> None:
        super().__init__()
        self._is_tuple = is_tuple
        # Some models ask a block what kind of attention mask it takes.
        for name, value in vars(block).items():
            if isinstance(value, str | int | bool) and not name.startswith("_"):
                setattr(self, name, value)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if self._is_tuple else hidden_states


class _Given(_Passed):
    """Stands for the hooked block: hands on the activations that are given."""

    def __init__(self, block: nn.Module, is_tuple: bool) -> None:
        super().__init__(block, is_tuple)
        self.activations: torch.Tensor | None = None

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert self.activations is not None
        return super().forward(self.activations)


class _FinalHidden(nn.Module):
    """Stands for a model's trunk: hands its final hidden states to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: torch.Tensor | None = None
        self.kind: type[Any] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self.kind is not None
        return self.kind(last_hidden_state=self.hidden)


@torch.no_grad()
def _whole_pass(
    model: PreTrainedModel, block: nn.Module, input_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Output (1, T, d) of a block, logits (T, V) of the model, and whether a block gives tuples."""
    seen: list[Any] = []
    handle = block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        logits = model(input_ids=input_ids, use_cache=False).logits[0].float()
    finally:
        handle.remove()
    is_tuple = isinstance(seen[0], tuple)
    return (seen[0][0] if is_tuple else seen[0]), logits, is_tuple


def _without_trunk(
    model: PreTrainedModel, name: str
) -> tuple[nn.Module, _FinalHidden, PreTrainedModel]:
    """The trunk, what stands in its place, and the model with its head around that."""
    trunk = model.base_model
    if trunk is model:
        raise InputError(
            f"model {name!r}: {type(model).__name__} has no head apart from its blocks; "
            "set effect.enabled = false"
        )
    stand_in = _FinalHidden()
    setattr(model, model.base_model_prefix, stand_in)
    return trunk, stand_in, model


def open_upper_blocks(
    facts: ModelInfo, layer: int, device: str, token_ids: Sequence[int]
) -> UpperBlocks:
    """Load a subject model and keep what lies above the hook; `auto` takes a GPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    subject = load_subject(facts.spec, device, facts.tokenizer)
    return UpperBlocks(subject, layer, np.asarray(token_ids, dtype=np.int32))
