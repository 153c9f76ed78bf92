"""An exported crosscoder is the same crosscoder to those who read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_crosscoders import N_LATENTS, NAMES, WIDTH, draw, forward, own_crosscoder
from safetensors.torch import load_file

from crosscoder.errors import InputError
from crosscoder.losses import in_own_coordinates
from crosscoder.model import Crosscoder
from crosscoder.published import export_dictionary_learning, load_published


def difference_weighted(normalisation: Any, weight: float) -> Crosscoder:
    return in_own_coordinates(own_crosscoder(normalisation), weight)


EXPORTED: dict[str, Callable[[Any], Crosscoder]] = {
    "sum_of_norms": lambda n: own_crosscoder(n),
    "concatenated": lambda n: own_crosscoder(n, code_norm="concatenated"),
    "none": lambda n: own_crosscoder(n, code_norm="none"),
    "difference weight 16": lambda n: difference_weighted(n, 16.0),
    "difference weight 0.25": lambda n: difference_weighted(n, 0.25),
    "l1": lambda n: own_crosscoder(n, activation="l1"),
}


def raw_tokens(n: int = 2000) -> torch.Tensor:
    return 3 * draw(n, 2, WIDTH, seed=11) + 5 * draw(2, WIDTH, seed=7)


def peers_forward(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """encode, get_activations and decode of dictionary_learning's classes on raw (B, 2, d).

    Written from the formulas of CrossCoder and BatchTopKCrossCoder (science-of-finetuning/
    crosscoder_learning b2363ed, dictionary_learning/dictionary.py): the code normalisation is
    read from config.json, the normaliser is off where the weights hold no mean.
    """
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    assert "activation_mean" not in tensors
    decoder = tensors["decoder.weight"]
    n = {
        "CROSSCODER": decoder.norm(dim=2).sum(0),
        "SAE": decoder.norm(dim=(0, 2)),
        "NONE": torch.ones(N_LATENTS),
    }[config["code_normalization"]]
    f = (torch.einsum("bld,ldf->blf", x, tensors["encoder.weight"]).sum(1)
         + tensors["encoder.bias"]).relu()  # fmt: skip
    if "k" in config:
        f = f * (f * n > tensors["threshold"])
    return f, f * n, torch.einsum("bf,lfd->bld", f, decoder) + tensors["decoder.bias"]


@pytest.mark.parametrize("normalisation", ["affine", "none"])
@pytest.mark.parametrize("kind", EXPORTED)
def test_readers_of_an_export_have_its_activations(
    tmp_path: Path, kind: str, normalisation: str
) -> None:
    crosscoder = EXPORTED[kind](normalisation)
    export_dictionary_learning(crosscoder, tmp_path)
    x = raw_tokens()
    with torch.no_grad():
        f, out = forward(crosscoder, x)
    v = f * crosscoder.code_norms().detach()
    theirs_encode, theirs_v, theirs_out = peers_forward(tmp_path, x)
    assert (v > 0).any()
    assert torch.equal(theirs_v > 0, v > 0)
    torch.testing.assert_close(theirs_v, v, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs_out, out, rtol=1e-5, atol=1e-5)
    # What is folded has no n_j left: the activation itself is v.
    expected = v if normalisation == "affine" else f
    torch.testing.assert_close(theirs_encode, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["affine", "none"])
@pytest.mark.parametrize("kind", EXPORTED)
def test_an_exported_crosscoder_loads_as_what_it_was(
    tmp_path: Path, kind: str, normalisation: str
) -> None:
    crosscoder = EXPORTED[kind](normalisation)
    export_dictionary_learning(crosscoder, tmp_path)
    loaded = load_published(tmp_path, NAMES)
    assert loaded.notes == ()
    config = loaded.crosscoder.config
    assert (config.normalisation, config.code_norm) == (normalisation, crosscoder.config.code_norm)
    for name, tensor in crosscoder.state_dict().items():
        torch.testing.assert_close(loaded.crosscoder.state_dict()[name], tensor, msg=name)
    x = raw_tokens()
    for ours, theirs in zip(forward(loaded.crosscoder, x), forward(crosscoder, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_export_has_the_keys_that_every_fork_takes(tmp_path: Path) -> None:
    export_dictionary_learning(own_crosscoder("none"), tmp_path)
    sizes = {"activation_dim": WIDTH, "dict_size": N_LATENTS, "num_layers": 2, "k": 3}
    settings = {**sizes, "code_normalization": "CROSSCODER", "target_rms": 1.0}
    # The older forks hand every key of config.json to the class, which takes no dict_class.
    assert json.loads((tmp_path / "config.json").read_text()) == settings
    trainer = json.loads((tmp_path / "trainer_config.json").read_text())["trainer"]
    assert trainer["dict_class"] == "BatchTopKCrossCoder"
    # One fork has a scalar here, the others one a model: it stays at the class's default.
    assert "activation_global_scale" not in load_file(tmp_path / "model.safetensors")
    export_dictionary_learning(own_crosscoder("none"), tmp_path, name_class=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == settings | {"dict_class": "BatchTopKCrossCoder"}


def test_what_undoes_a_folding_goes_with_its_weights_alone(tmp_path: Path) -> None:
    export_dictionary_learning(own_crosscoder("affine"), tmp_path / "a")
    export_dictionary_learning(own_crosscoder("affine", code_norm="none"), tmp_path / "b")
    name = "difflens_unfolding.safetensors"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    other = load_published(tmp_path / "a", NAMES)
    assert other.notes == (f"{name} belongs to other weights than model.safetensors: not used",)
    assert (other.crosscoder.config.normalisation, other.crosscoder.config.code_norm) == (
        "none",
        "none",
    )
    (tmp_path / "a" / name).write_bytes(b"something")
    with pytest.raises(InputError, match=f"{name}: damaged"):
        load_published(tmp_path / "a", NAMES)
    (tmp_path / "a" / name).unlink()
    folded = load_published(tmp_path / "a", NAMES).crosscoder.config
    assert (folded.normalisation, folded.code_norm) == ("none", "none")
    export_dictionary_learning(own_crosscoder("none"), tmp_path / "b")
    assert not (tmp_path / "b" / name).exists()


def test_an_uncalibrated_crosscoder_is_not_exported(tmp_path: Path) -> None:
    crosscoder = own_crosscoder("none")
    crosscoder.theta.fill_(-1)
    with pytest.raises(InputError, match="not calibrated"):
        export_dictionary_learning(crosscoder, tmp_path)
