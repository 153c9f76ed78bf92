"""Writing a crosscoder in dictionary_learning's Hub layout, for the tools that read it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from crosscoder.errors import InputError
from crosscoder.files import write_tensors, write_text
from crosscoder.model import Crosscoder
from crosscoder.published import CODE_NORMS


@torch.no_grad()
def export_dictionary_learning(crosscoder: Crosscoder, directory: Path) -> None:
    """Write `model.safetensors`, `config.json` and `trainer_config.json`.

    The normaliser becomes `activation_mean` and one `activation_global_scale` a model. InputError
    where theta is not calibrated; WorkError where the disk is full.
    """
    config = crosscoder.config
    if not crosscoder.calibrated:
        raise InputError("crosscoder: theta is not calibrated; finish training before exporting")
    numbers = {name: number for number, name in CODE_NORMS.items()}
    tensors = {
        "encoder.weight": crosscoder.W_enc.detach().cpu(),
        "encoder.bias": crosscoder.b_enc.detach().cpu(),
        "decoder.weight": crosscoder.W_dec.detach().cpu().transpose(0, 1),
        "decoder.bias": crosscoder.b_dec.detach().cpu(),
        "code_normalization_id": torch.tensor(numbers[config.code_norm]),
        **_normaliser(crosscoder),
    }
    sizes = {
        "activation_dim": config.d_model,
        "dict_size": config.n_latents,
        "num_layers": config.n_models,
    }
    dict_class = "CrossCoder"
    if config.activation == "batch_topk":
        dict_class = "BatchTopKCrossCoder"
        sizes["k"] = config.k
        tensors["k"] = torch.tensor(config.k, dtype=torch.int32)
        tensors["threshold"] = crosscoder.theta.cpu().float()
    write_tensors(directory / "model.safetensors", tensors, {"format": "pt"})
    _write_json(directory / "config.json", {**sizes, "dict_class": dict_class})
    trainer = {"dict_class": dict_class, "layer": config.layer, "lm_name": list(config.model_names)}
    _write_json(directory / "trainer_config.json", {**sizes, **trainer})


def _normaliser(crosscoder: Crosscoder) -> dict[str, torch.Tensor]:
    n_models, d_model = crosscoder.b_dec.shape
    target = {"target_rms": torch.tensor(1.0)}
    if crosscoder.config.normalisation == "none":
        off = torch.full((n_models, d_model), math.nan)
        scale = torch.ones(n_models)
        return target | {
            "activation_mean": off,
            "activation_std": off.clone(),
            "activation_global_scale": scale,
        }
    scale = crosscoder.act_scale.detach().cpu().float()
    # Only the sum of the variances counts: 1 / sqrt(it) is the factor.
    std = (scale / math.sqrt(d_model)).unsqueeze(1).expand(n_models, d_model)
    return target | {
        "activation_mean": crosscoder.act_mean.detach().cpu().float(),
        "activation_std": std,
        "activation_global_scale": 1 / scale,
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
