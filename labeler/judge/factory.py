"""The judge that a study asks for."""

from __future__ import annotations

from pathlib import Path

from labeler.embedding.base import Embedder
from labeler.errors import UsageError
from labeler.judge.base import Judge
from labeler.sections.judging import JudgeSection


def make_judge(
    section: JudgeSection, embedder: Embedder | None = None, folder: Path | None = None
) -> Judge:
    """The judge of `[judge]`; `evidence` needs an embedder, a script lies relative to `folder`.

    Raises UsageError that names the key which is missing or wrong.
    """
    if section.kind == "openai":
        from labeler.judge.openai import OpenAiJudge

        return OpenAiJudge.from_section(section)
    if section.kind == "scripted":
        return _scripted(section, folder)
    if embedder is None:
        raise UsageError("judge.kind: evidence needs the vectors of [embedding]")
    from labeler.judge.evidence import EvidenceJudge

    return EvidenceJudge(embedder)


def _scripted(section: JudgeSection, folder: Path | None) -> Judge:
    from labeler.judge.scripted import ScriptedJudge

    if section.script is None:
        raise UsageError("judge.script: missing; kind = scripted needs a JSONL file")
    script = Path(section.script).expanduser()
    return ScriptedJudge.from_file(script if folder is None else folder / script)
