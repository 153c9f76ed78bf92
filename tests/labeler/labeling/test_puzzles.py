from __future__ import annotations

import pytest

from labeler.embedding.embedders import TfidfEmbedder
from labeler.judge.base import JudgeReply, JudgeRequest
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.puzzles import PuzzleResult, check_puzzles, marked_window, puzzle_set

TRUE = {puzzle.true for puzzle in puzzle_set()}


def test_the_set_is_large_and_every_puzzle_is_whole() -> None:
    puzzles = puzzle_set()
    assert len(puzzles) >= 20
    assert len({puzzle.name for puzzle in puzzles}) == len(puzzles)
    assert len({puzzle.category for puzzle in puzzles}) >= 8
    assert len({puzzle.language for puzzle in puzzles}) >= 5
    texts = ["".join(window.tokens) for puzzle in puzzles for window in puzzle.windows]
    assert len(set(texts)) == len(texts)
    for puzzle in puzzles:
        assert len(set(puzzle.false)) == 3
        assert puzzle.true not in puzzle.false
        firing = [window for window in puzzle.windows if window.peak > 0]
        assert len(firing) >= 5
        assert len(puzzle.windows) - len(firing) >= 4


def test_marks_may_hold_angle_brackets() -> None:
    window = marked_window("Write <<<p>>> first")
    active = [t for t, value in zip(window.tokens, window.activations, strict=True) if value]
    assert "".join(active) == "<p>"
    assert "".join(window.tokens) == "Write <p> first"


def knowing(request: JudgeRequest) -> dict[str, object]:
    """Right about true explanations, always yes to false ones."""
    knows = request.explanation in TRUE
    answers = {}
    for example in request.examples:
        fires = example.window.activations
        places = example.marks or range(len(fires))
        right = any(fires[at] > 0 for at in places)
        answers[example.id] = right if knows else True
    return {"answers": answers}


def test_a_judge_that_knows_ranks_all_pairs_rightly() -> None:
    found = check_puzzles(ScriptedJudge(knowing))
    assert (found.accuracy, found.ci_low, found.ci_high) == (1.0, 1.0, 1.0)
    assert (found.true_mean, found.false_mean) == (1.0, 0.5)
    assert found.n_parsed == found.n_asked > 0


def test_a_constant_judge_is_at_chance_exactly() -> None:
    always = ScriptedJudge(lambda request: {"answers": dict.fromkeys(request.example_ids, True)})
    found = check_puzzles(always)
    assert (found.accuracy, found.ci_low, found.ci_high) == (0.5, 0.5, 0.5)
    assert found.true_mean == found.false_mean == 0.5


def test_a_judge_that_answers_nothing_is_at_chance_and_says_so() -> None:
    silent = ScriptedJudge(lambda _: JudgeReply("parse_error", raw="?", error="no JSON"))
    found = check_puzzles(silent)
    assert found.accuracy == 0.5
    assert (found.n_parsed, found.true_mean) == (0, None)
    assert "0 of " in found.lines[-1]


def test_points_are_one_a_half_and_nothing() -> None:
    assert PuzzleResult("p", 0.8, (0.7, 0.8, 0.9)).points == (1.0, 0.5, 0.0)
    assert PuzzleResult("p", None, (0.5, None, 0.4)).points == (0.5, 0.5, 1.0)


@pytest.mark.slow
def test_the_evidence_judge_is_checked_on_detection_alone() -> None:
    texts = ["".join(window.tokens) for puzzle in puzzle_set() for window in puzzle.windows]
    found = check_puzzles(EvidenceJudge(TfidfEmbedder(texts)))
    assert found.methods == ("detection",)
    assert found.n_parsed == found.n_asked
    assert 0.4 < found.accuracy <= 1.0
