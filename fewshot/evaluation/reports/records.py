"""Results of few-shot episodes as typed records, one a method and cell, out of documents and into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan, nan
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fewshot.metrics.comparison import Standing

__all__ = ["Record", "as_document", "read_records"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One method's result in one cell: a feature set, a way of drawing the episodes, and these episodes.

    Attributes
    ----------
    features : str
        The name of the features.
    n_rows, n_features, n_classes : int
    class_digest : str
        A fingerprint of the names of the classes.
    method, settings, is_transductive, n_way, n_shot, query_distribution, n_effective_way, n_query, n_query_total, \
    dirichlet_concentration, is_disjoint, protocol, n_episodes, n_queries, n_leaked, n_leaking_episodes, episode_hash, \
    accuracy, half_width, seconds
        As in `fewshot.evaluation.episode_runs.EpisodeRecord`; ``half_width`` is NaN where there is none.
    behind_best : Standing
        Behind the best of its run; of `joined` records, of its cell.
    command_line : str
        That of the run.
    versions : mapping of str to str
        Of the packages that it ran on.
    episode_accuracy : tuple of float, or None
        Each episode's, where it was kept.
    file : str
        The document.
    feature_set, label : str
        Short names of the features and of the method, which `joined` gives.
    """

    features: str
    n_rows: int
    n_features: int
    n_classes: int
    class_digest: str
    method: str
    settings: str
    is_transductive: bool
    n_way: int | None
    n_shot: int | None
    query_distribution: str | None
    n_effective_way: int | None
    n_query: int | None
    n_query_total: int | None
    dirichlet_concentration: float | None
    is_disjoint: bool
    protocol: str
    n_episodes: int
    n_queries: int
    n_leaked: int
    n_leaking_episodes: int
    episode_hash: str
    accuracy: float
    half_width: float
    behind_best: Standing
    seconds: float
    command_line: str
    versions: Mapping[str, str]
    episode_accuracy: tuple[float, ...] | None = None
    file: str = ""
    feature_set: str = ""
    label: str = ""

    @property
    def pool(self) -> tuple[str, int, int, int, str]:
        """The facts by which feature sets are told apart."""
        return self.features, self.n_rows, self.n_features, self.n_classes, self.class_digest

    @property
    def cell(self) -> tuple[object, ...]:
        """The facts by which cells are told apart."""
        return *self.pool, self.protocol


_FIELDS = [field.name for field in fields(Record)]
_POOL = ("features", "n_rows", "n_features", "n_classes", "class_digest")
_METHOD = ("method", "settings", "is_transductive")
_CELL = tuple(_FIELDS[_FIELDS.index("n_way") : _FIELDS.index("episode_hash") + 1])
_RESULT = ("accuracy", "half_width", "behind_best", "seconds")
_RUN = ("command_line", "versions")
# A document of records says once what many share: the name of the list and of the place in it.
_SHARED = {"runs": ("run", _RUN), "cells": ("cell", (*_POOL, *_CELL)), "methods": ("of", _METHOD)}
# What JSON has as it is, and of which kind; numbers without a fraction are numbers.
_KINDS: Mapping[str, Any] = {
    name: kind | int if float in (kind, *get_args(kind)) else kind
    for name, kind in get_type_hints(Record).items()
    if name in {*_POOL, *_METHOD, *_CELL, "accuracy", "seconds", "command_line"}
}


def read_records(path: str) -> list[Record]:
    """Return the results in a document that ``fewshot episode`` or ``fewshot report`` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is something else; the message names the file and the field.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        records = list(_records(_parsed(path), path))
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a document of fewshot episode, as --out or --json writes it, got something else "
            f"({error}): run fewshot episode again with --out"
        ) from None
    if not records:
        raise ValueError(f"{path}: expected a document of fewshot episode with results, got none: run it again")
    return records


def _parsed(path: str) -> object:
    try:
        document: object = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from None
    except UnicodeDecodeError:
        raise ValueError("no JSON: no text") from None
    return document


def _records(document: object, path: str) -> Iterator[Record]:
    common = {} if _is_report(document) else _common(document)
    for place, row in enumerate(_field(document, "results", list)):
        try:
            shared = _shared(row, document) if _is_report(document) else common
            yield _record({**row, **shared}, path)
        except ValueError as error:
            raise ValueError(f"results[{place}]: {error}") from None


def _is_report(document: object) -> bool:
    """Whether a document is one of records, with shared fields written once."""
    return isinstance(document, dict) and "runs" in document


def _common(document: object) -> dict[str, object]:
    """Return the fields that all results of a run share."""
    pool = _field(document, "features", dict)
    names = "\n".join(_field(pool, "class_names", list))
    return {
        "features": _field(pool, "name", str),
        "n_rows": _field(pool, "n", int),
        "n_features": _field(pool, "n_features", int),
        "n_classes": _field(pool, "n_classes", int),
        "class_digest": hashlib.sha256(names.encode()).hexdigest()[:6],
        "command_line": _field(document, "command_line", str),
        "versions": _field(document, "versions", dict),
    }


def _shared(row: object, document: object) -> dict[str, object]:
    """Return the fields that a result of a document of records shares with others."""
    found: dict[str, object] = {}
    for name, (place, _) in _SHARED.items():
        parts, number = _field(document, name, list), _field(row, place, int)
        if not 0 <= number < len(parts):
            raise ValueError(f"field {place!r} is {number}, and there are {len(parts)} {name}")
        found |= parts[number]
    return found


def _record(row: Mapping[str, object], path: str) -> Record:
    kept = _field(row, "episode_accuracy", list) if "episode_accuracy" in row else None
    return Record(
        **{name: _field(row, name, kind) for name, kind in _KINDS.items()},
        half_width=_half_width(row),
        behind_best=_standing(_field(row, "behind_best", dict)),
        versions=_field(row, "versions", dict),
        episode_accuracy=None if kept is None else tuple(kept),
        file=path,
    )


def _standing(row: Mapping[str, object]) -> Standing:
    return Standing(_field(row, "mean", float | int), _half_width(row), _field(row, "is_paired", bool))


def _half_width(row: Mapping[str, object]) -> float:
    value = _field(row, "half_width", float | int | None)
    return nan if value is None else float(value)


def _field(row: object, name: str, kind: Any) -> Any:
    """Return a field of JSON.

    Raises
    ------
    ValueError
        If there is none, or it is of another kind.
    """
    if not isinstance(row, dict):
        raise ValueError("other JSON")
    if name not in row:
        raise ValueError(f"no field {name!r}")
    if not isinstance(row[name], kind):
        raise ValueError(f"field {name!r} is {row[name]!r:.40}")
    return row[name]


def as_document(records: Sequence[Record], *, digits: int | None = None) -> dict[str, Any]:
    """Return records as a document that `read_records` reads, with shared fields written once.

    Parameters
    ----------
    records : sequence of Record
    digits : int, optional
        Decimals to keep, and no accuracies per episode; default: everything.
    """
    document: dict[str, list[dict[str, Any]]] = {name: [] for name in (*_SHARED, "results")}
    for record in records:
        row = _row(record)
        for name, (place, keys) in _SHARED.items():
            shared = {key: getattr(record, key) for key in keys}
            if shared not in document[name]:
                document[name].append(shared)
            row[place] = document[name].index(shared)
        if digits is None and record.episode_accuracy is not None:
            row["episode_accuracy"] = list(record.episode_accuracy)
        document["results"].append(row if digits is None else _rounded(row, digits))
    return document


def _row(record: Record) -> dict[str, Any]:
    """Return the fields that are of one result alone."""
    row = {name: getattr(record, name) for name in _RESULT}
    row["behind_best"] = {**record.behind_best._asdict(), "is_tie": record.behind_best.is_tie}
    for part in (row, row["behind_best"]):
        part["half_width"] = None if isnan(part["half_width"]) else part["half_width"]
    return row


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item, digits) for name, item in value.items()}
    return round(value, digits) if isinstance(value, float) else value
