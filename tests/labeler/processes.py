"""Processes that a test has started, as the system sees them."""

from __future__ import annotations

from pathlib import Path


def children(parent: int | str = "self") -> set[str]:
    """The processes that a process has started and that still run."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


def is_running(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
