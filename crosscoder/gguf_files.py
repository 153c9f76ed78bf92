"""GGUF models, dequantised once into a folder that loads like any other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from crosscoder.errors import InputError, WorkError
from crosscoder.fingerprints import FileHashes
from crosscoder.pretrained import without_bars
from crosscoder.progress import Progress, SilentProgress
from crosscoder.subject_files import SubjectSpec, check_location, gguf_path
from crosscoder.subjects import load_subject


def with_converted_weights(
    spec: SubjectSpec, cache_dir: Path, hashes: FileHashes, progress: Progress | None = None
) -> SubjectSpec:
    """The same model as a folder of safetensors; a model that is no GGUF file is returned as is.

    Dequantising takes a while, so the folder is kept in `cache_dir` under the file's hash.
    InputError where the file cannot be read, WorkError where the disk is full.
    """
    check_location(spec)
    path = gguf_path(spec)
    if path is None:
        return spec
    folder = cache_dir / f"gguf-{hashes.sha256(path)[:16]}-{spec.dtype}"
    if not (folder / "config.json").is_file():
        label = f"dequantise {path.name}"
        with (progress or SilentProgress()).task(label, 1, "models") as advance:
            _convert(spec, folder)
            advance(1)
    return replace(spec, path=str(folder), gguf_file=None)


def _convert(spec: SubjectSpec, folder: Path) -> None:
    subject = load_subject(replace(spec, adapter=None))
    model = subject.model
    # A saved quantisation entry would have the plain weights read as packed ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with without_bars():
            model.save_pretrained(temporary)
        subject.tokenizer.save_pretrained(temporary)
        temporary.replace(folder)
    except InputError:
        raise
    except Exception as error:
        # Disk errors reach here under several libraries' names; the message keeps the cause.
        raise WorkError(f"{folder}: cannot keep the dequantised model: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
