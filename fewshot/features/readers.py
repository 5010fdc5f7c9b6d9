"""Read labelled features from a file, or the bundled digits: a table from suffix to reader, and one door."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.feature_checks import text_labels
from fewshot.features.feature_set import FeatureSet, LabelsLike
from fewshot.features.tables import find_label_column, label_column, table_features
from fewshot.features.text_files import read_text, table_lines
from fewshot.storage import load_tensors

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_features"]

T = TypeVar("T")
_PICKLES = (".pkl", ".pickle", ".plk")
_REFUSED = "got pickled objects, which can run code when opened, or a damaged file: save them again as plain arrays"


class _Contents(NamedTuple):
    """What a file says of itself; ``splits`` holds a mask of rows by name."""

    features: Tensor | npt.NDArray[np.generic]
    labels: LabelsLike | None = None
    class_names: Sequence[str] | None = None
    splits: Mapping[str, npt.NDArray[np.bool_]] | None = None
    source: Mapping[str, object] | None = None
    ids: Sequence[str] | None = None


def load_features(
    path_or_name: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None, needs_labels: bool = True
) -> FeatureSet:
    """Read a labelled pool from a file, or the bundled set called ``digits``.

    Parameters
    ----------
    path_or_name
        ``digits`` (scikit-learn's, 1797 rows of 64 pixels / 16), a feature store's folder (``store:LAYER`` for one of
        its layers), or a file:

        - ``.safetensors``: written by `FeatureSet.save`.
        - ``.npz``: arrays ``features`` and ``labels``; ``class_names`` if labels are positions in it. With arrays
          ``split`` (n,) and ``split_names``, ``file.npz:test`` keeps the rows of the split called test, and the classes
          that have some.
        - ``.npy``: features only; the labels of ``x.npy`` come from ``labels``, or ``x_labels.npy`` or ``x.labels.npy``
          beside it.
        - ``.csv``, ``.parquet``, ``.pq``: a column ``embedding`` or ``features``, or the only one that holds lists (in
          CSV written ``[0.1, 0.2]``), or numeric columns ``f0``, ``f1``, ...; and a column ``label``, ``class_name`` or
          ``class``. Needs pandas.
        - ``.pt``, ``.pth``: a dict with ``features``, ``labels`` and perhaps ``class_names``, or a pair (features,
          labels), of tensors.
    labels
        A file of labels to use in place of the file's own: ``.npy`` (n,), ``.txt`` (one a line), or ``.csv`` (a column
        named as above); -1 = unlabelled.
    needs_labels
        Whether features without any labels are an error; else all their rows are unlabelled.

    Returns
    -------
    FeatureSet
        On the CPU. Half and bfloat16 are widened to float32, in which the algorithms work; text is read as float32;
        float64 is kept.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the name or suffix is unknown, the file is or contains a pickle, there are no labels, or the contents do not
        make a pool.
    ImportError
        If a table is asked for and pandas is not installed.

    Examples
    --------
    >>> load_features("digits")
    FeatureSet(1797 x 64 torch.float32, 10 classes)
    """
    name = os.fspath(path_or_name)
    store = _parse_store(name)
    if store is not None:
        return _load_store(*store, labels)
    path, split = _parse(name)
    contents = _BUNDLED[name]() if name in _BUNDLED else _read("features", path, _READERS, _BUNDLED)
    files = [name]
    if labels is not None:
        contents = contents._replace(labels=_read("labels", Path(labels), _LABEL_READERS), class_names=None)
        files.append(os.fspath(labels))
    with _naming(path):
        if contents.labels is None and not needs_labels:
            contents = contents._replace(labels=np.full(len(contents.features), -1), class_names=None)
        return _select_split(_pool(contents, files), contents.splits, split)


def _parse_store(name: str) -> tuple[Path, str | None] | None:
    """Return folder and layer of ``FOLDER`` or ``FOLDER:LAYER``, if there is such a folder."""
    if Path(name).is_dir():
        return Path(name), None
    head, colon, tail = name.rpartition(":")
    return (Path(head), tail) if colon and Path(head).is_dir() else None


def _load_store(path: Path, layer: str | None, labels: str | os.PathLike[str] | None) -> FeatureSet:
    from fewshot.features.store.reading import FeatureStore

    pool = FeatureStore.open(path).load(layer=layer)
    if labels is None:
        return pool
    with _naming(path):
        values = _read("labels", Path(labels), _LABEL_READERS)
        return replace(FeatureSet.from_arrays(pool.features, values, source=pool.source), ids=pool.ids)


def _parse(name: str) -> tuple[Path, str | None]:
    """Return path and split of ``PATH:SPLIT``; a colon counts only after a suffix that is known."""
    head, _, tail = name.rpartition(":")
    if Path(head).suffix.lower() in _READERS and Path(name).suffix.lower() not in _READERS:
        return Path(head), tail
    return Path(name), None


def _read(what: str, path: Path, readers: Mapping[str, Callable[[Path], T]], names: Collection[str] = ()) -> T:
    """Read a file by the reader of its suffix; ``names`` are known besides."""
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        advice = "convert it to .npz where it was made, or with fewshot import, which runs nothing"
        raise ValueError(f"{path} is a pickle, which can run code when opened: {advice}")
    reader = readers.get(suffix) or readers[check_choice(what, suffix or str(path), [*readers, *names])]
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with _naming(path):
        return reader(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file's contents into a ValueError of one line that names the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from error


def _pool(contents: _Contents, files: list[str]) -> FeatureSet:
    if contents.labels is None:
        raise ValueError(f"no labels found: name a file of labels ({', '.join(_LABEL_READERS)}) as labels=")
    source = contents.source or {"files": files}
    pool = FeatureSet.from_arrays(contents.features, contents.labels, contents.class_names, source)
    features = pool.features.float() if pool.features.dtype.itemsize < 4 else pool.features
    return replace(pool, features=features, ids=None if contents.ids is None else tuple(contents.ids))


def _select_split(
    pool: FeatureSet, splits: Mapping[str, npt.NDArray[np.bool_]] | None, split: str | None
) -> FeatureSet:
    if split is None:
        return pool
    if not splits:
        raise ValueError(f"no splits found, so no {split!r}: only .npz has them, as arrays 'split' and 'split_names'")
    return pool.select_rows(splits[check_choice("split", split, splits)])


def _named_contents(found: Mapping[str, Any]) -> _Contents:
    """Return contents stored under their names."""
    if "features" not in found:
        raise ValueError(f"expected 'features' and 'labels', got {', '.join(map(repr, found)) or 'nothing'}")
    return _Contents(found["features"], found.get("labels"), found.get("class_names"))


def _read_digits() -> _Contents:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return _Contents((pixels / 16).astype(np.float32), labels, source={"extractor": "scikit-learn digits, pixels / 16"})


def _read_safetensors(path: Path) -> _Contents:
    tensors, metadata = load_tensors(path, kind="features")
    source, ids = cast("dict[str, object]", metadata["source"]), cast("list[str] | None", metadata.get("ids"))
    return _named_contents(tensors | metadata)._replace(source=source, ids=ids)


def _read_torch(path: Path) -> _Contents:
    try:
        loaded = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes the unpickler say
        raise ValueError(f"expected a dict or a pair of tensors, {_REFUSED}") from error
    if isinstance(loaded, (tuple, list)) and len(loaded) == 2:
        return _Contents(*loaded)
    if not isinstance(loaded, dict):
        raise ValueError(f"expected a dict or a pair (features, labels), got {type(loaded).__name__}")
    return _named_contents(loaded)


def _read_npz(path: Path) -> _Contents:
    with _plain_arrays(), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        wanted = ("features", "labels", "class_names", "split", "split_names")
        arrays = {name: archive[name] if name in wanted else None for name in archive.files}
    contents = _named_contents(arrays)
    split, names = arrays.get("split"), arrays.get("split_names")
    if split is None or names is None:
        return contents
    texts = (name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names.tolist())
    return contents._replace(splits={name: np.equal(split, position) for position, name in enumerate(texts)})


def _read_npy(path: Path) -> _Contents:
    beside = [path.with_name(f"{path.stem}{ending}") for ending in ("_labels.npy", ".labels.npy")]
    found = next((sibling for sibling in beside if sibling.is_file()), None)
    return _Contents(_read_array(path), None if found is None else _read("labels", found, _LABEL_READERS))


def _read_array(path: Path) -> npt.NDArray[np.generic]:
    with _plain_arrays(), path.open("rb") as file:
        array: npt.NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
        return array


@contextmanager
def _plain_arrays() -> Iterator[None]:
    """Say what NumPy means by its many errors over objects and damaged files, without its advice to allow pickle."""
    try:
        yield
    except (ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"expected arrays of numbers or strings, {_REFUSED}") from error


def _read_csv(path: Path) -> _Contents:
    contents = _read_table(path, _csv_table)
    return contents._replace(features=np.asarray(contents.features, dtype=np.float32))


def _read_parquet(path: Path) -> _Contents:
    return _read_table(path, lambda pandas, path: pandas.read_parquet(path))


def _csv_table(pandas: Any, path: Path) -> pd.DataFrame:
    """Read a CSV file, its labels as they are written."""
    table: pd.DataFrame = pandas.read_csv(path)
    column = find_label_column(map(str, table.columns))
    if column is not None:
        texts = pandas.read_csv(path, usecols=[column], dtype=str, keep_default_na=False)[column]
        table[column] = texts.str.strip().to_numpy()
    return table


def _read_table(path: Path, read: Callable[[Any, Path], pd.DataFrame]) -> _Contents:
    try:
        import pandas

        table = read(pandas, path).rename(columns=str)
    except ImportError as error:
        raise ImportError(f'{path}: tables are read by pandas: pip install "fewshot[tables]"') from error
    if table.empty:
        raise ValueError("the table has no rows")
    column = find_label_column(table.columns)
    if column is None:
        return _Contents(table_features(table))
    labels = table[column].astype(object)
    return _Contents(table_features(table), labels.where(labels.notna(), None).tolist())


def _read_label_lines(path: Path) -> list[Hashable]:
    return text_labels(read_text(path).splitlines())


def _read_label_table(path: Path) -> list[Hashable]:
    lines = [values for _, values in table_lines(path)]
    names = lines[0] if lines else []
    position = names.index(label_column(names))
    return text_labels(values[position] if position < len(values) else "" for values in lines[1:])


_BUNDLED: Mapping[str, Callable[[], _Contents]] = {"digits": _read_digits}
_READERS: Mapping[str, Callable[[Path], _Contents]] = {
    ".csv": _read_csv,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".safetensors": _read_safetensors,
}
_LABEL_READERS: Mapping[str, Callable[[Path], LabelsLike]] = {
    ".csv": _read_label_table,
    ".npy": _read_array,
    ".txt": _read_label_lines,
}
