"""``fewshot import``: features that another program made become a file that every command reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from rich.console import RenderableType

from fewshot.features import FeatureSet
from fewshot.features.imports import FORMATS, import_features, join_cosines, join_text

from ..shared import output
from ..shared.options import check_folder, choice, describe_pool, document_head
from ..shared.tables import fact_lines

__all__ = ["import_"]


@click.command(name="import", short_help="Turn features of other programs into a file that every command reads.")
@click.argument("path", metavar="INPUT")
@click.option("--out", required=True, metavar="FILE", help="The file to write: .safetensors.")
@click.option("--from", "format", default="auto", **choice(("auto", *FORMATS)), help="What INPUT is.")
@click.option("--embedding", metavar="NAME", help="Column or key of the vectors, where its name does not tell.")
@click.option("--label", metavar="NAME", help="Column or key of the labels, where its name does not tell.")
@click.option("--split", metavar="NAME", help="Split of a folder that holds several.")
@click.option("--text", metavar="FILE", help="Text embeddings, one a class: their cosines are put before the features.")
@click.option("--cosines", metavar="STORE|FILE", help="Image-text cosines of the same rows, put before the features.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of a table.")
@click.pass_context
def import_(context: click.Context, /, **settings: Any) -> None:
    """Read features from the files of other programs. No code in them is run.

    \b
    table     Parquet with a column of vectors: easyfsl's embedding and class_name, and others
    pickle    .plk and .pkl of UNEM, PADDLE, PT-MAP: arrays and tensors, anything else is refused
    torch     .pt: Tip-Adapter's test_f.pt and keys_16shots.pt (labels beside them), dicts, pairs
    npz       CoOp's feature_list and label_list, and others
    datasets  a folder that Hugging Face datasets saved, with a column of vectors
    features  whatever --features reads

    With --text or --cosines the file suits --method tip-adapter:n_cosines=N and transclip:n_cosines=N, N being the
    number that is printed.

    \b
    Example:
      fewshot import output.plk --out mini-test.safetensors
      fewshot import test_f.pt --text clip_weights.pt --out birds.safetensors
    """  # noqa: D301 (click's own mark)
    _check_words(context, settings)
    with output.gathered_warnings() as noticed:
        pool = _joined(_read(settings), settings)
        pool.save(settings["out"])
    document = document_head(context) | {
        "settings": settings,
        "features": describe_pool(settings["out"], pool),
        "n_unlabelled": int((pool.labels < 0).sum()),
        "warnings": noticed + _notes(pool),
    }
    output.publish(document, _report(document), is_json=settings["is_json"])


def _check_words(context: click.Context, settings: Mapping[str, Any]) -> None:
    """Refuse words that do not go together, before anything is read."""
    if not settings["out"].endswith(".safetensors"):
        raise click.UsageError(f"--out must end in .safetensors, got {settings['out']!r}", context)
    if settings["text"] is not None and settings["cosines"] is not None:
        raise click.UsageError("--text and --cosines say the same: give one of them", context)
    check_folder(settings["out"])


def _read(settings: Mapping[str, Any]) -> FeatureSet:
    """Read the features."""
    words = {name: settings[name] for name in ("format", "embedding", "label", "split")}
    return import_features(settings["path"], **words)


def _joined(pool: FeatureSet, settings: Mapping[str, Any]) -> FeatureSet:
    """Put cosines before the embeddings, where they are asked for."""
    if settings["text"] is not None:
        return join_text(pool, import_features(settings["text"]).features, settings["text"])
    if settings["cosines"] is None:
        return pool
    cosines = import_features(settings["cosines"])
    if None not in (pool.ids, cosines.ids) and pool.ids != cosines.ids:
        raise ValueError(
            f"{settings['cosines']}: its rows are not those of {settings['path']}: extract both from one list"
        )
    return join_cosines(pool, cosines.features, settings["cosines"])


def _notes(pool: FeatureSet) -> list[str]:
    """Say what is missing."""
    n_unlabelled = int((pool.labels < 0).sum())
    if not n_unlabelled:
        return []
    missing = f"{n_unlabelled:,} of {len(pool.labels):,} rows have no label"
    return [f"{missing}: name a file of labels with --labels where the features are used"]


def _report(document: Mapping[str, Any]) -> list[RenderableType]:
    told, source = document["features"], document["features"]["source"]
    facts = [
        ("rows", f"{told['n']:,} of {told['n_features']:,} features, {document['n_unlabelled']:,} without a label"),
        ("classes", f"{told['n_classes']:,}"),
        ("format", str(source["format"])),
    ]
    if "n_cosines" in source:
        facts.append(("n_cosines", f"{source['n_cosines']}, the first columns"))
    return [told["name"], *fact_lines(facts)]
