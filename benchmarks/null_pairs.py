"""Pairs of models with a known difference, or a difference that means nothing, and their studies.

See false_positives.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from organism_studies import CORPUS, read_truths
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crosscoder.corpus_sources import read_corpus
from crosscoder.harvest import HarvestConfig
from crosscoder.model_files import FileHashes, SubjectSpec
from crosscoder.models import with_converted_weights
from crosscoder.nulls import fitted_scramble, write_rounded, write_scaled
from labeler.api import Study
from labeler.cli.demo import MINILM, SMOLLM2, fetch
from labeler.cli.demo import __file__ as demo_file
from labeler.progress import progress_for
from labeler.report.comparisons import COUNTING, read_comparisons
from labeler.report.findings import Findings, read_findings
from labeler.report.randomisation import RandomisedSides, read_randomised_sides
from labeler.report.statistics import category_changes, read_counts
from labeler.store.engine import open_engine, read_session
from labeler.study.study_file import StudyFile, subject_cache
from taxonomy.counts import ALPHA, CategoryCounts
from taxonomy.randomisation import DrawnCounts, randomised_change_statistics

DOSES = (0.0, 0.1, 0.25, 0.5, 1.0)
ORGANISMS = ("refusals", "no-self-talk")
"""Organisms of the dose ladder, beside the demo's adapter."""
PERMUTED = 20
"""Drawn sides of each null pair that are tested as if they were its own."""
ROUNDED_EVERY = 4
"""Of so many null pairs of a size one is an int8 round trip, all others are scrambled."""
FIT_DOCUMENTS = 8
"""Documents on which the size of a scrambled change is fitted."""
TUNING_STEPS = 40
COMPARISON = "pair"


Pair = tuple[SubjectSpec, SubjectSpec]
"""Target and reference."""


@dataclass(frozen=True)
class Size:
    """How large the studies of one kind of model are."""

    name: str
    documents: int
    """Of the demo's corpus, spread over it."""
    max_length: int
    layer: int
    n_latents: int
    k: int
    epochs: int
    top: int
    """Latents per side."""
    scramble_documents: int
    """Documents that each of the study's own scrambled fine-tunes reads."""
    embedding: str
    dtype: str


TINY = Size("tiny", 160, 64, 2, 256, 8, 4, 40, 100, 'kind = "tfidf"\n', "float32")
SMALL = Size("smollm2", 120, 192, 22, 512, 32, 8, 40, 32, "", "bfloat16")


@dataclass(frozen=True)
class Called:
    """What is said about one category."""

    verdict: str
    difference: float | None
    p: float
    family_p: float | None
    shift_verdict: str
    shift: float | None
    shift_q: float | None


@dataclass(frozen=True)
class Result:
    """What the study of one pair says."""

    name: str
    size: str
    kind: str
    """scrambled, int8, or dose"""
    of: str
    """The fine-tune that was scrambled or scaled."""
    dose: float | None
    n_target: int
    n_reference: int
    calls: dict[str, Called]
    permuted: tuple[bool, ...] = ()
    """By drawn table: whether some category is called."""


def documents_of(size: Size, work: Path) -> Path:
    """The corpus of studies of this size."""
    path = work / f"corpus-{size.name}.jsonl"
    if not path.is_file():
        rows = CORPUS.read_text("utf-8").splitlines(keepends=True)
        chosen = np.linspace(0, len(rows) - 1, size.documents).round().astype(int)
        path.write_text("".join(rows[i] for i in chosen), "utf-8")
    return path


def result(
    work: Path,
    size: Size,
    name: str,
    make: Callable[[Path], Pair],
    kind: str,
    of: str,
    dose: float | None = None,
) -> Result:
    """Make a pair, run its study, read what it says; from its file where that was done."""
    folder = work / size.name / name
    record = folder / "result.json"
    if record.is_file():
        stored = json.loads(record.read_text("utf-8"))
        calls = {key: Called(**each) for key, each in stored.pop("calls").items()}
        return Result(**{**stored, "calls": calls, "permuted": tuple(stored["permuted"])})
    folder.mkdir(parents=True, exist_ok=True)
    study = Study.open(_written_study(folder, size, work, *_made(folder, make)))
    study.run(last="categorize", progress=progress_for())
    findings, permuted = _read(study.file)
    found = Result(
        name,
        size.name,
        kind,
        of,
        dose,
        findings.n_target,
        findings.n_reference,
        _calls(findings),
        permuted,
    )
    record.write_text(json.dumps(asdict(found), indent=1), "utf-8")
    return found


def _made(folder: Path, make: Callable[[Path], Pair]) -> Pair:
    """The pair of a folder, made unless it is there."""
    record = folder / "pair.json"
    if not record.is_file():
        pair = make(folder / "model")
        record.write_text(json.dumps([asdict(spec) for spec in pair]), "utf-8")
    target, reference = (SubjectSpec(**spec) for spec in json.loads(record.read_text("utf-8")))
    return target, reference


def _read(study: StudyFile) -> tuple[Findings, tuple[bool, ...]]:
    engine = open_engine(study.database_url)
    with read_session(engine) as session:
        findings = read_findings(session, study.config, COMPARISON)
        facts = read_comparisons(session, study.config.comparison)[0]
        sides = read_randomised_sides(
            session, facts.comparison.id, facts.version.id, facts.judge_id
        )
        counts = read_counts(session, COMPARISON, study.config.report.denominator)
    engine.dispose()
    return findings, permuted_calls(sides, counts, study.config.report.denominator)


def permuted_calls(
    sides: RandomisedSides | None, counts: Sequence[CategoryCounts], denominator: str
) -> tuple[bool, ...]:
    """Test drawn sides as if each were the pair's own: whether each table has a call."""
    drawn = None if sides is None else sides.counts(counts, COUNTING, denominator)
    if drawn is None:
        return ()
    called = []
    for draw in range(min(PERMUTED, drawn.n_draws)):
        table = [_row(row, drawn, i, draw) for i, row in enumerate(counts)]
        changes = randomised_change_statistics(table, _without(drawn, draw))
        called.append(any(row.verdict in ("up", "down") for row in changes))
    return tuple(called)


def _row(row: CategoryCounts, drawn: DrawnCounts, place: int, draw: int) -> CategoryCounts:
    """A category's counts on the sides of a draw."""
    return replace(
        row,
        target_count=int(drawn.target[draw, place]),
        target_total=int(drawn.target_total[draw]),
        reference_count=int(drawn.reference[draw, place]),
        reference_total=int(drawn.reference_total[draw]),
    )


def judged_by_others(study: StudyFile) -> list[Called]:
    """Each scrambled fine-tune of a finished study judged as if it were the true one.

    By the others, on the dictionary and labels of the true pair: one result for each, whether
    some category is called by counts and by strength.
    """
    name = study.config.comparison[0].name
    engine = open_engine(study.database_url)
    with read_session(engine) as session:
        facts = read_comparisons(session, study.config.comparison)[0]
        sides = read_randomised_sides(
            session, facts.comparison.id, facts.version.id, facts.judge_id
        )
        counts = read_counts(session, name, study.config.report.denominator)
    engine.dispose()
    if sides is None or sides.scrambled is None:
        return []
    return [
        _judged(sides, counts, study.config.report.denominator, number)
        for number in range(sides.n_scrambled)
    ]


def _judged(
    sides: RandomisedSides, counts: Sequence[CategoryCounts], denominator: str, number: int
) -> Called:
    assert sides.scrambled is not None
    own = replace(sides, scrambled=sides.scrambled[[number]])
    shifts = sides.shifts.copy()
    shifts[0] = sides.scrambled[number]
    others = replace(sides, shifts=shifts, scrambled=np.delete(sides.scrambled, number, axis=0))
    table, chosen = list(counts), own.scrambled_sides()
    if chosen is not None:
        taken = replace(own, target=chosen[0], reference=chosen[1], scrambled=None)
        drawn = taken.counts(counts, COUNTING, denominator)
        table = [_row(row, drawn, i, 0) for i, row in enumerate(counts)] if drawn else table
    rows = category_changes(
        table, others, COUNTING, denominator, alpha=ALPHA, test="fisher", detectable=False
    )
    groups = {row.parent for row in rows}
    is_called = chosen is not None and any(row.verdict in ("up", "down") for row in rows)
    is_shifted = any(
        row.category not in groups and (row.called_shift_q or 1.0) < ALPHA for row in rows
    )
    words = [("up" if called else "no evidence") for called in (is_called, is_shifted)]
    return Called(words[0], None, 1.0, None, words[1], None, None)


def _without(drawn: DrawnCounts, draw: int) -> DrawnCounts:
    rows = ("target", "reference", "target_total", "reference_total")
    return replace(drawn, **{name: np.delete(getattr(drawn, name), draw, axis=0) for name in rows})


def _calls(findings: Findings) -> dict[str, Called]:
    called = {row.category for row in findings.called}
    shifted = {row.category for row in findings.shifts_called}
    return {
        row.category: Called(
            row.verdict if row.category in called else "no evidence",
            row.difference_points,
            row.p_value,
            row.family_p,
            "no evidence"
            if row.category not in shifted
            else "up"
            if (row.called_shift or 0.0) > 0
            else "down",
            row.called_shift,
            row.called_shift_q,
        )
        for row in findings.changes
        if not row.is_empty or row.called_shift_q is not None
    }


def tiny_nulls(work: Path, n: int) -> Iterator[Result]:
    """Null pairs of tiny models: scrambled fine-tunes, and every fourth an int8 round trip."""
    for number in range(n):

        def make(folder: Path, number: int = number) -> Pair:
            base, tuned = _tiny_pair(work, folder, number)
            return _null(folder, tuned, base, TINY, work, number)

        yield result(work, TINY, f"pair-{number}", make, _kind(number), "tiny fine-tune")


def smollm2_nulls(work: Path, n: int) -> Iterator[Result]:
    """Null pairs of SmolLM2: its fine-tunes scrambled, and every fourth an int8 round trip."""
    tunes = list(fine_tunes())
    for number in range(n):
        of = tunes[number % len(tunes)]

        def make(folder: Path, number: int = number, of: str = of) -> Pair:
            return _null(folder, _tuned(of), _smollm2(), SMALL, work, number)

        yield result(work, SMALL, f"null-{number}", make, _kind(number), of)


def smollm2_doses(work: Path) -> Iterator[Result]:
    """The dose ladder of every fine-tune, the whole dose first."""
    for dose in sorted(DOSES, reverse=True):
        for of in fine_tunes():

            def make(folder: Path, of: str = of, dose: float = dose) -> Pair:
                base = _smollm2()
                return write_scaled(_tuned(of), base, folder, dose), base

            yield result(work, SMALL, f"{of}-{dose:g}", make, "dose", of, dose)


def fine_tunes() -> dict[str, dict[str, str]]:
    """The fine-tunes of the ladder, and which categories each is known to turn up or down."""
    planted = StudyFile.read(Path(demo_file).with_name("demo_assets") / "study.toml")
    known = {"simpo": dict(planted.config.report.planted)}
    truths = {truth.name: truth for truth in read_truths()}
    for name in ORGANISMS:
        verdicts = truths[name].verdicts
        known[name] = {key: told for key, told in verdicts.items() if told in ("up", "down")}
    return known


def _kind(number: int) -> str:
    return "int8" if number % ROUNDED_EVERY == ROUNDED_EVERY - 1 else "scrambled"


def _null(
    folder: Path, tuned: SubjectSpec, base: SubjectSpec, size: Size, work: Path, number: int
) -> Pair:
    """Target and reference of a null pair; int8 rounds the tuned model, so that bases differ."""
    if _kind(number) == "int8":
        return replace(write_rounded(tuned, folder), name="target"), tuned
    documents = read_corpus(documents_of(size, work))[:: size.documents // FIT_DOCUMENTS]
    config = HarvestConfig(
        layer=size.layer, batch_tokens=1024, max_length=size.max_length, device="cpu"
    )
    return fitted_scramble(tuned, base, documents, config, folder, seed=number).spec, base


def _smollm2() -> SubjectSpec:
    spec = SubjectSpec("base", str(fetch(SMOLLM2)), dtype=SMALL.dtype)
    hashes = FileHashes(subject_cache() / "file-hashes.json")
    return with_converted_weights(spec, subject_cache(), hashes)


def _tuned(of: str) -> SubjectSpec:
    adapter = Path(demo_file).with_name("demo_assets") / "simpo-adapter"
    if of in ORGANISMS:
        adapter = next(truth.adapter for truth in read_truths() if truth.name == of)
    return replace(_smollm2(), name="tuned", adapter=str(adapter))


def _tiny_pair(work: Path, folder: Path, number: int) -> Pair:
    """A small random Llama, and the same after a few steps of training on one topic."""
    base, tuned = (folder.with_name(name) for name in ("base", "tuned"))
    texts = _texts(documents_of(TINY, work))
    tokenizer = _tokenizer([text for _, text in texts])
    torch.manual_seed(number)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=48**-0.5)
    topics = sorted({topic for topic, _ in texts})
    chosen = [text for topic, text in texts if topic == topics[number % len(topics)]]
    for path in (base, tuned):
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        if path is base:
            _train(model, tokenizer, chosen)
    return SubjectSpec("base", str(base)), SubjectSpec("tuned", str(tuned))


def _train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(TUNING_STEPS):
        batch = [texts[(4 * step + i) % len(texts)] for i in range(4)]
        rows = [tokenizer(text).input_ids[:64] for text in batch]
        length = min(len(row) for row in rows)
        ids = torch.tensor([row[:length] for row in rows])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def _texts(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        (row["topic"], row.get("text") or " ".join(turn["content"] for turn in row["messages"]))
        for row in rows
    ]


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: "
        "{{ message['content'] }}\n{% endfor %}"
    )
    return tokenizer


def _written_study(
    folder: Path, size: Size, work: Path, target: SubjectSpec, reference: SubjectSpec
) -> Path:
    embedding = size.embedding or (f'kind = "minilm"\npath = {json.dumps(str(fetch(MINILM)))}\n')
    models_text = "".join(
        f"[[models]]\nname = {json.dumps(name)}\npath = {json.dumps(spec.path)}\n"
        f"dtype = {json.dumps(size.dtype)}\n"
        + (f"adapter = {json.dumps(spec.adapter)}\n" if spec.adapter else "")
        for name, spec in (("reference", reference), ("target", target))
    )
    path = folder / "study.toml"
    path.write_text(
        f"""\
[study]
name = {json.dumps(folder.name)}
[database]
url = "sqlite:///difflens.db"
{models_text}[corpus]
path = {json.dumps(str(documents_of(size, work).resolve()))}
max_length = {size.max_length}
[harvest]
layer = {size.layer}
batch_tokens = 1024
[train]
n_latents = {size.n_latents}
k = {size.k}
epochs = {size.epochs}
batch_size = 1024
[isolate]
rule = "shifted"
top = {size.top}
scramble_documents = {size.scramble_documents}
[collect]
latents = "eligible"
[[comparison]]
name = "{COMPARISON}"
target = "target"
reference = "reference"
[judge]
kind = "evidence"
[scores]
methods = []
[embedding]
{embedding}""",
        "utf-8",
    )
    return path
