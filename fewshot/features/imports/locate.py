"""Locate features, labels, class names and ids in the contents of a foreign file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.feature_set import FeatureSet

__all__ = ["FEATURE_NAMES", "LABEL_NAMES", "Located", "Parts", "as_matrix", "locate_parts", "named_part", "pool_of"]

Matrix: TypeAlias = Tensor | npt.NDArray[np.generic]

# In the order in which they are looked for: of UNEM and PADDLE, CoOp, easyfsl, and what people call them.
FEATURE_NAMES = (
    *("concat_features", "feature_list", "embedding", "embeddings", "features", "image_features", "image_embeds"),
    *("feats", "feat", "X", "x", "data"),
)
LABEL_NAMES = (
    *("concat_labels", "label_list", "class_name", "label", "labels", "targets", "target", "class", "fine_label"),
    *("y",),
)
_CLASS_NAMES = ("class_names", "classnames", "classes")


class Parts(NamedTuple):
    """Names of the parts to take, where they are not the usual ones.

    Attributes
    ----------
    embedding, label : str or None
        A column of a table or a key of a dict.
    split : str or None
        Of a folder that holds several.
    """

    embedding: str | None = None
    label: str | None = None
    split: str | None = None


class Located(NamedTuple):
    """Features of a file, with labels, class names and ids where it has them."""

    features: Matrix
    labels: Sequence[object] | Matrix | None = None
    class_names: Sequence[str] | None = None
    ids: Sequence[str] | None = None


def named_part(what: str, present: Collection[str], usual: Sequence[str], asked: str | None) -> str | None:
    """Return the name of a part: the one asked for, else the first usual one that is present, else None.

    Raises
    ------
    ValueError
        If the one asked for is not there.
    """
    if asked is not None:
        return check_choice(what, asked, present)
    return next((name for name in usual if name in present), None)


def locate_parts(value: object, parts: Parts) -> Located:
    """Locate features and labels in the contents of a file: a dict of them, a dict of classes, a pair, or an array.

    Raises
    ------
    ValueError
        If no part can be recognised as features.
    """
    if isinstance(value, Mapping):
        return _located_in_mapping(value, parts)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(_length(part) > 1 for part in value):
        return Located(as_matrix(value[0]), _labels(value[1]))
    if isinstance(value, (Tensor, np.ndarray)):
        return Located(as_matrix(value))
    raise ValueError(f"expected a dict, a pair (features, labels) or an array, got {type(value).__name__}")


def as_matrix(value: object) -> Matrix:
    """Return rows of numbers as one array or tensor (n, n_features); dimensions of one entry are dropped.

    Raises
    ------
    ValueError
        If they have another shape, or are no numbers.
    """
    if isinstance(value, (list, tuple)):
        value = _stacked(value)
    if not isinstance(value, (Tensor, np.ndarray)) or value.ndim < 2:
        shape = f"shape {tuple(value.shape)}" if isinstance(value, (Tensor, np.ndarray)) else type(value).__name__
        raise ValueError(f"expected features of shape (n, n_features), got {shape}")
    n, *rest = value.shape
    if sum(size > 1 for size in rest) > 1:
        raise ValueError(f"expected one vector for each item, got features of shape {tuple(value.shape)}: pool them")
    return value.reshape(n, max(rest))


def pool_of(located: Located, source: Mapping[str, object]) -> FeatureSet:
    """Build the pool; half precision is widened to float32, and without labels every row is unlabelled."""
    features = torch.as_tensor(located.features)
    features = features.float() if features.dtype.itemsize < 4 or not features.is_floating_point() else features
    labels = [-1] * len(features) if located.labels is None else _label_list(located.labels)
    n_labels = len(labels)
    if n_labels != len(features):
        raise ValueError(f"expected a label for each of {len(features):,} rows of features, got {n_labels:,}")
    pool = FeatureSet.from_arrays(features.contiguous(), labels, source=source)
    names = pool.class_names if located.class_names is None else _names_of(pool.class_names, located.class_names)
    ids = None if located.ids is None else tuple(located.ids)
    return FeatureSet(pool.features, pool.labels, names, source, ids)


def _located_in_mapping(value: Mapping[object, object], parts: Parts) -> Located:
    present = {str(key): part for key, part in value.items()}
    features = named_part("embedding", present, FEATURE_NAMES, parts.embedding)
    if features is None and value and all(map(_is_rows, value.values())):
        return _located_by_class(value)
    if features is None:
        raise ValueError(
            f"no features found among {', '.join(map(repr, present)) or 'nothing'}: name them with --embedding"
        )
    label = named_part("label", present, LABEL_NAMES, parts.label)
    names = named_part("class names", present, _CLASS_NAMES, None)
    return Located(
        as_matrix(present[features]),
        None if label is None else _labels(present[label]),
        None if names is None else [str(name) for name in _plain_list(present[names])],
    )


def _is_rows(part: object) -> bool:
    """Return whether an object may be the vectors of one class."""
    if isinstance(part, (Tensor, np.ndarray)):
        return part.ndim > 1
    return isinstance(part, list) and _length(part) > 0 and _length(part[0]) > 0


def _located_by_class(value: Mapping[object, object]) -> Located:
    """Read a dict from class to its rows, as S2M2 and PT-MAP keep features."""
    rows = {key: torch.as_tensor(as_matrix(part)) for key, part in value.items()}
    widths = {part.shape[1] for part in rows.values()}
    if len(widths) > 1:
        raise ValueError(
            f"no features found among {', '.join(map(repr, rows))}, and as rows of classes they differ in length: name "
            "them with --embedding"
        )
    labels = [key for key, part in rows.items() for _ in range(len(part))]
    return Located(torch.cat(list(rows.values())), labels)


def _stacked(rows: Sequence[object]) -> Tensor:
    """Stack feature vectors of one length; lists become float32."""
    if not rows or not all(isinstance(row, (Tensor, np.ndarray, list)) for row in rows):
        raise ValueError("expected a list of feature vectors, got an empty list or one of other things")
    _check_rows(rows)
    stacked = torch.stack([torch.as_tensor(row) for row in rows])
    return stacked.float() if isinstance(rows[0], list) else stacked


def _check_rows(rows: Sequence[object]) -> None:
    """Refuse vectors of several lengths, mostly one object (the file is damaged), or of other things than numbers."""
    lengths = {_length(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"the feature vectors differ in length: from {min(lengths)} to {max(lengths)}")
    if len({id(row) for row in rows}) < len(rows) / 2:
        raise ValueError("most feature vectors are one and the same object: the file is damaged")
    if not all(_is_numbers(row) for row in rows if isinstance(row, list)):
        raise ValueError("expected feature vectors of numbers, got lists of other things")


def _is_numbers(row: list[object]) -> bool:
    return all(isinstance(value, (int, float)) for value in row)


def _labels(value: object) -> Sequence[object] | Matrix:
    """Return labels; one-hot rows become positions."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, (Tensor, np.ndarray)):
        raise ValueError(f"expected labels, one for each row, got {type(value).__name__}")
    if value.ndim == 2 and value.shape[1] > 1:
        return _positions(torch.as_tensor(value))
    return value.reshape(-1)


def _positions(one_hot: Tensor) -> Tensor:
    if not bool((((one_hot == 0) | (one_hot == 1)).all(-1) & (one_hot.sum(-1) == 1)).all()):
        raise ValueError(
            f"expected labels as one number or one-hot row for each item, got shape {tuple(one_hot.shape)}"
        )
    return one_hot.argmax(-1)


def _label_list(labels: Sequence[object] | Matrix) -> list[object]:
    """Return labels as plain values; whole numbers kept as floats become integers."""
    values: list[Any] = _plain_list(labels)
    values = [value.item() if isinstance(value, (Tensor, np.ndarray)) else value for value in values]
    if values and all(isinstance(value, float) and value.is_integer() for value in values):
        return [int(value) for value in values]
    return values


def _names_of(numbers: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes that are there, whose labels are positions in the list of all names."""
    if not all(number.isdecimal() and int(number) < len(names) for number in numbers):
        return tuple(numbers)  # the labels are names themselves
    return tuple(names[int(number)] for number in numbers)


def _plain_list(values: object) -> list[Any]:
    """Return a sequence or array as a list of plain values; an empty list for anything else."""
    if isinstance(values, (Tensor, np.ndarray)):
        return list(values.reshape(-1).tolist())
    return list(values) if isinstance(values, (list, tuple)) else []


def _length(value: object) -> int:
    """Return the length of a list or an array; 0 for anything else."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.shape[0] if value.ndim else 0
    return len(value) if isinstance(value, (list, tuple)) else 0
