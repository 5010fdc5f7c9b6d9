"""`learn`, `predict` and `forget` as library calls: the numbers of the commands, and what they refuse."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot.checks import SettingError
from fewshot.features import FeatureSet, load_features
from fewshot.incremental import NearestClassMean
from fewshot.incremental_models import (
    FoundClasses,
    LearnSettings,
    PredictSettings,
    forget,
    found_pool,
    learn,
    predict,
)
from fewshot.models import load_classifier, save_classifier
from tests.kits.cli import document, succeeds


def digits(classes: range, rows: slice) -> FeatureSet:
    pool = load_features("digits").select_classes(classes)
    return pool.select_rows(list(range(len(pool.labels)))[rows])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Rows of a base session, of new classes, and to ask about."""
    pools = {
        "base": digits(range(6), slice(0, None, 5)),
        "shots": digits(range(4, 8), slice(1, None, 80)),
        "queries": digits(range(9), slice(2, None, 7)),
    }
    for name, pool in pools.items():
        pool.save(tmp_path / f"{name}.safetensors")
    return {name: tmp_path / f"{name}.safetensors" for name in pools}


def same_file(one: Path, other: Path) -> bool:
    """Equal contents give equal bytes, whatever wrote them."""
    return one.read_bytes() == other.read_bytes()


def test_learn_and_the_command_write_the_same_file(files: dict[str, Path], tmp_path: Path) -> None:
    mine, its = tmp_path / "mine.safetensors", tmp_path / "its.safetensors"
    for name in ("base", "shots"):
        learned = learn(mine, load_features(files[name]))
        told = document("learn", "--model", its, "--features", files[name])
        assert same_file(mine, its), name
        assert told["as"] == ("base" if learned.is_base else "new")
        assert (told["n_rows"], told["method"]) == (learned.n_rows, repr(learned.classifier))
        assert (told["new_classes"], told["more_shots"]) == (learned.new_classes, learned.more_shots)
    assert list(learned.new_classes) == ["6", "7"]
    assert list(learned.more_shots) == ["4", "5"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (LearnSettings(method="ncm:metric=euclidean"), ("--method", "ncm:metric=euclidean")),
        (LearnSettings(method="lda", is_base=False), ("--method", "lda", "--new")),
    ],
)
def test_settings_are_the_options(
    settings: LearnSettings, words: tuple[str, ...], files: dict[str, Path], tmp_path: Path
) -> None:
    learned = learn(tmp_path / "mine.safetensors", load_features(files["base"]), settings)
    told = document("learn", "--model", tmp_path / "its.safetensors", "--features", files["base"], *words)
    assert same_file(tmp_path / "mine.safetensors", tmp_path / "its.safetensors")
    assert told["n_base_classes"] == len(learned.classifier.base_classes_) == (6 if settings.is_base is None else 0)


@pytest.mark.parametrize("reject", [None, 0.2])
def test_predict_and_the_command_give_the_same_numbers(
    reject: float | None, files: dict[str, Path], tmp_path: Path
) -> None:
    model, out = tmp_path / "m.safetensors", tmp_path / "p.csv"
    learn(model, load_features(files["base"]))
    found = predict(model, load_features(files["queries"]), PredictSettings(reject=reject))
    words = () if reject is None else ("--reject", reject)
    told = document("predict", "--model", model, "--features", files["queries"], "--out", out, *words)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == list(found.names)
    for name, values in (("probability", found.probability), ("score", found.score)):
        assert [row[name] for row in rows] == [f"{value:.6g}" for value in values.tolist()]
    assert told["accuracy"] == found.of_known_classes.share
    assert told["n_of_known_classes"] == found.of_known_classes.n_rows
    assert told["n_of_other_classes"] == found.of_other_classes.n_rows > 0
    assert told["unknown_found"] == (None if reject is None else found.of_other_classes.share)
    assert ("unknown" in found.names) is (reject is not None)


def test_forget_and_the_command_write_the_same_file(files: dict[str, Path], tmp_path: Path) -> None:
    mine, its = tmp_path / "mine.safetensors", tmp_path / "its.safetensors"
    learn(mine, load_features(files["base"]))
    its.write_bytes(mine.read_bytes())
    left = forget(mine, ["3", "0"])
    assert document("forget", "--model", its, "--class", "3", "--class", "0")["n_classes"] == len(left.classes_) == 4
    assert same_file(mine, its)


def test_found_classes_and_the_command_learn_the_same_rows(tmp_path: Path) -> None:
    found, mine, its = tmp_path / "found", tmp_path / "mine.safetensors", tmp_path / "its.safetensors"
    words = ("--n-known", 5, "--method", "kmeans", "--n-classes", 10, "--out", found)
    succeeds("discover", "--features", "digits", *words)
    classes = FoundClasses(folder=f"{found}", names={"new-01": "tit", "new-02": "wren"})
    learn(mine, found_pool(classes))
    names = ("--name", "new-01=tit", "--name", "new-02=wren")
    assert document("learn", "--model", its, "--from-discovery", found, *names)["features"] == classes.file()
    assert same_file(mine, its)


def test_each_row_is_scored_once(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(tmp_path / "m.safetensors", load_features(files["base"]), LearnSettings(method="ncm"))
    n_scored, scores = 0, NearestClassMean._scores

    def counted(model: NearestClassMean, features: torch.Tensor) -> torch.Tensor:
        nonlocal n_scored
        n_scored += len(features)
        return scores(model, features)

    monkeypatch.setattr(NearestClassMean, "_scores", counted)
    queries = load_features(files["queries"])
    predict(tmp_path / "m.safetensors", queries)
    assert n_scored == len(queries.labels)


def test_rows_without_a_label_teach_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    pool = load_features(files["base"])
    labels = pool.labels.clone()
    labels[::3] = -1
    hidden = FeatureSet(pool.features, labels, pool.class_names, pool.source)
    learned = learn(tmp_path / "some.safetensors", hidden, LearnSettings(method="ncm"))
    learn(tmp_path / "kept.safetensors", pool.select_rows(labels >= 0), LearnSettings(method="ncm"))
    assert learned.n_rows == int((labels >= 0).sum())
    assert same_file(tmp_path / "some.safetensors", tmp_path / "kept.safetensors")


def test_rows_are_read_after_the_file_was_found_in_order(files: dict[str, Path], tmp_path: Path) -> None:
    def unread() -> Any:
        pytest.fail("the rows were read")

    model = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        predict(model, unread)
    learn(model, lambda: load_features(files["base"]))
    said = (
        rf"^{model} is a TEEN\(shift_weight='auto'\), method asks for a NearestClassMean\(\): leave method out, or "
        "name another file$"
    )
    with pytest.raises(SettingError, match=said):
        learn(model, unread, LearnSettings(method="ncm"))


def test_what_does_not_fit_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    learn(model, load_features(files["base"]))
    before = model.read_bytes()
    narrow = FeatureSet(torch.eye(3), torch.arange(3), ("a", "b", "c"))
    for call in (learn, predict):
        with pytest.raises(ValueError, match=r"m\.safetensors has learned rows of 64 features, the pool has 3 a row"):
            call(model, narrow)
    assert model.read_bytes() == before
    with pytest.raises(ValueError, match="unknown method 'tean': did you mean 'teen'"):
        LearnSettings(method="tean")
    with pytest.raises(SettingError, match=r"^reject must lie in \(0, 1\), got 1\.5$"):
        PredictSettings(reject=1.5)
    with pytest.raises(SettingError, match=r"^names must name the classes to learn, such as new-01, got none$"):
        FoundClasses(folder="found", names={})
    with pytest.raises(SettingError, match=r"^min_probability must lie in \[0, 1\], got 2$"):
        FoundClasses(folder="found", names={"new-01": "wren"}, min_probability=2)


def test_a_class_that_is_named_unknown_cannot_be_rejected_into(tmp_path: Path) -> None:
    pool = FeatureSet(torch.eye(2).repeat(5, 1), torch.arange(2).repeat(5), ("unknown", "wren"))
    learn(tmp_path / "m.safetensors", pool, LearnSettings(method="ncm"))
    with pytest.raises(SettingError, match=r"knows a class named 'unknown': rename it to use reject$"):
        predict(tmp_path / "m.safetensors", pool, PredictSettings(reject=0.1))


def test_classes_may_be_numbers(tmp_path: Path) -> None:
    rows = torch.eye(2).repeat(3, 1)
    save_classifier(NearestClassMean().fit(rows, [3, 8] * 3), tmp_path / "m.safetensors")
    found = predict(tmp_path / "m.safetensors", FeatureSet(rows, torch.arange(2).repeat(3), ("3", "8")))
    assert found.names == ("3", "8") * 3
    assert found.of_known_classes == (6, 6)
    assert load_classifier(tmp_path / "m.safetensors")[0].classes_.tolist() == [3, 8]
