"""`FeatureStore`: the memory-mapped features of a finished store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.feature_set import FeatureSet
from fewshot.features.images.listing import ImageRecord
from fewshot.features.store.layout import Failure, StoreFolder

__all__ = ["FeatureStore"]

Rows: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FeatureStore:
    """The features of a finished store, read from disk on demand.

    Images that could not be read have no row; `failures` names them. Open a store with `FeatureStore.open`.

    Parameters
    ----------
    folder
        The store's files.
    shard_failures
        Of each shard: the reasons why images have no features, by row.

    Examples
    --------
    ::

        store = FeatureStore.open("store/")
        for chunk in store.chunks(65536):      # (n, n_features) float32, memory for one chunk
            ...
        pool = store.load()                    # a FeatureSet, all in memory
    """

    folder: StoreFolder
    shard_failures: tuple[Mapping[int, Failure], ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FeatureStore:
        """Open a store that is finished; the record of each shard is read once.

        Raises
        ------
        FileNotFoundError
            If there is no store.
        ValueError
            If the folder is no store, or the store is not finished.
        """
        folder = StoreFolder(path)
        failures = [record.failures for record in folder.records()]
        missing = folder.head.n_shards - len(failures)
        if missing:
            raise ValueError(
                f"{path} is not finished: {missing} of {folder.head.n_shards} shards are missing: "
                "run the command that made it again, and it resumes where it stopped"
            )
        return cls(folder, tuple(failures))

    def __repr__(self) -> str:
        head = self.folder.head
        return f"FeatureStore({self.n} x {head.n_features} {head.dtype}, {len(head.class_names)} classes)"

    @property
    def source(self) -> dict[str, object]:
        """Extractor and images of the features, for `FeatureSet.source`."""
        head = self.folder.head
        return {
            "extractor_key": head.extractor_key,
            "extractor": dict(head.extractor),
            "store": str(self.folder.path),
            "images": head.images_root,
            "images_sha256": head.images_sha256,
        }

    @property
    def columns(self) -> Mapping[str, tuple[int, int]]:
        """The columns of each layer, empty for one vector."""
        return self.folder.head.columns

    @cached_property
    def n(self) -> int:
        """The number of images that have features."""
        return self.folder.head.n_images - len(self.failures)

    @cached_property
    def failures(self) -> dict[str, Failure]:
        """The reason why an image has no features, by the image's id."""
        found: dict[str, Failure] = {}
        for shard, failures in enumerate(self.shard_failures):
            images = self.folder.images(shard) if failures else []
            found.update({images[row].id: failure for row, failure in failures.items()})
        return found

    def chunks(self, n_rows: int, *, layer: str | None = None) -> Iterator[Tensor]:
        """Yield the features in order, at most ``n_rows`` at a time.

        Parameters
        ----------
        n_rows
            Bounds the memory.
        layer
            One of ``columns``; None for all side by side.

        Yields
        ------
        Tensor
            (at most n_rows, n_features) float32.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        columns = self._columns_of(layer)
        for shard in self._shards:
            array, kept = self.folder.array(shard), self._kept(shard)
            for start in range(0, len(kept), n_rows):
                yield torch.from_numpy(array[kept[start : start + n_rows], columns].astype(np.float32))

    def load(self, *, layer: str | None = None) -> FeatureSet:
        """Read everything.

        Raises
        ------
        ValueError
            If there is no such layer, no image could be read, or a feature is not finite.
        """
        if self.n == 0:
            first = next(iter(self.failures.items()))
            raise ValueError(
                f"{self.folder.path}: none of the {len(self.failures)} images could be read, such as {first[0]}: "
                f"{first[1].text}"
            )
        columns = self._columns_of(layer)
        features = torch.empty((self.n, columns.stop - columns.start))
        start = 0
        for chunk in self.chunks(self.folder.head.shard_size, layer=layer):
            features[start : start + len(chunk)] = chunk
            start += len(chunk)
        images = [image for shard in self._shards for image in self._images(shard)]
        labels = [-1 if image.label is None else image.label for image in images]
        source = self.source if layer is None else _of_layer(self.source, layer)
        return replace(FeatureSet.from_arrays(features, labels, source=source), ids=tuple(image.id for image in images))

    @property
    def _shards(self) -> range:
        return range(self.folder.head.n_shards)

    def _kept(self, shard: int) -> npt.NDArray[np.int64]:
        """Return the rows of a shard that hold features."""
        return np.setdiff1d(np.arange(self.folder.head.n_rows(shard)), list(self.shard_failures[shard]))

    def _images(self, shard: int) -> list[ImageRecord]:
        """Return the images of a shard that have features."""
        images = self.folder.images(shard)
        return [images[row] for row in self._kept(shard).tolist()]

    def _columns_of(self, layer: str | None) -> slice:
        if layer is None:
            return slice(0, self.folder.head.n_features)
        return slice(*self.columns[check_choice("layer", layer, self.columns)])


def _of_layer(source: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """Return the source of one layer of a store that has several."""
    spec = {**source["extractor"], "layer": layer}
    return {**source, "extractor_key": f"{source['extractor_key']}:{layer}", "extractor": spec}
