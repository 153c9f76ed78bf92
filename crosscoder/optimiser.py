"""Fused Adam over parameters whatever their order in memory, with a state that can be stored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam:
    """Adam on a module's parameters.

    The fused kernel copies every tensor that is not contiguous, `W_enc` among them, so it is
    given contiguous views of the same memory.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = dict(module.named_parameters())
        self._views = {name: nn.Parameter(_dense(p)) for name, p in self._parameters.items()}
        self._adam = torch.optim.Adam(list(self._views.values()), fused=True)

    def step(self, learning_rate: float) -> None:
        """Apply the parameters' gradients and drop them."""
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            self._views[name].grad = None if gradient is None else _like(gradient, parameter)
            parameter.grad = None
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Step counts and moments by name, as stored in a checkpoint; empty before a step."""
        state: dict[str, torch.Tensor] = {}
        for name, view in self._views.items():
            for key, value in self._adam.state.get(view, {}).items():
                state[f"{name}.{key}"] = value
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state` returned; KeyError where a tensor is missing."""
        for name, view in self._views.items():
            entry = {key: state[f"{name}.{key}"].to(view.device) for key in _MOMENTS}
            entry["step"] = state[f"{name}.step"].to(view.device)
            self._adam.state[view] = entry


def _memory_order(parameter: torch.Tensor) -> list[int]:
    return sorted(range(parameter.dim()), key=parameter.stride, reverse=True)


def _dense(parameter: torch.Tensor) -> torch.Tensor:
    """A contiguous view of a parameter's memory, axes in the order in which they lie there."""
    return parameter.detach().permute(_memory_order(parameter))


def _like(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    return gradient.permute(_memory_order(parameter)).contiguous()
