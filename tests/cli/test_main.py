"""The command line as a user drives it: words in, tables, documents, messages and exit codes out."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
import warnings
from io import StringIO
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from fewshot.cli import group as errors
from fewshot.cli.episodic.table import episode_report
from fewshot.cli.group import COMMANDS
from fewshot.cli.main import cli
from fewshot.cli.shared import options
from fewshot.cli.shared.options import class_positions
from fewshot.cli.shared.tables import fact_lines
from fewshot.cli.shared.words import RENAMED_OPTIONS
from fewshot_episodes import EpisodeSampler
from rich.console import Console

from fewshot.episodic.nearest_prototype import NearestPrototype
from fewshot.evaluation.episode_experiment import EpisodeExperiment
from fewshot.evaluation.episode_runs import run_episodes
from fewshot.evaluation.episodes import evaluate_episodes
from fewshot.features import FeatureSet, load_features
from fewshot.models import load_unem, save_unem
from fewshot.registry.episodic import METHODS
from tests.kits.cli import document, fails, fewshot, succeeds

FEW = ("--features", "digits", "--n-episodes", "20")
ROOT = Path(__file__).parents[2]


def save_pool(path: Path, sizes: dict[str, int], n_features: int = 7) -> Path:
    """Write Gaussian classes of the given sizes, two apart."""
    generator = np.random.default_rng(0)
    labels = np.repeat(list(sizes), list(sizes.values()))
    means = {name: generator.normal(size=n_features) * 2 for name in sizes}
    features = np.stack([means[name] + generator.normal(size=n_features) for name in labels]).astype(np.float32)
    np.savez(path, features=features, labels=labels)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights trained on the classes 0 to 4 of the digits."""
    path = tmp_path_factory.mktemp("weights") / "unem.safetensors"
    quick = ("--n-steps", 4, "--n-episodes", 6, "--n-layers", 3)
    succeeds("train", "unem", "--features", "digits", "--classes", "0-4", "--out", path, *quick)
    return path


# --- fewshot episode: what it says -----------------------------------------------------------------------------------


def test_the_document_holds_what_the_library_computes() -> None:
    found = document("episode", *FEW, "--method", "nearest-prototype", "--n-shot", "3,1", "--seed", 5)
    pool = load_features("digits")
    for row, n_shot in zip(found["results"], (3, 1), strict=True):
        expected = evaluate_episodes(
            {"x": NearestPrototype()},
            pool.features,
            EpisodeSampler(pool.labels, n_way=5, n_shot=n_shot, n_query=15),
            n_episodes=20,
            generator=torch.Generator().manual_seed(5),
        )
        mean, half_width = expected.scores["x"].interval
        assert (row["n_shot"], row["accuracy"], row["half_width"]) == (n_shot, mean, half_width)
        assert (row["episode_hash"], row["n_episodes"], row["n_queries"]) == (expected.episode_hash, 20, 20 * 75)
        assert (row["method"], row["is_transductive"], row["n_leaked"]) == ("nearest-prototype", False, 0)
        assert row["settings"] == NearestPrototype().describe()
    assert found["command"][:4] == ["fewshot", "episode", "--features", "digits"]
    assert found["torch_version"] == torch.__version__
    facts = {name: found["features"][name] for name in ("name", "n", "n_classes", "n_features")}
    assert facts == {"name": "digits", "n": 1797, "n_classes": 10, "n_features": 64}


def marked(row: dict[str, Any]) -> str:
    """Return the mark of a result that was compared with others."""
    behind = row["behind_best"]
    return "* " if behind["mean"] == 0 else "† " if behind["is_tie"] else ""


def test_the_table_shows_the_document() -> None:
    words = ("episode", *FEW, "--method", "nearest-prototype", "--method", "unem", "--n-shot", "1,5")
    table, found = succeeds(*words), document(*words)
    lines = table.splitlines()
    header = next(line for line in lines if "episodes/s" in line)
    assert header.split() == ["method", "1-shot", "5-shot", "episodes/s"]
    for name in ("nearest-prototype", "unem"):
        rows = [row for row in found["results"] if row["method"] == name]
        cells = " ".join(f"{marked(row)}{100 * row['accuracy']:.2f} ± {100 * row['half_width']:.2f}" for row in rows)
        assert any(line.split()[:-1] == [name, *cells.split()] for line in lines), table
    assert {marked(row) for row in found["results"]} == {"* ", "† ", ""}
    for row in found["results"]:
        assert f"(episodes {row['episode_hash']})" in table
        assert f"{row['method']}: {row['settings']}" in table
    gains = [f"{100 * row['mean']:+.2f} ± {100 * row['half_width']:.2f}" for row in found["differences"]]
    assert any(line.split() == ["unem", *"   ".join(gains).split()] for line in lines), table
    assert "digits: 1,797 rows, 10 classes, 64 features" in table
    assert not any(line != line.rstrip() for line in lines)


def test_the_best_of_each_column_is_bold() -> None:
    methods = ("nearest-prototype", "unem")
    results = run_episodes(load_features("digits"), EpisodeExperiment(methods=methods, n_shot=(1, 10), n_episodes=30))
    console = Console(force_terminal=True, width=200, no_color=True)
    with console.capture() as captured:
        console.print(episode_report(results.records(), results.differences(), "", ())[1])
    for n_shot in (1, 10):
        records = [record for record in results.records() if record.n_shot == n_shot]
        best = max(records, key=lambda record: record.accuracy)
        for record in records:
            bold = f"\x1b[1m{100 * record.accuracy:.2f} ± {100 * record.half_width:.2f}\x1b[0m"
            assert (bold in captured.get()) == (record is best)


def test_methods_run_on_the_same_episodes_and_differences_are_paired() -> None:
    twin = "em-gaussian:n_layers=10"
    found = document("episode", *FEW, "--method", "em-gaussian", "--method", twin, "--n-shot", 2)
    where = {"query_distribution": "balanced", "n_effective_way": 5, "n_shot": 2}
    assert found["differences"] == [{"method": twin, "against": "em-gaussian", **where, "mean": 0.0, "half_width": 0.0}]


def test_the_batch_size_changes_nothing() -> None:
    small, large = (document("episode", *FEW, "--n-shot", 1, "--batch-size", size)["results"] for size in (3, 64))
    assert small[0]["episode_hash"] == large[0]["episode_hash"]
    assert small[0]["accuracy"] == pytest.approx(large[0]["accuracy"], abs=1e-6)
    other = document("episode", *FEW, "--n-shot", 1, "--seed", 1)["results"]
    assert other[0]["episode_hash"] != small[0]["episode_hash"]


@pytest.mark.parametrize(
    ("words", "n_query", "n_query_total", "n_effective_way"),
    [
        ((), 15, None, 5),
        (("--n-query", 4, "--n-way", 3), 4, None, 3),
        (("--query-distribution", "uniform", "--n-effective-way", 2), None, 75, 2),
        (("--query-distribution", "dirichlet", "--n-query-total", 9, "--dirichlet-concentration", 0.5), None, 9, 5),
    ],
)
def test_every_setting_is_resolved(
    words: tuple[object, ...], n_query: object, n_query_total: object, n_effective_way: object
) -> None:
    settings = document("episode", *FEW, "--n-shot", 1, "--method", "simpleshot", "--device", "auto", *words)[
        "settings"
    ]
    found = (settings["n_query"], settings["n_query_total"], settings["n_effective_way"])
    assert found == (n_query, n_query_total, n_effective_way)
    assert settings["n_shot"] == [1]
    assert settings["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


def test_leaked_queries_are_reported() -> None:
    words = ("episode", *FEW, "--n-shot", 5, "--protocol", "unem-official", "--n-query", 30, "--method", "simpleshot")
    row = document(*words)["results"][0]
    assert 0 < row["n_leaked"] < row["n_queries"] == 20 * 150
    share = 100 * row["n_leaked"] / row["n_queries"]
    episodes = f"in {row['n_leaking_episodes']} episodes of 20 ({5 * row['n_leaking_episodes']:.1f} %)"
    said = f"{row['n_leaked']} of 3,000 queries ({share:.1f} %) are also support images: {episodes}"
    assert said in succeeds(*words)
    assert "support images" not in succeeds("episode", *FEW, "--n-shot", 5, "--method", "simpleshot")


def test_meta_dataset_has_one_column() -> None:
    words = ("episode", *FEW, "--protocol", "meta-dataset", "--method", "simpleshot")
    found = document(*words)
    assert [row["n_shot"] for row in found["results"]] == [None]
    assert found["settings"]["n_way"] is found["settings"]["n_shot"] is None
    assert "accuracy   episodes/s" in succeeds(*words)


def test_small_classes_are_skipped_by_name(tmp_path: Path) -> None:
    pool = save_pool(tmp_path / "birds.npz", {"crow": 20, "jay": 30, "kiwi": 4, "wren": 25})
    words = ("episode", "--features", pool, "--n-way", 3, "--n-shot", 2, "--n-query", 5, "--n-episodes", 4)
    assert "1 classes with too few items: kiwi" in succeeds(*words, "--on-small-class", "skip")
    assert document(*words, "--on-small-class", "skip")["results"][0]["skipped_classes"] == ["kiwi"]
    assert fails(1, *words).startswith(
        "Error: class 'kiwi' has 4 items, fewer than --n-shot + --n-query = 7: ask for less, or leave small classes "
        "out (--on-small-class=skip)"
    )


def test_what_a_method_noticed_is_said() -> None:
    words = ("episode", *FEW, "--method", "em-gaussian:scale=0.001,class_balance=9", "--n-shot", 1)
    (warning,) = document(*words)["results"][0]["warnings"]
    assert "one class took all queries" in warning
    assert f"  warning   em-gaussian:scale=0.001,class_balance=9, 1-shot: {warning}\n" in succeeds(*words)


@pytest.mark.filterwarnings("default")
def test_python_warnings_become_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, *, labels: str | None = None) -> Any:
        warnings.warn("these features\nare odd", stacklevel=1)
        warnings.warn("these features are odd", stacklevel=1)
        return load_features(path, labels=labels)

    monkeypatch.setattr(options, "load_features", load)
    result = fewshot("episode", *FEW, "--n-shot", 1, "--json")
    assert result.stderr == "Warning: these features are odd\n"
    assert json.loads(result.stdout)["warnings"] == ["these features are odd"]


def test_one_episode_has_no_interval() -> None:
    words = ("episode", "--features", "digits", "--n-episodes", 1, "--n-shot", 1)
    assert document(*words)["results"][0]["half_width"] is None
    assert "± ?" in succeeds(*words)


def test_the_document_goes_to_a_file_too(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    found = document("episode", *FEW, "--n-shot", 1, "--out", out)
    assert json.loads(out.read_text(encoding="utf-8")) == found
    assert os.listdir(tmp_path) == ["results.json"]


def test_labels_come_from_their_own_file(tmp_path: Path) -> None:
    pool = load_features("digits")
    np.save(tmp_path / "x.npy", pool.features.numpy())
    (tmp_path / "y.txt").write_text("".join(f"n{label}\n" for label in pool.labels.tolist()), encoding="utf-8")
    words = ("--labels", tmp_path / "y.txt", "--classes", "n3,0-1,n7", "--n-way", 4, "--n-shot", 1, "--n-episodes", 2)
    found = document("episode", "--features", tmp_path / "x.npy", *words)
    assert found["features"]["class_names"] == ["n3", "n0", "n1", "n7"]


@pytest.mark.parametrize(
    ("text", "names", "positions"),
    [
        ("2-4,0", "abcdef", [2, 3, 4, 0]),
        ("c, a", "abcdef", [2, 0]),
        ("1-2,1", ["3", "2", "1"], [2, 1]),
        ("1-2", ["1-2", "x", "y"], [0]),
    ],
)
def test_classes_are_positions_or_names(text: str, names: list[str], positions: list[int]) -> None:
    assert class_positions(text, names) == positions


def test_numbers_are_never_positions_where_they_are_names() -> None:
    with pytest.raises(click.UsageError, match="no class '0' among 3 classes, '3' to '1'"):
        class_positions("0", ["3", "2", "1"])


# --- wrong words: exit 2 ---------------------------------------------------------------------------------------------


TAXA = ["Parus major Linnaeus, 1758", "Parus ater Linnaeus, 1758", "Sitta europaea Linnaeus, 1758", "crow"]


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("Parus major Linnaeus, 1758", [0]),
        ("Parus major Linnaeus, 1758,Parus ater Linnaeus, 1758", [0, 1]),
        ('"Sitta europaea Linnaeus, 1758", crow', [2, 3]),
        ("crow,Parus ater Linnaeus,1758", [3, 1]),
        ("0,Sitta europaea Linnaeus, 1758,3", [0, 2, 3]),
    ],
)
def test_class_names_may_have_commas(text, positions):
    assert class_positions(text, TAXA) == positions


def test_classes_are_read_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeffcrow\n\nParus ater Linnaeus, 1758\n", encoding="utf-8")
    assert class_positions(f"@{path}", TAXA) == [3, 1]
    with pytest.raises(click.UsageError, match=r"^--classes: cannot read .*: No such file or directory; give a text"):
        class_positions(f"@{tmp_path / 'none.txt'}", TAXA)


def test_an_unknown_name_with_a_comma_is_named():
    said = "no class 'Parus minor Linnaeus,1758' among .*did you mean 'Parus major"
    with pytest.raises(click.UsageError, match=said):
        class_positions('"Parus minor Linnaeus,1758"', TAXA)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("epsode",), f"unknown command 'epsode': did you mean 'episode'? Known: {', '.join(COMMANDS)}"),
        (("xyz",), f"unknown command 'xyz'. Known: {', '.join(COMMANDS)}"),
        (("episode", "--n-wya", "5"), "--n-way"),
        (("episode", *FEW, "--method", "unm"), "unknown method 'unm': did you mean 'unem'? Known: "),
        (("episode", *FEW, "--method", "paddle:n_layer=3"), "did you mean 'n_layers'?"),
        (("episode", *FEW, "--method", "em-gaussian:scale=-1"), "scale must be positive, got -1.0"),
        (("episode", *FEW, "--query-distribution", "unifrom"), "did you mean 'uniform'?"),
        (("episode", *FEW, "--protocol", "disjiont"), "did you mean 'disjoint'?"),
        (("episode", *FEW, "--n-shot", "1,x"), "separated by commas, such as 1,5,10; got '1,x'"),
        (("episode", *FEW, "--n-shot", "0"), "got '0'"),
        (("episode", *FEW, "--classes", "0-10"), "--classes: no class '10' among 10 classes, '0' to '9'"),
        (("episode", *FEW, "--classes", "0-4,5x"), "no class '5x' among 10 classes, '0' to '9': did you mean '5'?"),
        (("episode", *FEW, "--method", "unem", "--method", "unem"), "--method unem is given twice"),
        (("episode", *FEW, "--method", "paddle", "--weights", "x"), "add --method unem"),
        (("episode", *FEW, "--dirichlet-concentration", "1"), "needs --query-distribution dirichlet"),
        (
            ("episode", *FEW, "--protocol", "meta-dataset", "--n-shot", "1", "--n-way", "5"),
            "--protocol meta-dataset draws ways, shots and queries as the class sizes: leave out --n-way, --n-shot",
        ),
        (("train", "unm", "--features", "digits", "--out", "x"), "'unm': did you mean 'unem'? Known: unem"),
        (("train", "unem", "--features", "digits", "--out", "x", "--inputs", "cosines"), "--inputs needs --likelihood"),
        (("train", "unem", "--features", "digits", "--out", "x", "--effective-ways", "mx"), "or mix; got 'mx'"),
    ],
)  # fmt: skip
def test_wrong_words_are_answered_with_the_right_ones(words: tuple[str, ...], said: str) -> None:
    assert said in fails(2, *words)


# --- bad data: exit 1, one line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--features", "nothing.npz"), "Error: no such file: nothing.npz"),
        (("--features", "digit"), "did you mean 'digits'?"),
        ((*FEW, "--n-query", "5", "--n-query-total", "9"), "takes --n-query (queries per class) and not --n"),
        ((*FEW, "--n-way", "11"), "Error: --n-way = 11 exceeds the 10 classes of the pool"),
        ((*FEW, "--n-shot", "1,170"), "--n-shot + --n-query = 185"),
        ((*FEW, "--out", "nowhere/x.json"), "Error: no such folder: nowhere: create it before writing x.json"),
        ((*FEW, "--out", "."), "Error: . is a folder: name a file to write"),
        ((*FEW, "--weights", "nothing.safetensors"), "Error: no such file: nothing.safetensors"),
    ],
)
def test_bad_data_is_one_line(words: tuple[str, ...], said: str) -> None:
    line = fails(1, "episode", *words)
    assert line.startswith("Error: ")
    assert said in line


def test_features_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", features=np.array([[1.0], [np.nan]]), labels=[0, 1])
    assert "bad.npz: features has 1 NaN and 0 infinite entries" in fails(
        1, "episode", "--features", tmp_path / "bad.npz"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_one_line() -> None:
    said = "Error: --device cuda: torch finds no GPU on this machine: use --device cpu"
    assert fails(1, "episode", *FEW, "--device", "cuda") == said


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, *, labels: str | None = None) -> Any:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(options, "load_features", load)
    line = fails(1, "episode", *FEW)
    assert line == "Error: out of memory: lower --batch-size or --n-episodes (CUDA out of memory. Tried to allocate)"


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, *, labels: str | None = None) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(options, "load_features", load)
    assert isinstance(fewshot("episode", *FEW).exception, RuntimeError)


# --- fewshot train, and its weights ----------------------------------------------------------------------------------


def test_trained_weights_are_used_on_other_classes(trained: Path) -> None:
    words = ("episode", *FEW, "--n-shot", 1, "--method", "unem", "--classes", "5-9")
    with_weights, without = document(*words, "--weights", trained), document(*words)
    assert "(unem.safetensors)" in with_weights["results"][0]["settings"]
    assert with_weights["results"][0]["accuracy"] != without["results"][0]["accuracy"]
    assert with_weights["weights"]["training"]["class_names"] == ["0", "1", "2", "3", "4"]
    assert "unem.safetensors: trained on 5 classes\n" in succeeds(*words, "--weights", trained)


def test_simpleshot_subtracts_the_mean_of_base_features(tmp_path: Path) -> None:
    digits = load_features("digits")
    shifted = tmp_path / "shifted.safetensors"
    FeatureSet(digits.features + 5, digits.labels, digits.class_names).save(shifted)
    words = ("--n-shot", 1, "--n-episodes", 50, "--method", "simpleshot")
    here = document("episode", "--features", "digits", *words, "--base-features", "digits")["results"][0]
    there = document("episode", "--features", shifted, *words, "--base-features", shifted)["results"][0]
    uncentered = document("episode", "--features", shifted, *words)["results"][0]
    assert here["settings"] == "centered on the base mean, L2-normalised features"
    assert there["accuracy"] == pytest.approx(here["accuracy"], abs=1e-3)
    assert uncentered["accuracy"] != pytest.approx(here["accuracy"], abs=1e-3)


def test_base_features_must_fit_and_be_of_use(tmp_path: Path) -> None:
    pool = save_pool(tmp_path / "seven.npz", {"a": 9, "b": 9})
    words = ("episode", *FEW, "--base-features", pool)
    assert "add --method simpleshot" in fails(2, *words)
    assert fails(1, *words, "--method", "simpleshot") == (
        "Error: --base-features has 7 features a row, the features to evaluate 64: take both from one extractor"
    )


def test_weights_are_refused_on_the_classes_they_were_trained_on(trained: Path) -> None:
    words = ("episode", *FEW, "--n-shot", 1, "--classes", "3-9", "--weights", trained)
    assert fails(1, *words) == (
        f"Error: {trained} was trained on 2 of these 7 classes, such as '3': take other classes, or, if the names mean "
        "other classes (as numbers often do), add --allow-seen-classes"
    )
    assert document(*words, "--allow-seen-classes")["weights"]["seen_classes"] == ["3", "4"]
    assert "2 evaluated classes carry names of these (--allow-seen-classes)" in succeeds(*words, "--allow-seen-classes")


def test_weights_without_a_record_say_so(trained: Path, tmp_path: Path) -> None:
    save_unem(load_unem(trained)[0], tmp_path / "bare.safetensors")
    table = succeeds("episode", *FEW, "--n-shot", 1, "--weights", tmp_path / "bare.safetensors")
    assert "the classes they were trained on are not recorded" in table


def test_training_says_what_it_learned_and_how_to_use_it(tmp_path: Path) -> None:
    out = tmp_path / "a b.safetensors"
    quick = ("--features", "digits", "--classes", "0-4", "--test-classes", "5-9", "--n-steps", 3, "--n-layers", 4)
    words = ("train", "unem", *quick, "--n-episodes", 7, "--out", out)
    found = document(*words)
    model, training = load_unem(out)
    assert found["schedule"]["temperature"] == model.temperature.tolist()
    assert len(found["trace"]["loss"]) == 3
    assert found["trace"]["loss"][-1] < found["trace"]["loss"][0]
    assert training == found["training"]
    assert (training["effective_ways"], training["n_shot"], training["n_way"]) == ([2, 5], [5], 5)
    assert training["source"] == dict(load_features("digits").source)
    assert "75 queries in all, uniform over the pooled items of 2 of the ways" in found["protocol"]
    report = succeeds(*words)
    assert f"use it    fewshot episode --features digits --classes 5-9 --method unem --weights '{out}'" in report
    assert f"{found['trace']['loss'][0]:.4f} at first, {found['trace']['loss'][-1]:.4f} at last" in report
    last = next(line.split() for line in report.splitlines() if line.split()[:1] == ["4"])
    assert last == ["4", f"{model.class_balance[0, 3]:.3f}", f"{model.temperature[0, 3]:.3f}"]


def test_training_refuses_classes_numbered_anew_under_their_columns(tmp_path: Path) -> None:
    words = ("train", "unem", "--features", "digits", "--likelihood", "dirichlet", "--inputs", "cosines")
    out = tmp_path / "w.safetensors"
    told = fails(2, *words, "--classes", "0-4", "--out", out)
    assert "--classes numbers the classes anew, but the columns that --inputs cosines takes belong to all" in told
    assert "takes 64 columns as image-text cosines, one for each class in order, and there are 10" in fails(
        1, *words, "--out", out
    )
    assert not out.exists()


def test_facts_are_wrapped_under_their_words() -> None:
    console = Console(width=24, file=StringIO())
    console.print(*fact_lines([("method", "one two three four"), ("method", "five"), ("a", "[b]" + 13 * "c")]))
    assert isinstance(console.file, StringIO)
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [
        "  method    one two",
        "            three four",
        "            five",
        "  a         [b]ccccccccc",
        "            cccc",
    ]


def test_training_spreads_the_episodes_and_lowers_what_small_classes_cannot_give(tmp_path: Path) -> None:
    pool = save_pool(tmp_path / "birds.npz", {"crow": 9, "jay": 12, "kiwi": 10, "wren": 40})
    out = tmp_path / "w.safetensors"
    words = ("train", "unem", "--features", pool, "--n-steps", 1, "--n-episodes", 5, "--out", out)
    found = document(*words, "--n-shot", "2,5")
    assert found["settings"]["effective_ways"] == [2, 4]
    totals = [words.split(" queries in all")[0].split()[-1] for words in found["protocol"].split("; ")]
    assert totals == [str(9 + 10 - 4), str(9 + 10 + 12 + 40 - 8), str(9 + 10 - 10), str(9 + 10 + 12 + 40 - 20)]
    assert load_unem(out)[0].shots == (2, 5)
    assert load_unem(out)[0].origin.endswith("on 10 episodes (w.safetensors)")
    assert "fewer than --n-query-total = 75" in fails(1, *words, "--n-query-total", 75)
    assert "--effective-ways = 5 exceeds --n-way = 4" in fails(1, *words, "--effective-ways", 5)
    told = fails(1, *words, "--n-shot", 9)
    assert "class 'crow' has 9 items" in told
    assert told.endswith("leave small classes out (--on-small-class=skip)")
    assert "cannot cover 3 numbers" in fails(1, *words, "--n-episodes", 2, "--effective-ways", "1,2,4")


@pytest.mark.parametrize("words", [("--test-classes", "4-9"), ("--test-features", "digits", "--test-classes", "4")])
def test_training_on_test_classes_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    start = ("train", "unem", "--features", "digits", "--classes", "0-4", "--out", tmp_path / "w.safetensors")
    assert "Error: 1 of the 5 training classes are test classes too, such as '4'" in fails(1, *start, *words)
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    line = fails(1, "train", "unem", "--features", "no such file.npz", "--out", tmp_path / "gone" / "w.safetensors")
    assert line == f"Error: no such folder: {tmp_path / 'gone'}: create it before writing w.safetensors"


def test_a_loss_that_is_no_number_writes_nothing(tmp_path: Path) -> None:
    words = ("--n-steps", 4, "--n-episodes", 4, "--learning-rate", "1e20", "--effective-ways", 5)
    line = fails(1, "train", "unem", "--features", "digits", "--out", tmp_path / "w.safetensors", *words)
    assert "lower --learning-rate" in line
    assert os.listdir(tmp_path) == []


# --- fewshot methods, help, version ----------------------------------------------------------------------------------


def test_every_method_is_listed() -> None:
    rows = {row["name"]: row for row in document("methods")["methods"]}
    assert list(rows) == list(METHODS)
    assert rows["em-gaussian"]["options"]["n_layers"] == 10
    assert rows["nearest-prototype"]["is_transductive"] is False
    table = succeeds("methods")
    for name, entry in METHODS.items():
        assert any(line.split()[:1] == [name] and entry.summary in line for line in table.splitlines())
    assert "is_relative=true" in table


@pytest.mark.parametrize("command", [(), ("train", "unem"), *((name,) for name in COMMANDS)])
def test_help_is_the_same_at_any_width_and_ends_with_an_example(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    helps = []
    for width in ("60", "300"):  # not by CliRunner, which sets the width itself
        monkeypatch.setenv("COLUMNS", width)
        cli.main([*command, "--help"], prog_name="fewshot", standalone_mode=False)
        helps.append(capsys.readouterr().out)
    narrow, wide = helps
    assert narrow == wide
    assert "\n  Example:\n    fewshot " in wide
    assert max(len(line) for line in wide.splitlines()) <= 100


@pytest.mark.parametrize("command", [*COMMANDS, "train unem"])
def test_every_option_has_help(command: str) -> None:
    context, found = click.Context(cli), cli
    for name in command.split():
        found = found.get_command(context, name)
    assert [option.name for option in found.params if option.param_type_name == "option" and not option.help] == []  # type: ignore[attr-defined]


def test_version() -> None:
    import fewshot as library

    assert succeeds("--version") == f"fewshot {library.__version__}\n"


# --- deprecated options ----------------------------------------------------------------------------------------------


def test_a_deprecated_option_works_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "RENAMED_OPTIONS", {"episode": {"--ways": "--n-way", "--shots": "--n-shot"}})
    words = ("--features", "digits", "--method", "simpleshot", "--n-episodes", "3", "--json")
    old = fewshot("episode", *words, "--ways", "3", "--shots=2")
    assert old.stderr.splitlines() == [
        "Warning: --ways is deprecated and will be removed in fewshot 0.3: use --n-way",
        "Warning: --shots is deprecated and will be removed in fewshot 0.3: use --n-shot",
    ]
    new = fewshot("episode", *words, "--n-way", "3", "--n-shot=2")
    assert json.loads(old.stdout)["results"][0]["accuracy"] == json.loads(new.stdout)["results"][0]["accuracy"]
    assert json.loads(old.stdout)["command"][-3:] == ["--ways", "3", "--shots=2"]


def test_deprecated_options_stand_for_options_that_are_there() -> None:
    for name, renamed in RENAMED_OPTIONS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(renamed.values()) <= known
        assert not set(renamed) & known


# --- interrupts and closed pipes, in real processes ------------------------------------------------------------------


def test_an_interrupt_before_the_work_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(errors, "import_module", interrupted)
    assert fails(130, "episode", *FEW) == "Interrupted"


def interrupted_run(*words: str, wait_for: bytes, cwd: Path) -> tuple[int, str, str]:
    """Send Ctrl-C once the progress bar on a terminal shows ``wait_for``; return exit code, stdout and stderr."""
    screen, terminal = pty.openpty()
    # What a shell starts in the background, perhaps these tests, ignores Ctrl-C: the child must not inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "fewshot", *words],
        stdout=subprocess.PIPE,
        stderr=terminal,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200"},
    )
    signal.signal(signal.SIGINT, handler)
    os.close(terminal)
    seen, is_sent, deadline = b"", False, time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            part = os.read(screen, 4096)
        except OSError:  # the other side has closed
            break
        if not part:
            break
        seen += part
        if not is_sent and wait_for in seen:
            process.send_signal(signal.SIGINT)
            is_sent = True
    stdout, _ = process.communicate(timeout=60)
    os.close(screen)
    return process.returncode, stdout.decode(), seen.decode()


def test_an_interrupted_evaluation_says_what_was_done(tmp_path: Path) -> None:
    words = ("episode", "--features", "digits", "--n-episodes", "9000000", "--n-shot", "1,5", "--out", "o.json")
    code, stdout, stderr = interrupted_run(*words, "--method", "simpleshot", wait_for=b"simpleshot", cwd=tmp_path)
    assert (code, stdout) == (130, "")
    last = stderr.strip().splitlines()[-1]
    assert "Interrupted after " in last
    assert " of 9,000,000 episodes (1-shot): simpleshot " in last
    assert last.endswith(" %")
    assert "Traceback" not in stderr
    assert os.listdir(tmp_path) == []


def test_an_interrupted_training_writes_nothing(tmp_path: Path) -> None:
    words = (
        "train",
        "unem",
        "--features",
        "digits",
        "--n-episodes",
        "8",
        "--n-steps",
        "900000",
        "--out",
        "w.safetensors",
    )
    code, stdout, stderr = interrupted_run(*words, wait_for=b"training accuracy", cwd=tmp_path)
    assert (code, stdout) == (130, "")
    last = stderr.strip().splitlines()[-1]
    assert " of 900,000 steps: loss " in last
    assert last.endswith("; nothing was written to w.safetensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_pipe_that_nobody_reads_is_quiet(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    start = [sys.executable, "-m", "fewshot", "episode", *FEW, "--n-shot", "1", *words]
    with os.fdopen(writer, "w") as pipe:
        process = subprocess.run(start, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (process.returncode, process.stderr) == (1, b"")


def test_a_closed_stdout_is_quiet() -> None:
    start = f"{sys.executable} -m fewshot episode {' '.join(FEW)} --n-shot 1 >&-"
    process = subprocess.run(start, shell=True, cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert (process.returncode, process.stderr) == (0, b"")


def test_nothing_but_the_document_is_on_stdout_and_nothing_on_stderr() -> None:
    start = [sys.executable, "-m", "fewshot", "episode", *FEW, "--n-shot", "1", "--json"]
    process = subprocess.run(start, cwd=ROOT, capture_output=True, check=True)
    assert json.loads(process.stdout)["command"] == ["fewshot", *start[3:]]
    assert process.stderr == b""
