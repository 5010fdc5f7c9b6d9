"""All benchmarks: ``python -m tests.benchmarks`` (``make bench``) prints one table; some, by name: ``… peers_speed``.

Speed is CPU time of one thread; ratios are against a baseline measured in the same run. Accuracies on real features are
printed by ``python -m tests.benchmarks.accuracy --data DIR``.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from tests.benchmarks import discovery, extraction, gpu, incremental, memory, peers_speed, speed

PARTS = {
    part.__name__.rpartition(".")[2]: part
    for part in (speed, peers_speed, memory, incremental, discovery, extraction, gpu)
}


def main() -> None:
    """Run everything, or the parts named on the command line, and print the table."""
    messages = Console(stderr=True)
    found = [
        row
        for name in sys.argv[1:] or PARTS
        for row in PARTS[name].rows(lambda name: messages.print(f"measuring {name} …", style="dim"))
    ]
    table = Table("what", "measured", "target", "")
    for row in found:
        mark = {True: "reached", False: "NOT reached", None: ""}[row.is_reached]
        table.add_row(row.what, row.measured, row.target, mark)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
