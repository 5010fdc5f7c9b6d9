"""Features on disk, opened without reading them: a store's shards or one safetensors file."""

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
    """The features of a finished store, left on disk until asked for.

    Images that could not be read have no row here; `failures` names them.

    Parameters
    ----------
    folder
        The store's files.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If the folder is no store, or the store is not finished.

    Examples
    --------
    ::

        store = FeatureStore.open("store/")
        for chunk in store.chunks(65536):      # (n, n_features) float32, memory for one chunk
            ...
        pool = store.load()                    # a FeatureSet, all in memory
    """

    folder: StoreFolder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FeatureStore:
        """Open a store that is finished."""
        folder = StoreFolder(path)
        missing = folder.head.n_shards - len(folder.done_shards())
        if missing:
            raise ValueError(
                f"{path} is not finished: {missing} of {folder.head.n_shards} shards are missing: "
                "run the command that made it again, and it goes on where it stopped"
            )
        return cls(folder)

    def __repr__(self) -> str:
        head = self.folder.head
        return f"FeatureStore({self.n} x {head.n_features} {head.dtype}, {len(head.class_names)} classes)"

    @property
    def source(self) -> dict[str, object]:
        """What made the features, as `FeatureSet.source` has it."""
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
        """Why an image has no features, by the image's id."""
        found: dict[str, Failure] = {}
        for shard in self._shards:
            failures = self.folder.record(shard).failures
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
        record = self.folder.record(shard)
        return np.setdiff1d(np.arange(record.n_rows), list(record.failures))

    def _images(self, shard: int) -> list[ImageRecord]:
        """Return the images of a shard that have features."""
        images = self.folder.images(shard)
        return [images[row] for row in self._kept(shard).tolist()]

    def _columns_of(self, layer: str | None) -> slice:
        if layer is None:
            return slice(0, self.folder.head.n_features)
        return slice(*self.columns[check_choice("layer", layer, self.columns)])


def _of_layer(source: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """Return what made one layer of a store that has several."""
    spec = {**source["extractor"], "layer": layer}
    return {**source, "extractor_key": f"{source['extractor_key']}:{layer}", "extractor": spec}
