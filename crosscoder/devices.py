"""Which device a config means."""

from __future__ import annotations

import torch

from crosscoder.errors import InputError
from crosscoder.settings import Device


def resolve_device(device: Device) -> torch.device:
    """`auto` is the GPU where PyTorch sees one; InputError where `cuda` is asked for without."""
    sees_gpu = torch.cuda.is_available()
    if device == "cuda" and not sees_gpu:
        raise InputError('train.device: "cuda", but PyTorch sees no GPU here; set it to "auto"')
    return torch.device("cuda" if sees_gpu and device != "cpu" else "cpu")
