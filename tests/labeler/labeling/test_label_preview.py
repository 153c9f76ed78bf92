"""What `label --plan`, `label --show-prompt` and `inspect` say of the study as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_study import TinyStudy

from labeler.cli.inspection import _marked
from labeler.cli.main import run
from labeler.store.schema import Evidence

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


@pytest.mark.parametrize("call", [("--plan",), ("--show-prompt", "id:1")])
def test_a_stale_stage_before_label_is_named(
    finished_study: TinyStudy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    call: tuple[str, ...],
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    assert run(["label", str(study.path), *call]) == 0
    current = capsys.readouterr()
    assert current.err == ""
    study = study.with_tables(collect={"top": 5})
    assert run(["label", str(study.path), *call]) == 0
    stale = capsys.readouterr()
    assert stale.out == current.out
    assert stale.err.startswith("label: `collect` is stale: this is what the database holds")
    assert stale.err.endswith("`difflens run study.toml --until collect` brings it up to date\n")
    assert len(stale.err.splitlines()) == 1


def test_turns_of_a_chat_are_kept_apart() -> None:
    tokens = ["<s>", "Hi", "</s>", "<s>", "Hello", " you", "</s>"]
    roles = ["template", "user", "template", "template", "assistant", "assistant", "template"]
    activations = [0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0]
    window = Evidence(tokens=tokens, roles=roles, activations=activations)
    assert _marked(window) == "Hi | [[Hello]] you"
