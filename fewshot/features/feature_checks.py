"""Checks and conversions behind `FeatureSet`: feature rows, labels, class names, and selections of rows."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_finite

__all__ = [
    "ArrayLike",
    "LabelsLike",
    "checked_features",
    "checked_ids",
    "checked_labels",
    "checked_names",
    "feature_tensor",
    "label_values",
    "number_classes",
    "row_index",
    "text_labels",
]

ArrayLike: TypeAlias = Tensor | npt.ArrayLike
LabelsLike: TypeAlias = Tensor | npt.NDArray[np.generic] | Sequence[Hashable]
_UNLABELLED = -1
_MISSING_TEXTS = ("", "-1", b"", b"-1")


def checked_features(features: Tensor) -> Tensor:
    """Return the features if they are a finite real matrix; integers become float32."""
    if not isinstance(features, Tensor) or features.is_complex():
        raise TypeError(f"features must be a tensor of real numbers, got {_kind(features)}")
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features must have shape (n, n_features), at least one of each, got {tuple(features.shape)}")
    return check_finite("features", features if features.is_floating_point() else features.float())


def checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the class names as a tuple if they are distinct strings."""
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise TypeError(f"class_names must be a sequence of strings, got {reprlib.repr(class_names)}")
    repeated = [name for name, count in Counter(class_names).items() if count > 1]
    if repeated:
        raise ValueError(
            f"class_names must be distinct, but {repeated[0]!r} comes {class_names.count(repeated[0])} times"
        )
    return tuple(class_names)


def checked_ids(ids: Sequence[str], n: int) -> tuple[str, ...]:
    """Return the row names as a tuple if there is one string for each of ``n`` rows."""
    if isinstance(ids, str) or not all(isinstance(name, str) for name in ids):
        raise TypeError(f"ids must be a sequence of strings, got {reprlib.repr(ids)}")
    if len(ids) != n:
        raise ValueError(f"ids must name the {n} rows, one each, got {len(ids)}")
    return tuple(ids)


def checked_labels(labels: Tensor, n: int, class_names: tuple[str, ...]) -> Tensor:
    """Return the labels as int64 if they fit ``n`` rows and give every class at least one row."""
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


def feature_tensor(features: ArrayLike) -> Tensor:
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


def label_values(labels: LabelsLike) -> list[Hashable]:
    r"""Return labels as a list of Python values: bytes as text, a missing label as -1.

    Missing are None, NaN, the NA of pandas, an empty text, -1 and "-1". A name such as "NA" or "None" is a name.

    Examples
    --------
    >>> label_values(["crow", None, b"m\xc3\xa9sange", "", "-1", "NA", float("nan")])
    ['crow', -1, 'mésange', -1, -1, 'NA', -1]
    """
    if isinstance(labels, (Tensor, np.ndarray)) and labels.ndim != 1:
        raise ValueError(f"labels must have shape (n,), got {tuple(labels.shape)}")
    values = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else list(labels)
    return [_UNLABELLED if _is_missing(value) else _decoded(value, row) for row, value in enumerate(values)]


def text_labels(texts: Iterable[str]) -> list[Hashable]:
    """Return labels that are written as text, such as in a CSV file: names as they are written, -1 for a missing one.

    Examples
    --------
    >>> text_labels(["007", "7 ", "", "-1", "1e5", "NA"])
    ['007', '7', -1, -1, '1e5', 'NA']
    """
    return label_values([text.strip() for text in texts])


def _is_missing(value: Hashable) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return (isinstance(value, str | bytes) and value in _MISSING_TEXTS) or bool(value != value)


def _decoded(value: Hashable, row: int) -> Hashable:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"the label in row {row} is bytes that are no UTF-8 text, {value[:40]!r}: decode labels by their own "
            "encoding, such as latin-1, before"
        ) from None


def number_classes(values: list[Hashable], class_names: Sequence[str] | None) -> tuple[list[int], tuple[str, ...]]:
    """Return the class id of each label, and the class names.

    Without ``class_names`` the classes are the distinct labels in sorted order. With them, labels that are all integers
    are positions in the list, and other labels are names out of it.
    """
    if class_names is not None:
        class_names = [str(_decoded(name, position)) for position, name in enumerate(class_names)]
    if class_names is None:
        classes = _sorted_classes(values)
        return _class_ids(values, classes), tuple(str(label) for label in classes)
    if all(isinstance(value, (int, np.integer)) for value in values):
        return [int(value) for value in values], tuple(map(str, class_names))  # type: ignore[call-overload]
    return _class_ids(values, class_names), tuple(map(str, class_names))


def _class_ids(values: list[Hashable], classes: Sequence[Hashable]) -> list[int]:
    """Return each label's position among the classes; -1 stays."""
    ids = {_UNLABELLED: -1} | {label: class_id for class_id, label in enumerate(classes)}
    unknown = next((value for value in values if value not in ids), None)
    if unknown is not None:
        raise ValueError(f"label {unknown!r} is not one of the {len(classes)} class_names")
    return [ids[value] for value in values]


def _sorted_classes(values: list[Hashable]) -> list[Hashable]:
    try:
        return sorted(set(values) - {_UNLABELLED}, key=_sorting_key(values))  # type: ignore[type-var, arg-type]
    except TypeError as error:
        raise TypeError(f"labels must be of one kind, hashable and sortable ({error})") from error


def _sorting_key(values: list[Hashable]) -> Callable[[Any], Any] | None:
    """Sort names that are all whole numbers by number, "2" before "10"; anything else as Python does."""
    names = [value for value in values if value != _UNLABELLED]
    are_numbers = bool(names) and all(isinstance(name, str) and name.isascii() and name.isdecimal() for name in names)
    return (lambda name: (int(name), name)) if are_numbers else None


def row_index(mask_or_index: Tensor | npt.NDArray[np.generic] | Sequence[int], n: int) -> Tensor:
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
