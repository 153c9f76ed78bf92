"""Corrections of the judge's errors stay honest where reviews teach the judge."""

from __future__ import annotations

import numpy as np
import pytest
from judge_subjects import subject

from labeler.judge.base import LatentRecord
from labeler.judge.lessons import FOLDS, fold_of
from taxonomy.judge_error import SideAnswers, corrected_share

N_LATENTS, N_DRAWN, N_CHOSEN = 400, 80, 60
LATENTS = [LatentRecord(row, "main", row, subject([]).windows) for row in range(N_LATENTS)]
PARTS = np.array([fold_of(latent) for latent in LATENTS])


def test_the_parts_are_about_equally_large() -> None:
    sizes = np.bincount(PARTS, minlength=FOLDS)
    assert len(sizes) == FOLDS
    assert sizes.min() >= 0.5 * N_LATENTS / FOLDS
    assert [fold_of(latent) for latent in LATENTS[:5]] == PARTS[:5].tolist()


def covered(random: np.random.Generator, spares_own_part: bool, scale: float = 1.2) -> bool:
    """Whether the interval of a share holds the true one, the judge taught by all reviews.

    The judge is the strongest memory there is: it gives each latent the reviewed answer of its
    nearest neighbour, which is its own one where that has taught it.
    """
    places = random.normal(size=(N_LATENTS, 2))
    chance = 1 / (1 + np.exp(-scale * places[:, 0] + 1.0))
    human = random.random(N_LATENTS) < chance
    drawn = np.zeros(N_LATENTS, np.bool_)
    drawn[random.permutation(N_LATENTS)[:N_DRAWN]] = True
    # The queue offers what is doubtful: latents near the border, apart from the draw.
    doubtful = np.argsort(np.abs(chance - 0.5) + drawn)[:N_CHOSEN]
    reviewed = drawn.copy()
    reviewed[doubtful] = True
    distance = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    may_teach = np.broadcast_to(reviewed, distance.shape)
    if spares_own_part:
        may_teach = may_teach & (PARTS[:, None] != PARTS[None])
    judge = human[np.where(may_teach, distance, np.inf).argmin(axis=1)]
    everything = np.ones(N_LATENTS, np.bool_)
    answers = SideAnswers(
        judge, everything, human, everything, reviewed, drawn, np.full(N_LATENTS, 0.2)
    )
    share = corrected_share(answers, "finite_population")
    return share.low <= human.mean() <= share.high


def coverage(n: int, spares_own_part: bool) -> float:
    random = np.random.default_rng(16)
    return float(np.mean([covered(random, spares_own_part) for _ in range(n)]))


@pytest.mark.slow
def test_intervals_hold_the_share_where_no_latent_learns_from_its_own_review() -> None:
    assert 0.93 <= coverage(600, spares_own_part=True) <= 0.97


@pytest.mark.slow
def test_intervals_miss_the_share_where_latents_learn_from_their_own_reviews() -> None:
    assert coverage(150, spares_own_part=False) < 0.85
