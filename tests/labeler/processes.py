"""Processes that a test has started, as the system sees them."""

from __future__ import annotations

from pathlib import Path


def children(parent: int | str = "self") -> set[str]:
    """The processes that a process has started and that still run."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return {pid for task in tasks for pid in _read(task).split()}


def is_running(pid: int | str) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for has ended."""
    state = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return bool(state) and state[0] != "Z"


def _read(path: Path) -> str:
    """A file of /proc; empty where its process ended, even between opening and reading."""
    try:
        return path.read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""
