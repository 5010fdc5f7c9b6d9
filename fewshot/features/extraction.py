"""The extraction loop: images decoded in workers, features computed shard by shard, written behind the loop.

A shard's batches are always the same, so a run that was killed and went on writes the same bytes as one that was not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fewshot.checks import check_choice
from fewshot.features.frozen import Extractor
from fewshot.features.images.decode import UnreadableImage, decode
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.images.sources import ImageRecord, find_images, read_bytes
from fewshot.features.store import DTYPES, Failure, StoreFolder
from fewshot.features.store_writing import StoreLock, create_store, part_of, write_shard

__all__ = ["Extraction", "extract_shards", "extract_store", "prepare_store"]

# Called with (images done, images failed) after each batch; the counts are of this run.
Progress: TypeAlias = Callable[[int, int], object]


class Extraction(NamedTuple):
    """What a run did.

    Attributes
    ----------
    n_done
        Images that this run worked on.
    n_found_done
        Images in shards that were done before.
    n_elsewhere
        Images in shards that another process holds.
    seconds
        Wall clock of the loop.
    seconds_waiting
        Part of it in which nothing was computed, for want of decoded images.
    """

    n_done: int
    n_found_done: int
    n_elsewhere: int
    seconds: float
    seconds_waiting: float


class _Batch(NamedTuple):
    """A part of a shard: rows [start, stop)."""

    shard: int
    start: int
    stop: int


class _Decoded(NamedTuple):
    """A batch, decoded: zeros in the rows of failures."""

    batch: _Batch
    images: Tensor
    failures: dict[int, Failure]
    notes: dict[int, tuple[str, ...]]


def extract_store(
    extractor: Extractor,
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] = "auto",
    dtype: str = "float16",
    shard_size: int = 4096,
    batch_size: int = 64,
    n_workers: int = 1,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
) -> Extraction:
    """Extract the features of a folder of images into a store; where one is begun for the same images, go on with it.

    Parameters
    ----------
    extractor
        Frozen network with its preprocessing.
    images
        A folder of images or of tar archives; see `fewshot.features.images.sources.find_images`.
    out
        The store's folder.
    labels
        ``auto``, ``folder``, ``none`` or a CSV file; see the same.
    dtype
        On disk: ``float16`` (values above 65504 are an error) or ``float32``.
    shard_size
        Rows per shard: the work that is lost when a run is killed.
    batch_size
        Images per call of the network. Another one may change the last bits.
    n_workers
        Processes that decode; 0 decodes between the network's calls.
    rank, world_size
        This process's place among those that share the work: shards are dealt out in turn, and a lock keeps two
        processes from writing the same one, however they were started.
    progress
        Called after each batch.

    Returns
    -------
    Extraction
        Open the result with `FeatureStore.open`.

    Raises
    ------
    ValueError
        If there are no images, the store is for other images or another extractor, or a feature is not finite or does
        not fit into ``dtype``.

    Notes
    -----
    One shard is held in memory, and one more while it is written; the number of images does not matter.
    """
    store = prepare_store(extractor, images, out, labels=labels, dtype=dtype, shard_size=shard_size)
    return extract_shards(
        extractor,
        store,
        range(rank, store.head.n_shards, world_size),
        batch_size=batch_size,
        n_workers=n_workers,
        progress=progress,
    )


def prepare_store(
    extractor: Extractor,
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str],
    dtype: str,
    shard_size: int,
) -> StoreFolder:
    """List the images and make the store's folder, or check that the one that is there is for the same."""
    check_choice("dtype", dtype, DTYPES)
    settings = {
        "extractor": extractor.spec,
        "extractor_key": extractor.key,
        "columns": extractor.columns,
        "n_features": extractor.n_features,
        "dtype": dtype,
        "shard_size": shard_size,
        "images_root": os.path.abspath(images),
        "about": extractor.about,
    }
    return create_store(out, find_images(images, labels=labels), settings)


def extract_shards(
    extractor: Extractor,
    store: StoreFolder,
    shards: Iterable[int],
    *,
    batch_size: int,
    n_workers: int,
    progress: Progress | None = None,
) -> Extraction:
    """Extract those of some shards that are neither done nor in another process's hands."""
    with StoreLock(store.path) as lock, ThreadPoolExecutor(1) as writer:
        plan = _Plan(store, shards, batch_size, lock)
        loop = _Loop(extractor, store, lock, writer)
        start = time.perf_counter()
        for decoded in _timed(_loader(store, extractor, plan, n_workers), loop):
            loop.take(decoded)
            if progress is not None:
                progress(loop.n_done, loop.n_failed)
        loop.finish()
    seconds = time.perf_counter() - start
    return Extraction(loop.n_done, plan.n_found_done, plan.n_elsewhere, seconds, loop.seconds_waiting)


class _Plan(Sampler[_Batch]):
    """The batches to do, shard by shard; a shard is locked when its first batch is handed out."""

    def __init__(self, store: StoreFolder, shards: Iterable[int], batch_size: int, lock: StoreLock) -> None:
        self._store, self._shards, self._batch_size, self._lock = store, shards, batch_size, lock
        self.n_found_done = self.n_elsewhere = 0

    def __iter__(self) -> Iterator[_Batch]:
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
                    yield _Batch(shard, start, min(start + self._batch_size, n_rows))


class _Images(Dataset[_Decoded]):
    """Batches of decoded images, by their place in the store's list."""

    def __init__(self, store: StoreFolder, preprocess: Preprocess) -> None:
        self._store, self._preprocess = store, preprocess
        self._shard, self._records = -1, list[ImageRecord]()

    def __getitem__(self, batch: _Batch) -> _Decoded:
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
        return _Decoded(batch, images, failures, notes)

    def _records_of(self, shard: int) -> list[ImageRecord]:
        """Return a shard's part of the list, kept until another shard is asked for."""
        if shard != self._shard:
            self._shard, self._records = shard, self._store.images(shard)
        return self._records


def _loader(store: StoreFolder, extractor: Extractor, plan: _Plan, n_workers: int) -> DataLoader[_Decoded]:
    return DataLoader(
        _Images(store, extractor.preprocess),
        batch_size=None,
        sampler=plan,
        num_workers=n_workers,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_begin_worker, os.getpid(), 19 if extractor.device.type == "cpu" else 0),
        pin_memory=extractor.device.type == "cuda",
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


class _Loop:
    """Features computed and gathered into shards; one batch is on the device while the one before is fetched."""

    def __init__(self, extractor: Extractor, store: StoreFolder, lock: StoreLock, writer: ThreadPoolExecutor) -> None:
        self._extractor, self._store, self._lock, self._writer = extractor, store, lock, writer
        self._ahead: tuple[_Decoded, Tensor] | None = None
        self._shard: _Shard | None = None
        self._writing: Future[None] | None = None
        self.n_done = self.n_failed = 0
        self.seconds_waiting = 0.0

    def take(self, decoded: _Decoded) -> None:
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

    def _write(self, shard: _Shard) -> None:
        write_shard(self._store, shard.number, shard.features, shard.failures, shard.notes)
        self._lock.release(part_of(shard.number))

    def _wait(self) -> None:
        """Wait for the shard that is being written, and raise what went wrong."""
        if self._writing is not None:
            self._writing.result()


class _Shard:
    """A shard's rows, as they come in."""

    def __init__(self, store: StoreFolder, number: int) -> None:
        self.number = number
        self._store = store
        self._n_rows = store.head.n_rows(number)
        self.features = np.zeros((self._n_rows, store.head.n_features), dtype=store.head.dtype)
        self.failures: dict[int, Failure] = {}
        self.notes: dict[int, tuple[str, ...]] = {}

    def add(self, decoded: _Decoded, features: Tensor) -> None:
        """Put a batch in its place; rows of failures stay zero."""
        _, start, stop = decoded.batch
        with np.errstate(over="ignore"):
            self.features[start:stop] = features.numpy()
        self.features[list(decoded.failures)] = 0
        self._check_fit(start, stop, features)
        self.failures |= decoded.failures
        self.notes |= decoded.notes

    def is_full(self, batch: _Batch) -> bool:
        """Return whether a batch is the last of the shard."""
        return batch.stop == self._n_rows

    def _check_fit(self, start: int, stop: int, features: Tensor) -> None:
        is_bad = ~np.isfinite(self.features[start:stop]).all(axis=1)
        if not is_bad.any():
            return
        row = int(is_bad.argmax())
        image, values = self._store.images(self.number)[start + row].id, features[row]
        if bool(values.isfinite().all()):
            raise ValueError(
                f"a feature of {image} is {float(values.abs().max()):.6g}, more than float16 can hold: "
                "start anew with --dtype float32"
            )
        raise ValueError(f"the network's output for {image} is not finite: use --precision float32")


def _timed(batches: Iterable[_Decoded], loop: _Loop) -> Iterator[_Decoded]:
    """Yield batches, and add up how long they were waited for."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(iterator, None)
        loop.seconds_waiting += time.perf_counter() - start
        if batch is None:
            return
        yield batch
