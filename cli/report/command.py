"""``fewshot report``: tables and a figure from documents of ``fewshot episode``."""

from __future__ import annotations

import click

from fewshot.evaluation.reports import FORMATS, as_document, joined, markdown_tables, panels, read_records, write_report
from fewshot.evaluation.reports.files import check_report

from ..episodic.arguments import listed_words
from ..shared import output
from ..shared.options import document_head, json_option_with

__all__ = ["report"]


@click.command()
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
        check_report(out, formats)
    records = joined(record for path in files for record in read_records(path))
    written = [] if out is None else write_report(records, out, formats)
    facts = {"files": list(files), "written": written} | as_document(records) | {"warnings": []}
    output.publish(document_head(context) | facts, [markdown_tables(panels(records)).rstrip()], is_json=is_json)
    for path in written:
        output.message(f"Written: {path}")
