"""Programs that see what `pip install difflens` brings, and none of the libraries of its extras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from markdown import ROOT

from labeler.errors import LIBRARIES

HIDE = """
import sys
from importlib.machinery import PathFinder

class PlainFinder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {libraries!r}
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[:] = [PlainFinder if finder is PathFinder else finder for finder in sys.meta_path]
"""
RUN = """
import contextlib, io, json, sys
from labeler.cli.main import run

ended = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(words)
    ended.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(ended))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class PlainInstall:
    """Runs Python where the extras' libraries can not be imported."""

    folder: Path
    """Holds what hides them, for Python to read at its start."""

    @classmethod
    def in_folder(cls, folder: Path) -> PlainInstall:
        """Write what hides the libraries into `folder`."""
        libraries = {name for names in LIBRARIES.values() for name in names}
        (folder / "sitecustomize.py").write_text(HIDE.format(libraries=libraries), "utf-8")
        return cls(folder)

    def python(self, code: str, *arguments: str, cwd: Path = ROOT) -> str:
        """Run code; returns stdout, fails where it does not end well."""
        paths = os.pathsep.join([str(self.folder), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commands(self, cwd: Path, *commands: list[str]) -> list[Ended]:
        """Run `difflens` calls one after the other in one process."""
        return [
            Ended(*each) for each in json.loads(self.python(RUN, json.dumps(commands), cwd=cwd))
        ]
