"""``fewshot predict``: name the class of each row by a model on disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from rich.console import RenderableType

from fewshot.features import load_features
from fewshot.incremental_models import UNKNOWN, Predictions, PredictSettings
from fewshot.incremental_models import predict as predict_rows
from fewshot.storage import write_text_atomic
from fewshot.storage.result_folders import csv_text

from ..shared import output
from ..shared.options import (
    check_folder,
    document_head,
    features_option,
    json_option_with,
    labels_option,
    model_option,
    settings_object,
)
from ..shared.tables import fact_lines
from ..shared.words import counts_listed

__all__ = ["predict"]


@dataclass(frozen=True, kw_only=True)
class PredictFiles:
    """Where the command reads and writes, and how it prints."""

    model: str
    features: str
    labels: str | None
    out: str
    is_json: bool


@click.command()
@model_option()
@features_option("Rows to name, with or without labels; read as by fewshot episode.")
@labels_option("Labels in place of the file's own, to measure the accuracy.")
@click.option("--out", metavar="FILE", required=True, help="The .csv file to write; one that exists is replaced.")
@click.option(
    "--reject",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    show_default="never",
    help=f"Answer '{UNKNOWN}' where a row scores lower than this share of the base session's items, held out, did.",
)
@json_option_with("lines")
@click.pass_context
def predict(context: click.Context, /, **words: Any) -> None:
    """Write a line for each row: its id, its class, the class's probability and score.

    Probabilities are the softmax over the classes that the model knows: how sure it is between these, not whether it is
    any of them. Where there are labels, the accuracy is printed too: over rows whose class the model knows.

    \b
    Example:
      fewshot predict --model m.safetensors --features queries.npz --out predictions.csv --reject 0.05
    """  # noqa: D301 (click's own mark)
    settings, files = settings_object(context, PredictSettings, words), PredictFiles(**words)
    check_folder(files.out)
    rows = partial(load_features, files.features, labels=files.labels, needs_labels=False)
    predictions = predict_rows(files.model, rows, settings, rows_name=files.features)
    write_text_atomic(files.out, _csv(predictions))
    document = document_head(context) | {"settings": context.params} | _document(files, predictions)
    output.publish(document, _report(files, predictions), is_json=files.is_json)


def _csv(predictions: Predictions) -> str:
    ids = predictions.pool.ids
    return csv_text(
        {
            "id": range(len(predictions.names)) if ids is None else ids,
            "prediction": predictions.names,
            "probability": [f"{value:.6g}" for value in predictions.probability.tolist()],
            "score": [f"{value:.6g}" for value in predictions.score.tolist()],
        }
    )


def _counts(predictions: Predictions) -> dict[str, int]:
    return dict(Counter(predictions.names).most_common())


def _document(files: PredictFiles, predictions: Predictions) -> dict[str, Any]:
    """Return the document, less its head and settings."""
    known, other = predictions.of_known_classes, predictions.of_other_classes
    return {
        "model": files.model,
        "method": repr(predictions.classifier),
        "out": files.out,
        "n_rows": len(predictions.names),
        "predictions": _counts(predictions),
        "accuracy": known.share,
        "n_of_known_classes": known.n_rows,
        "unknown_found": other.share if predictions.is_rejecting else None,
        "n_of_other_classes": other.n_rows,
        "warnings": [],
    }


def _report(files: PredictFiles, predictions: Predictions) -> list[RenderableType]:
    known, other = predictions.of_known_classes, predictions.of_other_classes
    facts = [
        ("out", f"{files.out}: {len(predictions.names):,} rows"),
        ("model", f"{files.model}: {predictions.classifier!r}"),
        ("answers", counts_listed(_counts(predictions), others=" classes")),
    ]
    if known.share is not None:
        rows = f"{known.n_rows:,} labelled rows of classes that the model knows"
        facts.append(("accuracy", f"{100 * known.share:.2f} % of {rows}"))
    if other.share is not None and predictions.is_rejecting:
        facts.append(("unknown", f"{100 * other.share:.2f} % of {other.n_rows:,} labelled rows of other classes"))
    return ["Predictions written", *fact_lines(facts)]
