"""All benchmarks: ``python -m tests.benchmarks`` (``make bench``) prints one table.

Speed is CPU time of one thread; ratios are against a baseline measured in the same run. Accuracies on real features are
printed by ``python -m tests.benchmarks.accuracy --data DIR``.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests.benchmarks import discovery, extraction, gpu, incremental, memory, speed


def main() -> None:
    """Run everything and print the table."""
    messages = Console(stderr=True)
    found = [
        row
        for part in (speed, memory, incremental, discovery, extraction, gpu)
        for row in part.rows(lambda name: messages.print(f"measuring {name} …", style="dim"))
    ]
    table = Table("what", "measured", "target", "")
    for row in found:
        mark = {True: "reached", False: "NOT reached", None: ""}[row.is_reached]
        table.add_row(row.what, row.measured, row.target, mark)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
