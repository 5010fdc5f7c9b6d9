"""Results of few-shot episodes as tables and a figure, as ``fewshot report`` makes them.

- `read_records`: the results in a document of ``fewshot episode``, each a `Record`; `joined`: those of several.
- `panels`: records as tables; `markdown_tables`, `latex_tables`, `csv_table` and `figure_svg` write them.
- `write_report`: any of these into files.
- `as_document`: records as a document that can be read again.
"""

from fewshot.evaluation.reports.figure import figure_svg
from fewshot.evaluation.reports.files import FORMATS, write_report
from fewshot.evaluation.reports.joining import joined
from fewshot.evaluation.reports.panels import Panel, panels
from fewshot.evaluation.reports.records import Record, as_document, read_records
from fewshot.evaluation.reports.text import csv_table, latex_tables, markdown_tables

__all__ = [
    "FORMATS",
    "Panel",
    "Record",
    "as_document",
    "csv_table",
    "figure_svg",
    "joined",
    "latex_tables",
    "markdown_tables",
    "panels",
    "read_records",
    "write_report",
]
