"""The extraction loop: decoded images in, features computed shard by shard, written behind the loop.

A shard's batches are always the same, so a run that was killed and went on writes the same bytes as one that was not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.extraction.batches import Batch, DecodedBatch, Plan, decoded_batches
from fewshot.features.frozen import Extractor
from fewshot.features.images.listing import find_images
from fewshot.features.store.layout import DTYPES, Failure, StoreFolder
from fewshot.features.store.writing import StoreLock, create_store, part_of, write_shard

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
        A folder of images or of tar archives; see `fewshot.features.images.listing.find_images`.
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
        plan = Plan(store, shards, batch_size, lock)
        batches = decoded_batches(store, extractor.preprocess, extractor.device, plan, n_workers)
        loop = _Loop(extractor, store, lock, writer)
        start = time.perf_counter()
        for decoded in _timed(batches, loop):
            loop.take(decoded)
            if progress is not None:
                progress(loop.n_done, loop.n_failed)
        loop.finish()
    seconds = time.perf_counter() - start
    return Extraction(loop.n_done, plan.n_found_done, plan.n_elsewhere, seconds, loop.seconds_waiting)


class _Loop:
    """Features computed and gathered into shards; one batch is on the device while the one before is fetched."""

    def __init__(self, extractor: Extractor, store: StoreFolder, lock: StoreLock, writer: ThreadPoolExecutor) -> None:
        self._extractor, self._store, self._lock, self._writer = extractor, store, lock, writer
        self._ahead: tuple[DecodedBatch, Tensor] | None = None
        self._shard: _Shard | None = None
        self._writing: Future[None] | None = None
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
            raise ValueError(
                f"a feature of {image} is {float(values.abs().max()):.6g}, more than float16 can hold: "
                "start anew with --dtype float32"
            )
        raise ValueError(f"the network's output for {image} is not finite: use --precision float32")


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
