"""Tables of Arrow: Parquet files, and the folders that Hugging Face ``datasets`` saves, read by pyarrow alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewshot.checks import check_choice
from fewshot.features.imports.locate import FEATURE_NAMES, LABEL_NAMES, Located, Parts, named_part

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["is_dataset_folder", "read_dataset_folder", "read_parquet_file"]

_ID_NAMES = ("id", "ids", "image_id", "file", "file_name", "filename", "path", "image_path")


def is_dataset_folder(path: Path) -> bool:
    """Return whether ``datasets`` saved a folder, of one split or of several."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def read_parquet_file(path: Path, parts: Parts) -> Located:
    """Read a Parquet file with a column of vectors, such as easyfsl's ``embedding`` beside ``class_name``."""
    _pyarrow()
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        names = _columns(file.schema_arrow, parts)
        return _located_in_table(file.read([name for name in names if name is not None]), *names)


def read_dataset_folder(path: Path, parts: Parts) -> Located:
    """Read a folder of ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``.

    Raises
    ------
    ValueError
        If there are several splits and none is asked for, or no column holds vectors.
    """
    folder = _split_folder(path, parts.split)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state.get("_indices_files"):
        raise ValueError("the rows are chosen by a list of indices: save the result of flatten_indices() instead")
    pa = _pyarrow()
    tables = [_mapped(pa, folder, str(entry["filename"])) for entry in state["_data_files"]]
    names = _columns(tables[0].schema, parts)
    wanted = [name for name in names if name is not None]
    return _located_in_table(pa.concat_tables([table.select(wanted) for table in tables]), *names)


def _split_folder(path: Path, split: str | None) -> Path:
    listing = path / "dataset_dict.json"
    if not listing.is_file():
        return path
    splits = [str(name) for name in json.loads(listing.read_text(encoding="utf-8"))["splits"]]
    if split is None and len(splits) > 1:
        raise ValueError(f"the folder holds the splits {', '.join(splits)}: choose one with --split")
    return path / (splits[0] if split is None else check_choice("split", split, splits))


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError('tables are read by pyarrow: pip install "fewshot[tables]"') from error
    module: ModuleType = pyarrow
    return module


def _mapped(pa: ModuleType, folder: Path, name: str) -> pa.Table:
    """Open a file of Arrow's stream format; columns that are not used are not read."""
    if Path(name).name != name:
        raise ValueError(f"refused the file {name!r}, which lies outside the folder")
    with pa.memory_map(str(folder / name)) as file:
        return pa.ipc.open_stream(file).read_all()


def _columns(schema: pa.Schema, parts: Parts) -> tuple[str, str | None, str | None]:
    """Return the columns of vectors, labels and ids."""
    vectors = [field.name for field in schema if _is_vector(field.type)]
    label = _label_column(schema, vectors, parts.label)
    texts = [field.name for field in schema if str(field.type) in ("string", "large_string") and field.name != label]
    return _vector_column(schema, vectors, parts.embedding), label, named_part("ids", texts, _ID_NAMES, None)


def _vector_column(schema: pa.Schema, vectors: list[str], asked: str | None) -> str:
    """Return the column asked for, else one with a usual name, else the only column of vectors."""
    usual = [name for name in FEATURE_NAMES if name in vectors] or vectors[: len(vectors) == 1]
    column = named_part("embedding", vectors if asked else schema.names, usual, asked)
    if column is None:
        columns = ", ".join(schema.names)
        raise ValueError(f"expected one column of vectors, got the columns {columns}: name it with --embedding")
    return column


def _label_column(schema: pa.Schema, vectors: list[str], asked: str | None) -> str | None:
    """Return the column asked for, else the only one with named classes, else one with a usual name."""
    others = [name for name in schema.names if name not in vectors]
    classes = [name for name in _named_classes(schema) if name in others]
    return named_part("label", others, [*classes[: len(classes) == 1], *LABEL_NAMES], asked)


def _is_vector(kind: Any) -> bool:
    """Return whether a column's type is a list of numbers, perhaps within lists of one."""
    while hasattr(kind, "value_type") and not hasattr(kind, "index_type"):
        kind = kind.value_type
        if str(kind) in ("float", "double", "halffloat"):
            return True
    return False


def _located_in_table(table: pa.Table, embedding: str, label: str | None, ids: str | None) -> Located:
    features = _stacked(embedding, table[embedding])
    if label is None:
        return Located(features, ids=None if ids is None else table[ids].to_pylist())
    labels, names = table[label].to_pylist(), _named_classes(table.schema).get(label)
    return Located(features, labels, names, None if ids is None else table[ids].to_pylist())


def _named_classes(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names of the columns that ``datasets`` calls ClassLabel."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    columns = metadata.get("info", {}).get("features", {})
    return {
        name: [str(class_name) for class_name in column["names"]]
        for name, column in columns.items()
        if isinstance(column, dict) and column.get("_type") == "ClassLabel" and column.get("names")
    }


def _stacked(name: str, column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """Return a column of vectors of one length as an array (n, n_features)."""
    if column.null_count or len(column) == 0:
        raise ValueError(f"column {name!r} has {column.null_count} empty rows of {len(column)}: leave them out")
    chunks = [(_flat(chunk), len(chunk)) for chunk in column.chunks if len(chunk)]
    widths = {len(values) / n for values, n in chunks}
    if len(widths) != 1 or not all(map(_is_even, column.chunks)):
        raise ValueError(f"the vectors in column {name!r} differ in length: leave the odd ones out")
    return np.concatenate([values for values, _ in chunks]).reshape(len(column), -1)


def _is_even(chunk: Any) -> bool:
    """Return whether all rows of a column of lists have one length."""
    return not hasattr(chunk, "offsets") or len(np.unique(np.diff(chunk.offsets.to_numpy()))) <= 1


def _flat(chunk: Any) -> npt.NDArray[np.generic]:
    """Return the numbers of a column of lists, one after the other."""
    while hasattr(chunk, "flatten") and hasattr(chunk.type, "value_type"):
        chunk = chunk.flatten()
    values: npt.NDArray[np.generic] = chunk.to_numpy(zero_copy_only=False)
    return values
