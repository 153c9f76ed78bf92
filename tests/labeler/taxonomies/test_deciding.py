"""Decisions about categories, from the command line down to what stays active."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
import yaml
from taxonomy_studies import (
    ONE_LEVEL,
    TOPICS,
    TWO_LEVELS,
    labels,
    study_in,
)

from labeler.api import Study
from labeler.cli.main import run
from labeler.errors import UsageError


@pytest.mark.slow
@pytest.mark.parametrize("tree", [ONE_LEVEL, TWO_LEVELS], ids=["one level", "two levels"])
def test_imported_explanations_are_categorised_reported_and_reviewed(
    tmp_path: Path, tree: dict[str, object]
) -> None:
    path = study_in(tmp_path, tree)
    assert run(["import", str(path), str(tmp_path / "latents.csv")]) == 0
    assert set(labels(path).values()) == {None}
    assert run(["categorize", str(path)]) == 0
    found = labels(path)
    right = [found[row] == TOPICS[row % 3] for row in found]
    assert sum(right) >= 0.8 * len(right)
    assert run(["report", str(path)]) == 0
    study = Study.open(path)
    change = {row[0]: row[1] for row in study.sql(
        "select category, level from v_category_change").rows}  # fmt: skip
    assert set(change) == {row["slug"] for row in tree["categories"]}  # type: ignore[attr-defined]
    quoted = study.sql("select count(*), sum(quote_found) from judge_label_category").rows[0]
    assert quoted[0] == quoted[1] > 0
    assert study.export_labels(tmp_path / "labels.csv") > 0
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    rows[0]["category"] = "music"
    with (tmp_path / "labels.csv").open("w", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    study.import_labels(tmp_path / "labels.csv", "ann")
    assert labels(path)[int(rows[0]["latent_index"])] == "music"


def test_a_second_categorisation_asks_nothing(
    categorised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Study.open(categorised).sql("select count(*) from judge_call").rows
    assert run(["categorize", str(categorised)]) == 0
    assert "already done with the same inputs" in capsys.readouterr().err
    assert Study.open(categorised).sql("select count(*) from judge_call").rows == before


def test_complete_imports_are_left_as_they_are(tmp_path: Path) -> None:
    path = study_in(tmp_path, TWO_LEVELS)
    text = (
        (tmp_path / "latents.csv")
        .read_text()
        .replace(",\n", ",music\n")
        .replace(",\r\n", ",music\r\n")
    )
    (tmp_path / "latents.csv").write_text(text)
    assert run(["import", str(path), str(tmp_path / "latents.csv")]) == 0
    assert run(["categorize", str(path)]) == 0
    assert set(labels(path).values()) == {"music"}
    assert Study.open(path).sql("select count(*) from judge_call").rows[0][0] == 0


@pytest.mark.slow
def test_a_merge_and_a_rename_carry_labels_and_are_idempotent(
    categorised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = labels(categorised)
    for _ in range(2):
        assert run(["taxonomy", "rename", str(categorised), "weather", "climate"]) == 0
    for _ in range(2):
        merge = ["taxonomy", "merge", str(categorised), "music", "cooking", "--into", "music"]
        assert run(merge) == 0
    assert capsys.readouterr().err.count("nothing to do") == 2
    renames = {"weather": "climate", "cooking": "music"}
    assert labels(categorised) == {
        row: renames.get(str(slug), slug) for row, slug in before.items()
    }
    diff = Study.open(categorised).taxonomy_diff("1", "3")
    assert {(row[0], row[1], row[2]) for row in diff.rows} == {
        ("renamed", "weather", "climate"),
        ("merged", "music", "music"),
        ("merged", "cooking", "music"),
    }
    n_before = Counter(before.values())
    counts = {row[1]: row[3:] for row in diff.rows}
    n_music = n_before["music"] + n_before["cooking"]
    assert counts == {
        "weather": (n_before["weather"], n_before["weather"]),
        "music": (n_before["music"], n_music),
        "cooking": (n_before["cooking"], n_music),
    }
    asked = Study.open(categorised).sql("select count(*) from judge_call").rows
    assert run(["categorize", str(categorised)]) == 0
    assert Study.open(categorised).sql("select count(*) from judge_call").rows == asked


def test_a_merge_does_not_swallow_a_third_category(
    categorised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    call = ["taxonomy", "merge", str(categorised), "music", "cooking", "--into", "weather"]
    assert run(call) == 2
    assert "'weather' is a category already and none of those" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "{kind: merged, from: [music, cooking], to: music}",
            "'cooking' is merged and still there",
        ),
        ("{kind: dropped, from: nowhere}", "'nowhere'"),
        ("{kind: renamed, from: music, to: music}", "renamed of music: `categories` is as it was"),
    ],
)
def test_changes_that_change_nothing_are_refused(
    categorised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    capsys.readouterr()
    assert run(["taxonomy", "show", str(categorised), "--format", "yaml"]) == 0
    shown = capsys.readouterr().out
    assert "changes: []\n" in shown
    edited = tmp_path / "edit.yaml"
    edited.write_text(shown.replace("changes: []\n", f"changes:\n- {line}\n"))
    assert run(["taxonomy", "accept", str(categorised), str(edited)]) == 2
    assert words in capsys.readouterr().err


def test_the_step_after_an_induction_in_a_seed_study_is_one_that_works(
    categorised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["taxonomy", "propose", str(categorised), "--mode", "induce"]) == 0
    assert 'read it, set taxonomy.mode = "induce" in the study, then' in capsys.readouterr().err
    text = categorised.read_text()
    categorised.write_text(text.replace("[taxonomy]\n", '[taxonomy]\nmode = "induce"\n'))
    proposal = str(categorised.parent / "taxonomy-proposal.yaml")
    assert run(["taxonomy", "accept", str(categorised), proposal]) == 0


@pytest.mark.parametrize("verb", ["merge", "split"])
def test_a_merge_or_split_into_nothing_says_what_to_give(
    categorised: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert run(["taxonomy", verb, str(categorised), "music"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--into SLUG" in line


@pytest.mark.slow
def test_a_split_sends_its_labels_back_and_only_they_are_asked_again(categorised: Path) -> None:
    before = labels(categorised)
    n_music = sum(slug == "music" for slug in before.values())
    split = ["taxonomy", "split", str(categorised), "music", "--into", "drums", "--into", "violins"]
    assert run(split) == 0
    now = labels(categorised)
    assert all(now[row] is None for row, slug in before.items() if slug == "music")
    assert all(now[row] == slug for row, slug in before.items() if slug in ("weather", "cooking"))
    queue = Study.open(categorised).sql(
        "select count(*) from v_review_queue where reason = 'unlabelled'"
    )
    assert queue.rows[0][0] >= n_music
    assert run(["categorize", str(categorised)]) == 0
    asked = Study.open(categorised).sql(
        "select count(*) from judge_call where run_id = (select max(run_id) from judge_call)"
    )
    assert asked.rows[0][0] == sum(value is None for value in now.values())


def test_decisions_of_people_go_along_with_a_rename(categorised: Path, tmp_path: Path) -> None:
    study = Study.open(categorised)
    study.export_labels(tmp_path / "labels.csv")
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    rows[0]["category"] = "cooking"
    rows[0]["explanation"] = "onions, said ann"
    with (tmp_path / "labels.csv").open("w", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    study.import_labels(tmp_path / "labels.csv", "ann")
    study.rename_category("cooking", "kitchen")
    found = study.sql("select category, reviewer from v_effective_label where source = 'human'")
    assert found.rows == (("kitchen", "ann"),)


def test_a_file_can_be_edited_and_accepted(categorised: Path, tmp_path: Path) -> None:
    from labeler.taxonomies.verbs import show_yaml

    study = Study.open(categorised)
    text = show_yaml(study.file)
    file = tmp_path / "edit.yaml"
    file.write_text(text)
    assert study.accept_taxonomy(file).changed is False
    content = yaml.safe_load(text)
    content["categories"] = [row for row in content["categories"] if row["slug"] != "cooking"]
    file.write_text(yaml.safe_dump(content))
    assert run(["taxonomy", "accept", str(categorised), str(file)]) == 2
    content["changes"] = [{"kind": "dropped", "from": "cooking"}]
    file.write_text(yaml.safe_dump(content))
    assert run(["taxonomy", "accept", str(categorised), str(file)]) == 0
    assert study.accept_taxonomy(file).changed is False
    assert "cooking" not in study.taxonomy()
    stale = tmp_path / "stale.yaml"
    stale.write_text(text.replace("Drums", "Loud drums"))
    with pytest.raises(UsageError, match=r"follows mine 1, and mine 2 is active"):
        study.accept_taxonomy(stale)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rename", "S", "weathr", "x"], "nearest is 'weather'"),
        (["merge", "S", "music", "--into", "x"], "two different categories"),
        (["split", "S", "arts", "--into", "a", "--into", "b"], "split one of those"),
        (["accept", "S", "nowhere.yaml"], "nowhere.yaml"),
        (["diff", "S", "7"], "no version '7'"),
    ],
)
def test_mistakes_end_in_one_line(
    categorised: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    called = [str(categorised) if part == "S" else part for part in arguments]
    capsys.readouterr()
    assert run(["taxonomy", *called]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
