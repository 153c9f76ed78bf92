"""Reports that several tests look at, built once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_page import Page, read_page
from report_studies import build_imported, build_planted, report_run

from labeler.report.build import ReportFiles, ReportOptions, build_report
from labeler.store.engine import open_engine

PLANTED = {"safety": "up", "instruction-following": "up", "self-reference": "down"}


@pytest.fixture(scope="session")
def paper_report(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of imported latents with the published percentages."""
    folder = tmp_path_factory.mktemp("paper")
    shutil.copy(migrated_file, folder / "difflens.db")
    engine = open_engine(f"sqlite:///{folder / 'difflens.db'}")
    build_imported(engine)
    return build_report(engine, ReportOptions("paper"), folder / "report", report_run(engine))


@pytest.fixture(scope="session")
def planted_report(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The report of a direct pair with evidence and planted directions."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(migrated_file, folder / "difflens.db")
    engine = open_engine(f"sqlite:///{folder / 'difflens.db'}")
    build_planted(engine)
    options = ReportOptions("demo", "What SimPO changed", planted=PLANTED)
    return build_report(engine, options, folder / "report", report_run(engine))


@pytest.fixture(scope="session")
def planted_page(planted_report: ReportFiles) -> Page:
    """The page of that report."""
    return read_page(planted_report.html.read_text(encoding="utf-8"))
