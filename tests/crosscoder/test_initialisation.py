from __future__ import annotations

import torch
from crosscoders import random_batch

from crosscoder.trainer import geometric_median, initial_decoder_bias


def test_geometric_median_is_not_moved_by_outliers_of_one_model() -> None:
    z = 0.1 * random_batch(101)
    z[:5, 0] += 1e6
    median = geometric_median(z)
    assert float(median.norm(dim=-1).max()) < 0.1
    assert float(z.mean(0).norm(dim=-1).max()) > 1e4


def test_geometric_median_has_unit_vectors_to_the_points_that_cancel() -> None:
    z = random_batch(60)
    away = z - geometric_median(z)
    pull = (away / away.norm(dim=-1, keepdim=True)).mean(0)
    assert float(pull.norm(dim=-1).max()) < 1e-4


def test_geometric_median_of_equal_points_is_that_point() -> None:
    z = torch.full((7, 2, 6), 0.3)
    torch.testing.assert_close(geometric_median(z), z[0])


def test_bias_starts_as_configured() -> None:
    z = random_batch()
    assert float(initial_decoder_bias(z, "zero").abs().max()) == 0
    torch.testing.assert_close(initial_decoder_bias(z, "mean"), z.mean(0))
    median = initial_decoder_bias(z, "geometric_median")
    torch.testing.assert_close(median, geometric_median(z))
