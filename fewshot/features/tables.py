"""Which columns of a table hold features and labels."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["find_label_column", "label_column", "table_features"]


def label_column(columns: Iterable[str]) -> str:
    """Return the name of the column that holds the labels.

    Raises
    ------
    ValueError
        If there is none.
    """
    present = list(columns)
    found = find_label_column(present)
    if found is None:
        raise ValueError(f"expected a column 'label', 'class_name' or 'class', got {reprlib.repr(present)}")
    return found


def find_label_column(columns: Iterable[str]) -> str | None:
    """Return the name of the column that holds the labels, or None."""
    present = list(columns)
    return next((name for name in ("label", "class_name", "class") if name in present), None)


def table_features(table: pd.DataFrame) -> npt.NDArray[np.generic]:
    """Return the column of vectors, or else the columns f0, f1, ... in the order of their numbers.

    Raises
    ------
    ValueError
        If there are neither, or the vectors differ in length.
    """
    columns = [str(name) for name in table]
    lists = [name for name in columns if _is_vector(table[name].iloc[0])]
    numbered = sorted((name for name in columns if re.fullmatch(r"f\d+", name)), key=lambda name: int(name[1:]))
    for named in ("embedding", "features"):
        if named in columns:
            return _stack(table[named])
    if len(lists) == 1:
        return _stack(table[lists[0]])
    if numbered:
        return table[numbered].to_numpy()
    raise ValueError(
        f"expected a column 'embedding' or 'features', a single column of lists, or columns 'f0', 'f1', ..., "
        f"got {reprlib.repr(columns)}"
    )


def _is_vector(value: object) -> bool:
    return isinstance(value, (list, np.ndarray)) or (isinstance(value, str) and value.lstrip().startswith("["))


def _stack(column: pd.Series[Any]) -> npt.NDArray[np.generic]:
    """Return a column of vectors as one array (n, n_features)."""
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"column {column.name!r} has no vector in {int(missing.sum())} of {len(column)} rows, the first in row "
            f"{int(missing.argmax())}: fill them in or leave these rows out"
        )
    rows = [_parse_vector(value) if isinstance(value, str) else np.atleast_1d(value) for value in column]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(
            f"the vectors in column {column.name!r} differ in length: from {min(lengths)} to {max(lengths)}"
        )
    return np.stack(rows)


def _parse_vector(text: str) -> npt.NDArray[np.generic]:
    """Read "[0.1, 0.2]", with commas or without."""
    if "..." in text:
        raise ValueError(
            f"a vector was shortened to {text[:40]!r} when the table was written, as NumPy prints long ones: write the "
            "features to .npz or .parquet"
        )
    return np.array([float(number) for number in text.strip(" []").replace(",", " ").split()], dtype=np.float32)
