"""The pool that travels: one feature row and one label per item, the names of the classes, and where it came from."""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_finite
from fewshot.storage import save_tensors

__all__ = ["FeatureSet"]

ArrayLike: TypeAlias = Tensor | npt.ArrayLike
_UNLABELLED = -1
LabelsLike: TypeAlias = Tensor | npt.NDArray[np.generic] | Sequence[Hashable]


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
        object.__setattr__(self, "features", _checked_features(self.features))
        object.__setattr__(self, "class_names", _checked_names(self.class_names))
        object.__setattr__(self, "labels", _checked_labels(self.labels, len(self.features), self.class_names))
        object.__setattr__(self, "source", dict(self.source))
        if self.ids is not None:
            object.__setattr__(self, "ids", _checked_ids(self.ids, len(self.features)))

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
        class_ids, names = _number_classes(_label_values(labels), class_names)
        return cls(_feature_tensor(features), torch.tensor(class_ids, dtype=torch.int64), names, source or {})

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
        rows = _row_index(mask_or_index, len(self.labels)).to(self.labels.device)
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


def _checked_features(features: Tensor) -> Tensor:
    if not isinstance(features, Tensor) or features.is_complex():
        raise TypeError(f"features must be a tensor of real numbers, got {_kind(features)}")
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features must have shape (n, n_features), at least one of each, got {tuple(features.shape)}")
    return check_finite("features", features if features.is_floating_point() else features.float())


def _checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise TypeError(f"class_names must be a sequence of strings, got {reprlib.repr(class_names)}")
    repeated = [name for name, count in Counter(class_names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"class_names must be distinct, but {repeated[0]!r} comes {class_names.count(repeated[0])} times"
        )
    return tuple(class_names)


def _checked_ids(ids: Sequence[str], n: int) -> tuple[str, ...]:
    if isinstance(ids, str) or not all(isinstance(name, str) for name in ids):
        raise TypeError(f"ids must be a sequence of strings, got {reprlib.repr(ids)}")
    if len(ids) != n:
        raise ValueError(f"ids must name the {n} rows, one each, got {len(ids)}")
    return tuple(ids)


def _checked_labels(labels: Tensor, n: int, class_names: tuple[str, ...]) -> Tensor:
    if not isinstance(labels, Tensor) or not _is_integer(labels):
        raise TypeError(f"labels must be a tensor of integers, got {_kind(labels)}")
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), one label per row of features, got {tuple(labels.shape)}")
    labels = labels.long()
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < -1 or highest >= len(class_names):
        raise ValueError(
            f"labels must lie in [0, {len(class_names)}), one class name each, or be -1 = unlabelled, "
            f"got {lowest} to {highest}"
        )
    counts = torch.bincount(labels[labels >= 0], minlength=len(class_names)).tolist()
    if 0 in counts:
        empty = counts.index(0)
        raise ValueError(f"class {empty} ({class_names[empty]!r}) has no rows: add some, or leave the class out")
    return labels


def _feature_tensor(features: ArrayLike) -> Tensor:
    """Return a tensor that shares memory with ``features`` where torch can read it, and carries no gradient."""
    if isinstance(features, Tensor):
        return features.detach()
    try:
        array = np.asarray(features)
    except ValueError as error:
        raise ValueError(f"features must be rows of one length ({error})") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"features must be numbers, got an array of dtype {array.dtype}")
    if not isinstance(features, np.ndarray):
        array = array.astype(np.float32)
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _label_values(labels: LabelsLike) -> list[Hashable]:
    """Return labels as a list of Python values, none of them missing."""
    if isinstance(labels, (Tensor, np.ndarray)) and labels.ndim != 1:
        raise ValueError(f"labels must have shape (n,), got {tuple(labels.shape)}")
    values = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else list(labels)
    missing = [row for row, value in enumerate(values) if value is None or value != value]
    if missing:
        raise ValueError(
            f"labels has {len(missing)} missing entries (None or NaN), the first in row {missing[0]}: "
            "fill them in or leave these rows out"
        )
    return values


def _number_classes(values: list[Hashable], class_names: Sequence[str] | None) -> tuple[list[int], tuple[str, ...]]:
    """Return each label's class id, and the class names: those given, else of the distinct labels in sorted order."""
    classes = _sorted_classes(values) if class_names is None else list(class_names)
    names = tuple(str(label) for label in classes)
    positions = [int(value) for value in values if isinstance(value, (int, np.integer))]
    if class_names is not None and len(positions) == len(values):
        return positions, names
    class_ids = {_UNLABELLED: -1} | {label: class_id for class_id, label in enumerate(classes)}
    unknown = next((value for value in values if value not in class_ids), None)
    if unknown is not None:
        raise ValueError(f"label {unknown!r} is not one of the {len(classes)} class_names")
    return [class_ids[value] for value in values], names


def _sorted_classes(values: list[Hashable]) -> list[Hashable]:
    try:
        return sorted(set(values) - {_UNLABELLED})  # type: ignore[type-var]
    except TypeError as error:
        raise TypeError(f"labels must be of one kind, hashable and sortable ({error})") from error


def _row_index(mask_or_index: Tensor | npt.NDArray[np.generic] | Sequence[int], n: int) -> Tensor:
    """Return integer positions, or a mask of length ``n``."""
    rows = mask_or_index if isinstance(mask_or_index, Tensor) else torch.tensor(mask_or_index)
    if rows.dtype == torch.bool:
        if rows.shape != (n,):
            raise ValueError(f"a mask of rows must have shape ({n},), got {tuple(rows.shape)}")
        return rows
    if not _is_integer(rows) or rows.ndim != 1:
        raise TypeError(
            f"rows must be a vector of booleans or integers, got {_kind(rows)} of shape {tuple(rows.shape)}"
        )
    return rows.long()  # a uint8 vector would be read as a mask


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _kind(value: object) -> str:
    return f"{value.dtype}" if isinstance(value, Tensor) else type(value).__name__
