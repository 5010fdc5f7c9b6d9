"""``fewshot probe`` as a user drives it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from fewshot.cli.main import cli

from fewshot.checks import SettingError
from fewshot.evaluation.probes import ProbeExperiment, run_probes
from fewshot.features import FeatureSet, load_features
from fewshot.metrics.classification import mean_class_accuracy
from fewshot.probing import (
    LinearSVM,
    LogisticRegression,
    neighbour_scores,
    parse_steps,
    retrieval_scores,
    stratified_split,
)
from tests.kits import cli as cli_kit
from tests.kits.drawing import refuses

SIZES = {"crow": 12, "jay": 9, "wren": 15}


def probe(*words: object) -> Result:
    return CliRunner().invoke(cli, ["probe", *map(str, words)], prog_name="fewshot")


succeeds, document = partial(cli_kit.succeeds, "probe"), partial(cli_kit.document, "probe")


def fails(code: int, *words: object) -> str:
    return cli_kit.fails(code, "probe", *words)


def save_pool(path: Path, sizes: dict[str, int] = SIZES, *, seed: int = 0, n_features: int = 7, **source: Any) -> Path:
    """Write Gaussian classes whose means belong to their names."""
    generator = np.random.default_rng(seed)
    names = sorted(sizes)
    means = {name: np.random.default_rng(list(name.encode())).normal(size=n_features) for name in names}
    labels = np.repeat(names, [sizes[name] for name in names])[generator.permutation(sum(sizes.values()))]
    features = np.stack([means[name] + 0.8 * generator.normal(size=n_features) for name in labels])
    FeatureSet.from_arrays(features.astype(np.float32), labels.tolist(), source=source).save(path)
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("train") / "train.safetensors")


@pytest.fixture(scope="module")
def test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("test") / "test.safetensors", {"jay": 8, "crow": 6, "wren": 11}, seed=1)


def halves(path: Path | str, fraction: float = 0.5, seed: int = 0) -> tuple[FeatureSet, FeatureSet]:
    pool = load_features(path)
    held_out = stratified_split(pool.labels, fraction, generator=torch.Generator().manual_seed(seed))
    return pool.select_rows(~held_out), pool.select_rows(held_out)


def rates(scores: torch.Tensor, labels: torch.Tensor, n_classes: int) -> tuple[float, float]:
    answers = scores.argmax(-1)
    return (answers == labels).double().mean().item(), mean_class_accuracy(answers, labels, n_classes).item()


def test_the_document_holds_what_the_library_computes(train: Path, test: Path) -> None:
    methods = [word for name in ("svm", "logistic", "knn", "retrieval") for word in ("--method", name)]
    words = ("--features", train, "--test", test, *methods, "--k", "3,5", "--post", "l2,pca:4,l2", "--seed", 3)
    found = document(*words, "--c", 2, "--temperature", 0.1)
    a, b = load_features(train), load_features(test)
    steps = parse_steps("l2,pca:4,l2").fit(a.features)
    x, q = steps(a.features), steps(b.features)
    svm, logistic, knn_3, knn_5, retrieval = found["results"]
    expected = rates(LinearSVM(c=2).fit(x, a.labels)(q), b.labels, 3)
    assert (svm["accuracy"], svm["mean_class_accuracy"], svm["c"]) == (*expected, 2)
    assert svm["settings"] == "linear SVM, squared-hinge loss, one-vs-rest, C = 2"
    fitted, c = LogisticRegression().fit(x, a.labels, generator=torch.Generator().manual_seed(3))
    expected = rates(fitted(q), b.labels, 3)
    assert (logistic["accuracy"], logistic["mean_class_accuracy"], logistic["c"]) == (*expected, c)
    assert logistic["settings"] == (
        f"multinomial logistic regression, C chosen of 45 values on 10 % of the training rows: C = {c:.3g}"
    )
    for row, scores, k in zip(
        (knn_3, knn_5), neighbour_scores(q, x, a.labels, (3, 5), temperature=0.1), (3, 5), strict=True
    ):
        assert (row["method"], row["k"]) == ("knn", k)
        assert (row["accuracy"], row["mean_class_accuracy"]) == rates(scores, b.labels, 3)
    means = retrieval_scores(q, b.labels, q, b.labels, is_leave_one_out=True).means()
    assert {name: retrieval[name] for name in means} == means
    assert found["command"][:4] == ["fewshot", "probe", "--features", str(train)]
    assert (found["features"]["n"], found["test_features"]["n"]) == (36, 25)
    assert found["post"] == "L2-normalised, PCA to 4, whitened, L2-normalised"
    assert found["protocol"] == f"trained on {train}, tested on {test}"
    assert found["settings"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found["warnings"] == []


def test_the_defaults_are_a_machine_on_normalised_features_and_half_held_out(train: Path) -> None:
    found = document("--features", train)
    a, b = halves(train)
    steps = parse_steps("l2").fit(a.features)
    expected = rates(LinearSVM().fit(steps(a.features), a.labels)(steps(b.features)), b.labels, 3)
    (row,) = found["results"]
    assert (row["method"], row["accuracy"], row["mean_class_accuracy"]) == ("svm", *expected)
    assert found["protocol"] == "50 % of the rows of each class held out at random (seed 0)"
    assert (found["features"]["n"], found["test_features"]["n"]) == (18, 18)


def test_the_python_call_is_the_command(train: Path, test: Path) -> None:
    a, b = load_features(train), load_features(test)
    own = [run.to_dict() for run in run_probes(a).runs]
    assert own == document("--features", train)["results"]
    methods = ("svm", "logistic", "knn", "retrieval")
    experiment = ProbeExperiment(methods=methods, k=(3, 5), seed=2)
    words = [word for name in methods for word in ("--method", name)]
    found = document("--features", train, "--test", test, *words, "--k", "3,5", "--seed", 2)
    comparison = run_probes(a, experiment, test=b)
    assert [run.to_dict() for run in comparison.runs] == found["results"]
    assert comparison.protocol(str(train), str(test)) == found["protocol"]


def test_settings_that_do_not_fit_are_refused() -> None:
    with refuses(SettingError, "methods svm is given twice"):
        ProbeExperiment(methods=("svm", "svm"))
    with refuses(ValueError, "unknown retrieval mode 'galery': did you mean 'gallery'? Known: gallery, leave-one-out"):
        ProbeExperiment(retrieval_mode="galery")


def test_the_share_and_the_seed_decide_what_is_held_out(train: Path) -> None:
    words = ("--features", train, "--method", "knn", "--k", 1, "--test-fraction", 0.25, "--seed", 4)
    found = document(*words)
    a, b = halves(train, 0.25, 4)
    expected = rates(neighbour_scores(b.features, a.features, a.labels, (1,))[0], b.labels, 3)
    assert found["results"][0]["accuracy"] == expected[0]
    assert found["protocol"] == "25 % of the rows of each class held out at random (seed 4)"
    assert (found["features"]["n"], found["test_features"]["n"]) == (27, 9)


def test_the_table_shows_the_document(train: Path, test: Path) -> None:
    words = ("--features", train, "--test", test, "--method", "knn", "--method", "retrieval", "--k", "3,5")
    table, found = succeeds(*words), document(*words)
    lines = table.splitlines()
    header = ["method", "accuracy", "mean", "per", "class", "Rank-1", "Rank-5", "mAP", "recall@4"]
    assert any(line.split() == header for line in lines)
    for row in found["results"][:2]:
        cells = ["knn,", "k", "=", str(row["k"]), *(f"{100 * row[x]:.2f}" for x in ("accuracy", "mean_class_accuracy"))]
        assert any(line.split() == cells for line in lines), table
    names = ("rank_1", "rank_5", "mean_average_precision", "recall_at_4")
    cells = ["retrieval", *(f"{100 * found['results'][2][name]:.2f}" for name in names)]
    assert any(line.split() == cells for line in lines), table
    assert f"  protocol  trained on {train}, tested on {test}\n" in table
    assert f"  training  {train}: 36 rows, 3 classes, 7 features\n" in table
    assert f"  test      {test}: 25 rows, 3 classes, 7 features\n" in table
    assert "  features  L2-normalised (what is learned, from the training rows)\n" in table
    assert table.count("knn: weighted vote of the nearest training rows in cosine, temperature 0.07\n") == 1
    assert "retrieval: each of 25 test rows looked for among the other 24 test rows, by Euclidean distance" in table
    assert not any(line != line.rstrip() for line in lines)


def test_columns_that_no_method_fills_are_left_out(train: Path) -> None:
    assert "Rank-1" not in succeeds("--features", train)
    assert "accuracy" not in succeeds("--features", train, "--method", "retrieval")


def test_retrieval_among_the_training_rows(train: Path, test: Path) -> None:
    words = ("--features", train, "--test", test, "--method", "retrieval", "--retrieval-mode", "gallery")
    (row,) = document(*words, "--post", "none")["results"]
    a, b = load_features(train), load_features(test)
    expected = retrieval_scores(b.features, b.labels, a.features, a.labels).means()
    assert {name: row[name] for name in expected} == expected
    assert row["settings"] == "each of 25 test rows looked for among 36 training rows, by Euclidean distance"


def test_the_machines_options_reach_it(train: Path, test: Path) -> None:
    words = ("--features", train, "--test", test, "--loss", "hinge", "--multi-class", "one-vs-one", "--post", "none")
    (row,) = document(*words)["results"]
    a, b = load_features(train), load_features(test)
    machine = LinearSVM(loss="hinge", multi_class="one-vs-one")
    assert row["settings"] == machine.describe()
    assert row["accuracy"] == rates(machine.fit(a.features, a.labels)(b.features), b.labels, 3)[0]


def test_c_of_logistic_can_be_fixed(train: Path) -> None:
    (row,) = document("--features", train, "--method", "logistic", "--logistic-c", 0.5)["results"]
    assert (row["c"], row["settings"]) == (0.5, "multinomial logistic regression, C = 0.5")


def test_classes_are_matched_by_name(train: Path, tmp_path: Path) -> None:
    other = save_pool(tmp_path / "other.safetensors", {"wren": 9, "jay": 4}, seed=1)
    result = probe("--features", train, "--test", other, "--method", "knn", "--k", 3, "--json")
    a, b = load_features(train), load_features(other)
    expected = rates(neighbour_scores(b.features, a.features, a.labels, (3,))[0], b.labels + 1, 3)
    (row,) = json.loads(result.stdout)["results"]
    assert (row["accuracy"], row["mean_class_accuracy"]) == expected
    said = "1 of the 3 training classes have no test rows, such as 'crow': they do not count in the mean per class"
    assert result.stderr == f"Warning: {said}\n"
    assert json.loads(result.stdout)["warnings"] == [said]


def test_chosen_classes_are_chosen_in_the_test_rows_too(train: Path, tmp_path: Path) -> None:
    other = save_pool(tmp_path / "other.safetensors", {"wren": 9, "owl": 4, "jay": 5}, seed=1)
    found = document("--features", train, "--test", other, "--classes", "jay,wren")
    assert found["features"]["class_names"] == found["test_features"]["class_names"] == ["jay", "wren"]
    assert fails(1, "--features", train, "--test", other, "--classes", "crow") == (
        f"Error: {other} has rows of none of the classes chosen with --classes"
    )


def test_classes_of_the_test_rows_only_are_refused_but_for_leave_one_out(train: Path, tmp_path: Path) -> None:
    other = save_pool(tmp_path / "other.safetensors", {"wren": 9, "owl": 4}, seed=1)
    words = ("--features", train, "--test", other)
    message = (
        "Error: 1 of the 2 classes of --test are not among the 3 training classes, such as 'owl': choose shared "
        "ones with --classes"
    )
    assert fails(1, *words) == message
    assert fails(1, *words, "--method", "retrieval", "--retrieval-mode", "gallery") == message
    (row,) = document(*words, "--method", "retrieval")["results"]
    b = load_features(other)
    x = torch.nn.functional.normalize(b.features)
    assert row["rank_1"] == retrieval_scores(x, b.labels, x, b.labels, is_leave_one_out=True).means()["rank_1"]


def test_rows_with_nothing_to_find_are_counted(train: Path, tmp_path: Path) -> None:
    other = save_pool(tmp_path / "other.safetensors", {"wren": 9, "jay": 1, "crow": 1}, seed=1)
    result = probe("--features", train, "--test", other, "--method", "retrieval", "--json")
    said = "2 test rows have no other row of their class to find: they do not count in retrieval"
    assert result.stderr == f"Warning: {said}\n"
    assert json.loads(result.stdout)["results"][0]["n_unanswerable"] == 2


@pytest.mark.filterwarnings("default")
def test_too_many_neighbours_are_said(train: Path) -> None:
    result = probe("--features", train, "--method", "knn", "--k", "5,40")
    assert result.stderr == "Warning: k = 40 neighbours were asked for, but there are 18: all of them vote\n"


def test_labels_of_the_test_rows_come_from_their_own_file(train: Path, tmp_path: Path) -> None:
    b = load_features(save_pool(tmp_path / "b.safetensors", seed=1))
    np.save(tmp_path / "x.npy", b.features.numpy())
    (tmp_path / "y.txt").write_text("".join(f"{b.class_names[i]}\n" for i in b.labels.tolist()), encoding="utf-8")
    words = ("--features", train, "--test", tmp_path / "x.npy", "--test-labels", tmp_path / "y.txt")
    assert document(*words)["results"] == document("--features", train, "--test", tmp_path / "b.safetensors")["results"]


def test_features_of_another_make_are_refused(tmp_path: Path) -> None:
    old, new = (
        save_pool(
            tmp_path / f"{name}.safetensors",
            seed=seed,
            extractor_key=f"key of {name}",
            extractor={"name": "resnet50", "size": 200 + seed},
        )
        for seed, name in enumerate(("old", "new"))
    )
    line = fails(1, "--features", old, "--test", new)
    assert line.startswith(f"Error: {old} and {new} come from different extractors (size is 200 and 201)")
    wide = save_pool(tmp_path / "wide.safetensors", n_features=9)
    assert fails(1, "--features", old, "--test", wide) == (
        f"Error: {wide} has 9 features a row, {old} 7: take both from one extractor"
    )


FEW = ("--features", "digits")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "svn"), "unknown method 'svn': did you mean 'svm'? Known: knn, logistic, retrieval, svm"),
        (("--method", "knn", "--method", "knn"), "--method knn is given twice"),
        (("--post", "l2,pca:x"), "pca needs a whole number of components, such as pca:500, got 'x'"),
        (("--k", "10"), "--k needs --method knn"),
        (("--temperature", "0.1"), "--temperature needs --method knn"),
        (("--method", "knn", "--c", "2"), "--c needs --method svm"),
        (("--method", "knn", "--loss", "hinge"), "--loss needs --method svm"),
        (("--method", "knn", "--multi-class", "one-vs-one"), "--multi-class needs --method svm"),
        (("--logistic-c", "2"), "--logistic-c needs --method logistic"),
        (("--retrieval-mode", "gallery"), "--retrieval-mode needs --method retrieval"),
        (("--test-labels", "y.txt"), "--test-labels needs --test"),
        (
            ("--test", "x.npz", "--test-fraction", "0.3"),
            "--test-fraction holds out test rows: leave it out, --test names them",
        ),
        (("--test", "digits"), "--test names the training features: leave it out to hold out a part of them"),
        (("--test-fraction", "1"), "1.0 is not in the range 0<x<1."),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(words: tuple[str, ...], said: str) -> None:
    assert fails(2, *FEW, *words).endswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--test", "nothing.npz"), "Error: no such file: nothing.npz"),
        (
            ("--post", "pca:65"),
            "Error: PCA to 65 components needs more rows than that and as many features, got 899 x 64: "
            "ask for at most 64",
        ),
        (("--classes", "3"), "Error: labels must hold at least two classes, got 1"),
    ],
)
def test_bad_data_is_one_line(words: tuple[str, ...], said: str) -> None:
    assert fails(1, *FEW, *words) == said
