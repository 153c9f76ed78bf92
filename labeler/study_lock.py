"""One process at a time works on a study's artifacts, or several that share their work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from labeler.errors import WorkError
from labeler.study import StudyFile


@contextmanager
def study_lock(study: StudyFile, shared: bool = False) -> Iterator[None]:
    """Hold the study's lock file; the system releases it however the process ends.

    `shared` lets in other processes that share it too, and no others.

    Raises WorkError when another process holds it. Where the platform has no `flock`, nothing
    is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with _lock_file(study.artifacts) as handle:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise WorkError(
                f"{study.path}: process {holder} is working on this study; wait for it or stop it"
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _lock_file(artifacts: Path) -> TextIO:
    try:
        artifacts.mkdir(parents=True, exist_ok=True)
        return (artifacts / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise WorkError(
            f"{artifacts}: cannot be written ({error.strerror}); work on a study needs its folder,"
            " a copy of it does too"
        ) from None
