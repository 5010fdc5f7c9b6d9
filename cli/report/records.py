"""Results of ``fewshot episode`` as records, one a method and cell, read from documents and joined."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fewshot.metrics.classification import Interval
from fewshot.metrics.comparison import Scored, Standing, standings

__all__ = ["Record", "as_document", "joined", "read_records"]

Record = dict[str, Any]
# What a row of a document holds that a record takes over as it is: of the method, of its cell, and of the result.
_METHOD = ("method", "settings", "is_transductive")
_CELL = (
    "n_way",
    "n_shot",
    "query_distribution",
    "n_effective_way",
    "n_query",
    "n_query_total",
    "dirichlet_concentration",
    "is_disjoint",
    "protocol",
    "n_episodes",
    "n_queries",
    "n_leaked",
    "n_leaking_episodes",
    "episode_hash",
)
_RESULT = ("accuracy", "half_width", "behind_best", "seconds")
_RUN = ("command_line", "versions")
_FACTS = ("features", "n_rows", "n_features", "n_classes", "class_digest")
# A document of records says once what many share: the name of the list and of the place in it.
_SHARED = {"runs": ("run", _RUN), "cells": ("cell", (*_FACTS, *_CELL)), "methods": ("of", _METHOD)}
_SUFFIXES = (".npz", ".npy", ".safetensors", ".csv", ".parquet", ".pt", ".pth")


def read_records(path: str) -> list[Record]:
    """Return the results in a document that ``fewshot episode`` or ``fewshot report`` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        records = [_taken(row) for row in _rows(document)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a document of fewshot episode, as --out or --json writes it, got something else "
            f"({_reason(error)}): run fewshot episode again with --out"
        ) from None
    if not records:
        raise ValueError(f"{path}: expected a document of fewshot episode with results, got none: run it again")
    return [record | {"file": path} for record in records]


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no field {error}"
    return f"no JSON: {error}" if isinstance(error, json.JSONDecodeError) else "other JSON"


def _rows(document: Any) -> list[Record]:
    """Return rows with everything that the document says once."""
    if "runs" in document:
        return [_spelled_out(row, document) for row in document["results"]]
    pool = document["features"]
    names = "\n".join(pool["class_names"])
    facts = {
        "features": pool["name"],
        "n_rows": pool["n"],
        "n_features": pool["n_features"],
        "n_classes": pool["n_classes"],
        "class_digest": hashlib.sha256(names.encode()).hexdigest()[:6],
        "command_line": document["command_line"],
        "versions": document["versions"],
    }
    return [facts | row for row in document["results"]]


def _spelled_out(row: Record, document: Record) -> Record:
    """Return a row together with what it shares with others."""
    shared = [document[name][row[place]] for name, (place, _) in _SHARED.items() if name in document]
    return {name: value for part in (row, *shared) for name, value in part.items()}


def _taken(row: Record) -> Record:
    record = {name: row[name] for name in (*_FACTS, *_METHOD, *_CELL, *_RESULT, *_RUN)}
    return record | ({"episode_accuracy": row["episode_accuracy"]} if "episode_accuracy" in row else {})


def joined(records: Iterable[Record]) -> list[Record]:
    """Join results of several files: label feature sets and methods, and place each result in its cell.

    A result given twice counts once, the later file's.

    Raises
    ------
    ValueError
        If two files hold one cell with other episodes.
    """
    kept = list({(*_cell(record), record["method"], record["settings"]): record for record in records}.values())
    cells = _grouped(kept, _cell)
    for members in cells.values():
        _check_same_episodes(members)
    clashing = {
        method
        for members in cells.values()
        for method, same in _grouped(members, lambda record: record["method"]).items()
        if len(same) > 1
    }
    sets = _set_labels(kept)
    placed = {id(record): standing for members in cells.values() for record, standing in _placed(members)}
    return [
        {
            **record,
            "set": sets[_facts(record)],
            "label": f"{record['method']} ({record['settings']})" if record["method"] in clashing else record["method"],
            "behind_best": {**placed[id(record)]._asdict(), "is_tie": placed[id(record)].is_tie},
        }
        for record in kept
    ]


def _facts(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in _FACTS)


def _cell(record: Record) -> tuple[Any, ...]:
    return *_facts(record), record["protocol"]


def _grouped(records: Sequence[Record], key: Callable[[Record], Hashable]) -> dict[Hashable, list[Record]]:
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _check_same_episodes(members: Sequence[Record]) -> None:
    first = members[0]
    other = next((record for record in members if record["episode_hash"] != first["episode_hash"]), None)
    if other is not None:
        raise ValueError(
            f"{first['file']} and {other['file']} hold different episodes of one cell ({first['features']}, "
            f"{first['protocol']}; episodes {first['episode_hash']} and {other['episode_hash']}): run both with the "
            "same --seed and --n-episodes, or report them apart"
        )


def _placed(members: Sequence[Record]) -> list[tuple[Record, Standing]]:
    return list(zip(members, standings([_scored(record) for record in members]), strict=True))


def _scored(record: Record) -> Scored:
    behind, values = record["behind_best"], record.get("episode_accuracy")
    return Scored(
        Interval(record["accuracy"], _number(record["half_width"])),
        record["file"],
        Standing(behind["mean"], _number(behind["half_width"]), behind["is_paired"]),
        None if values is None else torch.tensor(values, dtype=torch.float64),
    )


def _number(value: float | None) -> float:
    """Return what a document says as null."""
    return float("nan") if value is None else value


def _set_labels(records: Sequence[Record]) -> dict[tuple[Any, ...], str]:
    """Return a name for each feature set, as short as tells them apart."""
    distinct = {_facts(record): record for record in records}

    def short(record: Record) -> str:
        path = Path(record["features"])
        return path.stem if path.suffix in _SUFFIXES else path.name

    def sized(record: Record) -> str:
        return f"{short(record)} ({record['n_classes']} classes)"

    def spelled(record: Record) -> str:
        return f"{record['features']} ({record['n_classes']} classes {record['class_digest']}, {record['n_rows']} rows)"

    for name in (short, sized, lambda record: f"{record['features']}", spelled):
        labels = {facts: name(record) for facts, record in distinct.items()}
        if len(set(labels.values())) == len(labels):
            break
    return labels


def as_document(records: Sequence[Record], *, digits: int | None = None) -> dict[str, Any]:
    """Return records as a document that `read_records` reads, what many share said once.

    Parameters
    ----------
    records : sequence of dict
    digits : int, optional
        Decimals to keep, and no accuracies per episode; default: everything.
    """
    document: dict[str, list[Record]] = {name: [] for name in (*_SHARED, "results")}
    for record in records:
        row = {name: record[name] for name in _RESULT}
        for name, (place, keys) in _SHARED.items():
            shared = {key: record[key] for key in keys}
            if shared not in document[name]:
                document[name].append(shared)
            row[place] = document[name].index(shared)
        if digits is None and "episode_accuracy" in record:
            row["episode_accuracy"] = record["episode_accuracy"]
        document["results"].append(row if digits is None else _rounded(row, digits))
    return document


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item, digits) for name, item in value.items()}
    return round(value, digits) if isinstance(value, float) else value
