"""Results as tables: names of feature sets and methods, cells, intervals and marks."""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest

from fewshot.checks import SettingError
from fewshot.evaluation.reports import (
    as_document,
    joined,
    latex_tables,
    markdown_tables,
    panels,
    read_records,
    write_report,
)
from fewshot.metrics.comparison import Standing
from tests.kits.records import make_record


def test_latex_escapes_what_it_must() -> None:
    record = make_record("set_1", "a_b&c", 1, 0.5, label="a_b&c {100 %} #~^\\")
    text = latex_tables(panels([record]))
    assert r"a\_b\&c \{100 \%\} \#\textasciitilde{}\textasciicircum{}\textbackslash{} & " in text
    assert r"\multicolumn{1}{c}{set\_1}" in text


def test_wide_tables_tell_their_intervals_below() -> None:
    records = [
        make_record(name, "m", n_shot, 0.5, half_width=n_shot / 1000, n_query=n_query)
        for name, n_query in (("a", 15), ("b", 15), ("c", 5))
        for n_shot in (1, 5, 10)
    ]
    table = markdown_tables(panels(records), heading="#")
    assert "| method | a: 1-shot | 5-shot | 10-shot | b: 1-shot |" in table
    assert "| `m` | **50.0** | **50.0** |" in table
    assert (
        "(95 % intervals ± 0.1 to 1.0) over 100 episodes, a: 15 queries per class; b: 15 queries per class; c: 5"
        in (table)
    )


def test_a_cell_that_is_not_there_is_a_dash() -> None:
    records = [make_record("a", "m", 1, 0.5), make_record("a", "m", 5, 0.6), make_record("a", "n", 5, 0.4)]
    assert "| `n` | – | **40.0 ± 0.4** |" in markdown_tables(panels(records))
    assert "n & -- & " in latex_tables(panels(records))


def test_numbers_of_queries_part_tables_only_where_they_must() -> None:
    apart = [make_record("a", "m", 1, 0.5, protocol="x"), make_record("a", "m", 1, 0.5, n_query=5, protocol="y")]
    assert len(panels(apart)) == 2
    assert len(panels([apart[0], replace(apart[1], feature_set="b")])) == 1


def test_leaks_and_missing_intervals_are_told() -> None:
    record = make_record("a", "m", 1, 0.5, half_width=nan, n_leaked=150, is_disjoint=False)
    table = markdown_tables(panels([record]))
    assert table.startswith("### 5-way, balanced queries, support and query may overlap\n")
    assert "50.0 ± ?" in table
    assert "Up to 2.0 % of the queries are also support images." in table


def test_feature_sets_have_names_of_their_own() -> None:
    here, there = make_record("x/birds.npz", "m", 1, 0.5), make_record("y/birds.npz", "m", 1, 0.6)
    labels = [row.feature_set for row in joined([here, there])]
    assert labels == ["x/birds.npz", "y/birds.npz"]
    assert joined([here])[0].feature_set == "birds"
    assert [row.feature_set for row in joined([here, replace(here, n_classes=7)])] == [
        "birds (5 classes)",
        "birds (7 classes)",
    ]
    assert joined([replace(here, features="stores/birds:layer3")])[0].feature_set == "birds:layer3"
    spelled = [row.feature_set for row in joined([here, replace(here, class_digest="1")])]
    assert spelled == ["x/birds.npz (5 classes 0, 9 rows)", "x/birds.npz (5 classes 1, 9 rows)"]


def test_two_settings_of_one_method_are_told_apart() -> None:
    records = [
        make_record("a", "unem", 1, 0.5, settings="shipped"),
        make_record("a", "unem", 1, 0.6, settings="trained"),
    ]
    assert [row.label for row in joined(records)] == ["unem (shipped)", "unem (trained)"]
    elsewhere = [records[0], replace(records[1], features="b")]
    assert [row.label for row in joined(elsewhere)] == ["unem", "unem"]


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path) -> None:
    records = [make_record("a", "m", 1, 0.5)]
    with pytest.raises(ValueError, match=r"^unknown format 'markdwn': did you mean 'markdown'\?"):
        write_report(records, tmp_path / "new", ("csv", "markdwn"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"file is a file: name a folder with out$"):
        write_report(records, tmp_path / "file", ("csv",))
    assert write_report(records, tmp_path / "new", ("csv",)) == [f"{tmp_path / 'new' / 'table.csv'}"]


def test_a_report_of_records_is_read_as_they_were(tmp_path: Path) -> None:
    standing = Standing(0.125, nan, is_paired=False)
    records = [
        make_record("a", "m", 1, 0.5, half_width=nan, behind_best=standing, episode_accuracy=(0.25, 0.75)),
        make_record("a", "n", 1, 0.625, n_way=None, query_distribution=None, versions={"torch": "2.6"}),
    ]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(as_document(records), allow_nan=False), encoding="utf-8")
    named = [replace(record, feature_set="", label="", file=f"{path}") for record in records]
    assert [repr(record) for record in read_records(f"{path}")] == [repr(record) for record in named]  # NaN is not NaN
