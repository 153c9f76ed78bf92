"""A database that is none, or not this study's, gets one clear line and stays as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from complaints import Capture, assert_names, complaint

from labeler.cli.main import run
from labeler.store import migrate

pytestmark = pytest.mark.usefixtures("own_cache")


def add_table(path: Path, text: str) -> None:
    """Put a table in the place of the template's own."""
    title = text.splitlines()[0] + "\n"
    path.write_text(path.read_text(encoding="utf-8").replace(title, text), encoding="utf-8")


def test_a_taxonomy_that_is_none(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "own.yaml").write_text("categories: [", encoding="utf-8")
    add_table(imported, '[taxonomy]\nfile = "own.yaml"\n')
    assert_names(complaint(capsys, "taxonomy", "show", imported), "own.yaml")


def test_a_database_of_a_newer_revision(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    with closing(sqlite3.connect(tmp_path / "difflens.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = (tmp_path / "difflens.db").read_bytes()
    table = tmp_path / "latents.csv"
    for arguments in (("status", imported), ("report", imported), ("import", imported, table)):
        line = complaint(capsys, *arguments)
        assert_names(line, "database.url", "9999", "upgrade difflens")
    assert (tmp_path / "difflens.db").read_bytes() == before


@pytest.mark.parametrize("revision", ["0001", "0009"])
def test_a_database_made_before_the_first_release(
    imported: Path, tmp_path: Path, revision: str, capsys: Capture
) -> None:
    database = tmp_path / "difflens.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()
    before, url = database.read_bytes(), f"sqlite:///{database}"
    calls: list[tuple[str | Path, ...]] = [
        ("status", imported),
        ("report", imported),
        ("import", imported, tmp_path / "latents.csv"),
        ("db", "upgrade", url),
        ("db", "check", url),
        ("db", "copy", url, f"sqlite:///{tmp_path / 'copy.db'}"),
    ]
    for arguments in calls:
        line = complaint(capsys, *arguments)
        assert_names(line, database, "before difflens 0.1.0", "name a new database", "again")
    assert database.read_bytes() == before


def test_a_database_of_an_older_revision(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    url = f"sqlite:///{tmp_path / 'difflens.db'}"
    migrate.downgrade(url, "base", backup=False)
    line = complaint(capsys, "status", imported)
    assert_names(line, "database.url", f"difflens db upgrade {url}")
    assert run(["import", str(imported), str(tmp_path / "latents.csv")]) == 0
    assert run(["status", str(imported)]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", "{study}", "select 1"),
        ("status", "{study}"),
        ("inspect", "{study}", "1"),
        ("history", "{study}", "1"),
        ("labels", "export", "{study}", "out.csv"),
        ("labels", "import", "{study}", "in.csv"),
        ("db", "current", "{url}"),
        ("db", "check", "{url}"),
        ("db", "downgrade", "{url}", "base"),
    ],
)
def test_a_missing_database_is_not_made_by_looking(
    tmp_path: Path,
    arguments: tuple[str, ...],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.toml"
    assert run(["init", str(path)]) == 0
    url = f"sqlite:///{tmp_path / 'difflens.db'}"
    filled = [word.format(study=path, url=url) for word in arguments]
    assert_names(complaint(capsys, *filled), "difflens.db", "db upgrade")
    assert [file.name for file in tmp_path.iterdir()] == ["study.toml"]


def test_a_database_that_is_none(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    database = tmp_path / "difflens.db"
    for name in ("difflens.db-wal", "difflens.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    database.write_text("this is a letter, not a database\n" * 100, encoding="utf-8")
    before = database.read_bytes()
    table = tmp_path / "latents.csv"
    calls: list[tuple[str | Path, ...]] = [
        ("sql", imported, "select 1 from run"),
        ("status", imported),
        ("report", imported),
        ("import", imported, table),
        ("db", "upgrade", f"sqlite:///{database}"),
    ]
    for arguments in calls:
        assert_names(complaint(capsys, *arguments), "database")
    assert database.read_bytes() == before


def test_a_folder_in_the_place_of_the_database(
    imported: Path, tmp_path: Path, capsys: Capture
) -> None:
    add_table(imported, '[database]\nurl = "sqlite:///folder"\n')
    (tmp_path / "folder").mkdir()
    for arguments in (("status", imported), ("import", imported, tmp_path / "latents.csv")):
        assert_names(complaint(capsys, *arguments), tmp_path / "folder")


def test_a_database_of_something_else(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    add_table(imported, '[database]\nurl = "sqlite:///other.db"\n')
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE music (title TEXT)")
    line = complaint(capsys, "import", imported, tmp_path / "latents.csv")
    assert_names(line, "other.db", "something else")


DAMAGED_CALLS = [
    ("sql", "{study}", "select * from v_effective_label"),
    ("status", "{study}"),
    ("report", "{study}"),
    ("labels", "export", "{study}", "{folder}/out.csv"),
    ("taxonomy", "show", "{study}"),
    ("db", "current", "{url}"),
    ("db", "check", "{url}"),
    ("db", "upgrade", "{url}"),
    ("db", "downgrade", "{url}", "base"),
    ("db", "copy", "{url}", "sqlite:///{folder}/copy.db"),
]


@pytest.mark.parametrize("arguments", DAMAGED_CALLS, ids=lambda words: " ".join(words[:2]))
def test_a_database_cut_short(
    imported: Path, tmp_path: Path, arguments: tuple[str, ...], capsys: Capture
) -> None:
    database = tmp_path / "difflens.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
    filled = [
        word.format(study=imported, url=f"sqlite:///{database}", folder=tmp_path)
        for word in arguments
    ]
    line = complaint(capsys, *filled, status=1)
    assert_names(line, "malformed", "the file is damaged; restore a backup")


def test_a_database_with_a_page_overwritten(
    imported: Path, tmp_path: Path, capsys: Capture
) -> None:
    database = tmp_path / "difflens.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'effective_label'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(database.read_bytes())
    content[(page - 1) * size : page * size] = b"\x07" * size
    database.write_bytes(content)
    for words in (
        ("sql", imported, "select * from v_effective_label"),
        ("status", imported),
        ("db", "check", f"sqlite:///{database}"),
    ):
        assert_names(complaint(capsys, *words, status=1), "the file is damaged")
