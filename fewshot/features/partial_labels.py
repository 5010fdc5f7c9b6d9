"""Pools labelled in part: labels read from a table that names some of the rows."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from fewshot.features.feature_checks import text_labels
from fewshot.features.feature_set import FeatureSet
from fewshot.features.readers import load_features
from fewshot.features.text_files import read_text, table_lines

__all__ = ["load_partly_labelled", "read_partial_labels"]

_FILE_COLUMNS = ("file", "image", "path", "filename", "id")
_LABEL_COLUMNS = ("label", "class", "class_name")


class _Table(NamedTuple):
    """Labels as texts, and the files that they are of, if the table names them."""

    files: list[str] | None
    labels: list[str]


def load_partly_labelled(features: str, labels: str | None = None) -> FeatureSet:
    """Read features of which some rows may have no label.

    Parameters
    ----------
    features
        As `fewshot.features.load_features` takes them.
    labels
        A file of labels in place of the features' own: ``.txt`` and ``.csv`` as `read_partial_labels` reads them, other
        kinds as `load_features` does.

    Raises
    ------
    OSError, ValueError
        As `load_features` and `read_partial_labels` do.

    Warns
    -----
    UserWarning
        If the table names rows that the features do not have.
    """
    if labels is None or Path(labels).suffix.lower() not in (".csv", ".txt"):
        return load_features(features, labels=labels, needs_labels=False)
    pool = load_features(features, needs_labels=False)
    values = read_partial_labels(labels, pool.ids, len(pool.labels))
    return replace(FeatureSet.from_arrays(pool.features, values, source=pool.source), ids=pool.ids)


def read_partial_labels(path: str, ids: Sequence[str] | None, n_rows: int) -> list[Hashable]:
    """Read a label for some of the rows, -1 for the others.

    Parameters
    ----------
    path
        ``.txt``: one a line. ``.csv``: a column label, class or class_name, row for row; or beside it a column file,
        image, path, filename or id: then rows are found by their ids, and one that is not named is unlabelled. An empty
        text and -1 mean unlabelled.
    ids
        Names of the rows.
    n_rows
        How many there are.

    Returns
    -------
    list
        One label a row: the names as they are written, -1 for a row without one.

    Raises
    ------
    ValueError
        If there are not as many labels as rows, a row is named twice, or no name is one of the rows'.
    FileNotFoundError
        If there is no such file.

    Warns
    -----
    UserWarning
        If some names are not those of rows.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    table = _read_lines(path) if Path(path).suffix.lower() == ".txt" else _read_csv(path)
    if table.files is not None and ids is not None:
        named = _by_id(path, table.files, table.labels, ids)
        return text_labels(named.get(row_id, "") for row_id in ids)
    if len(table.labels) != n_rows:
        raise ValueError(f"{path} has {len(table.labels):,} labels, and there are {n_rows:,} rows: give one a row")
    return text_labels(table.labels)


def _read_lines(path: str) -> _Table:
    return _Table(None, read_text(path).splitlines())


def _read_csv(path: str) -> _Table:
    lines = [values for _, values in table_lines(path)]
    names = lines[0] if lines else []
    header = {name.strip().lower(): name for name in names}
    table = [dict(zip_longest(names, values[: len(names)], fillvalue="")) for values in lines[1:]]
    label, name = _first(_LABEL_COLUMNS, header), _first(_FILE_COLUMNS, header)
    if label is None:
        raise ValueError(f"{path} must have a column {', '.join(_LABEL_COLUMNS)}, got {', '.join(header) or 'none'}")
    return _Table(None if name is None else _column(table, name), _column(table, label))


def _first(names: Sequence[str], header: dict[str, str]) -> str | None:
    """Return the column of the first name that the header has."""
    return next((header[name] for name in names if name in header), None)


def _column(table: Sequence[dict[str, str]], name: str) -> list[str]:
    return [row[name] or "" for row in table]


def _by_id(path: str, files: Sequence[str], labels: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    """Return the label of each row that the table names."""
    found: dict[str, str] = {}
    for file, label in zip(files, labels, strict=True):
        name = posixpath.normpath(file.strip())
        if name in found:
            raise ValueError(f"{path} names {name!r} more than once: keep one row")
        found[name] = label
    _check_ids(path, found, ids)
    return found


def _check_ids(path: str, found: dict[str, str], ids: Sequence[str]) -> None:
    """Refuse a table of other rows; warn of single names that are no row's."""
    strange = sorted(set(found).difference(ids))
    if len(strange) == len(found):
        example = f"{strange[0]!r} where the rows have {ids[0]!r}" if strange else "it is empty"
        raise ValueError(f"{path} names none of the {len(ids):,} rows: {example}")
    if strange:
        lines = f"{len(strange):,} line{'' if len(strange) == 1 else 's'}"
        warnings.warn(f"{path} has {lines} of no row of the features, such as {strange[0]!r}", stacklevel=4)
