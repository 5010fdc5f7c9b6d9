"""The folder of a discovery: its files, and their formats as written and as read."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.evaluation.discovery.experiment import DiscoveryResult
from fewshot.features import FeatureSet
from fewshot.storage.result_folders import SUMMARY, csv_text, settle

__all__ = [
    "ASSIGNMENTS",
    "FORMAT_VERSION",
    "KIND",
    "Assignment",
    "SortedPool",
    "assignments_csv",
    "read_assignments",
    "read_sorted_pool",
    "sorted_pool",
]

KIND = "fewshot discovery"
FORMAT_VERSION = 1
ASSIGNMENTS = "assignments.csv"
_ROW, _CLASS, _PROBABILITY = "row", "class", "probability"


class Assignment(NamedTuple):
    """A row of the pool, its class, and the probability of that class."""

    row: int
    class_name: str
    probability: float


class SortedPool(NamedTuple):
    """The pool that was sorted, as the summary's ``features`` identify it to a later command.

    Attributes
    ----------
    path : str
        Where the features are, from any folder.
    source : mapping
        What made the features.
    rows_sha256 : str
        A fingerprint of the rows and their order.
    n : int
    """

    path: str
    source: Mapping[str, object]
    rows_sha256: str
    n: int


def sorted_pool(name: str, pool: FeatureSet) -> SortedPool:
    """Return the identity of a pool; ``name`` is its source."""
    path, _, part = name.rpartition(":")
    is_file = os.path.exists(name) or (part and os.path.exists(path))
    return SortedPool(os.path.abspath(name) if is_file else name, pool.source, _rows_hash(pool), len(pool.labels))


def _rows_hash(pool: FeatureSet) -> str:
    features = pool.features.detach().cpu().contiguous()
    return hashlib.sha256(features.view(torch.uint8).numpy().data).hexdigest()


def read_sorted_pool(path: str) -> SortedPool:
    """Return the identity of the pool that a folder of results is of.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no summary in it.
    ValueError
        If the summary is of another kind or version.
    """
    settle(path)
    file = Path(path) / SUMMARY
    if not file.is_file():
        raise FileNotFoundError(f"no {SUMMARY} in {path}: name the folder that fewshot discover wrote")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): run fewshot discover again") from None
    found = (document.get("kind"), document.get("format_version")) if isinstance(document, dict) else (None, None)
    if found != (KIND, FORMAT_VERSION):
        raise ValueError(f"{file}: expected a {KIND} of version {FORMAT_VERSION}, got {found[0]!r} of {found[1]!r}")
    return SortedPool(**{name: document["features"][name] for name in SortedPool._fields})


def assignments_csv(result: DiscoveryResult) -> str:
    """Return the table of rows: file names, outlier scores and truth only where there are some."""
    data, found = result.data, result.found
    labels = found.labels.tolist()
    columns: dict[str, Sequence[object] | None] = {
        _ROW: range(len(labels)),
        "file": data.pool.ids,
        "cluster": labels,
        _CLASS: [found.names[label] for label in labels],
        "is_known_class": [_word(label < found.n_known) for label in labels],
        "is_labelled": [_word(label >= 0) for label in data.shown.tolist()],
        _PROBABILITY: _numbers(found.probability),
        "outlier_score": None if found.outlier_score is None else _numbers(found.outlier_score),
        "truth": None if data.truth is None else _names(data.truth, data.pool.class_names),
    }
    return csv_text({name: column for name, column in columns.items() if column is not None})


def _word(value: bool) -> str:
    return "true" if value else "false"


def _numbers(values: Tensor) -> list[str]:
    return [f"{value:.6g}" for value in values.tolist()]


def _names(labels: Tensor, names: Sequence[str]) -> list[str]:
    return ["" if label < 0 else names[label] for label in labels.tolist()]


def read_assignments(path: str) -> list[Assignment]:
    """Read the class and the probability of each row from a folder of results."""
    with (Path(path) / ASSIGNMENTS).open(encoding="utf-8", newline="") as file:
        return [Assignment(int(row[_ROW]), row[_CLASS], float(row[_PROBABILITY])) for row in csv.DictReader(file)]
