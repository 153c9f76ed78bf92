"""Coordinates in which what differs between the models is longer: for close fine-tunes.

With the mean zbar over the models, z^m becomes zbar + sqrt(w) (z^m - zbar). For two models that is
the plain space in the rotated coordinates (z^1 + z^2) / sqrt(2) and (z^1 - z^2) / sqrt(2), the
second one scaled by sqrt(w), and rotated back. The squared loss there is
    M ||ebar||^2 + w sum_m ||e^m - ebar||^2
of the plain error e: its difference counts w times, its common part once; w = 1 is the plain loss.
Selection and initial shape follow the same coordinates, since training happens in them as a whole.
"""

from __future__ import annotations

import math

import torch

from crosscoder.model import Crosscoder


def stretch(z: torch.Tensor, weight: float) -> torch.Tensor:
    """(..., M, d) with the deviations from the mean over the models scaled by sqrt(weight)."""
    if weight == 1:
        return z
    mean = z.mean(dim=-2, keepdim=True)
    return mean + math.sqrt(weight) * (z - mean)


@torch.no_grad()
def in_own_coordinates(crosscoder: Crosscoder, weight: float) -> Crosscoder:
    """A crosscoder trained on stretched activations, as one of the models' own activations.

    It selects the same latents and decodes the same reconstruction, unstretched. The selection
    weight n_j of the stretched rows goes into the scale of the latent: v_j = a_j, `code_norm`
    "none". With `weight` 1 it is the crosscoder itself.
    """
    if weight == 1:
        return crosscoder
    config = crosscoder.config.model_copy(update={"code_norm": "none"})
    own = Crosscoder(config, normaliser=crosscoder.normaliser).to(crosscoder.W_dec)
    norms = crosscoder.code_norms()
    # A latent of norm 0 is never selected, whatever its activation.
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    # sum_m <stretch(z)^m, w^m> = sum_m <z^m, stretch(w)^m>: the map is symmetric.
    encoder = stretch(crosscoder.W_enc.permute(2, 0, 1), weight)
    own.W_enc.copy_((encoder * norms[:, None, None]).permute(1, 2, 0))
    own.b_enc.copy_(crosscoder.b_enc * norms)
    own.W_dec.copy_(stretch(crosscoder.W_dec, 1 / weight) * inverse[:, None, None])
    own.b_dec.copy_(stretch(crosscoder.b_dec, 1 / weight))
    own.theta.copy_(crosscoder.theta)
    return own
