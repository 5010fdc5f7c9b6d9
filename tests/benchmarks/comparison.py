"""The comparison of all methods: ``python -m tests.benchmarks.comparison --data DIR`` (``make tables DATA=DIR``).

Every registered method at 1, 5 and 10 shots under three query distributions on four sets of real features, by the code
of ``fewshot episode`` and ``fewshot report``, on the half of the classes that the shipped schedules were not learned
on. What is done stays done: a method runs again only when its settings changed. ``--only-tables`` rewrites README's
table and those of docs/results/comparison.md from the stored results alone. ``--postpone REASON`` runs nothing and
notes what is wanting of ``--methods`` on ``--sets`` as left out for now; the next run without it does it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner
from fewshot.cli.main import cli
from fewshot.cli.shared.output import json_text

from fewshot.evaluation.reports import Record, as_document, joined, read_records
from fewshot.registry.episodic import METHODS, build_method
from fewshot.storage import write_text_atomic
from tests.benchmarks.comparison_tables import LeftOut, summary_table, tables
from tests.benchmarks.presets import pools

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "results" / "comparison.md"
BEGIN, END = "<!-- comparison:begin -->", "<!-- comparison:end -->"
COMMAND = "python -m tests.benchmarks.comparison --data DIR"
SETS = (
    "imagenet50_moco",
    "cub50_efficientnet_lite2",
    "tinyimagenet100_efficientnet_lite2",
    "omniglot_conv4",
)
SHOTS = (1, 5, 10)
N_EPISODES = 1000
# Queries per class and in all: Omniglot's classes have 20 items, so that 10 shots leave 10.
QUERIES = {"omniglot_conv4": (5, 25)}
# A thousand steps of Adam an episode: each alone, after the others.
SLOW = ("tim-gd", "alpha-tim")
DEFAULT = next(name for name in ("unem-adaptive", "unem") if name in METHODS)
DIGITS = 5


class Regime(NamedTuple):
    """How the queries of a table are drawn."""

    n_way: int
    query_distribution: str
    n_effective_way: int

    def words(self, name: str) -> list[str]:
        """Return the options of ``fewshot episode``."""
        per_class, in_all = QUERIES.get(name, (15, 75))
        is_balanced = self.query_distribution == "balanced"
        counts = ["--n-query", per_class] if is_balanced else ["--n-query-total", in_all]
        ways = ["--n-way", self.n_way, "--n-effective-way", self.n_effective_way]
        return [str(word) for word in (*ways, "--query-distribution", self.query_distribution, *counts)]

    def holds(self, record: Record | LeftOut) -> bool:
        """Say whether a result is one of these."""
        return self == (record.n_way, record.query_distribution, record.n_effective_way)


REGIMES = (Regime(5, "balanced", 5), Regime(5, "dirichlet", 5), Regime(20, "uniform", 5))


class Job(NamedTuple):
    """One command: methods that are wanting at the same numbers of shots."""

    name: str
    regime: Regime
    methods: tuple[str, ...]
    shots: tuple[int, ...]


def current_settings() -> dict[str, str]:
    """Return what each registered method says of itself."""
    return {name: build_method(name).describe() for name in METHODS}


def stored(name: str) -> list[Record]:
    """Return the stored results of a feature set, if there are any."""
    return _records(RESULTS / f"{name}.json")


def _records(path: Path) -> list[Record]:
    is_filled = path.exists() and json.loads(path.read_text(encoding="utf-8"))["results"]
    return read_records(os.fspath(path)) if is_filled else []


def wanting(records: Sequence[Record], regime: Regime, n_shot: int, left_out: Sequence[LeftOut] = ()) -> list[str]:
    """Return the methods that have no result in a cell, or one with other settings, and were not left out of it."""
    done = {
        (record.method, record.settings)
        for record in (*records, *left_out)
        if regime.holds(record) and record.n_shot == n_shot
    }
    return [name for name, settings in current_settings().items() if (name, settings) not in done]


def jobs(name: str, records: Sequence[Record], left_out: Sequence[LeftOut], asked: Sequence[str]) -> Iterator[Job]:
    """Yield the commands that are left to run, the fast ones first."""
    slow: list[Job] = []
    refused = [row for row in left_out if not row.is_postponed]
    for regime in REGIMES:
        by_methods: dict[tuple[str, ...], list[int]] = {}
        for n_shot in SHOTS:
            methods = [method for method in wanting(records, regime, n_shot, refused) if method in asked]
            slow += [Job(name, regime, (method,), (n_shot,)) for method in methods if method in SLOW]
            fast = tuple(method for method in methods if method not in SLOW)
            by_methods.setdefault(fast, []).append(n_shot)
        yield from (Job(name, regime, methods, tuple(shots)) for methods, shots in by_methods.items() if methods)
    yield from slow


def run(job: Job, classes: str, folder: Path) -> list[Record] | str:
    """Run one command in the folder of the features; return its results, or why there are none."""
    words = [
        *("episode", "--features", f"{job.name}.npz", "--classes", classes, *job.regime.words(job.name)),
        *("--n-shot", ",".join(map(str, job.shots)), "--n-episodes", str(N_EPISODES)),
        *("--method", ",".join(job.methods), "--keep-episodes", "--device", "cpu", "--json"),
    ]
    with chdir(folder):
        result = CliRunner().invoke(cli, words, prog_name="fewshot")
    if result.exit_code != 0:
        return result.stderr.strip().splitlines()[-1] if result.stderr.strip() else repr(result.exception)
    scratch = RESULTS / f".{job.name}.run.json"
    try:
        write_text_atomic(scratch, result.stdout)
        return read_records(os.fspath(scratch))
    finally:
        scratch.unlink(missing_ok=True)


def class_words(classes: Sequence[int]) -> str:
    """Write classes as ranges.

    Examples
    --------
    >>> class_words([3, 1, 2, 7])
    '1-3,7'
    """
    ranges: list[list[int]] = []
    for number in sorted(classes):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


class Ledger:
    """The results of one feature set, on disk after each command: rounded ones to keep, whole ones to pair with."""

    def __init__(self, name: str, work: Path) -> None:
        self.name, self._work = name, work / f"{name}.json"
        self.records = _later(stored(name), _records(self._work))
        self.left_out: list[LeftOut] = _left_out(name)

    def add(self, job: Job, outcome: list[Record] | str) -> None:
        """Take in what a command gave, and write everything."""
        if isinstance(outcome, str):
            self.leave_out(job, outcome, is_postponed=False)
        else:
            self.records = _later(self.records, outcome)
        self.write()

    def leave_out(self, job: Job, reason: str, *, is_postponed: bool) -> None:
        """Note why methods have no result in the cells of a command."""
        settings = current_settings()
        self.left_out += [
            LeftOut(
                method=method,
                settings=settings[method],
                **job.regime._asdict(),
                n_shot=n_shot,
                is_postponed=is_postponed,
                reason=reason,
            )
            for method in job.methods
            for n_shot in job.shots
        ]

    def write(self) -> None:
        """Write the results, in the order of the registry, of methods that are still what they were."""
        settings = current_settings()
        kept = [row for row in self.records if settings.get(row.method) == row.settings]
        kept.sort(key=_place)
        records = joined(kept)
        done = {_key(row) for row in kept}
        self.left_out = [
            row for row in self.left_out if settings.get(row.method) == row.settings and _key(row) not in done
        ]
        write_text_atomic(self._work, json_text(as_document(records)) + "\n")
        document = {"left_out": [asdict(row) for row in _distinct(self.left_out)]} | as_document(records, digits=DIGITS)
        write_text_atomic(RESULTS / f"{self.name}.json", compact(document))


def _later(records: Sequence[Record], newer: Sequence[Record]) -> list[Record]:
    """Join results, one a method and cell, the newer ones counting."""
    return list({(row.method, row.settings, row.protocol): row for row in (*records, *newer)}.values())


def _left_out(name: str) -> list[LeftOut]:
    path = RESULTS / f"{name}.json"
    return [LeftOut(**row) for row in json.loads(path.read_text(encoding="utf-8"))["left_out"]] if path.exists() else []


def _key(record: Record | LeftOut) -> tuple[Any, ...]:
    return record.method, record.n_way, record.query_distribution, record.n_effective_way, record.n_shot


def _distinct(rows: Sequence[LeftOut]) -> list[LeftOut]:
    """Keep the last of several reasons for one cell."""
    return list({_key(row): row for row in rows}.values())


def _place(record: Record) -> tuple[int, int, int]:
    regime = next(place for place, regime in enumerate(REGIMES) if regime.holds(record))
    return regime, list(METHODS).index(record.method), record.n_shot or 0


def compact(document: dict[str, Any]) -> str:
    """Write a document with a line for each result, so that a change shows as such."""
    parts = [f'"{name}": [\n{_lines(rows)}\n]' for name, rows in document.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def blocks() -> dict[Path, str]:
    """Return what stands between the marks of README and of the page of results, from the stored results alone."""
    records = joined(record for name in SETS for record in stored(name))
    records.sort(key=lambda record: _place(record)[:2])
    left_out = {name: _left_out(name) for name in SETS}
    return {README: summary_table(records, SHOTS[:2]), PAGE: tables(records, DEFAULT, left_out)}


def with_block(path: Path, block: str) -> str:
    """Return a file's text with the tables as they are to be.

    Raises
    ------
    ValueError
        If the text has no place for them.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path.name} needs one line {BEGIN} and one {END} below it")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{block}{END}{rest.partition(END)[2]}"


def write_tables() -> None:
    """Put the tables into README and the page of results."""
    for path, block in blocks().items():
        write_text_atomic(path, with_block(path, block))


def opened(work: Path, sets: Sequence[str]) -> dict[str, Ledger]:
    """Return what is known of each feature set, and drop what no longer holds."""
    for directory in (RESULTS, work):
        directory.mkdir(parents=True, exist_ok=True)
    ledgers = {name: Ledger(name, work) for name in sets}
    for ledger in ledgers.values():
        ledger.write()
    return ledgers


def postpone(work: Path, asked: Sequence[str], sets: Sequence[str], reason: str) -> None:
    """Note what is wanting as left out for now."""
    for name, ledger in opened(work, sets).items():
        for job in jobs(name, ledger.records, ledger.left_out, asked):
            ledger.leave_out(job, reason, is_postponed=True)
        ledger.write()


def work_through(folder: Path, work: Path, asked: Sequence[str], sets: Sequence[str]) -> None:
    """Run what is left to run, one feature set after the other, slow methods last."""
    classes = {name: class_words(pool[3]) for name, pool in pools(folder).items() if name in sets}
    ledgers = opened(work, sets)
    todo = [job for name, ledger in ledgers.items() for job in jobs(name, ledger.records, ledger.left_out, asked)]
    todo.sort(key=lambda job: job.methods[0] in SLOW)
    for place, job in enumerate(todo, start=1):
        started = time.perf_counter()
        outcome = run(job, classes[job.name], folder)
        if isinstance(outcome, str) and len(job.methods) > 1:
            for single in (job._replace(methods=(method,)) for method in job.methods):
                ledgers[job.name].add(single, run(single, classes[job.name], folder))
        else:
            ledgers[job.name].add(job, outcome)
        words = outcome if isinstance(outcome, str) else f"{time.perf_counter() - started:.0f} s"
        print(f"{place} of {len(todo)}: {job}: {words}", file=sys.stderr, flush=True)


def main() -> None:
    """Run everything that is wanting and rewrite the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of feature files")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "comparison", help="accuracies per episode")
    parser.add_argument("--methods", default=",".join(METHODS), help="run these only")
    parser.add_argument("--sets", default=",".join(SETS), help="on these only")
    parser.add_argument("--postpone", metavar="REASON", help="run nothing, note what is wanting as left out")
    parser.add_argument("--only-tables", action="store_true", help="run nothing")
    parser.add_argument("--no-tables", action="store_true", help="leave README and the page of results alone")
    options = parser.parse_args()
    asked, sets = options.methods.split(","), options.sets.split(",")
    if options.postpone is not None:
        postpone(options.work, asked, sets, options.postpone)
    elif not options.only_tables:
        if options.data is None:
            parser.error("needs --data DIR, or --only-tables")
        work_through(options.data.resolve(), options.work.resolve(), asked, sets)
    if not options.no_tables:
        write_tables()


if __name__ == "__main__":
    main()
