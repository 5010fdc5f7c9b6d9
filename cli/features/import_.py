"""``fewshot import``: features that another program made become a file that every command reads."""

from __future__ import annotations

import click
from rich.console import RenderableType

from fewshot.features import FeatureSet
from fewshot.features.imports import FORMATS, import_features

from ..shared import output
from ..shared.options import check_folder, choice, document_head, json_option_with, usage_errors
from ..shared.tables import fact_lines

__all__ = ["import_"]


@click.command(name="import")
@click.argument("path", metavar="INPUT")
@click.option("--out", required=True, metavar="FILE", help="The file to write: .safetensors.")
@click.option("--from", "format", default="auto", **choice(("auto", *FORMATS)), help="What INPUT is.")
@click.option("--embedding", metavar="NAME", help="Column or key of the vectors, where its name does not tell.")
@click.option("--label", metavar="NAME", help="Column or key of the labels, where its name does not tell.")
@click.option("--split", metavar="NAME", help="Split of a folder that holds several.")
@click.option("--text", metavar="FILE", help="Text embeddings, one a class: their cosines are put before the features.")
@click.option("--cosines", metavar="STORE|FILE", help="Image-text cosines of the same rows, put before the features.")
@json_option_with("a table")
@click.pass_context
def import_(context: click.Context, /, path: str, out: str, is_json: bool, **parts: str) -> None:
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
    if not out.endswith(".safetensors"):
        raise click.UsageError(f"--out must end in .safetensors, got {out!r}", context)
    check_folder(out)
    with output.gathered_warnings() as noticed:
        with usage_errors(context):
            pool = import_features(path, **parts)
        pool.save(out)
    n_unlabelled = int((pool.labels < 0).sum())
    document = document_head(context) | {
        "settings": context.params,
        "features": pool.describe(out),
        "n_unlabelled": n_unlabelled,
        "warnings": [*noticed, *_notes(n_unlabelled, len(pool.labels))],
    }
    output.publish(document, _report(out, pool, n_unlabelled), is_json=is_json)


def _notes(n_unlabelled: int, n: int) -> list[str]:
    """Return a warning about rows without labels, if there are any."""
    if not n_unlabelled:
        return []
    missing = f"{n_unlabelled:,} of {n:,} rows have no label"
    return [f"{missing}: name a file of labels with --labels where the features are used"]


def _report(out: str, pool: FeatureSet, n_unlabelled: int) -> list[RenderableType]:
    n, n_features = pool.features.shape
    facts = [
        ("rows", f"{n:,} of {n_features:,} features, {n_unlabelled:,} without a label"),
        ("classes", f"{pool.n_classes:,}"),
        ("format", f"{pool.source['format']}"),
    ]
    if "n_cosines" in pool.source:
        facts.append(("n_cosines", f"{pool.source['n_cosines']}, the first columns"))
    return [out, *fact_lines(facts)]
