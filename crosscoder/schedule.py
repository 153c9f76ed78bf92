"""How the learning rate and k move over a run; steps are counted from 0."""

from __future__ import annotations


def learning_rate(
    step: int, n_steps: int, peak: float, warmup_steps: int, decay_fraction: float
) -> float:
    """Linear warm-up to `peak`, then constant, then linear decay over the last fraction.

    The first step of the warm-up has rate peak / warmup_steps; the rate would reach 0 one step
    after the last.
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    decay_steps = decay_fraction * n_steps
    left = min(1.0, (n_steps - step) / decay_steps) if decay_steps > 0 else 1.0
    return peak * warm * left


def annealed_k(step: int, k: int, k_initial: int, annealing_steps: int) -> float:
    """k falls linearly from `k_initial` to `k` over the first steps.

    `annealing_steps` = 0 means k from the first step on.
    """
    if annealing_steps == 0 or step >= annealing_steps:
        return float(k)
    return k_initial + (k - k_initial) * step / annealing_steps
