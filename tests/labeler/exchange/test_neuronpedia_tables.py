"""An export fills the tables that Neuronpedia's importer writes, on a database of their shape.

Columns, nullability and references were read from apps/webapp/prisma/schema.prisma and the import
from apps/webapp/lib/db/import.ts and app/api/admin/import/route.ts of hijohnnylin/neuronpedia at
ebb8426. Columns that the exports never fill and that have a default are left out.
"""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from postgres import fresh_database
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, Connection

from labeler.exchange.formats import ExchangeExplanation, ExchangeLatent, ExchangeWindow
from labeler.exchange.neuronpedia import NeuronpediaSource, slug, write_neuronpedia

CREATOR = "clkht01d40000jv08hvalcvly"
TEXT, FLOAT, INT, TEXTS, FLOATS = (
    "text",
    "double precision",
    "integer",
    "text[]",
    "double precision[]",
)


@dataclass(frozen=True)
class Table:
    """What the importer's database asks of one table."""

    required: dict[str, str]
    """Columns that must be given and not be null."""
    defaulted: dict[str, str] = field(default_factory=dict)
    """Columns with a default that must not be null where they are given."""
    optional: dict[str, str] = field(default_factory=dict)
    unique: tuple[str, ...] = ("id",)
    references: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = ()


OWNED = (("creatorId",), "User", ("id",))
TABLES = {
    "User": Table({"id": TEXT}),
    "ExplanationType": Table(
        dict.fromkeys(("name", "displayName", "description", "creatorName", "creatorId"), TEXT),
        unique=("name",),
        references=(OWNED,),
    ),
    "ExplanationModelType": Table(
        dict.fromkeys(("name", "displayName", "description", "creatorName"), TEXT),
        unique=("name",),
    ),
    "SourceRelease": Table(
        dict.fromkeys(("name", "description", "creatorName", "creatorId"), TEXT)
        | {"urls": TEXTS},
        {"visibility": TEXT},
        {"descriptionShort": TEXT, "creatorNameShort": TEXT, "creatorEmail": TEXT},
        ("name",),
        (OWNED,),
    ),
    "Model": Table(
        {"id": TEXT, "creatorId": TEXT, "owner": TEXT, "layers": INT, "neuronsPerLayer": INT},
        {"displayName": TEXT, "displayNameShort": TEXT, "visibility": TEXT},
        {"dimension": INT, "website": TEXT},
        references=(OWNED,),
    ),
    "SourceSet": Table(
        dict.fromkeys(("modelId", "name", "description", "creatorName", "creatorId"), TEXT)
        | {"urls": TEXTS},
        {"type": TEXT, "visibility": TEXT},
        {"releaseName": TEXT},
        ("modelId", "name"),
        (
            OWNED,
            (("modelId",), "Model", ("id",)),
            (("releaseName",), "SourceRelease", ("name",)),
        ),
    ),
    "Source": Table(
        {"id": TEXT, "modelId": TEXT, "setName": TEXT, "creatorId": TEXT},
        {"visibility": TEXT},
        {"notes": TEXT, "dataset": TEXT},
        ("modelId", "id"),
        (OWNED, (("modelId", "setName"), "SourceSet", ("modelId", "name"))),
    ),
    "Neuron": Table(
        {"modelId": TEXT, "layer": TEXT, "index": TEXT},
        {"frac_nonzero": FLOAT},
        {"sourceSetName": TEXT, "creatorId": TEXT, "maxActApprox": FLOAT},
        ("modelId", "layer", "index"),
        (
            OWNED,
            (("modelId", "layer"), "Source", ("modelId", "id")),
            (("modelId", "sourceSetName"), "SourceSet", ("modelId", "name")),
        ),
    ),
    "Activation": Table(
        {
            "id": TEXT, "modelId": TEXT, "layer": TEXT, "index": TEXT, "creatorId": TEXT,
            "tokens": TEXTS, "values": FLOATS, "maxValue": FLOAT, "minValue": FLOAT,
            "maxValueTokenIndex": INT,
        },
        {},
        {"binMin": FLOAT, "binMax": FLOAT},
        references=(
            OWNED,
            (("modelId", "layer", "index"), "Neuron", ("modelId", "layer", "index")),
        ),
    ),
    "Explanation": Table(
        dict.fromkeys(("id", "modelId", "layer", "index", "description", "authorId"), TEXT),
        {},
        {"typeName": TEXT, "explanationModelName": TEXT, "notes": TEXT},
        references=(
            (("authorId",), "User", ("id",)),
            (("modelId", "layer", "index"), "Neuron", ("modelId", "layer", "index")),
            (("typeName",), "ExplanationType", ("name",)),
            (("explanationModelName",), "ExplanationModelType", ("name",)),
        ),
    ),
}  # fmt: skip
FILES = {
    "ExplanationType": "config/explanation_type.jsonl",
    "ExplanationModelType": "config/explanation_model_type.jsonl",
    "SourceRelease": "release.jsonl",
    "Model": "model.jsonl",
    "SourceSet": "sourceset.jsonl",
    "Source": "source.jsonl",
    "Neuron": "features/*.jsonl.gz",
    "Activation": "activations/*.jsonl.gz",
    "Explanation": "explanations/*.jsonl.gz",
}
CREATED_BY_PRISMA = ("ExplanationType", "ExplanationModelType", "SourceRelease", "Model",
                     "SourceSet", "Source")  # fmt: skip
"""Written through the client, which refuses an unknown key; the others through one statement."""
NOT_A_COLUMN = {"Neuron": {"frac_nonzero_not_known"}}
"""Keys that the importer's statement passes over."""


def latents() -> list[ExchangeLatent]:
    """Batches with and without evidence, a latent of which nothing but its number is known."""
    window = ExchangeWindow((" I", "'m", " sorry"), (0.0, 0.5, 4.25))
    said = (ExchangeExplanation("apologies", "human"), ExchangeExplanation("sorrow", "judge-1"))
    return [
        ExchangeLatent(7, said, (window, ExchangeWindow((" x",), (0.5,), 1)), 0.01, 4.25),
        ExchangeLatent(9),
        ExchangeLatent(2050, (ExchangeExplanation("dates \U0001f4c5", "judge-2"),)),
    ]


@pytest.fixture(params=[("Base Model", "org/Tuned_7b"), ()], ids=["models", "imported"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    source = NeuronpediaSource(CREATOR, "My crosscoder, v1!", request.param, layer=20)
    write_neuronpedia(tmp_path, latents(), source)
    return tmp_path


def batches(folder: Path, table: str) -> Iterator[list[dict[str, Any]]]:
    """The rows of each file of a table, read as the importer does."""
    for path in sorted(folder.glob(FILES[table])):
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        yield [json.loads(line) for line in lines.replace("\\u0000", " ").strip().split("\n")]


@pytest.mark.parametrize("table", FILES)
def test_every_table_has_the_columns_that_must_be_there(folder: Path, table: str) -> None:
    asked = TABLES[table]
    known = asked.required | asked.defaulted | asked.optional
    found = [row for batch in batches(folder, table) for row in batch]
    assert found
    for row in found:
        assert set(asked.required) <= set(row)
        assert all(row[name] is not None for name in asked.required)
        assert all(row.get(name, 0) is not None for name in asked.defaulted)
        assert set(row) - NOT_A_COLUMN.get(table, set()) <= set(known)


def test_no_batch_is_empty_and_all_rows_of_a_table_have_the_same_keys(folder: Path) -> None:
    for table in ("Neuron", "Activation", "Explanation"):
        keys = [set(row) for batch in batches(folder, table) for row in batch]
        assert all(each == keys[0] for each in keys)
    assert [path.name for path in (folder / "activations").iterdir()] == ["batch-0.jsonl.gz"]


@pytest.mark.parametrize("name", ["gemma-2-9b", "Ünïcode / näme", "a" * 300, "x_y-z", "___"])
def test_ids_are_of_the_signs_that_neuronpedia_takes(name: str) -> None:
    source = NeuronpediaSource(CREATOR, name, (name,))
    for made in (source.model_id, source.set_name, source.id):
        assert 1 <= len(made) <= 128
        assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    assert slug("...") == ""
    assert NeuronpediaSource(CREATOR, "x").model_id == "difflens"


@pytest.fixture
def database(postgres_server: URL) -> Iterator[Connection]:
    """An empty database with their tables and one user."""
    with fresh_database(postgres_server, f"t_{uuid.uuid4().hex}") as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            for name, table in TABLES.items():
                connection.execute(text(create_table(name, table)))
            connection.execute(text('INSERT INTO "User" VALUES (:id)'), {"id": CREATOR})
            yield connection
        engine.dispose()


def create_table(name: str, table: Table) -> str:
    parts = [f'"{column}" {kind} NOT NULL' for column, kind in table.required.items()]
    parts += [
        f'"{column}" {kind} NOT NULL DEFAULT {"0" if kind == FLOAT else "chr(45)"}'
        for column, kind in table.defaulted.items()
    ]
    parts += [f'"{column}" {kind}' for column, kind in table.optional.items()]
    parts.append(f"UNIQUE ({quoted(table.unique)})")
    for columns, other, keys in table.references:
        parts.append(f'FOREIGN KEY ({quoted(columns)}) REFERENCES "{other}" ({quoted(keys)})')
    return f'CREATE TABLE "{name}" ({", ".join(parts)})'


def quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def insert(connection: Connection, name: str, rows: list[dict[str, Any]]) -> None:
    """The importer's own statement: the columns of the first row that the table has."""
    table = TABLES[name]
    known = table.required | table.defaulted | table.optional
    columns = {column: known[column] for column in rows[0] if column in known}
    names = quoted(tuple(columns))
    kinds = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    statement = (
        f'INSERT INTO "{name}" ({names}) SELECT {names} '
        f"FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS t({kinds}) ON CONFLICT DO NOTHING"
    )
    connection.execute(text(statement), {"rows": json.dumps(rows)})


def test_an_export_goes_into_a_database_of_their_shape(folder: Path, database: Connection) -> None:
    for table in FILES:
        for batch in batches(folder, table):
            if table in CREATED_BY_PRISMA:
                known = TABLES[table].required | TABLES[table].defaulted | TABLES[table].optional
                assert all(set(row) <= set(known) for row in batch)
            insert(database, table, batch)
    counts = {
        table: database.execute(text(f'SELECT count(*) FROM "{table}"')).scalar_one()
        for table in FILES
    }
    assert counts == {
        "ExplanationType": 2, "ExplanationModelType": 2, "SourceRelease": 1, "Model": 1,
        "SourceSet": 1, "Source": 1, "Neuron": 3, "Activation": 2, "Explanation": 3,
    }  # fmt: skip
