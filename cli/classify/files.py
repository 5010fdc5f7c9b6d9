"""The folder that ``fewshot classify`` writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fewshot.features import FeatureSet

from ..shared.result_folders import checked_place
from .inputs import name_of

__all__ = [
    "FORMAT_VERSION",
    "KIND",
    "PREDICTIONS",
    "REPORT",
    "SUMMARY",
    "UNKNOWN",
    "Answers",
    "check_out",
    "predictions_csv",
]

KIND = "fewshot classification"
FORMAT_VERSION = 1
PREDICTIONS, SUMMARY, REPORT = "predictions.csv", "summary.json", "report.html"
UNKNOWN = "unknown"


class Answers(NamedTuple):
    """What was answered, query by query, on the CPU.

    Attributes
    ----------
    class_names : sequence of str
    best, second : Tensor (n,), int64
        The two most likely classes.
    probability, second_probability : Tensor (n,)
    p_value : Tensor (n,)
        The share of items of known classes that are as strange.
    is_unknown : Tensor (n,), bool
    """

    class_names: Sequence[str]
    best: Tensor
    second: Tensor
    probability: Tensor
    second_probability: Tensor
    p_value: Tensor
    is_unknown: Tensor


def predictions_csv(query: FeatureSet, answers: Answers) -> str:
    """Return the table of queries: ``class`` is the answer, ``best_class`` what it is most like if it is unknown."""
    names = answers.class_names
    best = [names[label] for label in answers.best.tolist()]
    is_unknown = answers.is_unknown.tolist()
    columns = {
        "file": [name_of(query, row) for row in range(len(best))],
        "class": [UNKNOWN if unknown else name for name, unknown in zip(best, is_unknown, strict=True)],
        "unknown": ["yes" if unknown else "no" for unknown in is_unknown],
        "best_class": best,
        "probability": _numbers(answers.probability),
        "second": [names[label] for label in answers.second.tolist()],
        "second_probability": _numbers(answers.second_probability),
        "p_value": _numbers(answers.p_value),
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _numbers(values: Tensor) -> list[str]:
    return [f"{value:.6g}" for value in values.tolist()]


def check_out(path: str) -> None:
    """Check that the folder can be written, before the work: it is new, empty, or what an earlier run wrote.

    Raises
    ------
    OSError
        If its parent is not there or cannot be written to, or ``path`` is a file.
    ValueError
        If it holds other files.
    """
    folder = checked_place(path)
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name not in (PREDICTIONS, SUMMARY, REPORT)]
    if others or (names and not _is_ours(folder)):
        raise ValueError(f"--out {path} holds other files, such as {(others or names)[0]}: name a new or empty folder")


def _is_ours(folder: Path) -> bool:
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("kind") == KIND
