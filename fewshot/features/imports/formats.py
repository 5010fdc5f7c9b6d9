"""FORMATS: the file formats of other programs, and `import_features`, which reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fewshot.checks import SettingError, check_choice
from fewshot.features.feature_set import FeatureSet
from fewshot.features.imports.arrow_tables import is_dataset_folder, read_dataset_folder, read_parquet_file
from fewshot.features.imports.joining import join_cosines, join_text
from fewshot.features.imports.locate import Located, Parts, pool_of
from fewshot.features.imports.readers import read_npz_file, read_serialised_file
from fewshot.features.readers import load_features

__all__ = ["FORMATS", "Format", "import_features"]

_USUAL = Parts()


class Format(NamedTuple):
    """A kind of file.

    Attributes
    ----------
    read : callable
    suffixes : tuple of str
        By which ``auto`` knows it.
    summary : str
    """

    read: Callable[[Path, Parts], Located]
    suffixes: tuple[str, ...]
    summary: str


def _read_as_features(path: Path, parts: Parts) -> Located:
    """Read a format of the library's own."""
    name = f"{path}:{parts.split}" if parts.split else str(path)
    pool = load_features(name, needs_labels=False)
    return Located(pool.features, pool.labels, pool.class_names, pool.ids)


FORMATS: Mapping[str, Format] = {
    "table": Format(read_parquet_file, (".parquet", ".pq"), "Parquet: easyfsl's embedding and class_name, and others"),
    "pickle": Format(
        read_serialised_file, (".plk", ".pkl", ".pickle"), "pickles of UNEM, PADDLE, PT-MAP; no code is run"
    ),
    "torch": Format(read_serialised_file, (".pt", ".pth"), "torch.save: Tip-Adapter's caches, dicts, pairs"),
    "npz": Format(read_npz_file, (".npz",), "arrays of NumPy: CoOp's feature_list and label_list, and others"),
    "datasets": Format(read_dataset_folder, (), "a folder of Hugging Face datasets with a column of vectors"),
    "features": Format(_read_as_features, (".safetensors", ".csv", ".npy"), "whatever --features reads"),
}


def import_features(
    path: str | os.PathLike[str],
    *,
    format: str = "auto",
    embedding: str | None = None,
    label: str | None = None,
    split: str | None = None,
    text: str | os.PathLike[str] | None = None,
    cosines: str | os.PathLike[str] | None = None,
) -> FeatureSet:
    """Read features that another program made, without running code in them.

    Parameters
    ----------
    path
        A file, or a folder of Hugging Face ``datasets`` or a feature store.
    format
        A name in `FORMATS`; ``auto`` decides by the suffix, and recognises such folders.
    embedding, label
        The column or key of the vectors and the labels, where it has no usual name.
    split
        Of a folder that holds several.
    text, cosines
        A file of text embeddings, one a class, or of image-text cosines of the same rows: the cosines are put before
        the features, see `join_text` and `join_cosines`.

    Returns
    -------
    FeatureSet
        Half precision widened to float32; without labels, every row is unlabelled. ``source`` has the file, its
        SHA-256 and the format.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If the format is unknown, the file holds anything that is refused, or no features are recognised; the message
        is one line and begins with the file.
    ImportError
        If a table is to be read and pyarrow is not installed.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"concat_features": torch.eye(3), "concat_labels": torch.tensor([0, 0, 4])}, f"{folder}/a.plk")
    ...     import_features(f"{folder}/a.plk").class_names
    ('0', '4')
    """
    if text is not None and cosines is not None:
        raise SettingError("{text} and {cosines} say the same: give one of them")
    pool = _read(path, format, Parts(embedding, label, split))
    if text is not None:
        return join_text(pool, _read(text).features, os.fspath(text))
    return pool if cosines is None else _with_cosines(pool, os.fspath(path), os.fspath(cosines))


def _with_cosines(pool: FeatureSet, path: str, cosines: str) -> FeatureSet:
    joined = _read(cosines)
    if None not in (pool.ids, joined.ids) and pool.ids != joined.ids:
        raise ValueError(f"{cosines}: its rows are not those of {path}: extract both from one list")
    return join_cosines(pool, joined.features, cosines)


def _read(path: str | os.PathLike[str], format: str = "auto", parts: Parts = _USUAL) -> FeatureSet:
    """Read the features of one file or folder."""
    place = Path(path)
    name = _format_of(place) if format == "auto" else check_choice("format", format, FORMATS)
    if not place.exists() and name != "features":
        raise FileNotFoundError(f"no such file: {path}")
    try:
        located = FORMATS[name].read(place, parts)
        return pool_of(located, {"files": [os.fspath(path)], "format": name, **_fingerprint(place)})
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(text if text.startswith(f"{path}") else f"{path}: {text}") from error


def _format_of(path: Path) -> str:
    """Return the format of a folder, the layer of a store (``STORE:LAYER``) or a suffix."""
    if path.is_dir():
        return _folder_format(path)
    if Path(os.fspath(path).rpartition(":")[0] or path).is_dir():
        return "features"
    suffix = path.suffix.lower()
    known = {suffix: name for name, entry in FORMATS.items() for suffix in entry.suffixes}
    if not suffix and not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    return known[suffix if suffix in known else check_choice("kind of file", suffix or os.fspath(path), known)]


def _folder_format(path: Path) -> str:
    """Return the format of a folder."""
    if is_dataset_folder(path):
        return "datasets"
    if (path / "store.json").is_file():
        return "features"
    raise ValueError(
        f"{path}: a folder must be a feature store or one that Hugging Face datasets saved, got neither: if it holds "
        "images, make features of them with fewshot extract; else name a file in it"
    )


def _fingerprint(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
