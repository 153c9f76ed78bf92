"""A file that a program garbled makes no decision, however it came about, and says so in a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from complaints import Capture, assert_names, complaint
from published_table import write_table
from seeding import label, rows, seed
from sqlalchemy import Engine

from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.exchange.garbling import (
    ComparedText,
    first_misread,
    garbled_from,
    looks_misread,
    misread,
    refuse_garbled,
)
from labeler.exchange.labels_csv import plain_text
from labeler.exchange.labels_round_trip import export_labels, import_labels
from labeler.store.engine import read_session, write_session
from labeler.text import BYTE_ORDER_MARK, guarded, unguarded

TEXTS = (
    "refuses — politely", "the model’s own voice", "“quoted” speech", "naïve questions",
    "größe und maß", "日本語の文", "русский текст", "à la carte", "price in €", "a tilde ñ…",
)  # fmt: skip
N_TARGET, N_REFERENCE = 6, 4


@pytest.fixture
def exported(sqlite_engine: Engine, tmp_path: Path) -> Path:
    """A file of ten labels, as written."""
    with write_session(sqlite_engine) as session:
        data = seed(session, N_TARGET, N_REFERENCE)
        for latent_id, text in zip([*data.target, *data.reference], TEXTS, strict=True):
            label(session, data, latent_id, "safety", explanation=text)
    path = tmp_path / "labels.csv"
    export_labels(sqlite_engine, path)
    return path


def cells(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))


def write(path: Path, records: list[dict[str, str]], encoding: str = "utf-8") -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    path.write_bytes(text.getvalue().encode(encoding))


def in_every_cell(path: Path, change: Callable[[str], str]) -> None:
    records = cells(path)
    for record in records:
        record["explanation"] = change(record["explanation"])
    write(path, records)


def n_decisions(engine: Engine) -> int:
    with read_session(engine) as session:
        return int(rows(session, "SELECT count(*) FROM review_event")[0][0])


def twice(encoding: str) -> Callable[[str], str]:
    return lambda text: misread(misread(text, encoding), encoding)


def once(encoding: str) -> Callable[[str], str]:
    return lambda text: misread(text, encoding)


def lost(encoding: str) -> Callable[[str], str]:
    return lambda text: text.encode(encoding, "replace").decode(encoding)


GARBLED: dict[str, Callable[[str], str]] = {
    **{f"read as {name}": once(name) for name in ("cp1252", "latin-1", "mac_roman", "cp1250")},
    **{f"read as {name}": once(name) for name in ("cp1251", "cp437", "cp850")},
    **{f"read twice as {name}": twice(name) for name in ("cp1252", "latin-1", "mac_roman")},
    "read as cp1252, then as mac_roman": lambda text: misread(misread(text, "cp1252"), "mac_roman"),
    "saved as ascii": lost("ascii"),
    "saved as cp1252": lost("cp1252"),
    "saved as latin-1": lost("latin-1"),
    "signs replaced": lambda text: text.encode("ascii", "replace").decode().replace("?", "\ufffd"),
    "controls dropped": lambda text: "".join(
        sign for sign in misread(text, "latin-1") if not "\x7f" <= sign <= "\x9f"
    ),
}


def compared(way: Callable[[str], str]) -> list[ComparedText]:
    """204 explanations that went a way, and one that a reviewer edited."""
    texts = [f"{TEXTS[n % len(TEXTS)]} {n}" for n in range(205)]
    new = [plain_text(way(text)) for text in texts]
    new[100] = "an edit"
    pairs = zip(texts, new, strict=True)
    return [ComparedText(number, old, text) for number, (old, text) in enumerate(pairs, start=2)]


@pytest.mark.parametrize("way", GARBLED.values(), ids=GARBLED)
def test_a_garbled_file_is_refused_whatever_garbled_it(way: Callable[[str], str]) -> None:
    with pytest.raises(UsageError) as refused:
        refuse_garbled(Path("labels.csv"), compared(way), all_changed=True)
    line = str(refused.value)
    assert "\n" not in line
    assert_names(line, "labels.csv", "row ", "garbled", "CSV UTF-8", "nothing imported")


def test_nearly_all_explanations_changed_is_asked_about_and_can_be_meant() -> None:
    rows = compared(lambda text: text.upper() + "!")
    with pytest.raises(UsageError, match="205 of 205 rows have another explanation") as refused:
        refuse_garbled(Path("labels.csv"), rows)
    assert "--all-changed" in str(refused.value)
    refuse_garbled(Path("labels.csv"), rows, all_changed=True)
    some = [row if row.number < 150 else replace(row, new=row.old) for row in rows]
    refuse_garbled(Path("labels.csv"), some)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_garbled_file_decides_nothing_and_one_real_edit_in_it_neither(
    sqlite_engine: Engine, exported: Path, dry_run: bool
) -> None:
    in_every_cell(exported, once("cp1252"))
    records = cells(exported)
    records[7]["category"] = "humour"
    write(exported, records)
    with pytest.raises(UsageError, match="row 2: the explanation is garbled"):
        import_labels(sqlite_engine, exported, "ann", dry_run, all_changed=True)
    assert n_decisions(sqlite_engine) == 0


def test_one_garbled_cell_among_good_ones_stops_the_file(
    sqlite_engine: Engine, exported: Path
) -> None:
    records = cells(exported)
    records[3]["explanation"] = misread(records[3]["explanation"], "cp1252") + " and more"
    records[9]["category"] = "humour"
    write(exported, records)
    with pytest.raises(UsageError, match="row 5: the explanation is garbled"):
        import_labels(sqlite_engine, exported, "ann")
    assert n_decisions(sqlite_engine) == 0


UNCHANGED: dict[str, Callable[[str], str]] = {
    "as it was": lambda text: text,
    "line ends": lambda text: text.replace("\n", "\r\n"),
    "outer space": lambda text: f"  {text} ",
    "curly quotes made straight": lambda text: (
        text.replace("’", "'").replace("“", '"').replace("”", '"')
    ),
    "ellipsis": lambda text: text.replace("…", "..."),
    "spaces that do not break": lambda text: text.replace(" ", "\xa0"),
}


@pytest.mark.parametrize("way", UNCHANGED.values(), ids=UNCHANGED)
def test_what_a_spreadsheet_changes_unasked_is_no_edit_and_a_real_one_is(
    sqlite_engine: Engine, exported: Path, way: Callable[[str], str]
) -> None:
    in_every_cell(exported, way)
    records = cells(exported)
    records[7]["category"] = "humour"
    records[8]["explanation"] = "a new explanation — with a dash"
    write(exported, records)
    mark = BYTE_ORDER_MARK if len(way("a b")) == 3 else ""
    exported.write_text(mark + exported.read_text("utf-8"), "utf-8", newline="")
    result = import_labels(sqlite_engine, exported, "ann")
    assert (result.n_decisions, result.n_unchanged) == (2, N_TARGET + N_REFERENCE - 2)


def test_a_file_that_is_no_utf8_is_named(sqlite_engine: Engine, exported: Path) -> None:
    records = [record for record in cells(exported) if "’" in record["explanation"]]
    write(exported, records, "cp1252")
    with pytest.raises(UsageError, match="UTF-8"):
        import_labels(sqlite_engine, exported, "ann")


def test_every_category_may_change_without_a_question(
    sqlite_engine: Engine, exported: Path
) -> None:
    records = cells(exported)
    for record in records:
        record["category"] = "humour"
    write(exported, records)
    assert import_labels(sqlite_engine, exported, "ann").n_decisions == 10


def test_garbled_notes_are_refused_and_can_be_meant(sqlite_engine: Engine, exported: Path) -> None:
    records = cells(exported)
    for number in (2, 3):
        records[number] |= {"category": "humour", "note": misread("naïve – sehr schön", "cp1252")}
    write(exported, records)
    with pytest.raises(UsageError, match="row 4: the text is garbled"):
        import_labels(sqlite_engine, exported, "ann")
    assert import_labels(sqlite_engine, exported, "ann", all_changed=True).n_decisions == 2


def test_the_export_says_that_it_is_utf8_and_its_hashes_are_no_numbers(exported: Path) -> None:
    assert exported.read_bytes().startswith(b"\xef\xbb\xbfcomparison,")
    assert all(record["base"][0] == "h" for record in cells(exported))


def test_a_file_of_an_older_version_is_read(sqlite_engine: Engine, exported: Path) -> None:
    records = cells(exported)
    for record in records:
        record["base"] = record["base"].removeprefix("h")
    records[0]["category"] = "humour"
    write(exported, records)
    assert import_labels(sqlite_engine, exported, "ann").n_decisions == 1


def test_jsonl_has_no_mark_and_is_read_with_one(
    sqlite_engine: Engine, exported: Path, tmp_path: Path
) -> None:
    path = tmp_path / "labels.jsonl"
    export_labels(sqlite_engine, path)
    lines = path.read_text("utf-8").splitlines()
    assert json.loads(lines[0])["comparison"]
    path.write_text(BYTE_ORDER_MARK + "\n".join(lines), "utf-8")
    assert import_labels(sqlite_engine, path, "ann").n_unchanged == 10


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_not_garbled_from_itself_nor_from_another(text: str) -> None:
    assert garbled_from(text, text) is None
    assert not looks_misread(text)
    for other in TEXTS:
        assert garbled_from(text, other) is None
    assert garbled_from(misread(text, "cp1252"), plain_text(text)) is None


def test_text_about_garbled_text_is_text() -> None:
    said = "fires on mojibake such as Ã©"
    assert garbled_from("fires on mojibake", said) is None
    assert first_misread([(1, said), (2, "naïve")]) is None
    assert first_misread([(1, "plain"), (2, said)]) == 2
    assert first_misread([(1, "plain")]) is None


def test_a_garbled_latents_csv_is_refused_and_can_be_meant(tmp_path: Path, capsys: Capture) -> None:
    study, table = tmp_path / "study.toml", tmp_path / "latents.csv"
    assert run(["init", str(study)]) == 0
    write_table(table, "mathematics")
    good = [record | {"explanation": "the model’s größe — naïve"} for record in cells(table)]
    bad = [record | {"explanation": misread(record["explanation"], "cp1252")} for record in good]
    write(table, bad)
    line = complaint(capsys, "import", study, table)
    assert_names(line, table, "row 2", "garbled", "--as-written")
    write(table, good)
    assert run(["import", str(study), str(table)]) == 0
    write(table, bad)
    line = complaint(capsys, "import", study, table, "--as-written")
    assert_names(line, "row 2", "Windows-1252")


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@x", "\tx", "\rx", "'=x", "''-a"])
def test_a_formula_is_text_and_comes_back(text: str) -> None:
    assert guarded(text) == f"'{text}"
    assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("value", [-1, -2.5, "-1", "-2.5e-7", "+3", "-.5", None, "", "a", "1=1"])
def test_numbers_stay_numbers(value: object) -> None:
    assert guarded(value) == value
    if isinstance(value, str):
        assert unguarded(value) == value
