"""How close a training step comes to its encoder product, and how far the dense step is from it.

    python benchmarks/train_step.py [--quick] [--sizes F ...] [--dead-share 0.05] [--repeats 7]

In one process, in turn: (a) the training step, as `difflens train` takes it; (b) the same
algorithm written densely (benchmarks/dense_step.py), from the same weights, with the same latents
called dead; (c) the encoder product alone, (B, M*d) x (M*d, F), into memory that is there already.
B = 2048, M = 2, d = 576. Medians and ratios are printed; the loss of (a) and (b) on the first
batch is compared. The dead latents are a fixed random share, and nothing is done to silence them:
about half their pre-activations are positive, the dearest case for AuxK.

Also printed: peak resident memory of (a) and (b), each in a process of its own, and the time that
stored activations (bf16 shards, read through the shuffle buffer) take per batch. A point for
which memory is short is left out with a line that says so. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
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
from dense_step import DenseStep

from crosscoder.activations import write_store
from crosscoder.batch_topk import latent_rows
from crosscoder.config import TrainConfig
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.trainer import Trainer

BATCH, N_MODELS, D_MODEL = 2048, 2, 576
MAIN = (16384, 64)
LATENTS, KS = (4096, 16384, 65536), (32, 64, 128)
OTHER_SHARES = (0.0, 0.2)
LEARNING_RATE = 1e-3
GIB = 1 << 30


@dataclass(frozen=True)
class Point:
    """One size of the problem and its measured medians, in seconds."""

    n_latents: int
    k: int
    n_dead: int
    step: float
    dense: float
    encoder: float
    loss_difference: float
    """Relative difference of the first loss of (a) and (b)."""

    def row(self) -> dict[str, float]:
        """The point as one object of the table."""
        return {
            "n_latents": self.n_latents,
            "k": self.k,
            "n_dead": self.n_dead,
            "step_seconds": round(self.step, 4),
            "dense_seconds": round(self.dense, 4),
            "encoder_seconds": round(self.encoder, 4),
            "dense_over_step": round(self.dense / self.step, 3),
            "step_over_encoder": round(self.step / self.encoder, 3),
            "loss_difference": self.loss_difference,
        }


class Contestants:
    """(a), (b) and (c) at one size, over the same batches."""

    def __init__(
        self, n_latents: int, k: int, dead_share: float, precision: str = "float32"
    ) -> None:
        names = tuple(f"model-{i}" for i in range(N_MODELS))
        config = CrosscoderConfig(
            n_models=N_MODELS, d_model=D_MODEL, n_latents=n_latents, k=k, model_names=names
        )
        self._settings = TrainConfig.model_validate(
            {"warmup_steps": 0, "decay_fraction": 0.0, "precision": precision}
        )
        self._crosscoder = Crosscoder(config, torch.Generator().manual_seed(0))
        chosen = torch.randperm(n_latents, generator=torch.Generator().manual_seed(1))
        self._dead = chosen[: round(dead_share * n_latents)].sort().values
        self.n_dead = self._dead.numel()
        self._batches = [planted_batch(seed) for seed in range(3)]
        self._n_taken = 0

    def prepare_step(self) -> None:
        """Make the training step ready."""
        self._trainer = Trainer(self._crosscoder, self._settings, 1 << 30, 1 << 40)

    def prepare_dense(self) -> None:
        """Make the dense step ready, from the weights as they are."""
        self._dense = DenseStep(self._crosscoder, self._settings, self._dead, LEARNING_RATE)

    def prepare_encoder(self) -> None:
        """Make the memory of the encoder product ready."""
        self._out = torch.empty(BATCH, self._crosscoder.config.n_latents)

    def next_batch(self) -> None:
        """Go to the next batch."""
        self._n_taken += 1

    @property
    def _batch(self) -> torch.Tensor:
        return self._batches[self._n_taken % len(self._batches)]

    def step(self) -> float:
        """(a) with the same dead latents every time; its loss."""
        counters = self._trainer.state()["tokens_since_fired"]
        counters.zero_()
        counters[self._dead] = 1 << 40
        return self._trainer.step(self._batch).loss

    def dense(self) -> float:
        """(b); its loss."""
        return self._dense.step(self._batch)

    def encoder(self) -> float:
        """(c)."""
        rows = latent_rows(self._crosscoder.W_enc.detach())
        torch.mm(self._batch.flatten(1), rows.T, out=self._out)
        return 0.0


def planted_batch(seed: int) -> torch.Tensor:
    """(B, M, d): 40 of 2000 directions a token, some noise; mean square 1."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2000, N_MODELS * D_MODEL, generator=torch.Generator().manual_seed(9))
    fires = torch.rand(BATCH, 2000, generator=generator) < 0.02
    z = fires.float() @ directions / 40**0.5
    z += 0.3 * torch.randn(z.shape, generator=generator)
    return (z / z.square().mean().sqrt()).view(BATCH, N_MODELS, D_MODEL)


def seconds(work: Callable[[], float]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(n_latents: int, k: int, dead_share: float, repeats: int) -> Point:
    """Medians over `repeats` rounds after one that warms up and compares the losses."""
    contestants = Contestants(n_latents, k, dead_share)
    contestants.prepare_step()
    contestants.prepare_dense()
    contestants.prepare_encoder()
    dense_loss, loss = contestants.dense(), contestants.step()
    contestants.encoder()
    times: dict[str, list[float]] = {"step": [], "dense": [], "encoder": []}
    for _ in range(repeats):
        contestants.next_batch()
        times["step"].append(seconds(contestants.step))
        times["dense"].append(seconds(contestants.dense))
        times["encoder"].append(seconds(contestants.encoder))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    difference = abs(loss - dense_loss) / abs(dense_loss)
    return Point(n_latents, k, contestants.n_dead, loss_difference=difference, **medians)


def measure_bf16(dead_share: float, repeats: int) -> float:
    """Median of (a) at the main point with `precision = "bfloat16"`, in seconds."""
    contestants = Contestants(*MAIN, dead_share, "bfloat16")
    contestants.prepare_step()
    contestants.step()
    return statistics.median(seconds(contestants.step) for _ in range(repeats))


def peak_memory(variant: str, n_latents: int, dead_share: float) -> float:
    """Peak resident GiB of a process that takes two steps of one variant."""
    command = [sys.executable, __file__, "--memory-of", variant, "--sizes", str(n_latents)]
    command += ["--dead-share", str(dead_share), "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_own_peak(variant: str, n_latents: int, dead_share: float) -> None:
    """What `peak_memory` runs: two steps, then the high-water mark of this process."""
    contestants = Contestants(n_latents, MAIN[1], dead_share)
    if variant != "none":
        getattr(contestants, f"prepare_{variant}")()
        for _ in range(2):
            getattr(contestants, variant)()
    print(own_peak() / GIB)


def own_peak() -> int:
    """High-water mark of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: after a fork it starts from the parent's size.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def shortage(n_latents: int) -> str | None:
    """Why a size is not measured, or None: what (a) and (b) together take, against what is free."""
    weights, activations = 8 * n_latents * N_MODELS * D_MODEL, 4 * BATCH * n_latents
    # Weights, two moments and gradients of each; (B, F): one in (a), five in (b), and topk's
    # pairs of value and index, four times as large.
    needed = (2 * 4 * weights + 10 * activations) * 1.15 / GIB
    free = available_memory()
    if free is None or needed < free:
        return None
    return f"needs about {needed:.1f} GiB, {free:.1f} GiB are free"


def available_memory() -> float | None:
    """GiB that programs can still take; None where the system does not say."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024 / GIB
    return None


def data_seconds(n_tokens: int) -> dict[str, float]:
    """Mean seconds a batch, from bf16 shards: first epoch from disk to memory, later epochs, and
    through a shuffle buffer a quarter as large as the data."""
    row_bytes = 4 * N_MODELS * D_MODEL
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = torch.randn(n_tokens, N_MODELS, D_MODEL, generator=generator)
        store = write_store(Path(folder) / "s", rows, storage_dtype="bfloat16", shard_tokens=8192)
        del rows

        def mean(epochs: float, buffer_bytes: int) -> float:
            seed = torch.Generator().manual_seed(1)
            started, n_batches = time.perf_counter(), 0
            batches = store.batches(
                BATCH, seed, epochs=epochs, drop_last=True, buffer_bytes=buffer_bytes
            )
            for _ in batches:
                n_batches += 1
            return (time.perf_counter() - started) / n_batches

        whole = n_tokens * row_bytes
        first = mean(1, whole)
        return {
            "memory_first_epoch": first,
            "memory_three_epochs": mean(3, whole),
            "ring_buffer": mean(1, whole // 4),
        }


def machine() -> str:
    """Processor, threads and version."""
    name = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.is_file():
        found = [line for line in path.read_text().splitlines() if line.startswith("model name")]
        name = found[0].partition(":")[2].strip() if found else name
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({capability}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    share = arguments.dead_share
    if arguments.memory_of:
        print_own_peak(arguments.memory_of, arguments.sizes[0], share)
        return
    print(machine())
    print(f"B = {BATCH}, M = {N_MODELS}, d = {D_MODEL}; {100 * share:g}% of latents dead in both")
    repeats = 2 if arguments.quick else arguments.repeats
    points = [measure(*MAIN, share, repeats)]
    print_point(points[0], f"main point, medians of {repeats}")
    bf16 = measure_bf16(share, repeats)
    print(f"the step with precision = bfloat16: {bf16:.3f} s")
    data = data_seconds(8 * BATCH if arguments.quick else 32 * BATCH)
    for name, taken in data.items():
        print(
            f"data, {name}: {1000 * taken:.1f} ms a batch, {taken / points[0].step:.4f} of a step"
        )
    memory: dict[str, dict[str, float]] = {}
    if not arguments.quick:
        points += measure_table(arguments.sizes, share)
        memory = measure_memory(arguments.sizes, share)
    best = points[0].row()
    figures = {
        "dense_over_step": best["dense_over_step"],
        "step_over_encoder": best["step_over_encoder"],
        "data_over_step": round(data["ring_buffer"] / points[0].step, 4),
        "step_bf16_seconds": round(bf16, 4),
        "dead_share": share,
        "machine": machine(),
        "table": [point.row() for point in points],
        "peak_memory_gib": memory,
    }
    print(json.dumps(figures))


def measure_table(sizes: Sequence[int], share: float) -> list[Point]:
    """The main point with other shares of dead latents and all other points, two rounds each."""
    points = []
    for other in OTHER_SHARES if MAIN[0] in sizes else ():
        points.append(measure(*MAIN, other, 2))
        print_point(points[-1], "medians of 2")
    for n_latents in sizes:
        for k in KS:
            if (n_latents, k) == MAIN:
                continue
            short = shortage(n_latents)
            if short:
                print(f"F = {n_latents}, k = {k}: left out, {short}")
                continue
            points.append(measure(n_latents, k, share, 2))
            print_point(points[-1], "medians of 2")
    return points


def measure_memory(sizes: Sequence[int], share: float) -> dict[str, dict[str, float]]:
    """Peak GiB by dictionary size and variant; `none` is the process with its data alone."""
    memory: dict[str, dict[str, float]] = {}
    for n_latents in sizes:
        short = shortage(n_latents)
        if short:
            print(f"memory at F = {n_latents}: left out, {short}")
            continue
        peaks = {v: peak_memory(v, n_latents, share) for v in ("none", "step", "dense")}
        memory[str(n_latents)] = {name: round(peak, 3) for name, peak in peaks.items()}
        shown = ", ".join(f"{name} {peak:.2f} GiB" for name, peak in peaks.items())
        print(f"peak resident memory at F = {n_latents}, k = {MAIN[1]}: {shown}", flush=True)
    return memory


def print_point(point: Point, how: str) -> None:
    """One line."""
    print(
        f"F = {point.n_latents}, k = {point.k}, {point.n_dead} dead ({how}): "
        f"step {point.step:.3f} s, dense {point.dense:.3f} s, encoder {point.encoder:.3f} s; "
        f"dense/step {point.dense / point.step:.2f}, "
        f"step/encoder {point.step / point.encoder:.2f}; "
        f"first loss differs by {point.loss_difference:.1e}",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="main point only, under a minute")
    parser.add_argument("--dead-share", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=7, help="rounds at the main point")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves them")
    parser.add_argument("--memory-of", choices=("none", "step", "dense"), help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=LATENTS, help="F of the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
