"""Writing a feature store: its list of images, its shards, and the locks that keep writers apart.

POSIX systems only, as the locks are; reading is `fewshot.features.store.layout`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewshot.features.feature_set import spec_differences
from fewshot.features.images.listing import ImageRecord
from fewshot.features.store.layout import Failure, ShardRecord, StoreFolder, StoreHead, StoreSettings, file_hash
from fewshot.storage import check_free, replacing, write_text_atomic

__all__ = ["StoreLock", "check_space", "create_store", "delete_store", "part_of", "remove_temporaries", "write_shard"]

_CREATION = 0


def create_store(path: str | os.PathLike[str], images: Iterable[ImageRecord], settings: StoreSettings) -> StoreFolder:
    """Create a store for a list of images, or return the one that is there if it is for the same.

    Parameters
    ----------
    path
        The folder; made if it is not there.
    images
        In order; read once, never held.
    settings
        What does not come from the images.

    Raises
    ------
    ValueError
        If the folder holds other files, or a store for another extractor, other images or other settings.
    """
    folder = Path(path)
    head_path = folder / "store.json"
    if folder.exists() and not head_path.exists() and not all(_is_beginning(entry.name) for entry in folder.iterdir()):
        raise ValueError(f"{folder} holds other files: name a new or empty folder for the store")
    folder.mkdir(parents=True, exist_ok=True)
    with StoreLock(folder) as lock, lock.held(_CREATION):
        _remove([*folder.glob(".images.*.tmp"), *folder.glob(".store.json.*.tmp")])  # of a creator that was killed
        if head_path.exists():
            listed, _ = _write_list(Path(os.devnull), images, settings.shard_size)
        else:
            with replacing(folder / "images.jsonl") as temporary:
                listed, offsets = _write_list(temporary, images, settings.shard_size)
            with replacing(folder / "images.offsets.npy") as temporary, temporary.open("wb") as file:
                np.save(file, offsets)
            write_text_atomic(head_path, StoreHead(**vars(settings), **listed).to_json())
    store = StoreFolder(folder)
    _check_same(folder, store.head, StoreHead(**vars(settings), **listed))
    return store


def write_shard(
    store: StoreFolder,
    shard: int,
    features: npt.NDArray[np.floating[Any]],
    failures: Mapping[int, Failure],
    notes: Mapping[int, tuple[str, ...]],
) -> ShardRecord:
    """Write a shard's features, then its record, each whole or not at all; return the record."""
    remove_temporaries(store, shard)
    with replacing(store.array_path(shard)) as temporary, temporary.open("wb") as file:
        np.save(file, features)
    record = ShardRecord(
        shard,
        len(features),
        hashlib.sha256(store.lines(shard)).hexdigest(),
        store.array_path(shard).stat().st_size,
        file_hash(store.array_path(shard)),
        {row: failures[row] for row in sorted(failures)},
        {row: notes[row] for row in sorted(notes)},
    )
    write_text_atomic(store.record_path(shard), json.dumps(asdict(record)) + "\n")
    return record


def delete_store(path: str | os.PathLike[str]) -> None:
    """Delete a store and nothing else; where none is, do nothing.

    Raises
    ------
    ValueError
        If the folder holds something else.
    """
    folder = Path(path)
    if not folder.exists():
        return
    others = [entry.name for entry in folder.iterdir() if not (_is_beginning(entry.name) or _is_later(entry.name))]
    if others:
        raise ValueError(f"{folder} holds other files than a store's, such as {others[0]}: nothing was deleted")
    with StoreLock(folder) as lock:
        if not lock.acquire_all():
            raise ValueError(
                f"another process is at work on the store {folder}: wait for it, or name another folder; nothing was "
                "deleted"
            )
        shutil.rmtree(folder)


def check_space(store: StoreFolder, shards: Iterable[int]) -> None:
    """Check that the disk of a store has space for the features of some shards.

    Raises
    ------
    DiskFullError
        If not: how much they need, and how much is free.
    """
    head = store.head
    n_bytes = sum(map(head.n_rows, shards)) * head.n_features * np.dtype(head.dtype).itemsize
    check_free(store.path, n_bytes, "features")


def remove_temporaries(store: StoreFolder, shard: int) -> None:
    """Remove the temporary files of a killed writer of this shard; call it with the shard locked."""
    _remove(store.path.glob(f".shard-{shard:05d}.*.tmp"))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()


def _is_beginning(name: str) -> bool:
    """Return whether a file may be there before the store is."""
    return name == ".lock" or name.startswith(("images.", ".images.", ".store.json."))


def _is_later(name: str) -> bool:
    """Return whether a file may be there besides, once the store is."""
    return name == "store.json" or name.startswith(("shard-", ".shard-"))


def _write_list(
    path: Path, images: Iterable[ImageRecord], shard_size: int
) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    """Write the list of images line by line; return its entry in the head, and the offset of each shard."""
    digest, names, offsets, n_images, position = hashlib.sha256(), set(), [], 0, 0
    with path.open("wb") as file:
        for image in images:
            if n_images % shard_size == 0:
                offsets.append(position)
            line = json.dumps(image).encode() + b"\n"
            file.write(line)
            digest.update(line)
            names.add(image.label)
            n_images, position = n_images + 1, position + len(line)
    class_names = tuple(sorted(name for name in names if name is not None))
    listed = {"n_images": n_images, "images_sha256": digest.hexdigest(), "class_names": class_names}
    return listed, np.array([*offsets, position])


def _check_same(folder: Path, found: StoreHead, wanted: StoreHead) -> None:
    """Check that a store's contents match the run that adds to it."""
    documents = [json.loads(head.to_json()) for head in (found, wanted)]
    for document in documents:
        del document["about"], document["images_root"]
    difference = next(spec_differences(*documents), None)
    if difference is not None:
        name, there, here = difference
        raise ValueError(
            f"{folder} holds a store with other contents ({name} is {there!r} there and {here!r} here): name another "
            "folder, or start anew with --no-resume"
        )


class StoreLock:
    """Locks on parts of a store, between threads of nobody and processes of everybody; a killed process holds none.

    One byte of ``.lock`` for each part, by POSIX record locks: they work between machines on file systems that
    support them.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / ".lock").open("ab")

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # and every lock with it

    @contextmanager
    def held(self, part: int) -> Iterator[None]:
        """Wait for a part and hold it."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, part)
        try:
            yield
        finally:
            self.release(part)

    def acquire(self, part: int) -> bool:
        """Take a part if no other process holds it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, part)
        except BlockingIOError:
            return False
        return True

    def acquire_all(self) -> bool:
        """Take every part if no other process holds one."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self, part: int) -> None:
        """Let go of a part."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, part)


def part_of(shard: int) -> int:
    """Return the byte range of a shard in the lock file."""
    return _CREATION + 1 + shard
