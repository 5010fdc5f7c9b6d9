"""The extraction loop: decoded images in, features computed shard by shard, written behind the loop.

A shard's batches are always the same, so a run that was killed and resumed writes the same bytes as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from fewshot.checks import SettingError
from fewshot.features.extraction.batches import Batch, DecodedBatch, Plan, decoded_batches
from fewshot.features.frozen import Extractor
from fewshot.features.store.layout import Failure, ShardRecord, StoreFolder
from fewshot.features.store.writing import StoreLock, part_of, write_shard

__all__ = ["ExtractProgress", "ExtractReport", "RunFigures", "extract_shards"]


class ExtractReport(NamedTuple):
    """Progress of a run: images done, those of them that could not be read, and images to do."""

    n_done: int
    n_failed: int
    n_todo: int


ExtractProgress: TypeAlias = Callable[[ExtractReport], object]


class RunFigures(NamedTuple):
    """Images and seconds of a run.

    Attributes
    ----------
    n_done : int
        Images that this run worked on.
    n_found_done : int
        Images in shards that were finished before.
    n_elsewhere : int
        Images in shards that another process holds.
    seconds : float
        Wall clock of the loop.
    seconds_waiting : float
        Part of it in which nothing was computed, for want of decoded images.
    """

    n_done: int
    n_found_done: int
    n_elsewhere: int
    seconds: float
    seconds_waiting: float


def _ignore(_: ShardRecord) -> None:
    return


def extract_shards(
    extractor: Extractor,
    store: StoreFolder,
    shards: Sequence[int],
    *,
    batch_size: int,
    n_workers: int,
    progress: ExtractProgress | None = None,
    finished: Callable[[ShardRecord], object] = _ignore,
) -> RunFigures:
    """Extract the features of some shards, except those that are finished or held by another process.

    Parameters
    ----------
    extractor
        Frozen network with its preprocessing.
    store
        As `fewshot.features.extraction.to_store.prepare_store` returns it.
    shards
        Their numbers.
    batch_size, n_workers
        See `fewshot.features.extract_store`.
    progress
        Called with an `ExtractReport` after each batch.
    finished
        Called with the record of each shard that is finished: by this run, or found so.
    """
    n_todo = sum(map(store.head.n_rows, shards))
    extractor.expect(n_todo)
    with StoreLock(store.path) as lock, ThreadPoolExecutor(1) as writer:
        plan = Plan(store, shards, batch_size, lock, finished)
        batches = decoded_batches(store, extractor.preprocess, extractor.device, plan, n_workers)
        loop = _Loop(extractor, store, lock, writer, finished)
        start = time.perf_counter()
        for decoded in _timed(batches, loop):
            loop.take(decoded)
            if progress is not None:
                progress(ExtractReport(loop.n_done, loop.n_failed, n_todo))
        loop.finish()
    seconds = time.perf_counter() - start
    return RunFigures(loop.n_done, plan.n_found_done, plan.n_elsewhere, seconds, loop.seconds_waiting)


class _Loop:
    """Features computed and gathered into shards."""

    # Overlap: a batch is computed while the one before it is fetched and the shard before that is written.
    # workers: b+1, b+2 ... | device: b (_ahead) | fetching: b-1, into shard s (_shard) | writing: shard s-1 (_writing)

    def __init__(
        self,
        extractor: Extractor,
        store: StoreFolder,
        lock: StoreLock,
        writer: ThreadPoolExecutor,
        finished: Callable[[ShardRecord], object],
    ) -> None:
        self._extractor, self._store, self._lock, self._writer = extractor, store, lock, writer
        self._finished = finished
        self._ahead: tuple[DecodedBatch, Tensor] | None = None
        self._shard: _Shard | None = None
        self._writing: Future[ShardRecord] | None = None
        self.n_done = self.n_failed = 0
        self.seconds_waiting = 0.0

    def take(self, decoded: DecodedBatch) -> None:
        """Begin a batch and fetch the one before."""
        features = self._extractor(decoded.images)
        self._fetch()
        self._ahead = decoded, features

    def finish(self) -> None:
        """Fetch the last batch and wait until all is written."""
        self._fetch()
        self._wait()

    def _fetch(self) -> None:
        if self._ahead is None:
            return
        decoded, features = self._ahead
        if self._shard is None:
            self._shard = _Shard(self._store, decoded.batch.shard)
        self._shard.add(decoded, features.cpu())
        self.n_done += len(features)
        self.n_failed += len(decoded.failures)
        if self._shard.is_full(decoded.batch):
            self._wait()
            self._writing = self._writer.submit(self._write, self._shard)
            self._shard = None
        self._ahead = None

    def _write(self, shard: _Shard) -> ShardRecord:
        record = write_shard(self._store, shard.number, shard.features, shard.failures, shard.notes)
        self._lock.release(part_of(shard.number))
        return record

    def _wait(self) -> None:
        """Wait for the shard that is being written, and raise its error."""
        if self._writing is not None:
            self._finished(self._writing.result())
            self._writing = None


class _Shard:
    """A shard's rows, as they come in."""

    def __init__(self, store: StoreFolder, number: int) -> None:
        self.number = number
        self._store = store
        self._n_rows = store.head.n_rows(number)
        self.features = np.zeros((self._n_rows, store.head.n_features), dtype=store.head.dtype)
        self.failures: dict[int, Failure] = {}
        self.notes: dict[int, tuple[str, ...]] = {}

    def add(self, decoded: DecodedBatch, features: Tensor) -> None:
        """Put a batch in its place; rows of failures stay zero."""
        _, start, stop = decoded.batch
        with np.errstate(over="ignore"):
            self.features[start:stop] = features.numpy()
        self.features[list(decoded.failures)] = 0
        self._check_fit(start, stop, features)
        self.failures |= decoded.failures
        self.notes |= decoded.notes

    def is_full(self, batch: Batch) -> bool:
        """Return whether a batch is the last of the shard."""
        return batch.stop == self._n_rows

    def _check_fit(self, start: int, stop: int, features: Tensor) -> None:
        is_bad = ~np.isfinite(self.features[start:stop]).all(axis=1)
        if not is_bad.any():
            return
        row = int(is_bad.argmax())
        image, values = self._store.images(self.number)[start + row].id, features[row]
        if bool(values.isfinite().all()):
            raise SettingError(
                "a feature of {0} is {1:.6g}, more than float16 can hold: start anew with {dtype} float32",
                image,
                float(values.abs().max()),
            )
        raise SettingError("the network's output for {0} is not finite: use {precision} float32", image)


def _timed(batches: Iterable[DecodedBatch], loop: _Loop) -> Iterator[DecodedBatch]:
    """Yield batches, and add up how long they were waited for."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(iterator, None)
        loop.seconds_waiting += time.perf_counter() - start
        if batch is None:
            return
        yield batch
