"""A harvest of a corpus that lies in several files of other formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tiny_models import CHAT_TEMPLATE, save_tiny_model
from tiny_study import write_study

from crosscoder.activations import ActivationStore
from crosscoder.corpus import TokenRole
from labeler.cli.main import run

SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "How do I bake bread, please?"},
        {"from": "gpt", "value": "Mix flour and water, then bake it."},
        {"from": "tool", "value": "The oven is hot."},
    ]
}


@pytest.mark.slow
def test_sources_of_other_formats_are_harvested(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("base", "tuned")):
        folder = tmp_path / "models" / name
        save_tiny_model(folder, chat_template=CHAT_TEMPLATE, noise=0.08 * seed, d_model=16)
    sources = [
        {"path": "chats.jsonl.gz", "name": "chats", "weight": 3.0},
        {"path": "alpaca.csv", "name": "alpaca"},
    ]
    study = write_study(tmp_path / "study", tmp_path / "models")
    (study.folder / "corpus.jsonl").unlink()
    rows = "".join(json.dumps(SHAREGPT) + "\n" for _ in range(30))
    (study.folder / "chats.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    table = 'instruction,input,output\n"Bake rye bread, slowly.",,Mix flour and rye.\n' + (
        "Bake bread.,Wheat flour.,Mix flour and water.\n" * 29
    )
    (study.folder / "alpaca.csv").write_text(table)
    text = study.path.read_text("utf-8")
    assert 'path = "corpus.jsonl"\n' in text
    study.path.write_text(
        text.replace('path = "corpus.jsonl"\n', "sample = 20\n")
        + "".join(
            "\n[[corpus.sources]]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in source.items())
            for source in sources
        ),
        "utf-8",
    )
    assert run(["harvest", str(study.path)]) == 0
    assert "20 documents" in capsys.readouterr().err
    folder = study.stage_folder("harvest")
    assert folder is not None
    store = ActivationStore.open(folder)
    tokens = store.document_tokens(range(store.n_documents)).values()
    with_tool = [row for row in tokens if (row.roles == TokenRole.TOOL).any()]
    assert len(with_tool) == 15
    assert not any(row.mask[row.roles == TokenRole.TOOL].any() for row in with_tool)
    assert run(["status", str(study.path)]) == 0
    assert "harvest" in capsys.readouterr().out
