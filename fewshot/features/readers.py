"""Read labelled features from a file, or the bundled digits: a table from suffix to reader, and one door."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.feature_set import FeatureSet, LabelsLike
from fewshot.storage import load_tensors

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_features"]


class _Contents(NamedTuple):
    """What a file says of itself; ``splits`` names the split of each row."""

    features: Tensor | npt.NDArray[np.generic]
    labels: LabelsLike | None = None
    class_names: Sequence[str] | None = None
    splits: npt.NDArray[np.generic] | None = None
    source: Mapping[str, object] | None = None


def load_features(path_or_name: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None) -> FeatureSet:
    """Read a labelled pool from a file, or the bundled set called ``digits``.

    Parameters
    ----------
    path_or_name
        ``digits`` (scikit-learn's, 1797 rows of 64 pixels / 16), or a file:

        - ``.safetensors``: written by `FeatureSet.save`.
        - ``.npz``: arrays ``features`` and ``labels``; ``class_names`` if labels are positions in it. With arrays ``split`` (n,) and
          ``split_names``, ``file.npz:test`` keeps the rows of the split called test; classes without rows there are dropped.
        - ``.npy``: features only; labels come from ``labels``, or from ``x_labels.npy`` or ``x.labels.npy`` beside ``x.npy``.
        - ``.csv``, ``.parquet``, ``.pq``: a column ``embedding`` or ``features``, or the only one that holds lists (in CSV written
          ``[0.1, 0.2]``), or numeric columns ``f0``, ``f1``, ...; and a column ``label``, ``class_name`` or ``class``. Needs pandas.
        - ``.pt``, ``.pth``: a dict with ``features``, ``labels`` and perhaps ``class_names``, or a pair (features, labels), of tensors.
    labels
        A file of labels to use in place of the file's own: ``.npy`` (n,), ``.txt`` (one a line), or ``.csv`` (a column named as above).

    Returns
    -------
    FeatureSet
        On the CPU. Half and bfloat16 are widened to float32, in which the algorithms work; text is read as float32; float64 is kept.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the name or suffix is unknown, the file is or contains a pickle, there are no labels, or the contents do not make a pool.
    ImportError
        If a table is asked for and pandas is not installed.

    Examples
    --------
    >>> load_features("digits")
    FeatureSet(1797 x 64 torch.float32, 10 classes)
    >>> load_features("digit")
    Traceback (most recent call last):
    ...
    ValueError: unknown features 'digit': did you mean 'digits'? Known: .csv, .npy, .npz, .parquet, .pq, .pt, .pth, .safetensors, digits
    """
    name = os.fspath(path_or_name)
    if name in _BUNDLED:
        return _BUNDLED[name]()
    path, split = _parse(name)
    contents = _read(path, _READERS, "features")
    if labels is not None:
        contents = contents._replace(labels=_read(Path(labels), _LABEL_READERS, "labels"), class_names=None)
    try:
        return _select(_pool(path, contents), contents.splits, split)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
