"""How often two models show a behaviour on the same prompts: the paired change of each category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from taxonomy.counts import (
    ALPHA,
    BehaviourChange,
    Interval,
    Side,
    SignAgreement,
    verdict_of,
)
from taxonomy.errors import InputError
from taxonomy.intervals import benjamini_hochberg, wilson_interval

FloatArray = NDArray[np.float64]

DRAWS = 4_000
"""Bootstrap draws of prompts."""
_DRAWN_AT_ONCE = 500
"""Draws at a time, which bounds the memory."""


@dataclass(frozen=True)
class PairedAnswers:
    """The answers of both models to the prompts on which a category's behaviour can show.

    `target` and `reference` are (P, S): one row per prompt, one column per sample; 1 = the answer
    shows the behaviour, 0 = it does not, NaN = not classified. InputError where the shapes differ.
    """

    category: str
    target: FloatArray
    reference: FloatArray

    def __post_init__(self) -> None:
        if self.target.shape != self.reference.shape or self.target.ndim != 2:
            raise InputError(
                f"{self.category}: answers of shape {self.target.shape} and "
                f"{self.reference.shape}; both models answer the same prompts as often"
            )


def behaviour_changes(
    categories: Sequence[PairedAnswers], alpha: float = ALPHA, seed: int = 0
) -> list[BehaviourChange]:
    """The paired change of every category, in the order given; `seed` is that of the bootstrap.

    p is that of the exact randomisation of the two models within each prompt; with one sample it is
    McNemar's exact test (1947). The interval with one sample is Bonett and Price's (2012), with
    several that of a bootstrap over prompts.
    """
    found = [_change(each, alpha, seed) for each in categories]
    tested = [each.p_value for each in found if each.p_value is not None]
    q_values = iter(benjamini_hochberg(tested))
    return [
        each if each.p_value is None else _judged(each, next(q_values), alpha) for each in found
    ]


def _change(answers: PairedAnswers, alpha: float, seed: int) -> BehaviourChange:
    n_samples = answers.target.shape[1]
    both = np.hstack([answers.target, answers.reference])
    whole = np.asarray(np.isfinite(both).all(axis=1))
    n_prompts = int(whole.sum())
    empty = BehaviourChange(answers.category, n_prompts, len(whole) - n_prompts, n_samples)
    if n_prompts == 0 or n_samples == 0:
        return empty
    target, reference = answers.target[whole], answers.reference[whole]
    steps = np.rint(target.sum(axis=1) - reference.sum(axis=1)).astype(np.int64)
    interval = paired_interval(steps, n_samples, alpha, seed)
    return BehaviourChange(
        answers.category,
        n_prompts,
        empty.n_left_out,
        n_samples,
        n_more=int((steps > 0).sum()),
        n_less=int((steps < 0).sum()),
        target_share=float(target.mean()),
        reference_share=float(reference.mean()),
        difference_points=100 * float(steps.mean()) / n_samples,
        difference_low=100 * interval.low,
        difference_high=100 * interval.high,
        p_value=sign_flip_p(steps),
    )


def _judged(change: BehaviourChange, q_value: float, alpha: float) -> BehaviourChange:
    """The change with its q and its verdict."""
    least_p = 2.0 ** (1 - change.n_prompts)
    verdict = verdict_of(change.sign > 0, q_value, least_p, alpha)
    return BehaviourChange(**{**vars(change), "q_value": q_value, "verdict": verdict})


def sign_flip_p(steps: NDArray[np.int64]) -> float:
    """Exact two-sided p of the sum of `steps` (P,) when each has either sign with chance 1/2.

    The distribution of the sum is the product of the prompts' own, convolved one by one. With steps
    of -1, 0 and 1 this is McNemar's exact test: the binomial of the prompts that differ.
    """
    sizes = np.abs(steps[steps != 0])
    chances = np.ones(1)
    for size in sizes:
        longer = np.zeros(len(chances) + 2 * size)
        longer[: len(chances)] += chances / 2
        longer[2 * size :] += chances / 2
        chances = longer
    sums = np.arange(len(chances)) - int(sizes.sum())
    return min(1.0, float(chances[np.abs(sums) >= abs(int(steps.sum()))].sum()))


def paired_interval(
    steps: NDArray[np.int64], n_samples: int, alpha: float = ALPHA, seed: int = 0
) -> Interval:
    """Interval of the mean of `steps` (P,) / n_samples, in shares.

    Two made-up prompts are added, one on which every answer changes each way, as Bonett and Price
    (2012) do: without them an interval where no prompt differs would have no width. With one sample
    it is their adjusted Wald interval, else the percentile interval of a bootstrap over prompts.
    """
    values = np.append(steps / n_samples, [1.0, -1.0])
    if n_samples == 1:
        half = float(norm.isf(alpha / 2) * np.sqrt(values.var() / len(values)))
        low, high = float(values.mean()) - half, float(values.mean()) + half
    else:
        ends = np.quantile(_resampled_means(values, seed), [alpha / 2, 1 - alpha / 2])
        low, high = float(ends[0]), float(ends[1])
    return Interval(max(-1.0, low), min(1.0, high))


def _resampled_means(values: FloatArray, seed: int) -> FloatArray:
    """(DRAWS,) means of values drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(values)
    even = np.full(n, 1 / n)
    means = [
        rng.multinomial(n, even, size=_DRAWN_AT_ONCE) @ values / n
        for _ in range(DRAWS // _DRAWN_AT_ONCE)
    ]
    return np.concatenate(means)


def sign_agreement(signs: Sequence[tuple[int, int]], alpha: float = ALPHA) -> SignAgreement:
    """Agreement of pairs of signs, those of latents and of answers; a pair with a 0 is left out."""
    both = [(first, second) for first, second in signs if first and second]
    n_agree = sum(first == second for first, second in both)
    return SignAgreement(n_agree, len(both), wilson_interval(Side(n_agree, len(both)), alpha))
