"""A database's URL means what it says, whatever stands in its path or password."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from complaints import Capture, assert_names, complaint
from published_table import write_table

from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.store import migrate
from labeler.store.copy import copy_database
from labeler.store.database_url import (
    parse_url,
    resolve_url,
    shown_url,
    sqlite_file,
    url_in_a_command,
)
from labeler.store.engine import open_engine
from labeler.study.study_file import StudyFile

FOLDERS = [
    "run?1", "run?2", "run?mode=ro", "a#b", "run%41", "run%3F", "two words", "a:b", "me@host",
    "me:pw@host", "größe-模型", "dots..", "semi;colon", "quote'\"", "a&b=c", "${HOME}", "-dash",
    "plus+plus", "back\\slash", "[bracket]", "~tilde",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_path_means_itself(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "difflens.db"
    url = resolve_url("sqlite:///difflens.db", tmp_path / name)
    assert sqlite_file(url) == path
    assert sqlite_file(shown_url(url)) == path
    assert [shown_url(url)] == shlex.split(url_in_a_command(url))
    migrate.upgrade(url)
    assert path.is_file()
    engine = open_engine(shown_url(url))
    engine.connect().close()
    engine.dispose()
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_each_study_has_its_own_database(tmp_path: Path, capsys: Capture) -> None:
    table = write_table(tmp_path / "latents.csv", "mathematics")
    names = ("run?1", "run?2", "run%41 #b", "${HOME}")
    for name in names:
        folder = tmp_path / "studies" / name
        folder.mkdir(parents=True)
        study = folder / "study.toml"
        assert run(["init", str(study)]) == 0
        assert run(["import", str(study), str(table)]) == 0
        assert (folder / "difflens.db").is_file()
        for words in (
            ("status", study),
            ("sql", study, "select count(*) from v_effective_label"),
            ("labels", "export", study, folder / "labels.csv"),
            ("db", "check", shown_url(StudyFile.read(study).database_url)),
        ):
            assert run([str(word) for word in words]) == 0, (name, words)
    capsys.readouterr()
    folders = {each.name for each in (tmp_path / "studies").iterdir()}
    assert folders == set(names)


def test_a_copy_of_a_database_onto_itself_is_known_by_its_file(
    sqlite_url: str, tmp_path: Path
) -> None:
    path = sqlite_file(sqlite_url)
    assert path is not None
    (tmp_path / "link").symlink_to(path)
    for other in (f"sqlite:///file:{path}?uri=true", f"sqlite:///{tmp_path / 'link'}"):
        with pytest.raises(UsageError, match="the same database"):
            copy_database(sqlite_url, other)


@pytest.mark.parametrize("url", ["sqlite:///run?1.db", "sqlite:///run?a=b", "sqlite:///x?"])
def test_a_path_that_its_url_would_cut_short_is_refused(
    url: str, tmp_path: Path, capsys: Capture
) -> None:
    assert_names(complaint(capsys, "db", "upgrade", url), "database.url", "%3F")
    assert list(tmp_path.iterdir()) == []


def test_options_of_sqlite_and_its_own_uris_are_urls_still(tmp_path: Path) -> None:
    for url in (
        f"sqlite:///{tmp_path}/a.db?timeout=5",
        f"sqlite:///file:{tmp_path}/a.db?uri=true&mode=rwc",
    ):
        assert sqlite_file(url) == tmp_path / "a.db"
    assert sqlite_file("sqlite://") is None
    assert sqlite_file("sqlite:///:memory:") is None
    here = resolve_url("sqlite:///file:b%3F.db?uri=true", tmp_path)
    assert sqlite_file(here) == tmp_path / "b?.db"


PASSWORDS = ["plain", "p@ss", "a/b", "q?x=y", "h#sh", "c:d", "a&b", "1+1", "per%zent", "[x]", "ü"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "shape", ["postgresql://me:${PW}@host:5433/db", "postgresql://me@host:5433/db?password=${PW}"]
)
def test_a_password_in_the_environment_means_itself(
    password: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", password)
    url = parse_url(shape)
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "me", password, "host", 5433, "db",
    )  # fmt: skip
    assert password not in shown_url(shape) + repr(url)


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ("${X}", "postgresql://me:p%40ss@host:5433/db"),
        ("postgresql://${X}/db", "me:p%40ss@host:5433"),
        ("postgresql://me:${X}@host:5433/db", "p%40ss"),
        ("postgresql://me:p%40ss@host:${X}/db", "5433"),
        ("${X}://me:p%40ss@host:5433/db", "postgresql"),
    ],
)
def test_any_part_of_a_url_may_stand_in_the_environment(
    shape: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X", value)
    url = parse_url(shape)
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "me", "p@ss", "host", 5433, "db",
    )  # fmt: skip


def test_a_path_in_the_environment_means_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path / "run?1"))
    assert sqlite_file(parse_url("sqlite:///${PLACE}/a.db")) == tmp_path / "run?1" / "a.db"


def test_a_password_cut_by_its_own_sign_is_refused_unseen() -> None:
    with pytest.raises(UsageError, match="%40") as error:
        parse_url("postgresql://me:secret@word@host/db")
    assert "word" not in str(error.value).replace("password", "")
