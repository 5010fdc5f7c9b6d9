"""Batches of a store's images: the plan of unfinished batches, and the worker processes that decode them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fewshot.features.images.decode import UnreadableImage, decode
from fewshot.features.images.listing import ImageRecord, read_bytes
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.store.layout import Failure, ShardRecord, StoreFolder
from fewshot.features.store.writing import StoreLock, part_of

__all__ = ["Batch", "DecodedBatch", "Plan", "decoded_batches", "default_n_workers", "worker_init"]

_MOST_WORKERS = 8


class Batch(NamedTuple):
    """A part of a shard: rows [start, stop)."""

    shard: int
    start: int
    stop: int


class DecodedBatch(NamedTuple):
    """A batch, decoded: zeros in the rows of failures."""

    batch: Batch
    images: Tensor
    failures: dict[int, Failure]
    notes: dict[int, tuple[str, ...]]


class Plan(Sampler[Batch]):
    """The batches of unfinished shards, in order; a shard is locked when its first batch is handed out.

    Parameters
    ----------
    store, shards, batch_size, lock
    finished
        Called with the record of a shard that turns out to be finished.
    """

    def __init__(
        self,
        store: StoreFolder,
        shards: Iterable[int],
        batch_size: int,
        lock: StoreLock,
        finished: Callable[[ShardRecord], object],
    ) -> None:
        self._store, self._shards, self._batch_size, self._lock = store, shards, batch_size, lock
        self._finished = finished
        self.n_found_done = self.n_elsewhere = 0

    def __iter__(self) -> Iterator[Batch]:
        for shard in self._shards:
            n_rows = self._store.head.n_rows(shard)
            if not self._lock.acquire(part_of(shard)):
                self.n_elsewhere += n_rows
            elif self._is_finished(shard):
                self._lock.release(part_of(shard))
                self.n_found_done += n_rows
            else:
                for start in range(0, n_rows, self._batch_size):
                    yield Batch(shard, start, min(start + self._batch_size, n_rows))

    def _is_finished(self, shard: int) -> bool:
        record = self._store.finished(shard)
        if record is not None:
            self._finished(record)
        return record is not None


class _Images(Dataset[DecodedBatch]):
    """Batches of decoded images, by their place in the store's list."""

    def __init__(self, store: StoreFolder, preprocess: Preprocess) -> None:
        self._store, self._preprocess = store, preprocess
        self._shard, self._records = -1, list[ImageRecord]()

    def __getitem__(self, batch: Batch) -> DecodedBatch:
        height, width = self._preprocess.size
        images = torch.zeros((batch.stop - batch.start, height, width, 3), dtype=torch.uint8)
        failures, notes = {}, {}
        for row, record in enumerate(self._records_of(batch.shard)[batch.start : batch.stop]):
            try:
                decoded = decode(read_bytes(self._store.head.images_root, record), bit_range=self._preprocess.bit_range)
                images[row] = self._preprocess.apply(decoded.image)
            except UnreadableImage as error:
                failures[batch.start + row] = Failure(error.code, f"{record.id}: {error.text}")
            else:
                if decoded.notes:
                    notes[batch.start + row] = decoded.notes
        return DecodedBatch(batch, images, failures, notes)

    def _records_of(self, shard: int) -> list[ImageRecord]:
        """Return a shard's part of the list, kept until another shard is asked for."""
        if shard != self._shard:
            self._shard, self._records = shard, self._store.images(shard)
        return self._records


def decoded_batches(
    store: StoreFolder, preprocess: Preprocess, device: torch.device, plan: Plan, n_workers: int
) -> DataLoader[DecodedBatch]:
    """Return the batches of a plan, decoded by processes of their own for a network on ``device``."""
    return DataLoader(
        _Images(store, preprocess),
        batch_size=None,
        sampler=plan,
        num_workers=n_workers,
        collate_fn=_as_it_is,
        worker_init_fn=worker_init(device),
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if n_workers else None,
    )


def default_n_workers() -> int:
    """Return half of the cores, at least 1 and at most 8."""
    return min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // 2))


def worker_init(device: torch.device) -> Callable[[int], None]:
    """Return the ``worker_init_fn`` of a `DataLoader` whose workers decode images for a network on ``device``.

    A worker for a CPU network runs at the lowest priority: the network's threads wait for the slowest of them. A worker
    whose parent was killed while it started ends at once; torch's own watch over the parent begins only later.
    """
    return partial(_init_worker, os.getpid(), 19 if device.type == "cpu" else 0)


def _init_worker(parent: int, niceness: int, _worker: int) -> None:
    os.nice(niceness)
    if os.getppid() != parent:
        os._exit(1)


def _as_it_is(decoded: Any) -> Any:
    return decoded
