"""The rows that ``fewshot discover`` sees: which have a label, which have none, and the truth if it is known."""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from fewshot_episodes import discovery_split, ssb_known_classes
from torch import Tensor

from fewshot.checks import did_you_mean
from fewshot.features import FeatureSet, load_features

from ..shared.options import class_positions
from ..shared.words import counted

__all__ = ["RANDOM", "DiscoveryPool", "load_discovery_pool", "read_labels"]

RANDOM = "random"
_FILE_COLUMNS = ("file", "image", "path", "filename", "id")
_LABEL_COLUMNS = ("label", "class", "class_name")


class DiscoveryPool(NamedTuple):
    """Rows, and what is shown of their classes.

    Attributes
    ----------
    pool : FeatureSet
        All rows of the file, in its order, and their labels.
    shown : Tensor (n,), int64
        Positions in ``pool.class_names``, -1 = unlabelled.
    truth : Tensor (n,), int64, or None
        Likewise, where a labelled pool was split.
    split : str
        How the labelled rows were chosen, in words.
    notes : list of str
        What the user should know of the labels.
    """

    pool: FeatureSet
    shown: Tensor
    truth: Tensor | None
    split: str
    notes: list[str]


def load_discovery_pool(settings: Mapping[str, Any]) -> DiscoveryPool:
    """Read the features and decide which rows are unlabelled.

    Raises
    ------
    ValueError
        If every row is labelled and no split is asked for.
    """
    loaded, notes = _load(settings["features"], settings["labels"])
    pool = _without(settings["unlabelled"], loaded)
    is_split = settings["n_known"] is not None or settings["known_classes"] is not None
    if is_split:
        return _split(pool, settings)._replace(notes=notes)
    n_labelled = int((pool.labels >= 0).sum())
    if n_labelled == len(pool.labels):
        raise ValueError(
            f"all {n_labelled:,} rows of {settings['features']} are labelled: mark some as unlabelled (-1 or an empty "
            "label in --labels FILE, or --unlabelled CLASS), or hide some to test with --n-known N or --known-classes "
            "LIST"
        )
    words = f"{n_labelled:,} labelled rows of {pool.n_classes:,} classes"
    return DiscoveryPool(pool, pool.labels, None, words, notes)


def _load(features: str, labels: str | None) -> tuple[FeatureSet, list[str]]:
    if labels is None or Path(labels).suffix.lower() not in (".csv", ".txt"):
        return load_features(features, labels=labels, needs_labels=False), []
    pool = load_features(features, needs_labels=False)
    values, notes = read_labels(labels, pool.ids, len(pool.labels))
    return replace(FeatureSet.from_arrays(pool.features, values, source=pool.source), ids=pool.ids), notes


def read_labels(path: str, ids: Sequence[str] | None, n_rows: int) -> tuple[list[Hashable], list[str]]:
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
    labels : list
        One a row.
    notes : list of str
        What the user should know.

    Raises
    ------
    ValueError
        If there are not as many labels as rows, a row is named twice, or no name is one of the rows'.
    FileNotFoundError
        If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if Path(path).suffix.lower() == ".txt":
        files, texts = None, Path(path).read_text(encoding="utf-8-sig").splitlines()
    else:
        files, texts = _columns(path)
    if files is not None and ids is not None:
        named, notes = _by_id(path, files, texts, ids)
        return _numbers_if_all([named.get(row_id, "") for row_id in ids]), notes
    if len(texts) != n_rows:
        raise ValueError(f"{path} has {len(texts):,} labels, and there are {n_rows:,} rows: give one a row")
    return _numbers_if_all(texts), []


def _columns(path: str) -> tuple[list[str] | None, list[str]]:
    """Return the names of the rows, if they have any, and the labels."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        header = {name.strip().lower(): name for name in rows.fieldnames or []}
        label = next((header[name] for name in _LABEL_COLUMNS if name in header), None)
        name = next((header[name] for name in _FILE_COLUMNS if name in header), None)
        if label is None:
            raise ValueError(
                f"{path} must have a column {', '.join(_LABEL_COLUMNS)}, got {', '.join(header) or 'none'}"
            )
        table = list(rows)
    return None if name is None else [row[name] or "" for row in table], [row[label] or "" for row in table]


def _by_id(
    path: str, files: Iterable[str], texts: Iterable[str], ids: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the label of each row that the table names, and what is to be said of the others."""
    found: dict[str, str] = {}
    for file, text in zip(files, texts, strict=True):
        name = posixpath.normpath(file.strip())
        if name in found:
            raise ValueError(f"{path} names {name!r} more than once: keep one row")
        found[name] = text
    strange = sorted(set(found).difference(ids))
    if len(strange) == len(found):
        example = f"{strange[0]!r} where the rows have {ids[0]!r}" if strange else "it is empty"
        raise ValueError(f"{path} names none of the {len(ids):,} rows: {example}")
    lines = counted(len(strange), "line", "lines")
    return found, [f"{path} has {lines} of no row of the features, such as {strange[0]!r}"] if strange else []


def _numbers_if_all(texts: Sequence[str]) -> list[Hashable]:
    names = [text.strip() for text in texts]
    if all(re.fullmatch(r"-?\d+", name) for name in names if name):
        return [int(name) if name else -1 for name in names]
    return [-1 if name in ("", "-1") else name for name in names]


def _without(names: Sequence[str], pool: FeatureSet) -> FeatureSet:
    """Return the pool in which the rows of some classes are unlabelled."""
    unknown = next((name for name in names if name not in pool.class_names), None)
    if unknown is not None:
        hint = did_you_mean(unknown, pool.class_names)
        raise click.UsageError(f"--unlabelled: no class {unknown!r} among {pool.n_classes} classes{hint}")
    if not names:
        return pool
    is_kept = torch.tensor([name not in names for name in pool.class_names])
    new_ids = torch.where(is_kept, is_kept.cumsum(0) - 1, -1)
    kept = tuple(name for name in pool.class_names if name not in names)
    labels = torch.where(pool.labels >= 0, new_ids[pool.labels], -1)
    return replace(pool, labels=labels, class_names=kept)


def _split(pool: FeatureSet, settings: Mapping[str, Any]) -> DiscoveryPool:
    """Hide labels by the protocol of generalized category discovery; rows without a label stay without one."""
    rows = torch.nonzero(pool.labels >= 0)[:, 0]
    if len(rows) == 0:
        raise ValueError(f"--n-known and --known-classes hide labels, and {settings['features']} has none")
    found = discovery_split(
        pool.labels[rows],
        settings["n_known"],
        known_classes=_known_classes(settings["known_classes"], pool.class_names),
        labelled_fraction=settings["labelled_fraction"],
        class_names=pool.class_names,
        generator=torch.Generator().manual_seed(settings["seed"]),
    )
    shown = torch.full_like(pool.labels, -1).index_copy(0, rows, found.labels)
    n_known, n_novel = len(found.known_class_ids), len(found.novel_class_ids)
    share = f"{100 * settings['labelled_fraction']:g} % of the rows of {n_known:,} known classes"
    words = f"{share} keep their labels, the rest of them and all rows of {n_novel:,} other classes are hidden"
    return DiscoveryPool(pool, shown, pool.labels, f"{words} (seed {settings['seed']})", [])


def _known_classes(text: str | None, names: Sequence[str]) -> list[int] | str | None:
    if text is None or text == RANDOM:
        return text
    if text.endswith(".json"):
        return list(ssb_known_classes(Path(text).read_text(encoding="utf-8")))
    try:
        return class_positions(text, names)
    except click.UsageError as error:
        raise click.UsageError(error.message.replace("--classes", "--known-classes", 1)) from None
