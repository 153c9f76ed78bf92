"""What a stopped training run goes on from: whole checkpoints and the metrics up to them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from crosscoder.files import write_text
from crosscoder.integrity import DamagedFileError
from crosscoder.soundness import not_finite
from crosscoder.tensor_files import read_sealed_tensors, write_sealed_tensors
from crosscoder.trainer import StepMetrics

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2
_PATTERN = "step-*.safetensors"


class TrainingCheckpoints:
    """The newest checkpoints of one run: single safetensors files that appear whole.

    A file belongs to the run whose `run_key` is in its header, with the hash of its content.
    """

    def __init__(self, directory: Path, run_key: str) -> None:
        self._directory = directory
        self._run_key = run_key

    def write(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        """Store a step and forget all but the newest; WorkError where the disk is full."""
        path = self._directory / f"step-{step:09d}.safetensors"
        write_sealed_tensors(path, tensors, {"run_key": self._run_key, "step": str(step)})
        for old in self._files()[CHECKPOINTS_KEPT:]:
            old.unlink()

    def newest(self) -> dict[str, torch.Tensor] | None:
        """Tensors of the newest whole checkpoint of this run, or None.

        One that is damaged, or holds a number that is not finite, is named and passed over.
        """
        for path in self._files():
            try:
                tensors, header = read_sealed_tensors(path, "the checkpoint before it is used")
            except DamagedFileError as error:
                logger.warning("%s", error)
                continue
            if header.get("run_key") != self._run_key:
                logger.warning("%s: of another configuration, not used", path)
                continue
            problem = not_finite(tensors)
            if problem is None:
                return tensors
            logger.warning("%s: %s; the checkpoint before it is used", path, problem)
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in self._files():
            path.unlink()
        if self._directory.is_dir():
            self._directory.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(_PATTERN), reverse=True)


class MetricsLog:
    """metrics.jsonl: one line a step, in order, without the steps a stop has undone."""

    def __init__(self, path: Path, n_done: int) -> None:
        """Keep the lines of the first `n_done` steps and open the file for the next."""
        write_text(path, "".join(_whole_lines(path, n_done)))
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: StepMetrics, seconds: float) -> None:
        """Append one step; `seconds` is the time the step took, waiting for data included."""
        line: Mapping[str, object] = {**asdict(metrics), "seconds": round(seconds, 4)}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _whole_lines(path: Path, n_done: int) -> list[str]:
    if n_done == 0 or not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")][:n_done]
