"""Published crosscoders load as what they are, or are refused with the fix."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from published_crosscoders import N_LATENTS, NAMES, WIDTH, draw, forward, own_crosscoder
from safetensors.torch import save_file

from crosscoder.checkpoints import save_crosscoder
from crosscoder.errors import InputError
from crosscoder.published import load_published


def dictionary_learning(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The tensors of a BatchTopK crosscoder as dictionary_learning stores them."""
    tensors: dict[str, torch.Tensor | None] = {
        "encoder.weight": draw(2, WIDTH, N_LATENTS, seed=1),
        "encoder.bias": draw(N_LATENTS, seed=2),
        "decoder.weight": draw(2, N_LATENTS, WIDTH, seed=3),
        "decoder.bias": draw(2, WIDTH, seed=4),
        "code_normalization_id": torch.tensor(1),
        "k": torch.tensor(3, dtype=torch.int32),
        "threshold": torch.tensor(2.5),
    }
    return {name: value for name, value in (tensors | changes).items() if value is not None}


def write_hub(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    sizes = {"activation_dim": WIDTH, "dict_size": N_LATENTS, "num_layers": 2}
    (folder / "config.json").write_text(json.dumps(sizes | config))
    return folder


def published_forward(
    tensors: dict[str, torch.Tensor], x: torch.Tensor, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Code and reconstruction of (B, 2, d) by the published formulas, densely."""
    pre = torch.einsum("bld,ldf->blf", x, tensors["encoder.weight"]).sum(1)
    a = (pre + tensors["encoder.bias"]).relu()
    if weight is None:
        weight = tensors["decoder.weight"].norm(dim=-1).sum(0)
    f = a * (a * weight > tensors["threshold"])
    out = torch.einsum("bf,lfd->bld", f, tensors["decoder.weight"]) + tensors["decoder.bias"]
    return f, out


X = draw(40, 2, WIDTH, seed=9)


def test_f1_hub_layout_computes_the_published_formulas(tmp_path: Path) -> None:
    tensors = dictionary_learning()
    loaded = load_published(write_hub(tmp_path, tensors), NAMES)
    f, out = published_forward(tensors, X)
    assert 0 < (f > 0).sum() < f.numel()
    for ours, theirs in zip(forward(loaded.crosscoder, X), (f, out), strict=True):
        torch.testing.assert_close(ours, theirs)
    config = loaded.crosscoder.config
    assert (config.k, config.activation, config.model_names) == (3, "batch_topk", NAMES)
    assert (loaded.layout, loaded.notes) == ("dictionary_learning", ())


def test_f1_normaliser_is_taken_over(tmp_path: Path) -> None:
    mean, std = draw(2, WIDTH, seed=5), draw(2, WIDTH, seed=6).abs() + 0.5
    factor = 100 / (std.square().sum(1) + 1e-8).sqrt()
    tensors = dictionary_learning(
        activation_mean=mean,
        activation_std=std,
        activation_global_scale=factor,
        target_rms=torch.tensor(100.0),
        threshold=torch.tensor(40.0),
    )
    f, out = published_forward(tensors, (X - mean) * factor[:, None])
    out = out / factor[:, None] + mean
    for name in ("stored", "computed"):
        kept = {k: v for k, v in tensors.items() if name == "stored" or "global" not in k}
        loaded = load_published(write_hub(tmp_path / name, kept), NAMES)
        ours = forward(loaded.crosscoder, X)
        torch.testing.assert_close(ours[0], f, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours[1], out, rtol=1e-4, atol=1e-4)


def test_trap_11_nan_normaliser_means_off(tmp_path: Path) -> None:
    off = torch.full((2, WIDTH), torch.nan)
    tensors = dictionary_learning(
        activation_mean=off, activation_std=off.clone(), activation_global_scale=torch.tensor(1.0)
    )
    loaded = load_published(write_hub(tmp_path, tensors), NAMES)
    assert loaded.crosscoder.config.normalisation == "none"
    assert torch.equal(loaded.crosscoder.normalise(X), X)


def test_neuronwise_normalisation_is_refused(tmp_path: Path) -> None:
    tensors = dictionary_learning(
        activation_mean=torch.zeros(2, WIDTH), activation_std=torch.ones(2, WIDTH)
    )
    folder = write_hub(tmp_path, tensors, keep_relative_variance=False)
    with pytest.raises(InputError, match="neuron by neuron"):
        load_published(folder, NAMES)


def test_trap_12_missing_buffers_mean_the_sum_of_norms_and_no_normaliser(tmp_path: Path) -> None:
    tensors = dictionary_learning(code_normalization_id=None)
    loaded = load_published(write_hub(tmp_path, tensors), NAMES)
    torch.testing.assert_close(forward(loaded.crosscoder, X)[0], published_forward(tensors, X)[0])
    assert loaded.notes == ("no code_normalization_id in the file: the sum of norms is assumed",)


@pytest.mark.parametrize("number", [2, 4])
def test_other_code_norms_select_by_their_own_weight(tmp_path: Path, number: int) -> None:
    tensors = dictionary_learning(code_normalization_id=torch.tensor(number))
    rows = tensors["decoder.weight"].transpose(0, 1).flatten(1)
    weight = rows.norm(dim=1) if number == 2 else torch.ones(N_LATENTS)
    loaded = load_published(write_hub(tmp_path, tensors), NAMES)
    torch.testing.assert_close(
        forward(loaded.crosscoder, X)[0], published_forward(tensors, X, weight)[0]
    )


@pytest.mark.parametrize(("number", "name"), [(3, "MIXED"), (5, "DECOUPLED")])
def test_unsupported_code_norms_are_named(tmp_path: Path, number: int, name: str) -> None:
    tensors = dictionary_learning(code_normalization_id=torch.tensor(number))
    with pytest.raises(InputError, match=f"code normalisation {name} is not supported"):
        load_published(write_hub(tmp_path, tensors), NAMES)


def test_an_l1_crosscoder_keeps_every_positive_activation(tmp_path: Path) -> None:
    tensors = dictionary_learning(k=None, threshold=None)
    loaded = load_published(write_hub(tmp_path, tensors), NAMES)
    assert loaded.crosscoder.config.activation == "l1"
    tensors["threshold"] = torch.tensor(0.0)
    for ours, theirs in zip(
        forward(loaded.crosscoder, X), published_forward(tensors, X), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_an_uncalibrated_threshold_refuses_to_encode(tmp_path: Path) -> None:
    tensors = dictionary_learning(threshold=torch.tensor(-1.0))
    loaded = load_published(write_hub(tmp_path, tensors), NAMES)
    assert loaded.notes == ("the file has no calibrated threshold",)
    with pytest.raises(InputError, match="theta is not calibrated"):
        forward(loaded.crosscoder, X)


@pytest.mark.parametrize("name", ["model_final.pt", "checkpoint_200.pt"])
def test_trap_12_f2_local_layout_with_the_compiled_prefix(tmp_path: Path, name: str) -> None:
    tensors = dictionary_learning()
    other = dictionary_learning(threshold=torch.tensor(9.0))
    torch.save({f"_orig_mod.{key}": value for key, value in tensors.items()}, tmp_path / name)
    torch.save(other, tmp_path / "checkpoint_90.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"k": 3}, "buffer": {}}))
    loaded = load_published(tmp_path, NAMES)
    assert loaded.path.name == name
    torch.testing.assert_close(forward(loaded.crosscoder, X)[1], published_forward(tensors, X)[1])


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    (tmp_path / "model_final.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match="no file of tensors alone"):
        load_published(tmp_path, NAMES)
    assert not (tmp_path / "executed").exists()


def ckkissane(folder: Path) -> dict[str, torch.Tensor]:
    tensors = dictionary_learning(threshold=torch.tensor(0.0))
    stored = {
        "W_enc": tensors["encoder.weight"],
        "W_dec": tensors["decoder.weight"].transpose(0, 1).contiguous(),
        "b_enc": tensors["encoder.bias"],
        "b_dec": tensors["decoder.bias"],
    }
    torch.save(stored, folder / "cc_weights.pt")
    (folder / "cfg.json").write_text(json.dumps({"d_in": WIDTH, "dict_size": N_LATENTS}))
    return tensors


def test_trap_12_f3_decoder_is_read_latent_first_and_asks_for_its_factors(tmp_path: Path) -> None:
    tensors = ckkissane(tmp_path)
    with pytest.raises(InputError, match=r"give them in crosscoder\.scaling_factors"):
        load_published(tmp_path, NAMES)
    factors = torch.tensor([0.25, 0.5])
    loaded = load_published(tmp_path, NAMES, scaling_factors=factors.tolist())
    f, out = published_forward(tensors, X * factors[:, None])
    ours = forward(loaded.crosscoder, X)
    torch.testing.assert_close(ours[0], f)
    torch.testing.assert_close(ours[1], out / factors[:, None], rtol=1e-4, atol=1e-5)


def test_scaling_factors_are_one_positive_number_a_model(tmp_path: Path) -> None:
    ckkissane(tmp_path)
    for factors in ([1.0], [1.0, -1.0]):
        with pytest.raises(InputError, match="give 2 positive numbers"):
            load_published(tmp_path, NAMES, scaling_factors=factors)


@pytest.mark.parametrize(
    "config",
    [
        {"_partition_config": {"model_a_exclusive_size": 3, "model_b_exclusive_size": 2}},
        {"model_a_exclusive_pct": 0.25, "model_b_exclusive_pct": 0.2},
    ],
)
def test_f7_dedicated_latents_are_masked_for_the_other_model(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    loaded = load_published(write_hub(tmp_path, dictionary_learning(), **config), NAMES)
    norms = loaded.crosscoder.decoder_norms()
    assert (norms[:3, 1] == 0).all()
    assert (norms[3:5, 0] == 0).all()
    assert (norms[5:] > 0).all()
    assert (norms[:3, 0] > 0).all()
    assert (loaded.crosscoder.W_enc[1, :, :3] == 0).all()
    assert (loaded.crosscoder.W_enc[0, :, 3:5] == 0).all()


def test_a_partition_larger_than_the_dictionary_is_refused(tmp_path: Path) -> None:
    folder = write_hub(
        tmp_path, dictionary_learning(), model_a_exclusive_pct=0.9, model_b_exclusive_pct=0.9
    )
    with pytest.raises(InputError, match="does not fit 12 latents"):
        load_published(folder, NAMES)


def test_another_number_of_models_is_refused(tmp_path: Path) -> None:
    folder = write_hub(tmp_path, dictionary_learning())
    with pytest.raises(InputError, match=r"trained on 2 models, the study has 3 \(a, b, c\)"):
        load_published(folder, ("a", "b", "c"))


def test_shapes_that_are_not_one_crosscoder_are_refused(tmp_path: Path) -> None:
    folder = write_hub(tmp_path, dictionary_learning(**{"decoder.bias": torch.zeros(2, 4)}))
    with pytest.raises(InputError, match="not those of one crosscoder"):
        load_published(folder, NAMES)


def test_an_unknown_layout_names_its_tensors(tmp_path: Path) -> None:
    save_file({"something": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"no known layout.*something"):
        load_published(tmp_path, NAMES)


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected crosscoder\.safetensors, model\.safetensors"):
        load_published(tmp_path, NAMES)


def test_the_packages_own_layout_loads_too(tmp_path: Path) -> None:
    crosscoder = own_crosscoder("affine")
    save_crosscoder(crosscoder, tmp_path, {})
    loaded = load_published(tmp_path, ("x", "y"))
    assert loaded.crosscoder.config.model_names == ("x", "y")
    assert torch.equal(forward(loaded.crosscoder, X)[0], forward(crosscoder, X)[0])


def spoiled(name: str, value: float, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    changed = tensors[name].clone()
    changed[(0,) * changed.dim()] = value
    return tensors | {name: changed}


NORMALISED = {
    "activation_mean": torch.zeros(2, WIDTH),
    "activation_std": torch.ones(2, WIDTH),
    "activation_global_scale": torch.ones(2),
}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "name",
    ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "threshold"],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    folder = write_hub(tmp_path, spoiled(name, value, dictionary_learning()))
    n = dictionary_learning()[name].numel()
    with pytest.raises(InputError, match=rf"{name} holds 1 of {n} numbers that are NaN or Inf"):
        load_published(folder, NAMES)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("activation_mean", torch.full((2, WIDTH), torch.inf), "activation_mean holds 10 of 10"),
        ("activation_std", torch.full((2, WIDTH), torch.inf), "activation_std holds 10 of 10"),
        ("activation_global_scale", torch.tensor([1.0, 0.0]), "1 of 2 scales that are not pos"),
        ("activation_global_scale", torch.tensor([-1.0, 1.0]), "1 of 2 scales that are not pos"),
        ("activation_global_scale", torch.ones(3), r"has shape \(3,\)"),
        ("activation_mean", torch.zeros(3, WIDTH), r"activation_mean has shape \(3, 5\)"),
        ("threshold", torch.ones(2), r"threshold has shape \(2,\)"),
        ("k", torch.ones(2, dtype=torch.int32), r"k has shape \(2,\)"),
        ("k", torch.tensor(0), "k is 0; give crosscoder.k"),
        ("code_normalization_id", torch.ones(2), r"code_normalization_id has shape \(2,\)"),
    ],
)
def test_scales_and_single_numbers_that_cannot_be_are_refused(
    tmp_path: Path, name: str, tensor: torch.Tensor, words: str
) -> None:
    folder = write_hub(tmp_path, dictionary_learning(**NORMALISED) | {name: tensor})
    with pytest.raises(InputError, match=words) as caught:
        load_published(folder, NAMES)
    assert "\n" not in str(caught.value)


def test_the_code_norm_is_read_from_the_config_where_the_weights_hold_none(tmp_path: Path) -> None:
    tensors = dictionary_learning(code_normalization_id=None)
    loaded = load_published(write_hub(tmp_path, tensors, code_normalization="SAE"), NAMES)
    assert (loaded.crosscoder.config.code_norm, loaded.notes) == ("concatenated", ())
    with pytest.raises(InputError, match="code normalisation MIXED is not supported"):
        load_published(write_hub(tmp_path, tensors, code_normalization="mixed"), NAMES)
