"""One thread that puts shards on the disk while the models read on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from crosscoder.manifest import HarvestManifest, write_manifest
from crosscoder.shards import ShardTokens, write_shard


class ShardWriter:
    """Writes shards in the order given, the manifest after each; one waits at most.

    A failure is raised by the next call, or at the end of the `with` block; a block that ends by
    an exception waits for the shard that is being written and raises nothing of its own.
    """

    def __init__(self, directory: Path, manifest: HarvestManifest) -> None:
        self.manifest = manifest
        """Everything that is whole on the disk."""
        self._directory = directory
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard-writer")
        self._pending: Future[None] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait()

    def put(self, index: int, tokens: ShardTokens) -> None:
        """Hand over a new shard, or one that replaces a damaged one.

        WorkError where the one before it could not be written.
        """
        self._wait()
        self._pending = self._pool.submit(self._write, index, tokens)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, index: int, tokens: ShardTokens) -> None:
        record = write_shard(self._directory, index, tokens)
        kept = self.manifest.shards
        shards = (*kept[:index], record, *kept[index + 1 :])
        manifest = self.manifest.model_copy(update={"shards": shards})
        write_manifest(self._directory, manifest)
        self.manifest = manifest
