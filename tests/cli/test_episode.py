"""Several methods, query distributions and ways in one run of ``fewshot episode``."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fewshot.cli.episodic.arguments import split_methods
from fewshot_episodes import EpisodeSampler

import fewshot as library
from fewshot.evaluation.episodes import evaluate_episodes
from fewshot.features import FeatureSet, load_features
from fewshot.models import save_unem
from fewshot.registry.episodic import METHODS, build_method
from tests.kits.cli import document, fails, succeeds
from tests.reference.comparison_loops import behind_best_loops

FEW = ("--features", "digits", "--n-episodes", "20")
TWO = (*FEW, "--method", "nearest-prototype,simpleshot")
CELL = ("n_way", "query_distribution", "n_effective_way", "n_query", "n_query_total", "dirichlet_concentration")


def cells(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return how the queries of each run were drawn, in order."""
    return list(dict.fromkeys(tuple(row[name] for name in CELL) for row in found["results"]))


# --- lists of methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["unem"], ["unem"]),
        (["unem,paddle", "tim"], ["unem", "paddle", "tim"]),
        (["em-gaussian:scale=2,n_layers=3"], ["em-gaussian:scale=2,n_layers=3"]),
        (["em-gaussian:scale=2,n_layers=3,unem"], ["em-gaussian:scale=2,n_layers=3", "unem"]),
        (["unem, em-gaussian,scale=2,n_layers=3 ,"], ["unem", "em-gaussian:scale=2,n_layers=3"]),
        (["em-gaussian:,scale=2"], ["em-gaussian:scale=2"]),
        (["paddle:n_layers=3,paddle:n_layers=4"], ["paddle:n_layers=3", "paddle:n_layers=4"]),
    ],
)
def test_methods_are_told_from_options(texts: list[str], expected: list[str]) -> None:
    assert split_methods(texts) == tuple(expected)


def test_all_is_every_method_once() -> None:
    assert split_methods(["all"]) == tuple(METHODS)
    found = split_methods(["unem,all,paddle:n_layers=3"])
    assert found[0] == "unem"
    assert found[-1] == "paddle:n_layers=3"
    assert sorted(found) == sorted([*METHODS, "paddle:n_layers=3"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unem,paddle,unem", "--method unem is given twice"),
        ("all,all", "--method all is given twice"),
        (",", "--method needs a method, such as unem, or all; see fewshot methods"),
        ("scale=2", "--method option 'scale=2' stands before any method: write NAME:scale=2"),
        ("unem,padle", "unknown method 'padle': did you mean 'paddle'?"),
        ("unem,tim,n_stpes=3", "did you mean 'n_steps'?"),
    ],
)
def test_wrong_lists_are_answered(text: str, said: str) -> None:
    assert said in fails(2, "episode", *FEW, "--method", text)


def test_every_method_runs_beside_the_others() -> None:
    words = ("--n-way", 3, "--n-shot", 2, "--n-query", 4, "--features", "digits", "--n-episodes", 2)
    found = document("episode", *words, "--method", "all,tim-gd:n_steps=3,alpha-tim:n_steps=3")
    assert {row["method"].split(":")[0] for row in found["results"]} == set(METHODS)
    assert all(0 <= row["accuracy"] <= 1 for row in found["results"])
    assert len({row["episode_hash"] for row in found["results"]}) == 1


def test_a_list_and_repeated_options_are_one_thing() -> None:
    once = document("episode", *TWO, "--n-shot", 1)
    twice = document("episode", *FEW, "--method", "nearest-prototype", "--method", "simpleshot", "--n-shot", 1)
    rows = [[{**row, "seconds": 0, "episodes_per_second": 0} for row in found["results"]] for found in (once, twice)]
    assert rows[0] == rows[1]
    assert once["differences"] == twice["differences"]


# --- lists of distributions ------------------------------------------------------------------------------------------


def test_there_is_a_run_for_each_distribution_and_number_of_ways() -> None:
    words = ("--query-distribution", "balanced,dirichlet,uniform", "--n-effective-way", "2,5", "--n-shot", "1,2")
    found = document("episode", *TWO, *words)
    assert cells(found) == [
        (5, "balanced", 2, 15, None, None),
        (5, "balanced", 5, 15, None, None),
        (5, "dirichlet", 2, None, 75, 2.0),
        (5, "dirichlet", 5, None, 75, 2.0),
        (5, "uniform", 2, None, 75, None),
        (5, "uniform", 5, None, 75, None),
    ]
    assert len(found["results"]) == 6 * 2 * 2
    assert len(found["differences"]) == 6 * 2
    assert len({row["episode_hash"] for row in found["results"]}) == 12
    settings = found["settings"]
    assert (settings["n_query"], settings["n_query_total"]) == (15, 75)
    assert settings["query_distribution"] == ["balanced", "dirichlet", "uniform"]
    assert settings["n_effective_way"] == [2, 5]


def test_a_cell_of_many_is_what_it_is_alone() -> None:
    many = document("episode", *TWO, "--query-distribution", "balanced,uniform", "--n-effective-way", "2,5")
    alone = document("episode", *TWO, "--query-distribution", "uniform", "--n-effective-way", 2)
    timed = {"seconds": 0, "episodes_per_second": 0}
    rows = [row | timed for row in many["results"] if (row["query_distribution"], row["n_effective_way"])[1] == 2]
    assert [row for row in rows if row["query_distribution"] == "uniform"] == [row | timed for row in alone["results"]]


def test_each_kind_of_distribution_takes_its_own_count() -> None:
    both = ("--n-query", 3, "--n-query-total", 11)
    found = document("episode", *TWO, "--n-shot", 1, "--query-distribution", "uniform,balanced", *both)
    assert [cell[3:5] for cell in cells(found)] == [(None, 11), (3, None)]
    one = document("episode", *TWO, "--n-shot", 1, "--query-distribution", "uniform,balanced", "--n-query", 3)
    assert [cell[3:5] for cell in cells(one)] == [(None, 75), (3, None)]
    said = "takes --n-query-total (queries in all, the counts per class being drawn) and not --n-query"
    assert said in fails(1, "episode", *TWO, "--query-distribution", "uniform,dirichlet", *both)


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (1, ("--n-effective-way", "2,6"), "--n-effective-way = 6 exceeds --n-way = 5"),
        (2, ("--n-effective-way", "0"), "got '0'"),
        (2, ("--n-effective-way", "two"), "separated by commas, such as 1,5,10; got 'two'"),
        (2, ("--query-distribution", "balanced,unifrom"), "did you mean 'uniform'?"),
        (2, ("--query-distribution", "balanced,uniform", "--dirichlet-concentration", "1"), "needs --query-distri"),
        (2, ("--protocol", "meta-dataset", "--n-effective-way", "2"), "leave out --n-effective-way"),
    ],
)
def test_what_does_not_fit_is_said_before_the_work(code: int, words: tuple[str, ...], said: str) -> None:
    assert said in fails(code, "episode", *TWO, *words)


def test_the_table_has_a_block_for_each_way_of_drawing() -> None:
    words = ("episode", *TWO, "--n-shot", "1,5", "--query-distribution", "balanced,dirichlet", "--n-effective-way", 1)
    lines = succeeds(*words).splitlines()
    titles = [place for place, line in enumerate(lines) if line.endswith("1 way with queries")]
    assert [lines[place] for place in titles] == ["balanced, 1 way with queries", "dirichlet, 1 way with queries"]
    found = document(*words)
    for place, distribution in zip(titles, ("balanced", "dirichlet"), strict=True):
        rows = [row for row in found["results"] if row["query_distribution"] == distribution]
        block = "\n".join(lines[place : place + 12])
        for row in rows:
            assert f"{100 * row['accuracy']:.2f} ± {100 * row['half_width']:.2f}" in block
        gains = [row for row in found["differences"] if row["query_distribution"] == distribution]
        cells = [f"{100 * row['mean']:+.2f} ± {100 * row['half_width']:.2f}" for row in gains]
        assert any(line.split() == ["simpleshot", *" ".join(cells).split()] for line in block.splitlines()), block


# --- what a document carries -----------------------------------------------------------------------------------------


def test_every_result_says_how_far_it_is_behind_the_best() -> None:
    names = ["nearest-prototype", "em-gaussian", "simpleshot"]
    found = document("episode", *FEW, "--method", ",".join(names), "--n-shot", "1,5")
    pool = load_features("digits")
    for n_shot in (1, 5):
        outcome = evaluate_episodes(
            {name: build_method(name) for name in names},
            pool.features,
            EpisodeSampler(pool.labels, n_way=5, n_shot=n_shot, n_query=15),
            n_episodes=20,
            generator=torch.Generator().manual_seed(0),
        )
        expected = behind_best_loops([outcome.scores[name].accuracy.double().tolist() for name in names])
        rows = [row for row in found["results"] if row["n_shot"] == n_shot]
        for row, (mean, half_width, is_tie) in zip(rows, expected, strict=True):
            behind = row["behind_best"]
            assert behind["mean"] == pytest.approx(mean, abs=1e-9)
            assert behind["half_width"] == pytest.approx(half_width, abs=1e-9)
            assert (behind["is_tie"], behind["is_paired"]) == (is_tie, True)


def test_the_document_says_what_made_it(tmp_path: Path) -> None:
    features = tmp_path / "my features.npz"
    pool = load_features("digits")
    np.savez(features, features=pool.features.numpy(), labels=pool.labels.numpy())
    words = ("episode", "--features", features, "--n-shot", 1, "--n-episodes", 5, "--method", "unem,simpleshot")
    found = document(*words)
    assert found["command_line"] == (
        f"fewshot episode --features '{features}' --n-shot 1 --n-episodes 5 --method unem,simpleshot --json"
    )
    assert found["versions"] == {
        "fewshot": library.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    assert all(row["seconds"] > 0 for row in found["results"])


def test_accuracies_per_episode_are_kept_when_asked_for() -> None:
    words = ("episode", *TWO, "--n-shot", 1)
    assert not any("episode_accuracy" in row for row in document(*words)["results"])
    for row in document(*words, "--keep-episodes")["results"]:
        assert len(row["episode_accuracy"]) == 20
        assert np.mean(row["episode_accuracy"]) == pytest.approx(row["accuracy"], abs=1e-6)


def test_leaks_are_counted_by_episode_too() -> None:
    words = ("episode", *FEW, "--n-shot", "1,5", "--method", "simpleshot")
    for row in document(*words)["results"]:
        assert (row["n_leaked"], row["n_leaking_episodes"], row["is_disjoint"]) == (0, 0, True)
    rows = document(*words, "--protocol", "unem-official")["results"]
    assert [row["is_disjoint"] for row in rows] == [False, False]
    assert 0 < rows[0]["n_leaking_episodes"] < rows[1]["n_leaking_episodes"] <= 20
    assert json.dumps(rows)


@pytest.mark.parametrize("method", ["em-dirichlet:inputs=cosines", "tip-adapter:n_cosines=10"])
def test_classes_are_not_numbered_anew_under_columns_of_classes(method: str) -> None:
    told = fails(2, "episode", *FEW, "--classes", "5-9", "--method", method)
    assert f"--classes numbers the classes anew, but the columns that {method} takes belong to all of them" in told


def test_nor_under_trained_weights(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_unem(library.UNEM(2, likelihood="dirichlet", inputs="cosines"), weights, {})
    told = fails(2, "episode", *FEW, "--classes", "5-9", "--weights", weights)
    assert "--classes numbers the classes anew, but the columns that unem takes belong to all of them" in told


def test_columns_are_those_of_the_classes(tmp_path: Path) -> None:
    rows = torch.eye(3).repeat(8, 1)
    words = ("--n-way", 2, "--n-query", 3, "--n-shot", 1, "--n-episodes", 9, "--method", "em-dirichlet:inputs=cosines")

    def pool(labels: torch.Tensor, names: str, texts: str) -> Path:
        source = {"extractor": {"class_names": list(texts)}}
        FeatureSet(rows, labels, tuple(names), source).save(tmp_path / "pool.safetensors")
        return tmp_path / "pool.safetensors"

    labels = torch.arange(3).repeat(8)
    for texts in ("abc", "xyz"):  # texts of the user's own words may belong to classes of any names
        found = document("episode", "--features", pool(labels, "abc", texts), *words)
        assert found["results"][0]["accuracy"] == 1
    assert fails(1, "episode", "--features", pool(labels, "abc", "acb"), *words) == (
        "Error: em-dirichlet:inputs=cosines: column 1 of the cosines was made for 'c', but class 1 of the features is "
        "'b': extract them again with class_names in the order of the classes"
    )
    assert fails(1, "episode", "--features", pool(labels.clamp(max=1), "ab", "ab"), *words) == (
        "Error: em-dirichlet:inputs=cosines: the method takes 3 columns as image-text cosines, one for each class in "
        "order, and there are 2 classes: give features whose rows and columns are of the same classes"
    )
