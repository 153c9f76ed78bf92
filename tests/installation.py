"""A wheel of this checkout, and an environment that has it with what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from markdown import ROOT
from requirements import missing


def build_wheel(folder: Path) -> Path:
    """Build the wheel with the build backend that is installed; nothing is downloaded."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    _checked([*command, str(ROOT)], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Installation:
    """An environment that has the wheel without extras, its dependencies, and not the checkout."""

    folder: Path
    site_packages: Path

    @classmethod
    def of(cls, wheel: Path, folder: Path) -> Installation:
        """Install the wheel into a new environment in `folder`; pip fetches its dependencies."""
        venv.create(folder, with_pip=False)
        names = {"base": str(folder), "platbase": str(folder)}
        site_packages = Path(sysconfig.get_path("purelib", vars=names))
        installer = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
        options = ["--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
        command = [*installer, "install", *options, str(wheel)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            missing("wheel", f"pip cannot install it: {done.stderr.strip()[-300:]}")
        return cls(folder, site_packages)

    def run(self, cwd: Path, *words: str) -> str:
        """Run a program of the environment in `cwd`; returns stdout, fails on another status."""
        return _checked([str(self.folder / "bin" / words[0]), *words[1:]], cwd)

    def refused(self, cwd: Path, *words: str) -> str:
        """Run a program that is to end with status 2; returns its stderr."""
        command = [str(self.folder / "bin" / words[0]), *words[1:]]
        done = subprocess.run(
            command, cwd=cwd, env=_environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, f"{command}\n{done.stdout}{done.stderr}"
        return done.stderr

    @contextmanager
    def running(self, cwd: Path, *words: str) -> Iterator[str]:
        """Start a program of the environment in `cwd`; yields the first line of its stderr."""
        command = [str(self.folder / "bin" / words[0]), *words[1:]]
        with subprocess.Popen(
            command, cwd=cwd, env=_environment(), stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stderr is not None
                yield process.stderr.readline()
            finally:
                process.terminate()


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def _checked(command: list[str], cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
