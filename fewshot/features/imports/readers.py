"""Readers of foreign files, one function a kind: a path in, the located features out."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewshot.features.imports.locate import Located, Parts, locate_parts
from fewshot.features.imports.unpickler import read_pickle

__all__ = ["is_torch_file", "read_npz_file", "read_serialised_file"]

# What stands for "features" and for "labels" in the names of two files that belong together.
_SIBLINGS = (("_f", "_l"), ("keys", "values"), ("features", "labels"), ("feats", "labels"), ("features", "targets"))
# How a file of torch.save begins that is no zip archive: the magic number of its old format, as a pickle.
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def is_torch_file(path: Path) -> bool:
    """Return whether a file was written by ``torch.save``, whatever its name."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(len(_OLD_TORCH)) == _OLD_TORCH


def read_serialised_file(path: Path, parts: Parts) -> Located:
    """Read a pickle or a file of ``torch.save``, whichever it is: a dict, a pair, or features with labels beside them.

    Tip-Adapter's cache keeps one column for each item in ``keys_*.pt``, and one-hot rows in ``values_*.pt``.
    """
    value = _load(path)
    beside = _sibling(path)
    if beside is None or not isinstance(value, (Tensor, np.ndarray)):
        return locate_parts(value, parts)
    labels = _load(beside)
    n_labels = len(labels) if isinstance(labels, (Tensor, np.ndarray, list)) else -1
    is_turned = value.ndim == 2 and n_labels == value.shape[1] and (n_labels != len(value) or "keys" in path.stem)
    return locate_parts((value.T if is_turned else value, labels), parts)


def read_npz_file(path: Path, parts: Parts) -> Located:
    """Read the arrays of an ``.npz`` by their names; CoOp's are ``feature_list`` and ``label_list``."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return locate_parts({name: archive[name] for name in archive.files}, parts)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"expected arrays of numbers or text, got a damaged file ({error})") from error


def _sibling(path: Path) -> Path | None:
    """Return the file of labels beside ``test_f.pt``, ``keys_16shots.pt`` or ``features.pt``, if it is there."""
    for of_features, of_labels in _SIBLINGS:
        head, found, tail = path.stem.rpartition(of_features)
        candidate = path.with_name(f"{head}{of_labels}{tail}{path.suffix}")
        if found and candidate.is_file():
            return candidate
    return None


def _load(path: Path) -> object:
    return _load_torch(path) if is_torch_file(path) else read_pickle(path)


def _load_torch(path: Path) -> object:
    _check_not_packed(path)
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"refused {named[1]}: only" if named else "only"
        raise ValueError(f"{what} tensors and plain containers are read from a file of torch.save") from error
    except Exception as error:  # whatever a damaged file makes torch say
        raise ValueError("expected tensors of torch.save, got a damaged file or one of another program") from error


def _check_not_packed(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: torch.save does not compress."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"refused an archive that unpacks to {unpacked:,} bytes: torch.save does not compress")
