"""Categories made from explanations, and what holds when they are made again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from taxonomy_studies import (
    ONE_LEVEL,
    TOPICS,
    TWO_LEVELS,
    explanations,
    labels,
    study_in,
)

from labeler.api import Study
from labeler.cli.main import run
from labeler.errors import UsageError


@pytest.mark.slow
def test_a_taxonomy_is_proposed_read_and_accepted(tmp_path: Path) -> None:
    path = study_in(tmp_path, None, 'mode = "induce"')
    assert run(["import", str(path), str(tmp_path / "latents.csv")]) == 0
    assert run(["categorize", str(path)]) == 1
    proposal = tmp_path / "taxonomy-proposal.yaml"
    assert yaml.safe_load(proposal.read_text())["based_on"] is None
    assert run(["taxonomy", "accept", str(path), str(proposal)]) == 0
    assert run(["taxonomy", "accept", str(path), str(proposal)]) == 0
    assert run(["categorize", str(path)]) == 0
    found = labels(path)
    by_topic = [{found[row] for row in found if row % 3 == topic} - {None} for topic in range(3)]
    assert all(len(slugs) >= 1 for slugs in by_topic)


@pytest.mark.slow
def test_induction_can_be_accepted_unread(tmp_path: Path) -> None:
    path = study_in(tmp_path, None, 'mode = "induce"\naccept = "auto"')
    assert run(["import", str(path), str(tmp_path / "latents.csv")]) == 0
    assert run(["categorize", str(path)]) == 0
    assert {slug for slug in labels(path).values() if slug}
    assert Study.open(path).run_stage("categorize").was_done


def scripted(folder: Path) -> str:
    """A judge that knows weather and music, names every cluster `Kitchen`, and wavers on music."""
    lines: list[dict[str, object]] = []
    for _, row, _ in explanations():
        topic = TOPICS[row % 3]
        quote = "invented words" if topic == "music" else f"in {topic} text"
        chosen = [{"category": topic, "confidence": 0.8, "quote": quote}]
        answer = (
            {"outcome": "none", "categories": []}
            if topic == "cooking"
            else {"outcome": "assigned", "categories": chosen}
        )
        lines.append({"stage": "categorize", "latent_index": row, "answer": answer})
    name = {"name": "Kitchen", "definition": "Cooking.", "include_when": "", "exclude_when": ""}
    lines.append({"stage": "name", "answer": name})
    lines.append({"stage": "merge", "answer": {"same": False, "reason": "no"}})
    (folder / "judge.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return '[judge]\nkind = "scripted"\nscript = "judge.jsonl"\ncategorize_repeats = 3'


@pytest.mark.slow
def test_what_is_left_becomes_categories_that_the_judge_names(tmp_path: Path) -> None:
    tree = {**ONE_LEVEL, "categories": ONE_LEVEL["categories"][:2]}  # type: ignore[index]
    mode = 'mode = "residual"\naccept = "auto"\ncluster_distance = 1.2\n'
    path = study_in(tmp_path, tree, mode + scripted(tmp_path))
    assert run(["import", str(path), str(tmp_path / "latents.csv")]) == 0
    assert run(["categorize", str(path)]) == 0
    study = Study.open(path)
    assert study.taxonomy().slugs[:3] == ("weather", "music", "kitchen")
    stages = study.sql("select distinct stage from judge_call order by stage").rows
    assert ("name",) in stages
    kept = study.sql(
        "select count(*) from judge_label "
        "where carried_from_id is not null and outcome = 'assigned'"
    )
    assert kept.rows[0][0] == 16


@pytest.mark.slow
def test_repeats_are_stored_and_invented_quotes_are_flagged(tmp_path: Path) -> None:
    path = study_in(tmp_path, TWO_LEVELS, scripted(tmp_path))
    assert run(["import", str(path), str(tmp_path / "latents.csv")]) == 0
    assert run(["categorize", str(path)]) == 0
    study = Study.open(path)
    samples = study.sql("select sample, count(*) from label_sample group by sample order by sample")
    assert samples.rows == ((1, 24), (2, 24))
    quotes = study.sql(
        "select c.slug, j.quote_found, count(j.quote) from judge_label_category as j "
        "join category as c on c.id = j.category_id group by c.slug, j.quote_found order by c.slug"
    )
    assert quotes.rows == (("music", 0, 0), ("weather", 1, 8))


def test_stability_says_which_signs_hold(
    categorised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["taxonomy", "stability", str(categorised), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in rows} >= {"subsample", "clustering"}
    music = next(r for r in rows if r["category"] == "music" and r["kind"] == "subsample")
    assert music["jaccard_mean"] == 1.0
    assert 0 <= music["same_sign"] <= music["signed_reruns"]
    part = ["--part", "reruns", "--format", "csv"]
    assert run(["taxonomy", "stability", str(categorised), *part]) == 0
    reruns = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert all(0 <= float(row["coverage"]) <= 1 for row in reruns)


def test_a_wrong_embedding_path_is_found_before_anything_runs(tmp_path: Path) -> None:
    from labeler.embedding.embedders import check_embedding
    from labeler.study.judge_config import EmbeddingSection

    with pytest.raises(UsageError, match=r"embedding\.path"):
        check_embedding(EmbeddingSection(path="nowhere"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no sentence model"):
        check_embedding(EmbeddingSection(path="empty"), tmp_path)
    with pytest.raises(UsageError, match=r"embedding\.model"):
        check_embedding(EmbeddingSection(kind="openai", base_url="http://localhost/v1"))
