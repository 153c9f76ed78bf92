"""What is shipped: the wheel, what is in it, that it works alone, and what its metadata says."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from html import unescape
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from installation import Installation, build_wheel
from markdown import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from requirements import missing

from labeler import __version__
from labeler.cli.demo import SHIPPED_FILES
from labeler.errors import LIBRARIES

PACKAGES = ("crosscoder", "taxonomy", "labeler")
PAPER = ROOT / "examples" / "paper"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
INSTALLED_EXTRAS = ("dev", "models", "postgres")
"""Extras that `make setup` installs."""
EXTRA_MODULES = {name for names in LIBRARIES.values() for name in names}
LIST_MODULES = "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"
PLATFORM_PARTS = re.compile(r"nvidia|cuda|triton")
"""What torch's builds for GPUs bring: their versions are torch's own choice."""


pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    for module in ("build", "hatchling", "pip"):
        if find_spec(module) is None:
            missing("wheel", f"{module} is not installed")
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel without extras in an environment of its own; one for all tests, as it is slow."""
    return Installation.of(wheel, tmp_path_factory.mktemp("environment"))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with the latents of the paper example and nothing else."""
    shutil.copy(PAPER / "latents.csv", tmp_path)
    return tmp_path


def shipped_files() -> set[str]:
    """Every file of the packages and the migrations, as the wheel should name it."""
    sources = {
        path: path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*")
    }
    migrations = ROOT / "migrations"
    sources |= {
        path: Path("labeler/migrations") / path.relative_to(migrations)
        for path in migrations.rglob("*")
    }
    return {
        target.as_posix()
        for path, target in sources.items()
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.wheel
def test_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == shipped_files()
    for data in (
        "labeler/migrations/env.py",
        "labeler/migrations/versions/0001_first_schema.py",
        "labeler/judge/prompts/explain.txt",
        "labeler/report/templates/report.html.j2",
        "labeler/labeling/puzzles.yaml",
        "labeler/report/templates/sections/change-table.html.j2",
        "labeler/store/query/queries/coverage.sql",
        "labeler/review/static/htmx-LICENSE.txt",
        "labeler/review/static/htmx.min.js",
        "labeler/review/static/review.css",
        "labeler/review/templates/latent.html.j2",
        "taxonomy/seeds/model-diffing.yaml",
    ):
        assert data in inside
    for asset in SHIPPED_FILES:
        place = f"labeler/cli/demo_assets/{asset}"
        assert any(name == place or name.startswith(f"{place}/") for name in inside), asset


@pytest.mark.wheel
def test_wheel_describes_itself(wheel: Path) -> None:
    facts = wheel_metadata(wheel)
    assert facts["Name"] == "difflens"
    assert facts["Version"] == __version__
    assert facts["Requires-Python"] == ">=3.11"
    assert facts["License-Expression"] == "Apache-2.0"
    extras = {"models", "data", "vllm", "postgres", "web", "clients", "dev"}
    assert extras <= set(facts.get_all("Provides-Extra") or ())
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


@pytest.mark.wheel
def test_installed_packages_are_not_the_checkout(installation: Installation, study: Path) -> None:
    code = "import crosscoder, taxonomy, labeler\n"
    code += "print(*(m.__file__ for m in (crosscoder, taxonomy, labeler)), sep='\\n')"
    places = installation.run(study, "python", "-c", code).split()
    assert len(places) == 3
    assert all(Path(place).is_relative_to(installation.site_packages) for place in places)


@pytest.mark.wheel
def test_a_plain_installation_has_no_extras(installation: Installation, study: Path) -> None:
    listed = installation.run(study, "python", "-c", LIST_MODULES, *sorted(EXTRA_MODULES)).split()
    assert listed == []
    (study / "study.toml").write_text("", encoding="utf-8")
    said = installation.refused(study, "difflens", "crosscoder", "export", "study.toml", "out")
    assert said.endswith('; pip install "difflens[models]"\n')
    assert said.count("\n") == 1


@pytest.mark.wheel
def test_installed_commands_do_the_statistics(installation: Installation, study: Path) -> None:
    def difflens(*words: str) -> str:
        return installation.run(study, "difflens", *words)

    assert "import" in difflens("--help")
    assert difflens("--version").strip() == f"difflens {__version__}"
    difflens("init", "study.toml")
    database = f"sqlite:///{study / 'difflens.db'}"
    difflens("db", "upgrade", database)
    difflens("db", "check", database)
    assert difflens("db", "current", database).strip() != "base"
    difflens("import", "study.toml", "latents.csv")
    question = "select percent_change from v_category_change where category = 'safety'"
    answer = json.loads(difflens("sql", "study.toml", question, "--format", "json"))
    assert [round(row["percent_change"], 1) for row in answer] == [32.8]
    assert "difflens.db" in difflens("status", "study.toml")
    assert "+32.8%" in difflens("report", "study.toml")
    assert "+32.8%" in (study / "report" / "index.html").read_text("utf-8")


@pytest.mark.wheel
def test_installed_api_does_the_statistics(installation: Installation, study: Path) -> None:
    (study / "study.toml").write_text("", encoding="utf-8")
    (study / "notebook.py").write_text(
        "from labeler.api import Study\n"
        "study = Study.open('study.toml')\n"
        "study.import_latents('latents.csv')\n"
        "change = study.category_change().set_index('category')\n"
        "print(round(change.percent_change['safety'], 1), len(study.taxonomy().leaves()))\n",
        encoding="utf-8",
    )
    change, leaves = installation.run(study, "python", "notebook.py").split()
    assert change == "32.8"
    assert int(leaves) > 10


@pytest.mark.wheel
def test_installed_review_serves_its_pages(installation: Installation, study: Path) -> None:
    installation.run(study, "difflens", "init", "study.toml")
    installation.run(study, "difflens", "import", "study.toml", "latents.csv")
    command = ("difflens", "review", "study.toml", "--port", "0", "--reviewer", "ann")
    with installation.running(study, *command) as said:
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+", said)
        page = fetched(f"{address}/")
        assets = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
        names = {asset.partition("?")[0] for asset in assets}
        assert {"/static/htmx.min.js", "/static/review.css"} <= names
        assert all(fetched(address + asset) for asset in assets)
        assert "htmx" in fetched(f"{address}/static/htmx.min.js")
        (first, *_) = re.findall(r'href="(/latents/\d+[^"]*)"', page)
        assert 'name="base_revision"' in fetched(address + unescape(first))


def fetched(url: str) -> str:
    """The text at an address of this machine; fails on any status but 200."""
    with urlopen(url, timeout=30) as answer:
        return str(answer.read().decode("utf-8"))


def requirements_of(extras: tuple[str, ...]) -> list[Requirement]:
    optional = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])]
    return [Requirement(line) for line in lines]


def pins() -> dict[str, str]:
    """Version by name, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def needed_by(requirement: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Names of a requirement and of all that it needs here, by what is installed."""
    for extra in {"", *requirement.extras}:
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        seen.add(key)
        yield key[0]
        for line in metadata.requires(requirement.name) or ():
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                yield from needed_by(inner, seen)


def test_pins_lie_in_the_ranges() -> None:
    pinned = pins()
    for requirement in requirements_of(INSTALLED_EXTRAS):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pinned[name], prereleases=True), name


def test_pins_cover_everything_that_is_installed() -> None:
    pinned, seen = pins(), set[tuple[str, str]]()
    needed = {n for r in requirements_of(INSTALLED_EXTRAS) for n in needed_by(r, seen)}
    unpinned = {name for name in needed - set(pinned) if not PLATFORM_PARTS.match(name)}
    assert unpinned == set()


def test_project_files_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")[:200]
    assert f"## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert PROJECT["requires-python"] == ">=3.11"
    assert sys.version_info >= (3, 11)
