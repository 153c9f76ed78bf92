"""Exported crosscoders in the forks of dictionary_learning: read by their code, compared with ours.

    python benchmarks/interop/dictionary_learning.py CHECKOUT [CHECKOUT ...] [--python PYTHON]

Each CHECKOUT is a clone of a fork, which holds a folder `dictionary_learning`. PYTHON is an
interpreter that has the fork's requirements (torch, huggingface_hub, einops, nnsight, datasets,
zstandard); the default is this one. For every kind of crosscoder (code normalisation, with and
without a normaliser, trained with a `difference_weight`, L1) it is exported, the fork's own
`from_pretrained(folder, from_hub=True)` loads it in a process of its own and encodes and decodes
2,000 raw tokens; support, activations and reconstruction are compared with this package's. Our own
loader reads each folder too. A table is printed, and as the last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from crosscoder.evaluate import calibrate_theta
from crosscoder.losses import in_own_coordinates
from crosscoder.model import Crosscoder, CrosscoderConfig, Normaliser
from crosscoder.published import export_dictionary_learning, load_published

N_TOKENS, WIDTH, N_LATENTS, K = 2000, 64, 512, 12
MODELS = ("base", "tuned")
TOLERANCE = 1e-5
PEER = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
import torch
from dictionary_learning import BatchTopKCrossCoder, CrossCoder
classes = {"CrossCoder": CrossCoder, "BatchTopKCrossCoder": BatchTopKCrossCoder}
folder = Path(sys.argv[1])
x = load_file(folder / "tokens.safetensors")["x"]
for name, kind in json.loads(sys.argv[2]).items():
    try:
        with torch.no_grad():
            peer = classes[kind].from_pretrained(str(folder / name), from_hub=True)
            code = peer.encode(x)
            found = {"encode": code, "get_activations": peer.get_activations(x)}
            found["decode"] = peer.decode(code)
        found = {key: value.contiguous() for key, value in found.items()}
        save_file(found, folder / name / "peer.safetensors")
    except Exception as error:
        (folder / name / "peer.txt").write_text(f"{type(error).__name__}: {error}")
"""


@dataclass(frozen=True)
class Row:
    """How one fork reads one kind of crosscoder."""

    reader: str
    crosscoder: str
    l0: float
    """Mean active latents per token, as the reader has them."""
    n_mismatches: int
    """(token, latent) pairs active on one side only, by more than TOLERANCE of the largest."""
    n_at_zero: int
    """The other pairs active on one side only: L1 activations within float32's rounding of 0."""
    activations: float
    """Largest difference of `get_activations` and v = a * n, relative to the largest v."""
    encode: float
    """The same of `encode` and the stated activation: a of raw crosscoders, v of folded ones."""
    reconstruction: float
    """Largest difference of the reconstruction, relative to the largest coordinate."""
    failure: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether nothing differs by more than TOLERANCE."""
        worst = max(self.activations, self.encode, self.reconstruction)
        return self.failure is None and self.n_mismatches == 0 and worst < TOLERANCE


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkouts", nargs="*", type=Path)
    parser.add_argument("--python", default=sys.executable, help="has the forks' requirements")
    arguments = parser.parse_args()
    x = raw_tokens()
    rows = []
    with tempfile.TemporaryDirectory(prefix="difflens-interop-") as scratch:
        folder = Path(scratch)
        save_file({"x": x}, folder / "tokens.safetensors")
        made = crosscoders(x)
        for name, crosscoder in made.items():
            export_dictionary_learning(crosscoder, folder / name)
            own = load_published(folder / name, MODELS).crosscoder
            rows.append(compared("difflens", name, forward(crosscoder, x), forward(own, x)))
        for checkout in arguments.checkouts:
            have_read(checkout, arguments.python, made, folder)
            reader = f"{checkout.name} {commit(checkout)}"
            for name, crosscoder in made.items():
                rows.append(read_row(folder / name, reader, name, forward(crosscoder, x)))
    for row in rows:
        print(f"{row.reader}: {row.crosscoder}: {row.failure}" if row.failure else shown(row))
    figures = {"tolerance": TOLERANCE, "n_tokens": N_TOKENS, "n_latents": N_LATENTS}
    agree = all(row.agrees for row in rows)
    print(json.dumps({**figures, "agree": agree, "rows": [asdict(row) for row in rows]}))


def raw_tokens() -> torch.Tensor:
    """(N_TOKENS, 2, WIDTH): both models off centre, of different size, two coordinates far out."""
    generator = torch.Generator().manual_seed(5)
    shared = torch.randn(N_TOKENS, 1, WIDTH, generator=generator)
    own = torch.randn(N_TOKENS, 2, WIDTH, generator=generator)
    centre = torch.randn(2, WIDTH, generator=generator)
    centre[:, :2] += 40.0
    return (shared + 0.6 * own) * torch.tensor([3.0, 0.7])[:, None] + centre


def crosscoders(x: torch.Tensor) -> dict[str, Crosscoder]:
    """One of every kind, theta calibrated on `x` to K active latents per token."""
    made: dict[str, Crosscoder] = {}
    for code_norm in ("sum_of_norms", "concatenated", "none"):
        for normalisation in ("none", "affine"):
            config = _config(code_norm=code_norm, normalisation=normalisation)
            made[f"{code_norm}, {normalisation}"] = _drawn(config, x)
    for weight in (0.25, 16.0):
        for normalisation in ("none", "affine"):
            crosscoder = in_own_coordinates(_drawn(_config(normalisation=normalisation), x), weight)
            made[f"difference_weight {weight:g}, {normalisation}"] = crosscoder
    for normalisation in ("none", "affine"):
        config = _config(normalisation=normalisation, activation="l1")
        made[f"l1, {normalisation}"] = _drawn(config, x)
    for name, crosscoder in made.items():
        theta = 0.0
        if crosscoder.config.activation == "batch_topk":
            theta = calibrate_theta(crosscoder, lambda: x.split(500), K)
        made[name].theta.fill_(theta)
    return made


def _config(**changes: Any) -> CrosscoderConfig:
    return CrosscoderConfig(
        n_models=2, d_model=WIDTH, n_latents=N_LATENTS, k=K, model_names=MODELS, **changes
    )


def _drawn(config: CrosscoderConfig, x: torch.Tensor) -> Crosscoder:
    generator = torch.Generator().manual_seed(9)
    normaliser = None
    if config.normalisation == "affine":
        scale = (x - x.mean(0)).square().mean((0, 2)).sqrt()
        normaliser = Normaliser(x.mean(0), scale)
    crosscoder = Crosscoder(config, generator, normaliser)
    with torch.no_grad():
        lengths = 0.2 + 2 * torch.rand(N_LATENTS, 2, 1, generator=generator)
        crosscoder.W_dec.mul_(lengths)
        crosscoder.W_enc.add_(0.05 * torch.randn(crosscoder.W_enc.shape, generator=generator))
        crosscoder.b_enc.copy_(0.1 * torch.randn(N_LATENTS, generator=generator))
        crosscoder.b_dec.copy_(0.1 * torch.randn(2, WIDTH, generator=generator))
    return crosscoder


def forward(crosscoder: Crosscoder, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the forks' methods give, by this package: codes (B, F), reconstruction (B, 2, d)."""
    with torch.no_grad():
        z = crosscoder.normalise(x)
        codes = crosscoder.encode_thresholded(z)
        a = torch.zeros(len(x), crosscoder.config.n_latents)
        a[codes.token, codes.latent] = codes.value
        out = crosscoder.denormalise(crosscoder.decode(codes, len(x)))
    v = a * crosscoder.code_norms().detach()
    is_raw = crosscoder.config.normalisation == "none"
    return {"encode": a if is_raw else v, "get_activations": v, "decode": out}


def have_read(checkout: Path, python: str, made: dict[str, Crosscoder], folder: Path) -> None:
    """Have a fork's own loader and methods read every folder; SystemExit where it cannot start."""
    kinds = {"batch_topk": "BatchTopKCrossCoder", "l1": "CrossCoder"}
    jobs = {name: kinds[crosscoder.config.activation] for name, crosscoder in made.items()}
    done = subprocess.run(
        [python, "-c", PEER, str(folder), json.dumps(jobs)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{checkout}: {done.stderr.strip().splitlines()[-1]}")


def read_row(folder: Path, reader: str, name: str, expected: dict[str, torch.Tensor]) -> Row:
    """What the fork left in a folder, compared; both kinds of file are removed."""
    found, failure = folder / "peer.safetensors", folder / "peer.txt"
    if failure.is_file():
        words = failure.read_text()
        failure.unlink()
        return Row(reader, name, 0.0, 0, 0, 0.0, 0.0, 0.0, words)
    row = compared(reader, name, expected, load_file(found))
    found.unlink()
    return row


def compared(
    reader: str, name: str, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]
) -> Row:
    """The largest differences of what both give."""
    own, theirs = expected["get_activations"], found["get_activations"]
    one_sided = (own > 0) != (theirs > 0)
    large = (own - theirs).abs() > TOLERANCE * own.max()
    worst = {
        key: float((expected[key] - found[key]).abs().max() / expected[key].abs().max())
        for key in expected
    }
    return Row(
        reader,
        name,
        float((theirs > 0).sum()) / len(theirs),
        int((one_sided & large).sum()),
        int((one_sided & ~large).sum()),
        worst["get_activations"],
        worst["encode"],
        worst["decode"],
    )


def shown(row: Row) -> str:
    """A row of the table."""
    return (
        f"{row.reader:50} {row.crosscoder:30} L0 {row.l0:6.2f}  {row.n_mismatches:4} mismatches, "
        f"{row.n_at_zero} at zero  "
        f"activations {row.activations:.1e}  encode {row.encode:.1e}  "
        f"reconstruction {row.reconstruction:.1e}  {'agrees' if row.agrees else 'DIFFERS'}"
    )


def commit(checkout: Path) -> str:
    """The checkout's commit; empty where it is no clone."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
