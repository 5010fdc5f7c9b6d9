"""``fewshot report``: tables and a figure of what ``fewshot episode`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fewshot.storage import write_text_atomic

from ..episodic.arguments import listed_words
from ..shared import output
from ..shared.options import document_head, json_option_with
from .figure import check_drawing, figure_svg
from .panels import panels
from .records import Record, as_document, joined, read_records
from .text import csv_table, latex_tables, markdown_tables

__all__ = ["report"]

FORMATS = {"markdown": "table.md", "csv": "table.csv", "latex": "table.tex", "svg": "figure.svg"}


@click.command(short_help="Turn results into tables and a figure.")
@click.argument("files", nargs=-1, metavar="FILE.json...")
@click.option("--out", metavar="DIR", help="A folder to write to, made if it is not there; without it nothing is.")
@click.option(
    "--format",
    "formats",
    default=",".join(FORMATS),
    **listed_words(tuple(FORMATS)),
    help="What to write: table.md, table.csv (a row a result, with everything), table.tex (for booktabs), figure.svg.",
)
@json_option_with("the Markdown")
@click.pass_context
def report(
    context: click.Context, /, files: tuple[str, ...], out: str | None, formats: list[str], is_json: bool
) -> None:
    """Join results of fewshot episode --out and print them as Markdown.

    A table for each way of drawing the queries: a row a method, a column a feature set and number of shots. The best of
    a column is bold. † marks what cannot be told from it by the 95 % interval of the paired difference, ‡ the same for
    methods that ran apart without --keep-episodes, by the wider interval of unpaired means. Results of one cell must
    stand on the same episodes.

    \b
    Example:
      fewshot episode --features digits --method all --n-episodes 200 --out results.json
      fewshot report results.json --out report
    """  # noqa: D301 (click's own mark)
    if not files:
        raise click.UsageError("needs a file: fewshot episode --out FILE.json writes one", context)
    if out is not None:
        _check_out(Path(out), formats)
    records = joined(record for path in files for record in read_records(path))
    written = _written(records, formats, Path(out)) if out is not None else []
    document = document_head(context) | {"files": list(files), "written": written} | as_document(records)
    document["warnings"] = []
    output.publish(document, [markdown_tables(panels(records)).rstrip()], is_json=is_json)
    for path in written:
        output.message(f"Written: {path}")


def _check_out(folder: Path, formats: list[str]) -> None:
    """Check that the folder and its files can be written, before any work."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder with --out")
    if "svg" in formats:
        check_drawing()


def _written(records: list[Record], formats: list[str], folder: Path) -> list[str]:
    """Write each format; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = panels(records)
    texts: dict[str, Any] = {
        "markdown": lambda: markdown_tables(tables),
        "csv": lambda: csv_table(records),
        "latex": lambda: latex_tables(tables),
        "svg": lambda: figure_svg(tables),
    }
    paths = []
    for name in formats:
        paths.append(f"{folder / FORMATS[name]}")
        write_text_atomic(paths[-1], texts[name]())
    return paths
