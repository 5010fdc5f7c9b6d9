"""Decoded batches of a store's images: which are to be done, and the processes that decode them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fewshot.features.images.decode import UnreadableImage, decode
from fewshot.features.images.listing import ImageRecord, read_bytes
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.store.layout import Failure, StoreFolder
from fewshot.features.store.writing import StoreLock, part_of

__all__ = ["Batch", "DecodedBatch", "Plan", "decoded_batches"]


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
    """The batches to do, shard by shard; a shard is locked when its first batch is handed out."""

    def __init__(self, store: StoreFolder, shards: Iterable[int], batch_size: int, lock: StoreLock) -> None:
        self._store, self._shards, self._batch_size, self._lock = store, shards, batch_size, lock
        self.n_found_done = self.n_elsewhere = 0

    def __iter__(self) -> Iterator[Batch]:
        for shard in self._shards:
            n_rows = self._store.head.n_rows(shard)
            if self._store.is_done(shard):
                self.n_found_done += n_rows
            elif not self._lock.acquire(part_of(shard)):
                self.n_elsewhere += n_rows
            elif self._store.is_done(shard):  # by a process that has just let go of it
                self._lock.release(part_of(shard))
                self.n_found_done += n_rows
            else:
                for start in range(0, n_rows, self._batch_size):
                    yield Batch(shard, start, min(start + self._batch_size, n_rows))


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
                decoded = decode(read_bytes(self._store.head.images_root, record))
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
        worker_init_fn=partial(_begin_worker, os.getpid(), 19 if device.type == "cpu" else 0),
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if n_workers else None,
    )


def _begin_worker(parent: int, niceness: int, _worker: int) -> None:
    """Give way to the network's threads, which wait for the slowest of them; end if the parent was killed meanwhile.

    Torch's own watch over the parent begins only later.
    """
    os.nice(niceness)
    if os.getppid() != parent:
        os._exit(1)


def _as_it_is(decoded: Any) -> Any:
    return decoded
