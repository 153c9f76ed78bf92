"""Files of others that are too deep, too large or hold what nothing can store: one line each."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from complaints import Capture, assert_names, complaint
from taxonomy_studies import TWO_LEVELS

from crosscoder.checkpoints import read_crosscoder_file
from crosscoder.errors import InputError
from crosscoder.published_files import _config
from labeler.cli.main import run
from labeler.study.study_file import load_taxonomy

pytestmark = pytest.mark.usefixtures("own_cache")
ROOT = Path(__file__).parents[3]
PROMPT_S = 5.0
"""What is allowed here for what takes less than 2 s on a machine that nobody shares."""
LARGEST_MEMORY = 1200 * 2**20
"""Bytes of a whole process that refuses a bomb; it begins with 250 MB of libraries."""

VALUES = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep and closed": "[" * 3_000 + "]" * 3_000,
    "digits": "9" * 5_000,
    "beyond 64 bits": "9" * 30,
    "negative beyond 64 bits": "-" + "9" * 30,
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "not a number": "NaN",
    "beyond float64": "1e999",
    "raw NUL": '"a\0b"',
    "cut": '"',
}
"""JSON values by what is wrong with them."""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def neuronpedia(folder: Path, value: str) -> list[str | Path]:
    write(folder / "features" / "batch-0.jsonl", f'{{"index": "1", "other": {value}}}\n')
    return [folder, "--format", "neuronpedia", "--crosscoder", "c", "--new-crosscoder"]


def saedashboard(folder: Path, value: str) -> list[str | Path]:
    text = f'{{"features": [{{"feature_index": 1, "other": {value}}}]}}'
    write(folder / "batch-0.json", text)
    return [folder, "--format", "saedashboard", "--crosscoder", "c", "--new-crosscoder"]


def delphi(folder: Path, value: str) -> list[str | Path]:
    write(folder / "explanations" / "x_latent1.txt", value)
    return [folder, "--format", "delphi", "--crosscoder", "c", "--new-crosscoder"]


def delphi_scores(folder: Path, value: str) -> list[str | Path]:
    write(folder / "explanations" / "x_latent1.txt", '"words"')
    text = f'[{{"activating": true, "prediction": true, "other": {value}}}]'
    write(folder / "scores" / "fuzz" / "x_latent1.txt", text)
    return [folder, "--format", "delphi", "--crosscoder", "c", "--new-crosscoder"]


def label_lines(folder: Path, value: str) -> list[str | Path]:
    write(folder / "labels.jsonl", f'{{"comparison": "c", "explanation": {value}}}\n')
    return [folder / "labels.jsonl", "--reviewer", "ann"]


JSON_READERS = (neuronpedia, saedashboard, delphi, delphi_scores, label_lines)


@pytest.mark.parametrize("reader", JSON_READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_json_of_other_tools(
    imported: Path,
    tmp_path: Path,
    capsys: Capture,
    reader: Callable[[Path, str], list[str | Path]],
    value: str,
) -> None:
    arguments = reader(tmp_path / "foreign", value)
    started = time.monotonic()
    line = complaint(capsys, "labels", "import", imported, *arguments)
    assert time.monotonic() - started < PROMPT_S
    assert_names(line, tmp_path / "foreign")
    assert len(line) < 400


@pytest.mark.parametrize("value", ['"\\ud83d"', '"a\\u0000b"'])
def test_half_a_character_of_another_tool_is_kept_as_a_sign(
    imported: Path, tmp_path: Path, capsys: Capture, value: str
) -> None:
    assert run(["labels", "import", str(imported), *map(str, delphi(tmp_path / "f", value))]) == 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "trainer_config.json", "cfg.json"])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_the_config_of_a_published_crosscoder(tmp_path: Path, value: str, name: str) -> None:
    write(tmp_path / name, f'{{"k": {value}}}')
    with pytest.raises(InputError, match=name):
        _config(tmp_path)
    write(tmp_path / "config.json", f'{{"schema_version": {value}}}')
    with pytest.raises(InputError, match="train again"):
        read_crosscoder_file(tmp_path)


LATENTS = "comparison,side,latent_index,explanation,category\n"
FEATURES = ",dec_norm_diff,freq\n"
LABELS = "comparison,side,crosscoder,latent_index,explanation,category,base_revision\n"
ROWS = {
    "digits": ("c,target,{},words,safety\n", "{},0.5,0.1\n", "c,target,x,{},words,safety,0\n"),
    "huge cell": ('c,target,1,"{}",safety\n', "1,{},0.1\n", 'c,target,x,1,"{}",safety,0\n'),
}
CELLS = {
    "5,000 digits": ("digits", "9" * 5_000),
    "beyond 64 bits": ("digits", "9" * 30),
    "a NUL byte": ("digits", "1\0"),
    "a huge cell": ("huge cell", "x" * 3_000_000),
    "an open quote": ("huge cell", 'x"' + "\n" * 100_000),
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("table", range(3), ids=("latents", "features", "labels"))
def test_tables(imported: Path, tmp_path: Path, capsys: Capture, kind: str, table: int) -> None:
    shape, cell = CELLS[kind]
    file = tmp_path / "foreign.csv"
    header = (LATENTS, FEATURES, LABELS)[table]
    write(file, header + ROWS[shape][table].replace("{}", cell))
    call = (
        ["import", imported, file],
        ["crosscoder", "import", imported, file, "--target", "a", "--reference", "b"],
        ["labels", "import", imported, file, "--reviewer", "ann"],
    )[table]
    started = time.monotonic()
    line = complaint(capsys, *call)
    assert time.monotonic() - started < PROMPT_S
    assert_names(line, file)
    assert len(line) < 400


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 11)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 11)
)
TREES = {
    "brackets": "[" * 20_000,
    "braces": "{a: " * 20_000,
    "dashes": "- " * 20_000,
    "aliases": ALIASES,
    "merged keys": MERGES,
    "digits": "name: " + "9" * 5_000,
    "sixties": "name: 1" + ":59" * 300_000,
    "infinity": "name: .inf",
    "many keys": "".join(f"k{n}: 1\n" for n in range(20_000)),
    "large": "# " + "x" * 2_000_000,
    "a tag": "name: !!python/object/apply:os.system [id]",
    "bytes": "\0",
}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name, marks=pytest.mark.slow if name == "many keys" else ())
        for name, text in TREES.items()
    ],
)
def test_taxonomy_files(imported: Path, tmp_path: Path, capsys: Capture, text: str) -> None:
    file = tmp_path / "mine.yaml"
    write(file, text)
    started = time.monotonic()
    accepted = complaint(capsys, "taxonomy", "accept", imported, file)
    compared = complaint(capsys, "taxonomy", "diff", imported, file)
    imported.write_text('[taxonomy]\nfile = "mine.yaml"\n', "utf-8")
    named = complaint(capsys, "taxonomy", "propose", imported)
    assert time.monotonic() - started < 3 * PROMPT_S
    for line in (accepted, compared, named):
        assert_names(line, file)
        assert len(line) < 400


def test_a_taxonomy_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    write(tmp_path / "good.yaml", json.dumps(TWO_LEVELS))
    assert load_taxonomy(tmp_path / "good.yaml").name == "mine"
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        load_taxonomy(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.yaml: is not UTF-8"):
        load_taxonomy(tmp_path / "binary.yaml")


CONFIGS = {
    "brackets": "a = " + "[" * 20_000,
    "inline tables": "a = " + "{a = " * 20_000,
    "dots": "a." * 400_000 + "a = 1",
    "tables": "[" + "a." * 900 + "a]\n",
    "digits": "a = " + "9" * 5_000,
    "beyond 64 bits": "[study]\nseed = " + "9" * 30,
    "infinity": "[isolate]\nnu_error_max = inf",
    "not a number": "[isolate]\nnu_error_max = nan",
    "large": "# " + "x" * 2_000_000,
    "NUL": "[study]\nname = '\0'",
    "a long key": "x" * 100_000 + " = 1",
}


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_study_files(tmp_path: Path, capsys: Capture, text: str) -> None:
    path = tmp_path / "study.toml"
    write(path, text)
    started = time.monotonic()
    line = complaint(capsys, "status", path)
    assert time.monotonic() - started < PROMPT_S
    assert_names(line, path)
    assert len(line) < 400


BOMBS = {
    "gzip of zeros": (neuronpedia, bytes(2**20), 1024),
    "gzip of line feeds": (neuronpedia, b"\n" * 2**20, 500),
    "values": (saedashboard, b"[]," * 2**18, 100),
    "objects": (label_lines, b"{},," * 2**18, 100),
}


PEAK_MEMORY = """
import sys
from labeler.cli.main import run
status = run(sys.argv[1:])
lines = open("/proc/self/status").read().splitlines()
print(status, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
"""
"""Prints status and peak memory; getrusage would count what the test's own process held."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_in_little_memory(imported: Path, tmp_path: Path, kind: str) -> None:
    reader, block, count = BOMBS[kind]
    arguments = reader(tmp_path / "bomb", "0")
    if reader is neuronpedia:
        part = tmp_path / "bomb" / "features"
        shutil.rmtree(part)
        part.mkdir()
        (part / "batch-0.jsonl.gz").write_bytes(gzip.compress(block) * count)
    else:
        (file,) = (path for path in (tmp_path / "bomb").iterdir())
        file.write_bytes(b'{"features": [' + block * count + b"0]}")
    measured = subprocess.run(
        [
            sys.executable,
            "-c",
            PEAK_MEMORY,
            *("labels", "import", str(imported), *map(str, arguments)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    status, memory = map(int, measured.stdout.split())
    assert status == 2
    assert len(measured.stderr.splitlines()) == 1
    assert memory < LARGEST_MEMORY
