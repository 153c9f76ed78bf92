"""`difflens doctor`: what this machine has."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor() -> None:
    """Say what this machine has: torch, devices, vLLM, database drivers, the demo's models."""
    from labeler.doctor import examine

    for finding in examine():
        typer.echo(f"{finding.name:<22} {finding.value}")
