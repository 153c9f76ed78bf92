"""KL divergence of next-token distributions, a chunk of tokens at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

LOGIT_BYTES = 1 << 24
"""Bound on the logits of one chunk of tokens."""
Head = Callable[[torch.Tensor], torch.Tensor]
"""Final hidden states (n, d) to logits (n, V)."""


@dataclass(frozen=True)
class Outcome:
    """Final hidden states at some tokens after a change of the activations."""

    rows: torch.Tensor
    """(m,) int64 tokens, ascending, on the device of `hidden`."""
    hidden: torch.Tensor
    """(m, d)"""


class OutputDivergence:
    """KL(p || q) in nats per token between a model's output p and what a change makes of it, q.

    Logits of one chunk of tokens are in memory at a time, never those of a whole batch.
    """

    def __init__(self, head: Head, vocabulary: int, hidden: torch.Tensor) -> None:
        """`hidden` (n, d) are the final hidden states behind p."""
        self._head = head
        self._hidden = hidden
        self._step = max(1, LOGIT_BYTES // (4 * vocabulary))

    @torch.no_grad()
    def of(self, outcomes: Sequence[Outcome]) -> list[torch.Tensor]:
        """KL (m,) float64 on the CPU of each outcome; p is computed once for all of them.

        Exactly 0 where the hidden states are those of p.
        """
        found = [torch.zeros(len(each.rows), dtype=torch.float64) for each in outcomes]
        for start in range(0, len(self._hidden), self._step):
            stop = min(start + self._step, len(self._hidden))
            bounds = torch.tensor([start, stop], device=self._hidden.device)
            spans = [torch.searchsorted(each.rows, bounds).tolist() for each in outcomes]
            if all(low == high for low, high in spans):
                continue
            p = _Distribution(self._head(self._hidden[start:stop]))
            for kl, each, (low, high) in zip(found, outcomes, spans, strict=True):
                if low < high:
                    rows = each.rows[low:high] - start
                    kl[low:high] = p.divergence(self._head(each.hidden[low:high]), rows).cpu()
        return found

    def with_gradient(self, outcome: Outcome) -> tuple[torch.Tensor, torch.Tensor]:
        """KL (m,) of an outcome, and the gradient (m, d) of its sum in the hidden states."""
        kl = torch.empty(len(outcome.rows), device=outcome.hidden.device)
        gradient = torch.empty_like(outcome.hidden)
        for start in range(0, len(outcome.rows), self._step):
            part = slice(start, start + self._step)
            with torch.no_grad():
                p = _Distribution(self._head(self._hidden[outcome.rows[part]]))
            leaf = outcome.hidden[part].detach().requires_grad_()
            with torch.enable_grad():
                divergence = p.divergence(self._head(leaf))
            (gradient[part],) = torch.autograd.grad(divergence.sum(), leaf)
            kl[part] = divergence.detach()
        return kl, gradient


class _Distribution:
    """Probabilities p of some tokens, with their logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits
        self._norm = logits.logsumexp(dim=-1)
        self._p = (logits - self._norm[:, None]).exp_()

    def divergence(self, logits: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """KL(p || q) (m,) for the logits (m, V) of q at the tokens `rows`; None = at all."""
        whole = rows is None or len(rows) == len(self._norm)
        own, norm, p = (self._logits, self._norm, self._p)
        if not whole:
            own, norm, p = own[rows], norm[rows], p[rows]
        kl: torch.Tensor = torch.linalg.vecdot(p, own - logits) + logits.logsumexp(dim=-1) - norm
        return kl
