"""Latent scaling and evidence against the training step, at the same dictionary and the same k.

    python benchmarks/sparse_pass.py [--quick] [--latents F] [--k K] [--width d] [--tokens N]

A crosscoder of random weights, theta calibrated to k, reads a store of random activations. In
turn, in one process: training steps, latent scaling of all latents, evidence for all latents,
evidence for a few. Then, each in a process of its own, the peak memory of evidence for more and
more latents and of scaling, on the same data and on four times as much. Medians are printed, and
as the last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from crosscoder.activations import ActivationStore, write_store
from crosscoder.config import TrainConfig
from crosscoder.evaluate import calibrate_theta
from crosscoder.evidence import gather
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.scaling import latent_scaling
from crosscoder.trainer import Trainer

FEW = 80
"""Latents of a study with 40 a side."""
DOCUMENT = 64
"""Tokens of a document."""
MODELS = ("a", "b")


@dataclass(frozen=True)
class Size:
    """What is measured."""

    n_latents: int
    k: int
    d_model: int
    batch_size: int
    n_tokens: int
    rounds: int


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    size = Size(
        arguments.latents,
        arguments.k,
        arguments.width,
        arguments.batch_size,
        arguments.tokens,
        arguments.rounds,
    )
    if arguments.only is not None:
        _only(size, arguments.only, Path(arguments.store))
        return
    with tempfile.TemporaryDirectory(prefix="difflens-sparse-pass-") as scratch:
        folder = Path(scratch)
        store = random_store(folder / "store", size, size.n_tokens)
        random_store(folder / "four", size, 4 * size.n_tokens)
        rates = speed(store, size)
        memory = peak_memory(size, folder)
    step = rates["step"]
    print(f"F = {size.n_latents}, k = {size.k}, M = 2, d = {size.d_model}, B = {size.batch_size}")
    for name, rate in rates.items():
        print(f"{name:22} {rate:10.1f} tokens/s   {rate / step:6.2f} of the step's")
    for name, megabytes in memory.items():
        print(f"{name:40} {megabytes:8.0f} MB peak")
    figures = {
        "scaling_over_step": rates["scaling"] / step,
        "evidence_over_step": rates["evidence, all latents"] / step,
        "evidence_few_over_step": rates[f"evidence, {FEW} latents"] / step,
        "tokens_per_s": rates,
        "peak_megabytes": memory,
        **vars(size),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures))


def random_store(directory: Path, size: Size, n_tokens: int) -> ActivationStore:
    """Activations with a few strong directions shared by both models, as bf16."""
    generator = torch.Generator().manual_seed(0)
    shape = (n_tokens, len(MODELS), size.d_model)
    return write_store(
        directory,
        torch.randn(shape, generator=generator),
        document=torch.arange(n_tokens) // DOCUMENT,
        token_ids=torch.randint(0, 30000, (n_tokens,), generator=generator),
        model_names=MODELS,
        storage_dtype="bfloat16",
    )


def random_crosscoder(size: Size, store: ActivationStore) -> Crosscoder:
    """Random weights, theta set so that k latents a token are active."""
    config = CrosscoderConfig(
        n_models=len(MODELS),
        d_model=size.d_model,
        n_latents=size.n_latents,
        k=size.k,
        model_names=MODELS,
    )
    crosscoder = Crosscoder(config, torch.Generator().manual_seed(1))
    sample = next(store.batches(min(1024, size.n_tokens)))
    crosscoder.theta.fill_(calibrate_theta(crosscoder, lambda: [sample], size.k))
    return crosscoder


def speed(store: ActivationStore, size: Size) -> dict[str, float]:
    """Median tokens per second of each of the passes, taken in turn."""
    crosscoder = random_crosscoder(size, store)
    trained = random_crosscoder(size, store)
    batches = list(store.batches(size.batch_size, drop_last=True))
    config = TrainConfig(batch_size=size.batch_size, learning_rate=1e-4)
    trainer = Trainer(trained, config, 1000, 10**9)

    def steps() -> None:
        for batch in batches:
            trainer.step(batch)

    passes: dict[str, Callable[[], object]] = {
        "step": steps,
        "scaling": lambda: latent_scaling(crosscoder, store),
        "evidence, all latents": lambda: gather(crosscoder, store),
        f"evidence, {FEW} latents": lambda: gather(crosscoder, store, range(FEW)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    trainer.step(batches[0])
    for turn in range(size.rounds):
        for name, run in passes.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
        print(
            f"round {turn}: {[round(taken[-1], 2) for taken in seconds.values()]}", file=sys.stderr
        )
    return {name: store.n_tokens / statistics.median(taken) for name, taken in seconds.items()}


def peak_memory(size: Size, folder: Path) -> dict[str, float]:
    """Peak resident megabytes of a process that loads, runs one pass, and ends."""
    few, half = FEW, size.n_latents // 2
    found: dict[str, float] = {}
    for name, only, store in (
        ("nothing but the crosscoder", "load", "store"),
        (f"evidence, {few} latents", str(few), "store"),
        (f"evidence, {half} latents", str(half), "store"),
        (f"evidence, {size.n_latents} latents", str(size.n_latents), "store"),
        (f"evidence, {size.n_latents} latents, 4x data", str(size.n_latents), "four"),
        ("scaling, all latents", "scaling", "store"),
        ("scaling, all latents, 4x data", "scaling", "four"),
    ):
        found[name] = _peak_of(size, only, folder / store)
    return found


def _peak_of(size: Size, only: str, store: Path) -> float:
    command = [sys.executable, __file__, "--only", only, "--store", str(store)]
    command += ["--latents", str(size.n_latents), "--k", str(size.k)]
    command += ["--width", str(size.d_model), "--tokens", str(size.n_tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def _only(size: Size, only: str, directory: Path) -> None:
    store = ActivationStore.open(directory)
    crosscoder = random_crosscoder(size, store)
    if only == "scaling":
        latent_scaling(crosscoder, store)
    elif only != "load":
        gather(crosscoder, store, range(int(only)))
    print(_peak_megabytes())


def _peak_megabytes() -> float:
    """Of this program alone: what getrusage says is inherited from the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--latents", type=int)
    parser.add_argument("--k", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    quick = arguments.quick
    arguments.latents = arguments.latents or (2048 if quick else 16384)
    arguments.k = arguments.k or (32 if quick else 64)
    arguments.width = arguments.width or (128 if quick else 576)
    arguments.tokens = arguments.tokens or (8192 if quick else 16384)
    arguments.rounds = arguments.rounds or (2 if quick else 3)
    return arguments


if __name__ == "__main__":
    main()
