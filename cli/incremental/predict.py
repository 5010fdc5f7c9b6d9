"""``fewshot predict``: name the class of each row by a model on disk."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import click
import torch
from rich.console import RenderableType
from torch import Tensor

from fewshot.features import FeatureSet, load_features
from fewshot.incremental.estimator import IncrementalClassifier
from fewshot.models import load_classifier
from fewshot.storage import write_text_atomic

from ..shared import output
from ..shared.options import check_folder, document_head
from ..shared.tables import fact_lines
from .learn import check_fits

__all__ = ["predict"]

UNKNOWN = "unknown"
_CHUNK = 1024


@click.command(short_help="Name the class of each row by a model on disk.")
@click.option("--model", metavar="FILE", required=True, help="The .safetensors file of fewshot learn.")
@click.option(
    "--features",
    metavar="STORE|FILE|digits",
    required=True,
    help="Rows to name, with or without labels; read as by fewshot episode.",
)
@click.option("--labels", metavar="FILE", help="Labels in place of the file's own, to measure the accuracy.")
@click.option("--out", metavar="FILE", required=True, help="The .csv file to write; one that exists is replaced.")
@click.option(
    "--reject",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    show_default="never",
    help=f"Answer '{UNKNOWN}' where a row scores lower than this share of the base session's items, held out, did.",
)
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of lines.")
@click.pass_context
def predict(context: click.Context, /, **settings: Any) -> None:
    """Write a line for each row: its id, its class, the class's probability and score.

    Probabilities are the softmax over the classes that the model knows: how sure it is between these, not whether it is
    any of them. Where labels are there, accuracy is told too: over rows whose class the model knows.

    \b
    Example:
      fewshot predict --model m.safetensors --features queries.npz --out predictions.csv --reject 0.05
    """  # noqa: D301 (click's own mark)
    check_folder(settings["out"])
    model, source = load_classifier(settings["model"])
    pool = load_features(settings["features"], labels=settings["labels"], needs_labels=False)
    check_fits(model, source, pool, (settings["model"], settings["features"]))
    threshold = None if settings["reject"] is None else model.rejection_threshold(settings["reject"])
    if UNKNOWN in model.classes_.tolist() and threshold is not None:
        raise ValueError(f"{settings['model']} knows a class named {UNKNOWN!r}: rename it to use --reject")
    positions, probabilities, scores = _answers(model, pool.features)
    names = [str(name) for name in model.classes_[positions.cpu().numpy()].tolist()]
    if threshold is not None:
        names = [name if score >= threshold else UNKNOWN for name, score in zip(names, scores.tolist(), strict=True)]
    write_text_atomic(settings["out"], _csv(pool, names, probabilities, scores))
    document = document_head(context) | _document(settings, model, pool, names)
    output.publish(document, _report(document), is_json=settings["is_json"])


def _answers(model: IncrementalClassifier, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best class's position, its probability and its score for each row."""
    parts = []
    for rows in torch.split(features, _CHUNK):
        scores, positions = model.class_scores(rows).max(1)
        probabilities = model.predict_proba(rows).gather(1, positions[:, None])[:, 0]
        parts.append((positions, probabilities, scores))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return columns[0], columns[1], columns[2]


def _csv(pool: FeatureSet, names: list[str], probabilities: Tensor, scores: Tensor) -> str:
    ids = pool.ids if pool.ids is not None else range(len(names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "prediction", "probability", "score"])
    rows = zip(ids, names, probabilities.tolist(), scores.tolist(), strict=True)
    writer.writerows([row_id, name, f"{probability:.6g}", f"{score:.6g}"] for row_id, name, probability, score in rows)
    return text.getvalue()


def _document(
    settings: Mapping[str, Any], model: IncrementalClassifier, pool: FeatureSet, names: list[str]
) -> dict[str, Any]:
    known = set(model.classes_.tolist())
    true = [pool.class_names[label] if label >= 0 else None for label in pool.labels.tolist()]
    hits = [name == truth for name, truth in zip(names, true, strict=True) if truth in known]
    strangers = [
        name == UNKNOWN for name, truth in zip(names, true, strict=True) if truth is not None and truth not in known
    ]
    is_rejecting = settings["reject"] is not None
    return {
        "settings": dict(settings),
        "model": settings["model"],
        "method": repr(model),
        "out": settings["out"],
        "n_rows": len(names),
        "predictions": dict(Counter(names).most_common()),
        "accuracy": sum(hits) / len(hits) if hits else None,
        "n_of_known_classes": len(hits),
        "unknown_found": sum(strangers) / len(strangers) if strangers and is_rejecting else None,
        "n_of_other_classes": len(strangers),
        "warnings": [],
    }


def _report(document: Mapping[str, Any]) -> list[RenderableType]:
    common = list(document["predictions"].items())
    more = [f"and {len(common) - 10:,} classes more"] if len(common) > 10 else []
    facts = [
        ("out", f"{document['out']}: {document['n_rows']:,} rows"),
        ("model", f"{document['model']}: {document['method']}"),
        ("answers", ", ".join([*(f"{name} ({count:,})" for name, count in common[:10]), *more])),
    ]
    if document["accuracy"] is not None:
        rows = f"{document['n_of_known_classes']:,} labelled rows of classes that the model knows"
        facts.append(("accuracy", f"{100 * document['accuracy']:.2f} % of {rows}"))
    if document["unknown_found"] is not None:
        rows = f"{document['n_of_other_classes']:,} labelled rows of other classes"
        facts.append(("unknown", f"{100 * document['unknown_found']:.2f} % of {rows}"))
    return ["Predictions written", *fact_lines(facts)]
