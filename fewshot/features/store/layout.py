"""Files of a feature store: a folder of memory-mapped shards and a description of the extractor that made them.

::

    store.json          what the store is: extractor, key, columns, dtype, class names, number of images
    images.jsonl        one line per image, in order: [id, class name, offset, size]
    images.offsets.npy  where in it each shard begins
    shard-00017.npy     (n_rows, n_features): a row per image of the shard; zeros where the image could not be read
    shard-00017.json    the shard's record: written last, so a shard is finished once it is there
    .lock               byte 0 is locked while the store is created, byte 1 + s while shard s is written
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fewshot.features.images.listing import ImageRecord

__all__ = ["DTYPES", "Failure", "ShardRecord", "StoreFolder", "StoreHead", "StoreSettings", "file_hash"]

FORMAT_VERSION = 1
DTYPES = ("float16", "float32")
_KIND = "fewshot feature store"


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """The part of a `StoreHead` that does not come from the images."""

    extractor: Mapping[str, Any]
    extractor_key: str
    columns: Mapping[str, tuple[int, int]]
    n_features: int
    dtype: str
    shard_size: int
    images_root: str
    about: Mapping[str, Any]


@dataclass(frozen=True)
class StoreHead:
    """Description of a store, in ``store.json``.

    Parameters
    ----------
    extractor, extractor_key
        Specification and key of the extractor.
    columns
        Columns of each layer, [start, stop]; empty for one vector.
    n_features
        Columns in all.
    dtype
        ``float16`` or ``float32``.
    shard_size
        Rows per shard; the last may have fewer.
    n_images, images_sha256
        Length and hash of the list of images.
    class_names
        In sorted order; empty without labels.
    images_root
        The folder that the images' ids are relative to.
    about
        For people: the weights' file, licence, versions.
    """

    extractor: Mapping[str, Any]
    extractor_key: str
    columns: Mapping[str, tuple[int, int]]
    n_features: int
    dtype: str
    shard_size: int
    n_images: int
    images_sha256: str
    class_names: tuple[str, ...]
    images_root: str
    about: Mapping[str, Any]

    @property
    def n_shards(self) -> int:
        """The number of shards."""
        return -(-self.n_images // self.shard_size)

    def n_rows(self, shard: int) -> int:
        """Return how many images a shard has."""
        return min(self.shard_size, self.n_images - shard * self.shard_size)

    def to_json(self) -> str:
        """Return the contents of ``store.json``."""
        return json.dumps({"kind": _KIND, "format_version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"


class Failure(NamedTuple):
    """Reason why an image has no features: a short code, and a sentence."""

    code: str
    text: str


@dataclass(frozen=True)
class ShardRecord:
    """Record of a finished shard.

    Parameters
    ----------
    shard
        Its number.
    n_rows
        Its rows, failures among them.
    rows_sha256
        Hash of its lines in the list of images.
    n_bytes, sha256
        Length and hash of its ``.npy`` file.
    failures
        By row: why the image could not be read.
    notes
        By row: what decoding had to do, such as turning the image by its EXIF tag.
    """

    shard: int
    n_rows: int
    rows_sha256: str
    n_bytes: int
    sha256: str
    failures: Mapping[int, Failure]
    notes: Mapping[int, tuple[str, ...]]


class StoreFolder:
    """Reader of a store's files; `fewshot.features.store.writing` writes them.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If the folder holds something else, or a store of another format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.head = _read_head(self.path / "store.json")

    def array_path(self, shard: int) -> Path:
        """Return the file of a shard's features."""
        return self.path / f"shard-{shard:05d}.npy"

    def record_path(self, shard: int) -> Path:
        """Return the file of a shard's record."""
        return self.path / f"shard-{shard:05d}.json"

    def finished(self, shard: int) -> ShardRecord | None:
        """Read the record of a shard if it is finished: the record is there, and the array has the length it says."""
        array = self.array_path(shard)
        if not (self.record_path(shard).exists() and array.exists()):
            return None
        record = self.record(shard)
        return record if array.stat().st_size == record.n_bytes else None

    def records(self) -> Iterator[ShardRecord]:
        """Read the records of the finished shards, in order."""
        for shard in range(self.head.n_shards):
            record = self.finished(shard)
            if record is not None:
                yield record

    def record(self, shard: int) -> ShardRecord:
        """Read the record of a shard."""
        document = json.loads(self.record_path(shard).read_text(encoding="utf-8"))
        failures = {int(row): Failure(*failure) for row, failure in document.pop("failures").items()}
        notes = {int(row): tuple(texts) for row, texts in document.pop("notes").items()}
        return ShardRecord(**document, failures=failures, notes=notes)

    def array(self, shard: int) -> npt.NDArray[np.floating[Any]]:
        """Open a shard's features without reading them, (n_rows, n_features)."""
        array: npt.NDArray[np.floating[Any]] = np.load(self.array_path(shard), mmap_mode="r", allow_pickle=False)
        return array

    def images(self, shard: int) -> list[ImageRecord]:
        """Read a shard's images from the list."""
        return [ImageRecord(*json.loads(line)) for line in self.lines(shard).splitlines()]

    def damaged_shards(self) -> list[int]:
        """Read all finished shards and return those that differ from the checksum of their record."""
        return [record.shard for record in self.records() if file_hash(self.array_path(record.shard)) != record.sha256]

    @cached_property
    def _offsets(self) -> npt.NDArray[np.int64]:
        offsets: npt.NDArray[np.int64] = np.load(self.path / "images.offsets.npy", allow_pickle=False)
        return offsets

    def lines(self, shard: int) -> bytes:
        """Return a shard's part of the list of images."""
        start, stop = self._offsets[shard : shard + 2].tolist()
        with (self.path / "images.jsonl").open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


def _read_head(path: Path) -> StoreHead:
    if not path.is_file():
        raise FileNotFoundError(f"no feature store at {path.parent}: make one with fewshot extract")
    document = json.loads(path.read_text(encoding="utf-8"))
    kind, version = document.pop("kind", None), document.pop("format_version", None)
    if (kind, version) != (_KIND, FORMAT_VERSION):
        raise ValueError(f"{path}: expected a {_KIND} of version {FORMAT_VERSION}, got {kind!r} of version {version}")
    document["class_names"] = tuple(document["class_names"])
    return StoreHead(**document)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
