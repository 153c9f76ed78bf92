"""Studies of explanations about three topics, and taxonomies for them."""

from __future__ import annotations

import csv
from pathlib import Path

import yaml

from labeler.api import Study
from labeler.cli.main import run

TOPICS = ("weather", "music", "cooking")
WORDS = ("rain", "snow", "drums", "violins", "onions", "butter")
TWO_LEVELS = {
    "name": "mine",
    "version": 1,
    "categories": [
        {"slug": "nature"},
        {"slug": "weather", "parent": "nature", "definition": "Rain, snow and weather.",
         "prototypes": ["rain and snow in the weather", "weather with rain"]},
        {"slug": "arts"},
        {"slug": "music", "parent": "arts", "definition": "Drums, violins and music.",
         "prototypes": ["music with drums", "violins in music"]},
        {"slug": "cooking", "parent": "arts", "definition": "Onions, butter and cooking.",
         "prototypes": ["cooking with onions", "butter in cooking"]},
    ],
}  # fmt: skip
ONE_LEVEL = {
    **TWO_LEVELS,
    "categories": [
        {key: value for key, value in row.items() if key != "parent"}
        for row in TWO_LEVELS["categories"]  # type: ignore[attr-defined]
        if "parent" in row
    ],
}


def explanations(n: int = 24) -> list[tuple[str, int, str]]:
    """(side, index, explanation), like texts about each topic on both sides."""
    return [
        (
            "target" if row % 2 else "reference",
            row,
            f"This latent fires on {WORDS[2 * (row % 3) + (row // 6) % 2]} in {TOPICS[row % 3]} "
            f"text number {row}",
        )
        for row in range(n)
    ]


def study_in(folder: Path, tree: dict[str, object] | None, extra: str = "") -> Path:
    """A study without models whose latents were explained elsewhere and not yet labelled."""
    named = ""
    if tree is not None:
        (folder / "mine.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        named = 'file = "mine.yaml"'
    path = folder / "study.toml"
    path.write_text(f'[embedding]\nkind = "tfidf"\n[taxonomy]\n{named}\n{extra}\n')
    with (folder / "latents.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["comparison", "side", "latent_index", "explanation", "category"])
        writer.writerows(["a-vs-b", side, row, text, ""] for side, row, text in explanations())
    return path


def labels(path: Path) -> dict[int, str | None]:
    """Active primary category of each latent."""
    rows = Study.open(path).sql("select latent_index, category from v_effective_label where rank=1")
    return dict(rows.rows)


def decide_by_sheet(study: Path, sheet: Path, answers: dict[int, str]) -> None:
    """Correct latents, by index, as a reviewer with a spreadsheet does."""
    assert run(["labels", "export", str(study), str(sheet), "--force"]) == 0
    rows = list(csv.DictReader(sheet.open()))
    for row in rows:
        row["category"] = answers.get(int(row["latent_index"]), row["category"])
    with sheet.open("w", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    assert run(["labels", "import", str(study), str(sheet), "--reviewer", "ann"]) == 0
