"""Writing a crosscoder in dictionary_learning's Hub layout, for the tools that read it.

One folder for all of its forks, which differ in three ways: the older two refuse `dict_class` in
config.json, one has a single scale for all models where the others have one a model, and all of
them take the code normalisation from config.json alone. So the class is named in
trainer_config.json, no normaliser is written (it is folded into the weights), and the code
normalisation stands in config.json and in the weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from crosscoder.errors import InputError
from crosscoder.files import write_text
from crosscoder.folding import UNFOLDING_NAME, folded, weights_of, write_unfolding
from crosscoder.model import Crosscoder
from crosscoder.published import CODE_NORM_NAMES, CODE_NORMS
from crosscoder.tensor_files import write_tensors

WEIGHTS_NAME = "model.safetensors"


@torch.no_grad()
def export_dictionary_learning(
    crosscoder: Crosscoder, directory: Path, name_class: bool = False
) -> None:
    """Write `model.safetensors`, `config.json` and `trainer_config.json`.

    A crosscoder of raw activations is written as it is. One with a normaliser is folded: the
    readers' activation is v = a * n, both in `encode` and in `get_activations`; what undoes that
    is written next to it for `load_published`. `name_class` puts the class into config.json too,
    where diffing-toolkit looks for it in a local folder, and where the older forks refuse it.
    InputError where theta is not calibrated; WorkError where the disk is full.
    """
    config = crosscoder.config
    if not crosscoder.calibrated:
        raise InputError("crosscoder: theta is not calibrated; finish training before exporting")
    weights, unfolding, code_norm = weights_of(crosscoder), None, str(config.code_norm)
    if config.normalisation != "none":
        weights, unfolding = folded(crosscoder)
        code_norm = "none"
    numbers = {name: number for number, name in CODE_NORMS.items()}
    tensors = {
        "encoder.weight": weights.w_enc,
        "encoder.bias": weights.b_enc,
        "decoder.weight": weights.w_dec.transpose(0, 1),
        "decoder.bias": weights.b_dec,
        "code_normalization_id": torch.tensor(numbers[code_norm]),
        "target_rms": torch.tensor(1.0),
    }
    settings: dict[str, object] = {
        "activation_dim": config.d_model,
        "dict_size": config.n_latents,
        "num_layers": config.n_models,
        "code_normalization": CODE_NORM_NAMES[code_norm],
        "target_rms": 1.0,
    }
    named = {"dict_class": "CrossCoder"}
    if config.activation == "batch_topk":
        named = {"dict_class": "BatchTopKCrossCoder"}
        settings["k"] = config.k
        tensors["k"] = torch.tensor(config.k, dtype=torch.int32)
        tensors["threshold"] = crosscoder.theta.cpu().float()
    write_tensors(directory / WEIGHTS_NAME, tensors, {"format": "pt"})
    (directory / UNFOLDING_NAME).unlink(missing_ok=True)
    if unfolding is not None:
        write_unfolding(directory, unfolding, directory / WEIGHTS_NAME)
    _write_json(directory / "config.json", settings | (named if name_class else {}))
    facts = {"layer": config.layer, "lm_name": list(config.model_names)}
    _write_json(directory / "trainer_config.json", {"trainer": {**settings, **named, **facts}})


def _write_json(path: Path, content: dict[str, object]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
