"""`FeatureSet`, a labelled pool of feature rows, and the check that two pools come from one extractor."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.features.feature_checks import (
    ArrayLike,
    LabelsLike,
    checked_features,
    checked_ids,
    checked_labels,
    checked_names,
    feature_tensor,
    label_values,
    number_classes,
    row_index,
)
from fewshot.storage import save_tensors

__all__ = ["FeatureSet", "LabelsLike", "check_same_extractor", "check_same_source", "spec_differences"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FeatureSet:
    """A labelled pool of feature rows, checked at birth.

    Parameters
    ----------
    features
        (n, n_features), finite. Floating dtypes stay as they are; integers become float32.
    labels
        (n,) integers in [0, n_classes), or -1 = unlabelled, kept as int64. Every class has at least one row.
    class_names
        (n_classes,) distinct names.
    source
        What made the features: extractor, weights, transform, files. Anything JSON can say.
    ids
        (n,) a name for each row, such as the image's file; None if nobody gave them names.

    Raises
    ------
    TypeError
        If a field is not of its type.
    ValueError
        If shapes do not match, a feature is not finite, a label is out of range, or a class has no rows or no name of
        its own.

    Examples
    --------
    >>> pool = FeatureSet(torch.eye(3), torch.tensor([1, 0, 1]), ("crow", "wren"))
    >>> pool
    FeatureSet(3 x 3 torch.float32, 2 classes)
    >>> pool.class_counts().tolist()
    [1, 2]
    >>> pool.select_classes([1]).class_names
    ('wren',)
    """

    features: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    source: Mapping[str, object] = field(default_factory=dict)
    ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", checked_features(self.features))
        object.__setattr__(self, "class_names", checked_names(self.class_names))
        object.__setattr__(self, "labels", checked_labels(self.labels, len(self.features), self.class_names))
        object.__setattr__(self, "source", dict(self.source))
        if self.ids is not None:
            object.__setattr__(self, "ids", checked_ids(self.ids, len(self.features)))

    def __repr__(self) -> str:
        n, n_features = self.features.shape
        return f"FeatureSet({n} x {n_features} {self.features.dtype}, {self.n_classes} classes)"

    @classmethod
    def from_arrays(
        cls,
        features: ArrayLike,
        labels: LabelsLike,
        class_names: Sequence[str] | None = None,
        source: Mapping[str, object] | None = None,
    ) -> FeatureSet:
        """Build a pool from arrays, tensors or sequences, with labels of any hashable kind.

        Parameters
        ----------
        features
            (n, n_features) numbers. Arrays and tensors keep their floating dtype; plain sequences become float32.
        labels
            (n,) integers, strings or any values that sort; the integer -1 means unlabelled.
        class_names
            Without it, the classes are the distinct labels in sorted order, each named by its ``str``.
            With it, integer labels are positions in it, and other labels are names out of it.
        source
            As in `FeatureSet`.

        Raises
        ------
        TypeError
            If the features are not numbers, or the labels do not sort.
        ValueError
            If labels are missing (None or NaN), are not a vector, or are not among ``class_names``; if rows differ in
            length.

        Examples
        --------
        >>> pool = FeatureSet.from_arrays([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], ["wren", "crow", "wren"])
        >>> pool.class_names, pool.labels.tolist()
        (('crow', 'wren'), [1, 0, 1])
        """
        class_ids, names = number_classes(label_values(labels), class_names)
        return cls(feature_tensor(features), torch.tensor(class_ids, dtype=torch.int64), names, source or {})

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def class_counts(self) -> Tensor:
        """Return how many rows each class has, (n_classes,), each at least 1."""
        return torch.bincount(self.labels[self.labels >= 0], minlength=self.n_classes)

    def select_classes(self, class_ids: Sequence[int]) -> FeatureSet:
        """Keep the rows of some classes, relabelled 0, 1, ... in the order given; rows keep their order.

        Raises
        ------
        ValueError
            If a class is out of range, given twice, or none is given.
        """
        ids = [int(class_id) for class_id in class_ids]
        if not ids or len(set(ids)) < len(ids) or min(ids) < 0 or max(ids) >= self.n_classes:
            raise ValueError(f"class_ids must be distinct and lie in [0, {self.n_classes}), got {reprlib.repr(ids)}")
        new_ids = self.labels.new_full((self.n_classes,), -1)
        new_ids[ids] = torch.arange(len(ids), device=self.labels.device)
        labels = new_ids[self.labels]
        labels[self.labels < 0] = -1
        names = tuple(self.class_names[class_id] for class_id in ids)
        return self._rows(torch.nonzero(labels >= 0)[:, 0], labels, names)

    def labelled(self) -> FeatureSet:
        """Keep the rows that have a label.

        Raises
        ------
        ValueError
            If none has.
        """
        is_labelled = self.labels >= 0
        if not bool(is_labelled.any()):
            raise ValueError("no row has a label: name a file of labels (.npy, .txt or .csv), or a folder per class")
        return self if bool(is_labelled.all()) else self.select_rows(is_labelled)

    def select_rows(
        self, mask_or_index: Tensor | npt.NDArray[np.generic] | Sequence[int] | Sequence[bool]
    ) -> FeatureSet:
        """Keep some rows, by a boolean mask (n,) or by integer positions; classes left without rows are dropped.

        Raises
        ------
        TypeError
            If the rows are neither booleans nor integers.
        ValueError
            If a mask is not as long as the pool, or no row is kept.
        IndexError
            If a position is out of range.
        """
        rows = row_index(mask_or_index, len(self.labels)).to(self.labels.device)
        rows = torch.nonzero(rows)[:, 0] if rows.dtype == torch.bool else rows
        kept = self.labels[rows]
        present = torch.unique(kept[kept >= 0])
        new_ids = self.labels.new_full((self.n_classes + 1,), -1)  # the last place is that of -1
        new_ids[present] = torch.arange(len(present), device=self.labels.device)
        names = tuple(self.class_names[class_id] for class_id in present.tolist())
        return self._rows(rows, new_ids[self.labels], names)

    def _rows(self, rows: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> FeatureSet:
        """Return some rows, under new labels (n,) and names."""
        ids = None if self.ids is None else tuple(self.ids[row] for row in rows.tolist())
        return replace(self, features=self.features[rows], labels=labels[rows], class_names=class_names, ids=ids)

    def describe(self, name: str) -> dict[str, Any]:
        """Return the facts of the pool under a name, as JSON values."""
        n, n_features = self.features.shape
        return {
            "name": name,
            "source": dict(self.source),
            "n": n,
            "n_classes": self.n_classes,
            "n_features": n_features,
            "class_names": list(self.class_names),
        }

    def to(self, device: torch.device | str) -> FeatureSet:
        """Return the pool on another device."""
        return replace(self, features=self.features.to(device), labels=self.labels.to(device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the pool to one safetensors file that `load_features` reads; see `fewshot.storage.save_tensors`."""
        save_tensors(
            path,
            {"features": self.features, "labels": self.labels},
            kind="features",
            metadata={"class_names": self.class_names, "source": self.source, "ids": self.ids},
        )


def check_same_extractor(a: FeatureSet, b: FeatureSet, names: tuple[str, str]) -> None:
    """Check that two pools come from the same extractor; one without that information passes.

    Raises
    ------
    ValueError
        If their keys differ; the message names the first difference between the two specifications.

    Examples
    --------
    >>> spec = {"extractor_key": "1f", "extractor": {"name": "resnet50", "preprocess": {"size": [224, 224]}}}
    >>> other = {"extractor_key": "2e", "extractor": {"name": "resnet50", "preprocess": {"size": [288, 288]}}}
    >>> import torch
    >>> old, new = (FeatureSet(torch.eye(2), torch.tensor([0, 1]), ("crow", "wren"), s) for s in (spec, other))
    >>> check_same_extractor(old, new, ("old", "new"))
    Traceback (most recent call last):
    ...
    ValueError: old and new come from different extractors (preprocess.size is [224, 224] and [288, 288]): extract both
        with one
    """
    check_same_source(a.source, b.source, names)


def check_same_source(a: Mapping[str, object], b: Mapping[str, object], names: tuple[str, str]) -> None:
    """Check the same of the ``source`` of two pools, or of a model and a pool."""
    keys = [source.get("extractor_key") for source in (a, b)]
    if None in keys or keys[0] == keys[1]:
        return
    found = spec_differences(a.get("extractor"), b.get("extractor"))
    field_name, value, other = next(found, ("extractor_key", *keys))
    raise ValueError(
        f"{names[0]} and {names[1]} come from different extractors ({field_name} is {value!r} and {other!r}): "
        "extract both with one"
    )


def spec_differences(a: object, b: object, name: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield the fields in which two specifications differ, as (dotted name, value of a, value of b)."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            yield from spec_differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    elif a != b:
        yield name, a, b
