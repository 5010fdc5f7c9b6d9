"""``fewshot learn``, ``predict`` and ``forget``: a model on disk that gains and loses classes, as a user drives it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot.features import FeatureSet, load_features
from fewshot.incremental import TEEN, IncrementalClassifier, NearestClassMean
from fewshot.models import load_classifier
from tests.kits.cli import document, fails, fewshot, succeeds
from tests.kits.discovery import ColumnDiscovery, column_pool, use_discoverer

ROOT = Path(__file__).parents[2]
BASE = {"crow": 9, "jay": 7, "owl": 8}
posix_only = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")


def make_pool(sizes: dict[str, int], seed: int = 0, n_features: int = 6, **source: Any) -> FeatureSet:
    """Return Gaussian classes whose means belong to their names, with an id a row."""
    generator = np.random.default_rng(seed)
    names = sorted(sizes)
    means = {name: 2 * np.random.default_rng(list(name.encode())).normal(size=n_features) for name in names}
    labels = torch.arange(len(names)).repeat_interleave(torch.tensor([sizes[name] for name in names]))
    rows = [means[names[label]] + generator.normal(size=n_features) for label in labels.tolist()]
    ids = tuple(f"{names[label]}/{seed}_{row}.jpg" for row, label in enumerate(labels.tolist()))
    return FeatureSet(torch.tensor(np.array(rows)).float(), labels, tuple(names), source, ids)


def save_pool(path: Path, *args: Any, **settings: Any) -> Path:
    make_pool(*args, **settings).save(path)
    return path


def named(pool: FeatureSet) -> list[str]:
    return [pool.class_names[label] for label in pool.labels.tolist()]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of three base classes."""
    path = tmp_path / "m.safetensors"
    succeeds("learn", "--model", path, "--features", save_pool(tmp_path / "base.safetensors", BASE))
    return path


def same_state(model: IncrementalClassifier, other: IncrementalClassifier) -> None:
    assert model.classes_.tolist() == other.classes_.tolist()
    assert model.base_classes_.tolist() == other.base_classes_.tolist()
    assert repr(model) == repr(other)
    mine, yours = model.tensors(), other.tensors()
    assert set(mine) == set(yours)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, yours[name], rtol=1e-12, atol=1e-12)


# --- fewshot learn ----------------------------------------------------------------------------------------------------


def test_the_first_call_makes_a_model_of_base_classes(tmp_path: Path) -> None:
    path, features = tmp_path / "m.safetensors", save_pool(tmp_path / "base.safetensors", BASE, extractor_key="1f")
    found = document("learn", "--model", path, "--features", features)
    pool = make_pool(BASE)
    by_hand = TEEN(shift_weight="auto").fit(pool.features, named(pool))
    by_hand.calibrate_rejection(pool.features, named(pool), n_folds=5)
    loaded, source = load_classifier(path)
    same_state(loaded, by_hand)
    assert source == {"extractor_key": "1f"}
    assert found["command"] == ["fewshot", "learn", "--model", str(path), "--features", str(features), "--json"]
    names = ("method", "n_rows", "as", "new_classes", "more_shots", "n_classes", "n_base_classes", "warnings")
    assert [found[name] for name in names] == ["TEEN(shift_weight='auto')", 24, "base", BASE, {}, 3, 3, []]


def test_the_method_of_a_new_model_can_be_chosen(tmp_path: Path) -> None:
    path, features = tmp_path / "m.safetensors", save_pool(tmp_path / "base.safetensors", BASE)
    succeeds("learn", "--model", path, "--features", features, "--method", "ncm:metric=euclidean")
    assert repr(load_classifier(path)[0]) == "NearestClassMean(metric='euclidean')"


def test_later_calls_add_classes_and_shots(tmp_path: Path, model: Path) -> None:
    sizes = {"wren": 2, "crow": 3, "tit": 1}
    found = document("learn", "--model", model, "--features", save_pool(tmp_path / "new.safetensors", sizes, seed=1))
    pool, new = make_pool(BASE), make_pool(sizes, seed=1)
    by_hand = TEEN(shift_weight="auto").fit(pool.features, named(pool))
    by_hand.calibrate_rejection(pool.features, named(pool))
    by_hand.partial_fit(new.features, named(new))
    loaded = load_classifier(model)[0]
    same_state(loaded, by_hand)
    assert loaded.classes_.tolist() == ["crow", "jay", "owl", "tit", "wren"]
    assert loaded.base_classes_.tolist() == ["crow", "jay", "owl"]
    names = ("as", "new_classes", "more_shots", "n_classes", "n_base_classes")
    assert [found[name] for name in names] == ["new", {"tit": 1, "wren": 2}, {"crow": 3}, 5, 3]


def test_base_classes_can_come_later_and_new_ones_first(tmp_path: Path, model: Path) -> None:
    more = save_pool(tmp_path / "more.safetensors", {"tit": 6, "wren": 5}, seed=1)
    before = load_classifier(model)[0].tensors()["known_scores"]
    succeeds("learn", "--model", model, "--features", more, "--base")
    loaded = load_classifier(model)[0]
    assert loaded.base_classes_.tolist() == ["crow", "jay", "owl", "tit", "wren"]
    assert len(loaded.tensors()["known_scores"]) == 11 != len(before)
    found = document("learn", "--model", tmp_path / "n.safetensors", "--features", more, "--new", "--method", "ncm")
    assert (found["as"], found["n_base_classes"]) == ("new", 0)


def test_few_rows_make_a_model_that_cannot_reject(tmp_path: Path) -> None:
    path, few = tmp_path / "m.safetensors", save_pool(tmp_path / "few.safetensors", {"crow": 4, "jay": 2})
    result = fewshot("learn", "--model", path, "--features", few)
    said = "no class has 5 rows, so predict --reject will not work with this model"
    assert (result.exit_code, result.stderr) == (0, f"Warning: {said}\n")
    words = ("predict", "--model", path, "--features", few, "--out", tmp_path / "p.csv", "--reject", 0.1)
    assert "reject needs" in fails(1, *words)
    assert not (tmp_path / "p.csv").exists()


def test_the_lines_say_what_was_learned(tmp_path: Path, model: Path) -> None:
    new = save_pool(tmp_path / "new.safetensors", {"wren": 2, "crow": 3}, seed=1)
    assert succeeds("learn", "--model", model, "--features", new).splitlines() == [
        "Model learned",
        f"  model     {model}: TEEN(shift_weight='auto')",
        f"  learned   5 rows of {new}",
        "  new       wren (2)",
        "  more of   crow (3)",
        "  knows     4 classes, 3 of them base classes",
    ]
    many = save_pool(tmp_path / "many.safetensors", {f"bird{number:02}": 1 for number in range(12)})
    assert "  new       bird00 (1), bird01 (1), " in (said := succeeds("learn", "--model", model, "--features", many))
    assert "bird09 (1), and 2 more\n" in said


def test_a_subset_of_the_classes_can_be_learned(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    succeeds("learn", "--model", path, "--features", "digits", "--classes", "0-2", "--method", "ncm")
    succeeds("learn", "--model", path, "--features", "digits", "--classes", "7")
    assert load_classifier(path)[0].classes_.tolist() == ["0", "1", "2", "7"]


def test_another_method_is_refused_and_the_same_is_not(tmp_path: Path, model: Path) -> None:
    before, words = model.read_bytes(), ("learn", "--model", model, "--features", tmp_path / "base.safetensors")
    assert fails(1, *words, "--method", "teen") == (
        f"Error: {model} is a TEEN(shift_weight='auto'), --method asks for a TEEN(): leave --method out, or name "
        "another file"
    )
    assert model.read_bytes() == before
    succeeds(*words, "--method", "teen-auto")


def test_features_of_another_extractor_are_refused_everywhere(tmp_path: Path) -> None:
    old, new = (
        save_pool(
            tmp_path / f"{size}.safetensors",
            BASE,
            extractor_key=f"key of {size}",
            extractor={"name": "resnet50", "preprocess": {"size": size}},
        )
        for size in (224, 288)
    )
    path = tmp_path / "m.safetensors"
    succeeds("learn", "--model", path, "--features", old)
    before = path.read_bytes()
    said = (
        f"Error: {path} and {new} come from different extractors (preprocess.size is 224 and 288): extract both with "
        "one"
    )
    assert fails(1, "learn", "--model", path, "--features", new) == said
    assert fails(1, "predict", "--model", path, "--features", new, "--out", tmp_path / "p.csv") == said
    assert path.read_bytes() == before
    assert not (tmp_path / "p.csv").exists()
    succeeds("learn", "--model", path, "--features", old)
    succeeds("learn", "--model", path, "--features", save_pool(tmp_path / "silent.safetensors", BASE))
    assert load_classifier(path)[1]["extractor_key"] == "key of 224"


def test_features_of_another_length_are_refused(tmp_path: Path, model: Path) -> None:
    before, wide = model.read_bytes(), save_pool(tmp_path / "wide.safetensors", BASE, n_features=8)
    said = f"Error: {model} has learned rows of 6 features, {wide} has 8 a row: extract both with one extractor"
    assert fails(1, "learn", "--model", model, "--features", wide).startswith(said)
    assert fails(1, "predict", "--model", model, "--features", wide, "--out", tmp_path / "p.csv").startswith(said)
    assert model.read_bytes() == before
    assert not (tmp_path / "p.csv").exists()


def test_a_failed_write_leaves_the_old_model(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    before, files = model.read_bytes(), sorted(tmp_path.iterdir())
    monkeypatch.setattr("fewshot.storage.tensors.os.replace", full)
    words = ("learn", "--model", model, "--features", tmp_path / "base.safetensors")
    assert fails(1, *words) == "Error: no space left on device"
    assert fails(1, "forget", "--model", model, "--class", "owl") == "Error: no space left on device"
    assert (model.read_bytes(), sorted(tmp_path.iterdir())) == (before, files)


def test_nothing_is_written_before_all_is_learned(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("broken on purpose")

    before = model.read_bytes()
    monkeypatch.setattr(TEEN, "calibrate_rejection", broken)
    words = ("learn", "--model", model, "--features", tmp_path / "base.safetensors", "--base")
    assert fails(1, *words) == "Error: broken on purpose"
    assert model.read_bytes() == before


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    features = save_pool(tmp_path / "base.safetensors", BASE)
    before = features.read_bytes()
    assert "expected 'classifier', got 'features'" in fails(1, "learn", "--model", features, "--features", features)
    assert features.read_bytes() == before
    words = ("--features", features, "--out", tmp_path / "p.csv")
    assert fails(1, "predict", "--model", tmp_path / "no.safetensors", *words) == (
        f"Error: no such file: {tmp_path / 'no.safetensors'}"
    )
    nowhere = tmp_path / "no" / "m.safetensors"
    assert fails(1, "learn", "--model", nowhere, "--features", "no.npz") == (  # the folder first, before any work
        f"Error: no such folder: {tmp_path / 'no'}: create it before writing m.safetensors"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("learn", "--features", "digits"), "Missing option '--model'."),
        (("predict", "--model", "m", "--features", "digits"), "Missing option '--out'."),
        (("predict", "--model", "m", "--features", "digits", "--out", "p", "--reject", "1"), "1.0 is not in the range"),
        (("forget", "--model", "m"), "Missing option '--class'."),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(words: tuple[str, ...], said: str) -> None:
    assert said in fails(2, *words)


def test_an_unknown_method_names_the_nearest(tmp_path: Path) -> None:
    words = ("learn", "--model", tmp_path / "m.safetensors", "--features", "digits", "--method", "tean")
    result = fewshot(*words)
    assert result.exit_code != 0
    assert "unknown method 'tean': did you mean 'teen'?" in result.stderr
    assert not (tmp_path / "m.safetensors").exists()


# --- fewshot predict --------------------------------------------------------------------------------------------------


def test_the_file_holds_what_the_estimator_answers(tmp_path: Path, model: Path) -> None:
    queries, out = make_pool({"crow": 3, "jay": 2, "owl": 4}, seed=2), tmp_path / "p.csv"
    queries.save(tmp_path / "q.safetensors")
    found = document("predict", "--model", model, "--features", tmp_path / "q.safetensors", "--out", out)
    loaded = load_classifier(model)[0]
    answers, scores = loaded.predict(queries.features), loaded.highest_score(queries.features)
    probabilities = loaded.predict_proba(queries.features).max(1).values
    rows = read(out)
    assert list(rows[0]) == ["id", "prediction", "probability", "score"]
    assert [row["id"] for row in rows] == list(queries.ids or ())
    assert [row["prediction"] for row in rows] == answers.tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(probabilities.tolist(), rel=1e-5)
    assert [float(row["score"]) for row in rows] == pytest.approx(scores.tolist(), rel=1e-5)
    counts = {name: answers.tolist().count(name) for name in set(answers.tolist())}
    assert (found["n_rows"], found["predictions"]) == (9, counts)
    assert found["accuracy"] == np.mean([name == truth for name, truth in zip(answers, named(queries), strict=True)])
    assert (found["n_of_known_classes"], found["n_of_other_classes"], found["unknown_found"]) == (9, 0, None)


def test_what_scores_low_is_unknown(tmp_path: Path, model: Path) -> None:
    queries, out = make_pool({"crow": 5, "owl": 6, "wren": 7}, seed=3), tmp_path / "p.csv"
    queries.save(tmp_path / "q.safetensors")
    words = ("predict", "--model", model, "--features", tmp_path / "q.safetensors", "--out", out)
    found = document(*words, "--reject", 0.3)
    answers = load_classifier(model)[0].predict(queries.features, reject=0.3).tolist()
    assert [row["prediction"] for row in read(out)] == answers
    assert 0 < answers.count("unknown") < len(answers)
    truth = named(queries)
    known = [name == true for name, true in zip(answers, truth, strict=True) if true != "wren"]
    strange = [name == "unknown" for name, true in zip(answers, truth, strict=True) if true == "wren"]
    assert (found["accuracy"], found["unknown_found"]) == (np.mean(known), np.mean(strange))
    assert (found["n_of_known_classes"], found["n_of_other_classes"]) == (11, 7)
    said = succeeds(*words, "--reject", 0.3)
    assert f"  accuracy  {100 * np.mean(known):.2f} % of 11 labelled rows of classes that the model knows\n" in said
    assert f"  unknown   {100 * np.mean(strange):.2f} % of 7 labelled rows of other classes\n" in said
    assert document(*words)["unknown_found"] is None
    assert "unknown" not in {row["prediction"] for row in read(out)}


def test_rows_without_labels_or_ids_are_numbered(tmp_path: Path, model: Path) -> None:
    queries, out = make_pool({"crow": 2, "owl": 3}, seed=2), tmp_path / "p.csv"
    np.save(tmp_path / "q.npy", queries.features.numpy())
    words = ("predict", "--model", model, "--features", tmp_path / "q.npy", "--out", out)
    found = document(*words)
    assert [row["id"] for row in read(out)] == ["0", "1", "2", "3", "4"]
    assert [row["prediction"] for row in read(out)] == load_classifier(model)[0].predict(queries.features).tolist()
    assert (found["accuracy"], found["n_of_known_classes"], found["n_of_other_classes"]) == (None, 0, 0)
    said = succeeds(*words)
    assert said.startswith(f"Predictions written\n  out       {out}: 5 rows\n")
    assert "accuracy" not in said
    (tmp_path / "y.txt").write_text("crow\ncrow\nowl\nowl\nowl\n", encoding="utf-8")
    assert document(*words, "--labels", tmp_path / "y.txt")["n_of_known_classes"] == 5


def test_more_rows_than_are_answered_at_once(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "p.csv"
    words = ("predict", "--model", model, "--features", tmp_path / "base.safetensors", "--out", out)
    succeeds(*words)
    whole = read(out)
    monkeypatch.setattr("fewshot.incremental_models.prediction._CHUNK", 5)
    succeeds(*words)
    assert [row["prediction"] for row in read(out)] == [row["prediction"] for row in whole]
    for name in ("probability", "score"):
        assert [float(row[name]) for row in read(out)] == pytest.approx([float(row[name]) for row in whole], rel=1e-5)


def test_names_with_commas_quotes_and_line_ends_survive(tmp_path: Path) -> None:
    names = ('crow, "hooded"', "jay\nand owl", "Spatz ÄÖ")
    path, out = tmp_path / "m.safetensors", tmp_path / "p.csv"
    pool = FeatureSet(
        torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2), names, ids=tuple(f"{i},{i}" for i in "abcdef")
    )
    pool.save(tmp_path / "f.safetensors")
    words = ("--model", path, "--features", tmp_path / "f.safetensors")
    assert fewshot("learn", *words, "--method", "ncm").exit_code == 0
    succeeds("predict", *words, "--out", out)
    assert [row["prediction"] for row in read(out)] == [*names, *names]
    assert read(out)[1]["id"] == "b,b"


def test_a_class_that_is_named_unknown_cannot_be_rejected_into(tmp_path: Path) -> None:
    path, features = tmp_path / "m.safetensors", save_pool(tmp_path / "f.safetensors", {"unknown": 6, "jay": 7})
    words = ("--model", path, "--features", features)
    succeeds("learn", *words)
    assert fails(1, "predict", *words, "--out", tmp_path / "p.csv", "--reject", 0.1) == (
        f"Error: {path} knows a class named 'unknown': rename it to use --reject"
    )
    succeeds("predict", *words, "--out", tmp_path / "p.csv")


# --- fewshot forget ---------------------------------------------------------------------------------------------------


def test_forgotten_classes_are_as_if_they_had_never_come(tmp_path: Path, model: Path) -> None:
    new = save_pool(tmp_path / "new.safetensors", {"wren": 2, "tit": 3}, seed=1)
    before = load_classifier(model)[0]
    succeeds("learn", "--model", model, "--features", new)
    found = document("forget", "--model", model, "--class", "tit", "--class", "wren")
    same_state(load_classifier(model)[0], before)
    assert (found["forgotten"], found["n_classes"], found["model"]) == (["tit", "wren"], 3, str(model))
    assert succeeds("forget", "--model", model, "--class", "owl") == f"{model}: forgot owl; 2 classes left\n"
    out = tmp_path / "p.csv"
    succeeds("predict", "--model", model, "--features", tmp_path / "base.safetensors", "--out", out)
    assert {row["prediction"] for row in read(out)} <= {"crow", "jay"}


def test_a_forgotten_class_can_come_back_and_the_source_stays(tmp_path: Path) -> None:
    path, features = tmp_path / "m.safetensors", save_pool(tmp_path / "f.safetensors", BASE, extractor_key="1f")
    words = ("--model", path, "--features", features)
    succeeds("learn", *words, "--method", "ncm")
    succeeds("forget", "--model", path, "--class", "owl")
    assert load_classifier(path)[1] == {"extractor_key": "1f"}
    succeeds("learn", *words, "--classes", "owl")
    assert load_classifier(path)[0].classes_.tolist() == ["crow", "jay", "owl"]


def test_an_unknown_class_names_the_nearest_and_nothing_is_forgotten(model: Path) -> None:
    before = model.read_bytes()
    assert fails(1, "forget", "--model", model, "--class", "jay", "--class", "cro") == (
        f"Error: {model} knows no class 'cro': did you mean 'crow'?"
    )
    assert model.read_bytes() == before


def test_all_classes_can_be_forgotten(tmp_path: Path, model: Path) -> None:
    words = [word for name in BASE for word in ("--class", name)]
    assert document("forget", "--model", model, *words)["n_classes"] == 0
    out = tmp_path / "p.csv"
    line = fails(1, "predict", "--model", model, "--features", tmp_path / "base.safetensors", "--out", out)
    assert line.startswith("Error: no class is known")


# --- killed while it writes -------------------------------------------------------------------------------------------


# One process, as the imports take seconds; its children are killed, by themselves within the write or by it, any time.
_KILLER = """
import contextlib, os, random, signal, sys, time
from pathlib import Path
from fewshot.cli.main import cli
from fewshot.storage import tensors as storage
from fewshot.models import load_classifier

model, base, more = map(Path, sys.argv[1:])

def learn(features):
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        cli(["learn", "--model", str(model), "--features", str(features)], standalone_mode=False)

def killed(work, seconds):
    child = os.fork()
    if child == 0:
        work()
        os._exit(1)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

def within(moment):
    setattr(storage.os, moment, lambda *paths: os.kill(os.getpid(), signal.SIGKILL))
    learn(more)

def again_and_again():
    while True:
        learn(more)

learn(base)
before = model.read_bytes()
for moment in ("fsync", "replace"):
    assert killed(lambda: within(moment), 0), moment
    assert model.read_bytes() == before, moment
draw, states = random.Random(0), {before}
for _ in range(15):
    assert killed(again_and_again, draw.uniform(0.005, 0.08))
    assert load_classifier(model)[0].classes_[:3].tolist() == ["crow", "jay", "owl"]
    states.add(model.read_bytes())
learn(more)
print(len(states))
"""


@posix_only
def test_a_learner_killed_at_any_moment_leaves_a_whole_model(tmp_path: Path) -> None:
    files = [tmp_path / "m.safetensors"]
    files += [save_pool(tmp_path / f"{name}.safetensors", BASE | {name: 3}) for name in ("wren", "tit")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", _KILLER, *map(str, files)]
    result = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 3  # the killed ones did write


# --- classes that fewshot discover found ------------------------------------------------------------------------------


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six columns: crows and jays labelled in part, two classes wholly, and two new ones found."""
    use_discoverer(monkeypatch, "discovery", ColumnDiscovery)
    sizes = {"crow": 9, "jay": 7, "emu": 1, "kea": 1, "owl": 8, "tit": 5}
    hidden = {"crow": 4, "jay": 3, "owl": 8, "tit": 5}
    column_pool(sizes, n_unlabelled=hidden, extractor_key="1f")[0].save(tmp_path / "birds.safetensors")
    words = ("--features", tmp_path / "birds.safetensors", "--out", tmp_path / "found", "--map-rows", 0)
    succeeds("discover", *words)
    return tmp_path / "found"


def unsure(found: Path, rows: range, probability: float) -> None:
    """Make the discovery less sure of some rows."""
    lines = read(found / "assignments.csv")
    for row in rows:
        lines[row]["probability"] = str(probability)
    with (found / "assignments.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def test_found_classes_are_learned_by_the_names_given(tmp_path: Path, model: Path, found: Path) -> None:
    words = ("--from-discovery", found, "--name", "new-01=Strix aluco", "--name", "new-02=jay")
    told = document("learn", "--model", model, *words)
    features = load_features(tmp_path / "birds.safetensors").features[18:31]
    pool = make_pool(BASE)
    by_hand = TEEN(shift_weight="auto").fit(pool.features, named(pool))
    by_hand.calibrate_rejection(pool.features, named(pool))
    by_hand.partial_fit(features, ["Strix aluco"] * 8 + ["jay"] * 5)
    same_state(load_classifier(model)[0], by_hand)
    assert (told["new_classes"], told["more_shots"], told["as"]) == ({"Strix aluco": 8}, {"jay": 5}, "new")
    assert told["features"] == str(tmp_path / "birds.safetensors")
    assert told["settings"]["names"] == {"new-01": "Strix aluco", "new-02": "jay"}


def test_two_found_classes_can_be_one(model: Path, found: Path) -> None:
    words = ("--from-discovery", found, "--name", "new-01=owl", "--name", "new-02=owl")
    assert document("learn", "--model", model, *words)["more_shots"] == {"owl": 13}


def test_rows_that_are_unsure_are_not_learned(model: Path, found: Path) -> None:
    unsure(found, range(18, 21), 0.49)
    words = ("learn", "--model", model, "--from-discovery", found, "--name", "new-01=emu")
    assert document(*words)["new_classes"] == {"emu": 5}
    assert document(*words, "--min-probability", 0.4)["more_shots"] == {"emu": 8}
    unsure(found, range(18, 26), 0.2)
    assert fails(1, *words) == (
        "Error: none of the 8 rows of 'new-01' has a probability of 0.5 or more: lower --min-probability"
    )


def test_a_found_class_that_is_not_there_names_the_nearest(model: Path, found: Path) -> None:
    before = model.read_bytes()
    words = ("learn", "--model", model, "--from-discovery", found, "--name", "new-03=emu")
    assert fails(1, *words).startswith(f"Error: {found} has no rows of a class 'new-03': did you mean 'new-0")
    assert model.read_bytes() == before


def test_features_that_moved_are_asked_for_and_others_are_refused(tmp_path: Path, model: Path, found: Path) -> None:
    old, new = tmp_path / "birds.safetensors", tmp_path / "moved.safetensors"
    old.rename(new)
    words = ("learn", "--model", model, "--from-discovery", found, "--name", "new-01=emu")
    assert fails(1, *words) == (
        f"Error: the features that {found} was made of are not at {old}: say where they are with --features"
    )
    assert document(*words, "--features", new)["new_classes"] == {"emu": 8}
    pool = load_features(new)
    pool.select_rows(torch.arange(30)).save(tmp_path / "fewer.safetensors")
    said = f"Error: {tmp_path / 'fewer.safetensors'} has 30 rows, not the same 31 that {found} was made of: "
    assert fails(1, *words, "--features", tmp_path / "fewer.safetensors").startswith(said)
    replace(pool, features=pool.features.roll(1, 0)).save(tmp_path / "other.safetensors")
    assert "has 31 rows, not the same 31 that" in fails(1, *words, "--features", tmp_path / "other.safetensors")
    replace(pool, source={"extractor_key": "2e"}).save(tmp_path / "foreign.safetensors")
    assert "come from different extractors" in fails(1, *words, "--features", tmp_path / "foreign.safetensors")


def test_a_folder_that_is_no_discovery_is_refused(tmp_path: Path, model: Path) -> None:
    words = ("learn", "--model", model, "--from-discovery", tmp_path, "--name", "new-01=emu")
    assert fails(1, *words) == f"Error: no summary.json in {tmp_path}: name the folder that fewshot discover wrote"
    (tmp_path / "summary.json").write_text('{"kind": "fewshot discovery", "format_version": 2}')
    assert "expected a fewshot discovery of version 1, got 'fewshot discovery' of 2" in fails(1, *words)
    (tmp_path / "summary.json").write_text("{")
    assert "summary.json is not JSON" in fails(1, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing option '--features'."),
        (("--features", "digits", "--name", "new-01=emu"), "--name needs --from-discovery"),
        (("--features", "digits", "--min-probability", 0.9), "--min-probability needs --from-discovery"),
        (("--from-discovery", "found"), "--from-discovery needs --name FOUND=NAME for each class to learn"),
        (("--from-discovery", "found", "--name", "emu"), "needs FOUND=NAME, such as new-07=wren; got 'emu'"),
        (("--from-discovery", "found", "--name", "a=b", "--name", "a=c"), "names a twice"),
        (("--from-discovery", "f", "--name", "a=b", "--classes", "0"), "leave out --labels and --classes"),
    ],
)
def test_wrong_words_about_found_classes(tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    assert said in fails(2, "learn", "--model", tmp_path / "m.safetensors", *words)


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["calibrate", "learn", "predict", "forget"])
def test_the_help_teaches_within_100_columns(command: str) -> None:
    said = fewshot(command, "--help").stdout
    assert f"\n  Example:\n    fewshot {command} " in said or f"\n    fewshot {command} " in said.split("Example:")[1]
    assert max(map(len, said.splitlines())) <= 100


def test_the_examples_of_the_help_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learn, then predict and forget, by the very words of the help."""
    monkeypatch.chdir(tmp_path)
    shots, queries = make_pool({"wren": 5}, seed=1, n_features=64), make_pool({"wren": 4}, seed=2, n_features=64)
    for name, pool in (("shots", shots), ("queries", queries)):
        np.savez(f"{name}.npz", features=pool.features.numpy(), labels=named(pool))
    examples = fewshot("learn", "--help").stdout.split("Example:\n")[1].split("\n\n")[0].splitlines()
    examples += [line for line in fewshot("forget", "--help").stdout.splitlines() if line.startswith("    fewshot")]
    assert len(examples) == 4
    for line in examples:
        succeeds(*line.split()[1:])
    assert {row["prediction"] for row in read(Path("predictions.csv"))} == {"wren"}
    assert isinstance(load_classifier("m.safetensors")[0], (TEEN, NearestClassMean))
