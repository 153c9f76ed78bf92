"""Large tensors that one training step leaves to the next."""

from __future__ import annotations

import math

import torch


class Workspace:
    """Memory by name. The system hands out new memory page by page, which costs a large part of
    the time that it takes to fill it.

    A tensor taken twice under one name shares its memory with the first: gradients made in a
    workspace must be used up before the next step makes its own.
    """

    def __init__(self) -> None:
        self._memory: dict[str, torch.Tensor] = {}

    def take(
        self,
        name: str,
        shape: tuple[int, ...],
        like: torch.Tensor,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """A tensor of arbitrary content, on the device of `like`, of its type unless given."""
        dtype = dtype or like.dtype
        size = math.prod(shape)
        memory = self._memory.get(name)
        fits = memory is not None and memory.numel() >= size
        if not fits or memory is None or (memory.dtype, memory.device) != (dtype, like.device):
            # The old memory goes before the new one is asked for.
            memory = None
            self._memory.pop(name, None)
            memory = torch.empty(size, dtype=dtype, device=like.device)
            self._memory[name] = memory
        return memory[:size].view(shape)
