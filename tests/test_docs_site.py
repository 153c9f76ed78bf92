"""The docs site builds: every link and image is there, every docstring of the packages is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from markdown import ROOT


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (site / "api" / "labeler" / "index.html").read_text(encoding="utf-8")
    assert 'id="labeler.api.Study.category_change"' in page
    assert (site / "images" / "report.png").is_file()
