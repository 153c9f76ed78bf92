"""Documents that answer one prompt are one unit of the split, the blocks and the draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crosscoder.activations import ActivationStore
from crosscoder.corpus import Document, Message, document_units
from crosscoder.errors import InputError
from crosscoder.harvest import HarvestConfig, harvest
from crosscoder.memory_store import memory_store, noisy_copy_store
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.model_files import SubjectSpec
from crosscoder.scaling import LatentScaling, latent_scaling
from crosscoder.sources import draw_held_out
from crosscoder.stream import open_stream

NAMES = ("base", "tuned")
N_DOCUMENTS, LENGTH = 120, 5
PAIRS = tuple(np.repeat(np.arange(N_DOCUMENTS // 2), 2).tolist())


def store_of(units: tuple[int, ...] | None, length: int = LENGTH) -> ActivationStore:
    """Documents of equal length; `units` groups them."""
    n = N_DOCUMENTS * LENGTH
    x = torch.randn(n, 2, 6, generator=torch.Generator().manual_seed(0))
    store = memory_store(x, torch.arange(n) // length, NAMES)
    return replace(store, documents=store.documents.model_copy(update={"units": units}))


def scaled(store: ActivationStore) -> LatentScaling:
    config = CrosscoderConfig(n_models=2, d_model=6, n_latents=12, k=3, model_names=NAMES)
    crosscoder = Crosscoder(config, torch.Generator().manual_seed(1))
    crosscoder.theta.fill_(0.5)
    return latent_scaling(crosscoder, store)


def answers(prompt: str) -> list[Document]:
    messages = (Message("user", f"{prompt} What is the answer to everything?"),)
    return [
        Document(
            f"{prompt}/{name}", (*messages, Message("assistant", f"{name} says 42")), prompt=prompt
        )
        for name in NAMES
    ]


def test_neighbours_that_answer_one_prompt_are_one_unit() -> None:
    plain = [Document(name, text=name) for name in "xy"]
    documents = [plain[0], *answers("p"), *answers("q"), plain[1], *answers("p")]
    assert document_units(documents) == (0, 1, 1, 2, 2, 3, 4, 4)
    assert document_units(plain) == (0, 1)
    assert document_units([]) == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_unit_is_held_out_whole(seed: int) -> None:
    rows = [4] * N_DOCUMENTS
    rows[10] = rows[20] = rows[21] = 0
    chosen = draw_held_out(rows, PAIRS, 0.25, seed).tolist()
    assert not any(chosen[i] for i in (10, 20, 21))
    pairs = [chosen[i : i + 2] for i in range(0, N_DOCUMENTS, 2) if i not in (10, 20)]
    assert all(first == second for first, second in pairs)
    assert sum(first for first, _ in pairs) + chosen[11] == round(0.25 * 59)


def test_one_unit_cannot_be_split() -> None:
    with pytest.raises(InputError, match="fewer than two documents"):
        draw_held_out([3, 3], [0, 0], 0.5, 0)


def test_scaling_takes_the_documents_of_a_unit_as_one() -> None:
    paired, merged = scaled(store_of(PAIRS)), scaled(store_of(None, 2 * LENGTH))
    assert paired.documents.n_groups == N_DOCUMENTS // 2
    for name in ("group", "latent", "square", "residual", "reconstruction"):
        np.testing.assert_array_equal(
            getattr(paired.documents, name), getattr(merged.documents, name)
        )
    np.testing.assert_array_equal(paired.n_documents, merged.n_documents)
    ours, theirs = paired.pair(*NAMES), merged.pair(*NAMES)
    for name in ("nu_error", "nu_error_high", "strength_shift", "shift_left_out"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    apart = scaled(store_of(None))
    assert (apart.n_documents > paired.n_documents).any()
    assert not np.array_equal(apart.pair(*NAMES).shift_left_out, ours.shift_left_out)


def test_a_noisy_copy_keeps_the_units() -> None:
    copy = noisy_copy_store(store_of(PAIRS), "base", 0.1, 0, ("one", "other"))
    assert copy.documents.n_tokens == (2 * LENGTH,) * (N_DOCUMENTS // 2)


@pytest.mark.slow
def test_a_harvest_and_a_stream_know_the_units_of_the_corpus(
    subject_folder: Path, tmp_path: Path
) -> None:
    specs = [SubjectSpec(name, str(subject_folder / name)) for name in NAMES]
    documents = [*answers("p"), Document("x", text="Mix flour and water."), *answers("q")]
    config = HarvestConfig(layer=1, skip_first=2, device="cpu")
    harvest(specs, documents, config, tmp_path / "store")
    stream = open_stream(specs, documents, config, tmp_path / "stream")
    store = ActivationStore.open(tmp_path / "store")
    assert store.document_units == stream.document_units == (0, 0, 1, 2, 2)
