from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from seeding import Seed, assert_table_equals_view, decide, label, rows, seed
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.errors import UsageError, WorkError
from labeler.exchange.labels_csv import by_slug
from labeler.exchange.labels_round_trip import export_labels, import_labels
from labeler.store.engine import read_session, write_session
from labeler.store.reviews import Decision, record_decision, record_decisions
from taxonomy.tree import Category, Taxonomy

EVENTS = "SELECT reviewer, revision, action, explanation_text FROM review_event ORDER BY id"
ALL_WRITTEN = (
    "SELECT latent_id, taxonomy_version_id, reviewer, entered_by, revision, action, note,"
    " explanation_text, based_on_judge_label_id, was_blind, selection, restores_event_id"
    " FROM review_event ORDER BY latent_id, revision",
    "SELECT e.latent_id, e.revision, c.rank, c.category_id FROM review_event_category AS c"
    " JOIN review_event AS e ON e.id = c.review_event_id ORDER BY 1, 2, 3",
    "SELECT comparison, side, latent_id, outcome, category, rank, explanation, reviewer"
    " FROM v_effective_label ORDER BY 1, 2, 3, 6",
)


@pytest.fixture
def data(engine: Engine) -> Seed:
    """Four latents, three of them labelled."""
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety", explanation="=refuses, politely")
        label(session, data, data.target[1], ["humour", "lists"])
        label(session, data, data.reference[0], "none")
        return data


def edit(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of an exported file as a reviewer would."""
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        change(records)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names, records = list(reader.fieldnames or []), list(reader)
    change(records)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(records)


def setting(position: int, **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda records: records[position].update(values)


def events(engine: Engine) -> list[tuple[Any, ...]]:
    with read_session(engine) as session:
        assert_table_equals_view(session)
        return rows(session, EVENTS)


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_an_untouched_file_changes_nothing(
    engine: Engine, data: Seed, tmp_path: Path, name: str
) -> None:
    assert export_labels(engine, tmp_path / name) == 4
    result = import_labels(engine, tmp_path / name, "ann")
    assert (result.n_rows, result.n_decisions, result.n_unchanged) == (4, 0, 4)
    assert events(engine) == []


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_an_edited_row_is_a_decision(engine: Engine, data: Seed, tmp_path: Path, name: str) -> None:
    export_labels(engine, tmp_path / name)
    edit(tmp_path / name, setting(0, category="humour;safety", note="jokes first"))
    assert import_labels(engine, tmp_path / name, "ann").n_decisions == 1
    assert events(engine) == [("ann", 1, "set", None)]
    with read_session(engine) as session:
        assert rows(
            session,
            "SELECT category, explanation, reviewer FROM v_effective_label"
            " WHERE latent_index = 0 ORDER BY rank",
        ) == [
            ("humour", "=refuses, politely", "ann"),
            ("safety", "=refuses, politely", "ann"),
        ]
        assert rows(session, "SELECT note, based_on_judge_label_id IS NULL FROM review_event") == [
            ("jokes first", False)
        ]


def test_words_and_explanations_can_be_edited_and_stay_edited(
    engine: Engine, data: Seed, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    edit(file, setting(0, explanation="refuses"))
    import_labels(engine, file, "ann")
    export_labels(engine, file, overwrite=True)
    edit(file, setting(0, category="none"))
    import_labels(engine, file, "ann")
    assert events(engine) == [("ann", 1, "set", "refuses"), ("ann", 2, "none", "refuses")]


def test_an_unlabelled_latent_can_be_labelled(engine: Engine, data: Seed, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    edit(file, setting(3, category="uninterpretable"))
    import_labels(engine, file, "ann")
    assert events(engine) == [("ann", 1, "uninterpretable", None)]


def test_importing_an_edited_file_twice_decides_once(
    engine: Engine, data: Seed, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    edit(file, setting(0, category="humour"))
    import_labels(engine, file, "ann")
    assert import_labels(engine, file, "ann").n_decisions == 0
    assert len(events(engine)) == 1


@pytest.mark.slow
def test_decisions_in_one_step_equal_those_one_after_the_other(engine: Engine, data: Seed) -> None:
    """A second one in a reviewer's stream and first ones in others, each an act of its own."""
    with write_session(engine) as session:
        decide(session, data, data.target[0], "none")
    given: dict[str, Any] = {
        "taxonomy_version_id": data.version_id,
        "reviewer": "ann",
        "note": "by file",
    }
    decisions = [
        Decision(data.target[0], base_revision=1, action="set", categories=("humour",), **given),
        Decision(data.target[1], base_revision=0, action="uninterpretable", **given),
        Decision(data.reference[0], base_revision=0, action="none", **given),
    ]

    def one_after_the_other(session: Session) -> None:
        for decision in decisions:
            record_decision(session, decision)

    def in_one_step(session: Session) -> None:
        record_decisions(session, decisions, are_one_act=False)

    def written(record: Callable[[Session], None]) -> list[list[tuple[Any, ...]]]:
        with write_session(engine, dry_run=True) as session:
            record(session)
            assert rows(session, "SELECT count(DISTINCT act) FROM review_event") == [(4,)]
            return [rows(session, query) for query in ALL_WRITTEN]

    assert written(in_one_step) == written(one_after_the_other)


def test_a_conflict_lists_every_row_and_imports_nothing(
    engine: Engine, data: Seed, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)

    def change(records: list[dict[str, Any]]) -> None:
        for record in records:
            record["category"] = "lists"

    edit(file, change)
    with write_session(engine) as session:
        decide(session, data, data.target[0], "humour", "bob")
        label(session, data, data.target[1], "safety")
    with pytest.raises(WorkError, match="nothing imported, 2 labels changed") as caught:
        import_labels(engine, file, "ann")
    lines = str(caught.value).splitlines()
    assert (
        lines[1] == "row 2: cc:0 says 'lists' on revision 0, but is 'humour' by bob on revision 1"
    )
    assert lines[2].startswith("row 3: cc:1 says 'lists' on revision 0, but is 'safety' by")
    assert events(engine) == [("bob", 1, "set", None)]


def test_a_stale_row_that_nobody_edited_is_no_decision(
    engine: Engine, data: Seed, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    with write_session(engine) as session:
        decide(session, data, data.target[0], "humour", "bob")
        label(session, data, data.target[1], "safety")
    edit(file, setting(2, category="lists"))
    assert import_labels(engine, file, "ann").n_decisions == 1
    assert [event[0] for event in events(engine)] == ["bob", "ann"]


def test_a_dry_run_counts_and_writes_nothing(engine: Engine, data: Seed, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    edit(file, setting(0, category="humour"))
    result = import_labels(engine, file, "ann", dry_run=True)
    assert result.summary() == "4 rows: would write 1 decision; 3 unchanged"
    assert events(engine) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"category": "saftey"},
            "row 2: category 'saftey' is not in taxonomy small 1",
        ),
        ({"category": ""}, "row 2: category is empty"),
        (
            {"explanation": " "},
            "row 2: explanation is empty; .* write uninterpretable as the category",
        ),
        ({"latent_index": "77"}, "row 2: cc:77 is not on the target side of c"),
        ({"latent_index": "x"}, "row 2: latent_index is 'x'"),
        ({"base_revision": ""}, "row 2: base_revision is ''"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    engine: Engine, data: Seed, tmp_path: Path, values: dict[str, str], message: str
) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    edit(file, lambda records: (records[0].update(values), records[2].update(category="safety")))
    with pytest.raises(UsageError, match=message):
        import_labels(engine, file, "ann")
    assert events(engine) == []


def test_a_file_without_the_base_column_goes_by_its_revision(
    engine: Engine, data: Seed, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    header = "comparison,side,crosscoder,latent_index,explanation,category,base_revision"
    file.write_text(f'{header}\nc,target,cc,0,"\'=refuses, politely",humour,0\n')
    assert import_labels(engine, file, "ann").n_decisions == 1
    file.write_text(f'{header}\nc,target,cc,0,"\'=refuses, politely",lists,0\n')
    with pytest.raises(WorkError, match="is 'humour' by ann on revision 1"):
        import_labels(engine, file, "ann")


def test_text_that_a_spreadsheet_would_run_is_quoted(
    engine: Engine, data: Seed, tmp_path: Path
) -> None:
    export_labels(engine, tmp_path / "labels.csv")
    assert "'=refuses, politely" in (tmp_path / "labels.csv").read_text()


def test_what_cannot_be_read_is_a_usage_error(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        import_labels(engine, tmp_path / "missing.csv", "ann")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    with pytest.raises(UsageError, match="line 1: column 'comparison' is missing"):
        import_labels(engine, bad, "ann")
    bad.write_text("[1]\n")
    with pytest.raises(UsageError, match="line 1: must be an object"):
        import_labels(engine, bad, "ann")


def test_a_file_that_may_hold_edits_is_kept(engine: Engine, data: Seed, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    edit(file, lambda records: records[0].update(category="lists"))
    edited = file.read_bytes()
    with pytest.raises(UsageError, match=r"is there already.*--force"):
        export_labels(engine, file)
    assert file.read_bytes() == edited
    assert export_labels(engine, file, overwrite=True) > 0
    assert file.read_bytes() != edited


def test_every_bad_row_is_named(engine: Engine, data: Seed, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    edit(
        file,
        lambda records: (
            records[0].update(category="saftey"),
            records[1].update(category=""),
            records[2].update(latent_index="77"),
        ),
    )
    with pytest.raises(UsageError) as found:
        import_labels(engine, file, "ann")
    first, *lines = str(found.value).splitlines()
    assert first.endswith("nothing imported, 3 mistakes:")
    assert [line.split(":")[0] for line in lines] == ["row 2", "row 3", "row 4"]
    file.write_text(file.read_text().replace(",77,", ",x,") + "too,short\n")
    with pytest.raises(UsageError, match=r"(?s)2 mistakes.*row 4: latent_index.*row 6: has 2"):
        import_labels(engine, file, "ann")
    assert events(engine) == []


def careless(text: str) -> str:
    """What a spreadsheet makes of a cell without being asked."""
    return unicodedata.normalize("NFD", f" {text} \n".replace("\n", "\r\n"))


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_what_a_spreadsheet_changes_unasked_is_no_decision(
    engine: Engine, data: Seed, tmp_path: Path, name: str
) -> None:
    with write_session(engine) as session:
        label(session, data, data.target[1], "lists", explanation="  caf\u00e9 menus \nand bars")
    export_labels(engine, tmp_path / name)

    def change(records: list[dict[str, Any]]) -> None:
        for record in records:
            record["explanation"] = careless(record["explanation"] or "")
            record["category"] = f" {record['category']} "
            record["base"] = f"{record['base']} "

    edit(tmp_path / name, change)
    assert import_labels(engine, tmp_path / name, "ann").n_decisions == 0
    edit(tmp_path / name, setting(1, category="humour"))
    assert import_labels(engine, tmp_path / name, "ann").n_decisions == 1
    assert events(engine) == [("ann", 1, "set", None)]


def test_an_edited_row_and_an_untouched_one_of_a_latent_are_refused(
    engine: Engine, data: Seed, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[2]]) + "\n")
    edit(file, setting(1, category="safety"))
    with pytest.raises(UsageError, match="rows 3 and 6 differ on cc:1, and row 6 is as it was"):
        import_labels(engine, file, "ann")
    assert events(engine) == []


def test_tabs_and_a_header_in_capitals_are_read(engine: Engine, data: Seed, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    with file.open(newline="") as opened:
        cells = list(csv.reader(opened))
    cells[0] = [name.capitalize() for name in cells[0]]
    cells[1][cells[0].index("Category")] = "lists"
    with file.open("w", newline="") as opened:
        csv.writer(opened, delimiter="\t").writerows(cells)
    assert import_labels(engine, file, "ann").n_decisions == 1
    assert events(engine) == [("ann", 1, "set", None)]


def test_a_categorys_title_is_read_as_its_slug(engine: Engine, data: Seed, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    export_labels(engine, file)
    edit(file, lambda records: [each.update(category=each["category"].upper()) for each in records])
    assert import_labels(engine, file, "ann").n_decisions == 0


def test_a_title_of_several_categories_is_refused_with_their_slugs() -> None:
    tree = Taxonomy(
        name="t",
        version="1",
        categories=(
            Category(slug="talk", level=1, name="Talk", definition="d"),
            Category(slug="chat", level=2, parent="talk", name="Talk it over", definition="d"),
            Category(slug="tongues", level=1, name="Many tongues", definition="d"),
            Category(slug="small", level=2, parent="talk", name="talk it over", definition="d"),
        ),
    )
    assert by_slug("TALK;many tongues;unheard", tree) == "talk;tongues;unheard"
    with pytest.raises(UsageError, match="title of several; write the slug: chat or small"):
        by_slug("Talk it Over", tree)
