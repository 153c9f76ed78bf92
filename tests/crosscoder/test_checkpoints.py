from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from crosscoders import random_batch, random_crosscoder
from safetensors.torch import load_file, save_file

from crosscoder.checkpoints import load_crosscoder, read_crosscoder_file, save_crosscoder
from crosscoder.errors import InputError
from crosscoder.files import sha256_file, write_sealed_json
from crosscoder.model import Crosscoder, Normaliser


def make_crosscoder() -> Crosscoder:
    crosscoder = random_crosscoder(dtype=torch.float32, layer=4, tokenizer_sha256="ab")
    crosscoder.theta.fill_(1 / 3)
    crosscoder.act_mean.copy_(random_batch(1)[0])
    crosscoder.act_scale.copy_(torch.tensor([0.5, 20.0]))
    return crosscoder


def change_tensors(directory: Path, **changes: torch.Tensor | None) -> None:
    """Rewrite the weights, and the hash that the config holds of them."""
    path = directory / "crosscoder.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    change_config(directory, weights_sha256=sha256_file(path))


def change_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    del content["sha256"]
    write_sealed_json(path, content)


def test_loaded_crosscoder_equals_the_saved_one(tmp_path: Path) -> None:
    saved = make_crosscoder()
    save_crosscoder(saved, tmp_path, {"corpus": "c0ffee"})
    loaded = load_crosscoder(tmp_path)
    assert loaded.config == saved.config
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert float(loaded.theta) == 1 / 3
    z = random_batch().float()
    assert torch.equal(loaded.encode_thresholded(z).value, saved.encode_thresholded(z).value)


def test_files_have_the_documented_names_shapes_and_types(tmp_path: Path) -> None:
    save_crosscoder(make_crosscoder(), tmp_path, {"corpus": "c0ffee"})
    tensors = load_file(tmp_path / "crosscoder.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "W_enc": (2, 6, 16),
        "W_dec": (16, 2, 6),
        "b_enc": (16,),
        "b_dec": (2, 6),
        "theta": (),
        "act_mean": (2, 6),
        "act_scale": (2,),
    }
    assert tensors["theta"].dtype == torch.float64
    header = read_crosscoder_file(tmp_path)
    assert header.theta == 1 / 3
    assert header.provenance == {"corpus": "c0ffee"}
    assert header.crosscoder.model_names == ("base", "tuned")
    assert header.crosscoder.code_norm == "sum_of_norms"
    assert (header.crosscoder.layer, header.crosscoder.tokenizer_sha256) == (4, "ab")


def test_normaliser_travels_with_the_weights(tmp_path: Path) -> None:
    saved = make_crosscoder()
    save_crosscoder(saved, tmp_path, {})
    x = random_batch().float()
    expected = Normaliser(saved.act_mean, saved.act_scale).normalise(x)
    assert torch.equal(load_crosscoder(tmp_path).normalise(x), expected)


def test_uncalibrated_theta_is_null_and_stays_uncalibrated(tmp_path: Path) -> None:
    save_crosscoder(random_crosscoder(dtype=torch.float32), tmp_path, {})
    assert read_crosscoder_file(tmp_path).theta is None
    assert not load_crosscoder(tmp_path).calibrated


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W_dec": torch.zeros(15, 2, 6)}, r"W_dec has shape \(15, 2, 6\).*asks for \(16, 2, 6\)"),
        ({"b_dec": None}, "tensor b_dec is missing"),
        ({"W_skip": torch.zeros(1)}, "unknown tensor W_skip"),
        ({"theta": torch.zeros(())}, "theta is torch.float32, not torch.float64"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    save_crosscoder(make_crosscoder(), tmp_path, {})
    change_tensors(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_crosscoder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version 2; this version reads 1"),
        ({"crosscoder": {"n_models": 2}}, r"config\.json: crosscoder\.d_model: Field required"),
        ({"comment": "x"}, r"config\.json: comment: "),
        ({"weights_sha256": "0"}, "does not belong to config.json"),
    ],
)
def test_config_that_is_not_understood_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    save_crosscoder(make_crosscoder(), tmp_path, {})
    change_config(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_crosscoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_folder_without_a_crosscoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no crosscoder; train one first"):
        load_crosscoder(tmp_path)


def test_missing_or_truncated_weights_are_refused(tmp_path: Path) -> None:
    save_crosscoder(make_crosscoder(), tmp_path, {})
    path = tmp_path / "crosscoder.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="does not belong to"):
        load_crosscoder(tmp_path)
    change_config(tmp_path, weights_sha256=sha256_file(path))
    with pytest.raises(InputError, match="no readable safetensors file"):
        load_crosscoder(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"crosscoder\.safetensors: missing"):
        load_crosscoder(tmp_path)


def test_config_that_is_no_json_is_refused(tmp_path: Path) -> None:
    save_crosscoder(make_crosscoder(), tmp_path, {})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged"):
        load_crosscoder(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "name", ["W_enc", "W_dec", "b_enc", "b_dec", "theta", "act_mean", "act_scale"]
)
def test_numbers_that_are_not_finite_are_refused_by_name_and_count(
    tmp_path: Path, name: str, value: float
) -> None:
    crosscoder = make_crosscoder()
    with torch.no_grad():
        tensor = crosscoder.state_dict()[name]
        tensor[(0,) * tensor.dim()] = value
    save_crosscoder(crosscoder, tmp_path, {})
    n = crosscoder.state_dict()[name].numel()
    with pytest.raises(InputError, match=rf"{name} holds 1 of {n} numbers that are NaN or Inf"):
        load_crosscoder(tmp_path)


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_scale_that_is_not_positive_is_refused(tmp_path: Path, value: float) -> None:
    crosscoder = make_crosscoder()
    crosscoder.act_scale[1] = value
    save_crosscoder(crosscoder, tmp_path, {})
    with pytest.raises(InputError, match="act_scale holds 1 of 2 scales that are not positive"):
        load_crosscoder(tmp_path)
