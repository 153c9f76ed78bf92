"""The kinds of judges that study.toml may name; what a kind is, `labeler.judge.base` says."""

from __future__ import annotations

from typing import Annotated, Any

from crosscoder.registry import Registry

JUDGE_KINDS: Registry[Any] = Registry(
    "kind of judge",
    "difflens.judges",
    {
        "evidence": "labeler.judge.embedding_judge:EvidenceKind",
        "openai": "labeler.judge.openai:OpenAiKind",
        "scripted": "labeler.judge.scripted:ScriptedKind",
    },
)
"""Subclasses of `JudgeKind` by their names; a module is imported when its kind is asked for."""
JudgeKindName = Annotated[str, JUDGE_KINDS]
