"""``fewshot report``: documents in, Markdown, CSV, LaTeX and a figure out."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fewshot.evaluation.reports import as_document, joined, markdown_tables, panels, read_records, write_report
from tests.kits.cli import document, fails, fewshot, succeeds

FEW = ("--features", "digits", "--n-episodes", "20", "--n-shot", "1,5")
FILES = ["figure.svg", "table.csv", "table.md", "table.tex"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write documents: a of two methods and two distributions, b of two other methods on the balanced one."""
    made = tmp_path_factory.mktemp("results")
    several = ("--query-distribution", "balanced,dirichlet", "--method", "nearest-prototype,em-gaussian")
    succeeds("episode", *FEW, *several, "--out", made / "a.json")
    for name, extra in (("b", ()), ("kept", ("--keep-episodes",))):
        succeeds("episode", *FEW, "--method", "simpleshot,soft-kmeans", *extra, "--out", made / f"{name}.json")
    several = ("--method", "nearest-prototype,em-gaussian", "--keep-episodes")
    succeeds("episode", *FEW, *several, "--out", made / "a_kept.json")
    return made


def reported(*words: object) -> tuple[str, str]:
    """Return stdout and stderr."""
    result = fewshot("report", *words)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def rows_of(table: str) -> dict[str, list[str]]:
    """Return the cells of a Markdown table by method."""
    found = re.findall(r"^\| `([^`]+)` \| (.*) \|$", table, re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in found}


# --- the tables ------------------------------------------------------------------------------------------------------


def test_the_markdown_is_the_document(folder: Path) -> None:
    table, _ = reported(folder / "a.json")
    results = json.loads((folder / "a.json").read_text(encoding="utf-8"))["results"]
    first, second = table.split("### ")[1:]
    assert first.startswith("5-way, balanced queries\n\n| method | digits: 1-shot | 5-shot |\n|---|---:|---:|\n")
    assert second.startswith("5-way, queries in Dirichlet(2) shares\n")
    for part, distribution in ((first, "balanced"), (second, "dirichlet")):
        for method, cells in rows_of(part).items():
            for cell, n_shot in zip(cells, (1, 5), strict=True):
                row = next(
                    row
                    for row in results
                    if (row["method"], row["n_shot"], row["query_distribution"]) == (method, n_shot, distribution)
                )
                text = f"{100 * row['accuracy']:.1f} ± {100 * row['half_width']:.1f}"
                behind = row["behind_best"]
                expected = f"**{text}**" if behind["mean"] == 0 else f"{text} †" if behind["is_tie"] else text
                assert cell == expected
    assert "over 20 episodes, 15 queries per class. **Bold**: the best of its column." in first
    assert "over 20 episodes, 75 queries in all." in second


def test_what_ran_apart_is_compared_unpaired(folder: Path) -> None:
    table, _ = reported(folder / "a.json", folder / "b.json")
    documents = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in "ab"]
    rows = {
        (row["method"], row["n_shot"]): row
        for found in documents
        for row in found["results"]
        if row["query_distribution"] == "balanced"
    }
    cells = rows_of(table.split("### ")[1])
    assert set(cells) == {"nearest-prototype", "em-gaussian", "simpleshot", "soft-kmeans"}
    home = {name: number for number, found in enumerate(documents) for name in {r["method"] for r in found["results"]}}
    for place, n_shot in enumerate((1, 5)):
        best = max((row for (_, shots), row in rows.items() if shots == n_shot), key=lambda row: row["accuracy"])
        for method, line in cells.items():
            row = rows[method, n_shot]
            behind = best["accuracy"] - row["accuracy"]
            is_paired = home[method] == home[best["method"]]
            unpaired = math.hypot(row["half_width"], best["half_width"])
            is_tie = row["behind_best"]["is_tie"] if is_paired else behind <= unpaired
            mark = "" if behind == 0 or not is_tie else " †" if is_paired else " ‡"
            assert line[place].endswith(mark) if mark else line[place][-1] not in "†‡"
    assert "‡: the same by the interval of unpaired means, since they ran apart." in table
    assert rows_of(table.split("### ")[2]).keys() == {"nearest-prototype", "em-gaussian"}


def test_kept_episodes_pair_what_ran_apart(folder: Path) -> None:
    apart = joined(read_records(f"{folder / 'a_kept.json'}") + read_records(f"{folder / 'kept.json'}"))
    names = "nearest-prototype,em-gaussian,simpleshot,soft-kmeans"
    together = document("episode", *FEW, "--method", names)["results"]
    for row in together:
        (same,) = [record for record in apart if (record.method, record.n_shot) == (row["method"], row["n_shot"])]
        assert same.behind_best.is_paired
        assert same.behind_best.is_tie == row["behind_best"]["is_tie"]
        for name in ("mean", "half_width"):
            assert getattr(same.behind_best, name) == pytest.approx(row["behind_best"][name], abs=2e-6)


def test_every_file_is_written_and_the_same_twice(folder: Path, tmp_path: Path) -> None:
    told = [reported(folder / "a.json", folder / "b.json", "--out", tmp_path / "new" / name) for name in "xy"]
    assert told[0][0] == told[1][0]
    assert told[0][1].splitlines() == [
        f"Written: {tmp_path / 'new' / 'x' / name}" for name in ("table.md", "table.csv", "table.tex", "figure.svg")
    ]
    assert sorted(os.listdir(tmp_path / "new" / "x")) == FILES
    for name in FILES:
        one, other = ((tmp_path / "new" / run / name).read_bytes() for run in "xy")
        assert one == other
        assert one.endswith(b"\n")
    assert (tmp_path / "new" / "x" / "table.md").read_text(encoding="utf-8").rstrip() == told[0][0].rstrip()


def test_the_calls_give_what_the_command_gives(folder: Path, tmp_path: Path) -> None:
    told, _ = reported(folder / "a.json", folder / "b.json", "--out", tmp_path / "its")
    records = joined([*read_records(f"{folder / 'a.json'}"), *read_records(f"{folder / 'b.json'}")])
    assert markdown_tables(panels(records)).rstrip() == told.rstrip()
    for path in map(Path, write_report(records, tmp_path / "mine")):
        assert path.read_bytes() == (tmp_path / "its" / path.name).read_bytes()
    assert sorted(os.listdir(tmp_path / "mine")) == FILES


def test_a_format_alone(folder: Path, tmp_path: Path) -> None:
    reported(folder / "a.json", "--out", tmp_path, "--format", "latex,csv")
    assert sorted(os.listdir(tmp_path)) == ["table.csv", "table.tex"]


def test_the_csv_has_everything_of_every_result(folder: Path, tmp_path: Path) -> None:
    reported(folder / "a.json", folder / "b.json", "--out", tmp_path, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text(encoding="utf-8"))))
    results = [
        (found, row)
        for name in "ab"
        for found in [json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))]
        for row in found["results"]
    ]
    assert len(rows) == len(results) == 12
    for written, (found, row) in zip(rows, results, strict=True):
        for name in ("accuracy", "half_width", "seconds"):
            assert float(written[name]) == row[name]
        for name in ("method", "settings", "protocol", "episode_hash", "query_distribution"):
            assert written[name] == row[name]
        assert written["n_shot"] == f"{row['n_shot']}"
        assert written["features"] == "digits"
        assert written["command_line"] == found["command_line"]
        assert written["torch_version"] == found["versions"]["torch"]
        assert float(written["behind_best"]) >= 0
        assert written["is_tie"] in ("True", "False")


def test_the_latex_holds_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    reported(folder / "a.json", "--out", tmp_path, "--format", "markdown,latex")
    latex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    for words in (r"\toprule", r"\midrule", r"\bottomrule", r"\cmidrule(lr){2-3}", r"\multicolumn{2}{c}{digits}"):
        assert latex.count(words) == 2
    assert not re.search("[±†‡]", latex)
    for name, cells in rows_of((tmp_path / "table.md").read_text(encoding="utf-8")).items():
        for cell in cells:
            number = cell.strip("*†‡ ").replace("±", r"$\pm$")
            text = rf"\textbf{{{number}}}" if cell.startswith("**") else number
            assert text + (r"$^\dagger$" if "†" in cell else "") in latex, name
    for line in latex.splitlines():
        if line.startswith("\\caption"):
            assert re.search(r"(?<!\\)%", line) is None


def test_the_figure_has_a_line_for_each_method_and_no_date(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    reported(folder / "a.json", folder / "b.json", "--out", tmp_path, "--format", "svg")
    text = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    for words in ("nearest-prototype", "soft-kmeans", "5-way, balanced queries", "labelled items per class"):
        assert words in text
    assert "dc:date" not in text
    assert "Matplotlib" not in text


def test_meta_dataset_has_one_column(tmp_path: Path) -> None:
    words = ("--features", "digits", "--n-episodes", 4, "--protocol", "meta-dataset", "--method", "simpleshot,unem")
    succeeds("episode", *words, "--out", tmp_path / "m.json")
    table, _ = reported(tmp_path / "m.json", "--out", tmp_path)
    assert table.startswith("### Ways and shots as the classes (Meta-Dataset)\n\n| method | digits: accuracy |\n")


# --- several files ---------------------------------------------------------------------------------------------------


def test_a_report_can_be_reported_again(folder: Path, tmp_path: Path) -> None:
    direct, _ = reported(folder / "a.json", folder / "b.json")
    told = json.loads(reported(folder / "a.json", folder / "b.json", "--json")[0])
    assert told["warnings"] == []
    (tmp_path / "all.json").write_text(json.dumps(told), encoding="utf-8")
    assert reported(tmp_path / "all.json")[0] == direct
    rounded = as_document(joined(read_records(f"{tmp_path / 'all.json'}")), digits=5)
    (tmp_path / "few.json").write_text(json.dumps(rounded), encoding="utf-8")
    assert reported(tmp_path / "few.json")[0] == direct


def test_a_result_given_twice_counts_once(folder: Path) -> None:
    assert reported(folder / "a.json")[0] == reported(folder / "a.json", folder / "a.json")[0]


def test_other_episodes_of_one_cell_are_refused(folder: Path, tmp_path: Path) -> None:
    succeeds("episode", *FEW, "--method", "unem", "--seed", 1, "--out", tmp_path / "c.json")
    line = fails(1, "report", folder / "b.json", tmp_path / "c.json")
    hashes = [
        json.loads(path.read_text(encoding="utf-8"))["results"][0]["episode_hash"]
        for path in (folder / "b.json", tmp_path / "c.json")
    ]
    assert line == (
        f"Error: {folder / 'b.json'} and {tmp_path / 'c.json'} hold different episodes of one cell (digits, 5-way "
        "1-shot, 15 queries per class, support and query disjoint; episodes "
        f"{hashes[0]} and {hashes[1]}): run both with the same --seed and --n-episodes, or report them apart"
    )


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no JSON", "no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "other JSON"),
        ('{"results": []}', "no field 'features'"),
        ('{"runs": [], "results": [{"run": 0}]}', "results[0]: field 'run' is 0, and there are 0 runs"),
        ('{"runs": [], "results": [{}]}', "results[0]: no field 'run'"),
        ('{"runs": [], "results": 3}', "field 'results' is 3"),
    ],
)
def test_another_file_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert fails(1, "report", tmp_path / "x.json", "--out", tmp_path / "out") == (
        f"Error: {tmp_path / 'x.json'}: expected a document of fewshot episode, as --out or --json writes it, got "
        f"something else ({reason}): run fewshot episode again with --out"
    )
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: row.pop("accuracy"), "no field 'accuracy'"),
        (lambda row: row.update(accuracy="high"), "field 'accuracy' is 'high'"),
        (lambda row: row.update(n_shot=1.5), "field 'n_shot' is 1.5"),
        (lambda row: row["behind_best"].update(is_paired=None), "field 'is_paired' is None"),
        (lambda row: row.update(episode_accuracy=0.5), "field 'episode_accuracy' is 0.5"),
    ],
)
def test_a_field_that_is_wanting_or_of_another_kind_is_named(
    change: Callable[[dict[str, Any]], object], reason: str, folder: Path, tmp_path: Path
) -> None:
    found = json.loads((folder / "a.json").read_text(encoding="utf-8"))
    change(found["results"][2])
    (tmp_path / "x.json").write_text(json.dumps(found), encoding="utf-8")
    line = fails(1, "report", tmp_path / "x.json")
    assert line.startswith(f"Error: {tmp_path / 'x.json'}: expected a document of fewshot episode, ")
    assert f"got something else (results[2]: {reason}): " in line


def test_documents_of_other_commands_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(document("methods")), encoding="utf-8")
    assert "got something else" in fails(1, "report", tmp_path / "x.json")
    (tmp_path / "y.json").write_text('{"runs": [], "results": []}', encoding="utf-8")
    assert "with results, got none" in fails(1, "report", tmp_path / "y.json")


def test_wrong_words(folder: Path, tmp_path: Path) -> None:
    assert fails(2, "report") == "Error: needs a file: fewshot episode --out FILE.json writes one"
    assert fails(1, "report", "nowhere.json") == "Error: no such file: nowhere.json"
    assert "did you mean 'markdown'?" in fails(2, "report", folder / "a.json", "--format", "markdwn")
    (tmp_path / "file").touch()
    said = f"Error: {tmp_path / 'file'} is a file: name a folder with --out"
    assert fails(1, "report", folder / "a.json", "--out", tmp_path / "file") == said


def test_without_matplotlib_the_rest_is_offered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = fails(1, "report", folder / "a.json", "--out", tmp_path / "out")
    assert line == (
        'Error: figure.svg is drawn by matplotlib: pip install "fewshot[plots]", or leave it out with '
        "--format markdown,csv,latex"
    )
    assert os.listdir(tmp_path) == []
    reported(folder / "a.json", "--out", tmp_path / "out", "--format", "markdown,csv,latex")
