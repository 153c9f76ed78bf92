"""A reservoir keeps exactly the best, whatever the order in which documents come."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoder.evidence_pass import Entries, Reservoir, WindowActivations, hashed_priority

OFFERS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 30), st.sampled_from([0.5, 1.0, 1.5, 2.0])),
    max_size=60,
    unique_by=lambda row: row[:2],
)


def entries(rows: list[tuple[int, int, float]]) -> Entries:
    latent, document, priority = (np.array([row[column] for row in rows]) for column in range(3))
    document = document.astype(np.int64)
    return Entries(
        latent.astype(np.int64),
        document,
        priority.astype(np.float64),
        document * 2,
        document.astype(np.float32),
    )


@settings(max_examples=100, deadline=None)
@given(OFFERS, st.integers(1, 6), st.integers(1, 20))
def test_the_best_stay_with_their_windows(
    rows: list[tuple[int, int, float]], size: int, piece: int
) -> None:
    reservoir, windows = Reservoir(4, size), WindowActivations(4, size, 2)
    for start in range(0, len(rows), piece):
        placed = reservoir.offer(entries(rows[start : start + piece]))
        latent, document = placed.entries.latent, placed.entries.document
        windows.write(placed, np.stack([latent, document], axis=1).astype(np.float32))
    for j in range(4):
        expected = sorted((-p, d) for latent, d, p in rows if latent == j)[:size]
        kept = reservoir.of(j)
        assert kept.entries.document.tolist() == [d for _, d in expected]
        assert kept.entries.priority.tolist() == [-p for p, _ in expected]
        assert kept.entries.position.tolist() == [2 * d for _, d in expected]
        assert windows.read(j, kept.slot).tolist() == [[j, d] for _, d in expected]


def test_memory_does_not_grow_with_what_is_offered() -> None:
    reservoir = Reservoir(3, 4)
    before = reservoir.n_bytes
    for document in range(500):
        reservoir.offer(entries([(j, document, float(document % 7)) for j in range(3)]))
    assert reservoir.n_bytes == before


def test_a_reservoir_without_slots_keeps_nothing() -> None:
    assert len(Reservoir(2, 0).offer(entries([(0, 1, 1.0)])).entries) == 0


def test_hashed_priorities_are_uniform_and_belong_to_the_pair_and_the_seed() -> None:
    latent, document = (grid.ravel() for grid in np.meshgrid(np.arange(100), np.arange(100)))
    drawn = hashed_priority(3, latent, document)
    counts = np.histogram(drawn, bins=10, range=(0, 1))[0]
    assert len(np.unique(drawn)) == 10_000
    # Chi-squared with 9 degrees of freedom exceeds 27.9 once in a thousand.
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.05
    assert np.array_equal(drawn[:5], hashed_priority(3, latent[:5], document[:5]))
    assert (drawn != hashed_priority(4, latent, document)).all()
