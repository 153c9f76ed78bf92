"""No code of a model folder runs, and nothing asks for leave to run it."""

from __future__ import annotations

import ast
import builtins
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foreign_models import Payload, copy_of, with_code, with_json
from tiny_models import chat, write_jsonl

from crosscoder.errors import InputError, WorkError
from crosscoder.model_checks import reading
from crosscoder.models import SubjectSpec, inspect_subject, load_subject
from labeler.embedding.embedders import MiniLmEmbedder
from labeler.errors import UsageError

ROOT = Path(__file__).parents[2]
OWN_CONFIG = {"AutoConfig": "configuration_own.OwnConfig"}
OWN_MODEL = {"AutoModelForCausalLM": "modeling_own.OwnModel", "AutoModel": "modeling_own.OwnModel"}
OWN_TOKENIZER = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
FROM_HUB = {"AutoConfig": "owner/name--configuration_own.OwnConfig"}


def unknown_config(folder: Path) -> None:
    with_json(folder / "config.json", model_type="own", auto_map=OWN_CONFIG | OWN_MODEL)


def config_from_the_hub(folder: Path) -> None:
    with_json(folder / "config.json", model_type="own", auto_map=FROM_HUB)


def known_config_of_another_task(folder: Path) -> None:
    with_json(folder / "config.json", model_type="vit", auto_map=OWN_MODEL)


def unknown_tokenizer(folder: Path) -> None:
    with_json(folder / "config.json", model_type="own", auto_map=OWN_CONFIG)
    with_json(
        folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=OWN_TOKENIZER
    )


NEED_CODE = [
    unknown_config,
    config_from_the_hub,
    known_config_of_another_task,
    unknown_tokenizer,
]


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the code of a folder would write; to be asked anything is an error."""

    def asked(*words: object) -> str:
        raise AssertionError(f"asked on the terminal: {words}")

    monkeypatch.setattr(builtins, "input", asked)
    return tmp_path / "the-code-ran"


@pytest.mark.parametrize("change", NEED_CODE)
def test_a_model_that_needs_its_own_code_is_refused_in_one_line(
    subject_folder: Path, tmp_path: Path, marker: Path, change: Callable[[Path], None]
) -> None:
    folder = with_code(copy_of(subject_folder / "base", tmp_path / "model"), marker)
    change(folder)
    with pytest.raises(InputError, match="needs code of its own, which difflens does not run"):
        load_subject(SubjectSpec("mine", str(folder)))
    with pytest.raises(UsageError, match=r"^embedding\.path: .* (needs code|lacks the weights)"):
        MiniLmEmbedder(folder)
    assert not marker.exists()


def test_code_next_to_a_model_that_does_not_need_it_is_left_alone(
    subject_folder: Path, tmp_path: Path, marker: Path
) -> None:
    folder = with_code(copy_of(subject_folder / "base", tmp_path / "model"), marker)
    with_json(folder / "config.json", auto_map=OWN_CONFIG | OWN_MODEL)
    with_json(folder / "tokenizer_config.json", auto_map=OWN_TOKENIZER)
    spec = SubjectSpec("mine", str(folder))
    own = load_subject(SubjectSpec("base", str(subject_folder / "base")))
    assert torch.equal(load_subject(spec).model.lm_head.weight, own.model.lm_head.weight)
    assert inspect_subject(spec).vocabulary_sha256
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(
    subject_folder: Path, tmp_path: Path, marker: Path, name: str, zipped: bool
) -> None:
    own = "base" if name == "pytorch_model.bin" else "adapter"
    folder = copy_of(subject_folder / own, tmp_path / "model", "*.safetensors")
    if zipped:
        torch.save({"x": Payload(marker)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    base = folder if own == "base" else subject_folder / "base"
    spec = SubjectSpec("mine", str(base), adapter=str(folder) if own == "adapter" else None)
    with pytest.raises(InputError, match=rf"{folder} (cannot be loaded|does not fit)") as caught:
        load_subject(spec)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.slow
def test_the_command_runs_no_code_and_asks_nothing_whatever_stdin_says(
    subject_folder: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "the-code-ran"
    folder = with_code(copy_of(subject_folder / "base", tmp_path / "model"), marker)
    unknown_config(folder)
    write_jsonl(tmp_path / "corpus.jsonl", [chat("a", ("user", "How do I bake bread?"))])
    (tmp_path / "study.toml").write_text(
        f'models = [{{name = "base", path = "{subject_folder / "base"}"}}, '
        f'{{name = "own", path = "{folder}"}}]\n'
        'corpus = {path = "corpus.jsonl"}\nharvest = {layer = 1}\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "labeler.cli", "harvest", str(tmp_path / "study.toml")],
        input="y\nyes\n" * 1000,
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [
        f"difflens: model 'own': {folder} needs code of its own, which difflens does not run; "
        "give a model whose architecture and tokenizer transformers itself knows"
    ]
    assert "[y/N]" not in done.stdout
    assert not marker.exists()


@pytest.mark.slow
def test_every_loader_of_the_product_goes_through_the_one_door() -> None:
    """`from_pretrained` is called where code is refused, and by PEFT, which runs none."""
    allowed = {"crosscoder/model_checks.py": 1, "crosscoder/adapters.py": 1}
    found: dict[str, int] = {}
    for package in ("crosscoder", "labeler", "taxonomy", "benchmarks", "examples"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _name(node) in ("from_pretrained", "pipeline"):
                    refused = any(keyword.arg == "trust_remote_code" for keyword in node.keywords)
                    if package == "examples" and (refused or "Peft" in ast.unparse(node.func)):
                        continue
                    place = str(path.relative_to(ROOT))
                    found[place] = found.get(place, 0) + 1
    assert found == allowed


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


class PanicException(BaseException):
    """Stands for a panic inside tokenizers or safetensors."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (PanicException("index out of bounds"), InputError),
        (AttributeError("'NoneType' object has no attribute 'x'"), InputError),
        (RuntimeError("several\n  lines\nof words"), InputError),
        (RecursionError(), InputError),
        (AssertionError(), InputError),
        (OSError(5, "Input/output error"), InputError),
        (InputError("already said"), InputError),
        (WorkError("already said"), WorkError),
        (MemoryError(), WorkError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB"), WorkError),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), WorkError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(3), SystemExit),
    ],
    ids=repr,
)
def test_whatever_a_library_raises_becomes_one_line(
    raised: BaseException, expected: type[BaseException]
) -> None:
    with pytest.raises(expected) as caught, reading("model 'mine': /folder"):
        raise raised
    assert type(caught.value) is expected
    assert "\n" not in str(caught.value)
    if expected is not type(raised):
        assert str(caught.value).startswith("model 'mine': /folder ")
