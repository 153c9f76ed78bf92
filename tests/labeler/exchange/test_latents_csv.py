from __future__ import annotations

from pathlib import Path

import pytest

from labeler.errors import UsageError
from labeler.exchange.latents_csv import LatentName, read_rows

HEADER = "comparison,side,latent_index,explanation,category"


def write(path: Path, text: str) -> Path:
    file = path / "latents.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["c,target,0,a,safety", "c,target,0,b,safety"], "rows 2 and 3 both label latent 0"),
        (["c,left,0,a,safety"], "row 2: side is 'left'; write target or reference"),
        (["c,target,-1,a,safety"], "row 2: latent_index is '-1'"),
        (["c,target,1.5,a,safety"], "row 2: latent_index is '1.5'"),
        (["c,target,99999999999,a,safety"], "row 2: latent_index is '99999999999'"),
        ([",target,0,a,safety"], "row 2: comparison is empty"),
        (["c,target,0,a"], "row 2: has 4 fields, the header has 5"),
        (["c,target,0,a,b,safety"], "row 2: has 6 fields, the header has 5"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_rows(write(tmp_path, "\n".join([HEADER, *lines])))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("comparison,side,latent_index,explanation", "column 'category' is missing"),
        (f"{HEADER},remark", "unknown column 'remark'"),
        (f"{HEADER},side", "column 'side' occurs twice"),
        (HEADER.replace(",", ";"), "the header has no commas"),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_rows(write(tmp_path, header + "\n"))


def test_a_latent_on_both_sides_names_both_rows(tmp_path: Path) -> None:
    text = f"{HEADER},crosscoder\nc,target,0,a,safety,x\n\nc,reference,0,a,safety,x\n"
    with pytest.raises(UsageError, match="rows 2 and 4 put latent 0 of x on both sides of c"):
        read_rows(write(tmp_path, text))


def test_one_judge_may_not_contradict_itself_between_comparisons(tmp_path: Path) -> None:
    text = f"{HEADER},crosscoder\nc,target,0,a,safety,x\nd,target,0,a,humour,x\n"
    with pytest.raises(UsageError, match="rows 2 and 3 give latent 0 of x different labels"):
        read_rows(write(tmp_path, text))


def test_the_same_index_on_two_sides_is_two_latents_without_a_crosscoder(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, f"{HEADER}\nc,target,0,a,none\nc,reference,0,a,none\n"))
    assert [row.latent for row in rows] == [
        LatentName("imported:c:target", 0),
        LatentName("imported:c:reference", 0),
    ]


@pytest.mark.parametrize("value", ["2", "-0.1", "high", "nan"])
def test_confidence_lies_between_0_and_1(tmp_path: Path, value: str) -> None:
    text = f"{HEADER},confidence\nc,target,0,a,safety,{value}\n"
    with pytest.raises(UsageError, match=f"row 2: confidence is '{value}'"):
        read_rows(write(tmp_path, text))


def test_a_byte_order_mark_quotes_and_line_breaks_are_read(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, f'\ufeff{HEADER}\nc,target,0,"a, ""b""\nc",safety\n'))
    assert rows[0].explanation == 'a, "b"\nc'


def test_what_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_rows(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match="is empty"):
        read_rows(write(tmp_path, ""))
    latin = tmp_path / "latin.csv"
    latin.write_bytes(HEADER.encode() + b"\nc,target,0,caf\xe9,safety\n")
    with pytest.raises(UsageError, match="is not UTF-8"):
        read_rows(latin)
