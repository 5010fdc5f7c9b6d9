"""``fewshot tune`` as a user drives it, and what takes its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fewshot.cli.episodic.tune import tune
from fewshot.cli.episodic.tune_table import edges

from fewshot import UNEM, load_tuned, save_tuned, save_unem
from fewshot.evaluation.fitted_methods import check_unseen, fitted_by_name, warn_of_other_features
from fewshot.features import FeatureSet, load_features
from fewshot.registry.episodic import build_method
from fewshot.tuning.experiment import TuningExperiment, run_tuning
from fewshot.tuning.files import tuned_method
from tests.kits.cli import document, fails, fewshot, succeeds

QUICK = ("--n-episodes", 30, "--n-way", 3, "--n-shot", 1, "--n-query", 4, "--query-distribution", "balanced")
NAMES = ("crow", "jay", "kite", "owl", "tit", "wren")


def save_pool(path: Path, *, seed_of_others: int = 0) -> Path:
    """Write classes that differ in the length of their rows alone; the last three are the others."""
    labels = np.arange(180) % 6
    noise = np.random.default_rng(0).normal(size=(180, 5))
    noise[labels >= 3] = np.random.default_rng(seed_of_others).normal(size=(90, 5))
    features = (4.0 * (1 + labels[:, None]) + 0.3 * noise).astype(np.float32)
    np.savez(path, features=features, labels=np.array(NAMES)[labels])
    return path


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return save_pool(tmp_path / "pool.npz")


def words(features: Path, *more: object) -> tuple[object, ...]:
    method = () if "--method" in more else ("--method", "logistic-regression")
    out = () if "--out" in more else ("--out", features.with_name("tuned.json"))
    return ("tune", "--features", features, "--classes", "crow,jay,kite", *method, *QUICK, *out, *more)


# --- fewshot tune ----------------------------------------------------------------------------------------------------


def test_the_file_holds_the_document_and_a_method_that_can_be_built(features: Path) -> None:
    found = document(*words(features))
    text, written = load_tuned(features.with_name("tuned.json"))
    assert text == found["method"] == written["method"]
    assert build_method(text).is_normalized is False
    assert list(found["options"]) == ["inverse_penalty", "is_normalized"]
    assert (written["kind"], written["format_version"]) == ("tuned-method", 1)
    assert [key for key in found if found[key] != written.get(key)] == ["warnings"]
    assert (found["class_names"], found["is_default_kept"]) == (["crow", "jay", "kite"], False)
    assert found["command"][:2] == ["fewshot", "tune"]
    assert found["features"]["source"] == {"files": [str(features)]}
    assert [row["is_default"] for row in found["candidates"]].count(True) == 1
    assert [row["method"] for row in found["candidates"] if row["is_chosen"]] == [text]
    assert found["next_command"] == (
        "fewshot episode --features FEATURES_OF_OTHER_CLASSES --method logistic-regression "
        f"--tuned {features.with_name('tuned.json')}"
    )


def test_the_numbers_are_those_of_fewshot_episode(features: Path) -> None:
    found = document(*words(features, "--seed", 4, "--n-shot", "1,3"))
    names = [row["method"] for row in found["candidates"]]
    same = ("--classes", "crow,jay,kite", *QUICK, "--n-shot", "1,3", "--seed", 4)
    expected = document(
        "episode", "--features", features, *same, *(word for name in names for word in ("--method", name))
    )
    for regime in found["regimes"]:
        rows = [row for row in expected["results"] if row["n_shot"] == regime["n_shot"]]
        assert {row["episode_hash"] for row in rows} == {regime["episode_hash"]}
        accuracies = {row["method"]: row["accuracy"] for row in rows}
        for row in found["candidates"]:
            assert row["by_regime"][regime["name"]] == pytest.approx(accuracies[row["method"]], abs=1e-9)


def test_the_same_words_write_the_same_bytes(features: Path) -> None:
    succeeds(*words(features))
    first = features.with_name("tuned.json").read_bytes()
    succeeds(*words(features))
    assert features.with_name("tuned.json").read_bytes() == first
    succeeds(*words(features, "--seed", 1))
    hashes = [
        json.loads(each)["regimes"][0]["episode_hash"]
        for each in (first, features.with_name("tuned.json").read_bytes())
    ]
    assert hashes[0] != hashes[1]


def test_other_classes_cannot_be_seen(features: Path) -> None:
    """No option takes another pool, and other rows for the other classes leave the file as it was, byte for byte."""
    names = {parameter.name for parameter in tune.params}
    assert not {name for name in names if "test" in name or "base" in name or "weights" in name}
    succeeds(*words(features))
    first = features.with_name("tuned.json").read_bytes()
    before = features.read_bytes()
    save_pool(features, seed_of_others=9)
    assert features.read_bytes() != before
    succeeds(*words(features))
    assert features.with_name("tuned.json").read_bytes() == first


def test_the_default_is_kept_and_said_where_nothing_is_better(tmp_path: Path) -> None:
    labels = np.arange(120) % 4
    path = tmp_path / "noise.npz"
    np.savez(path, features=np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32), labels=labels)
    table = succeeds("tune", "--features", path, "--method", "bd-cspn", *QUICK, "--out", tmp_path / "t.json")
    text, found = load_tuned(tmp_path / "t.json")
    assert (text, found["is_default_kept"]) == ("bd-cspn:softmax_scale=10.0,n_confident=0", True)
    assert f"chosen    {text}, the default: no candidate is better beyond its interval" in table
    lines = [line.split() for line in table.splitlines()]
    assert sum(line[:2] == ["10.0", "0"] and line[-2:] == ["chosen,", "default"] for line in lines) == 1
    assert "shown     the best 10 of 24 candidates, and the default; all of them are in the file" in table


def test_the_table_shows_the_document(features: Path) -> None:
    more = ("--grid", "is_normalized=true,false", "--grid", "inverse_penalty=2")
    table, found = succeeds(*words(features, *more)), document(*words(features, *more))
    assert len(found["candidates"]) == found["n_combinations"] == 4
    assert found["settings"]["grid"] == {"is_normalized": ["true", "false"], "inverse_penalty": ["2"]}
    for row in found["candidates"]:
        gain = f"{100 * row['difference']['mean']:+.2f} ± {100 * row['difference']['half_width']:.2f}"
        cells = [
            *(f"{value}".lower() for value in row["options"].values()),
            f"{100 * row['accuracy']:.2f} ± {100 * row['half_width']:.2f}",
            "" if row["is_default"] else gain,
            ", ".join(word for word in ("chosen", "default") if row[f"is_{word}"]),
        ]
        assert any(line.split() == "  ".join(cells).split() for line in table.splitlines()), (cells, table)
    regime = found["regimes"][0]
    assert f"episodes  {regime['protocol']} (episodes {regime['episode_hash']})" in table
    assert f"chosen    {found['method']}\n" in table
    assert f"written   {features.with_name('tuned.json')}" in table
    assert "difference to the default in points ± interval for all 3 differences together" in table
    assert "mean over 1 regime of 30 episodes each" in table
    assert not any(line != line.rstrip() for line in table.splitlines())


def test_the_regimes_are_all_shots_and_distributions(features: Path) -> None:
    few = ("--n-episodes", 30, "--n-way", 3, "--n-shot", "1,2", "--n-query", 4, "--n-query-total", 9)
    skewed = ("--n-effective-way", "2,3", "--dirichlet-concentration", 0.5)
    method = ("--method", "soft-kmeans", "--grid", "n_layers=1", "--out", features.with_name("t.json"))
    found = document("tune", "--features", features, *method, *few, *skewed)
    assert [regime["name"] for regime in found["regimes"]] == [
        f"3-way {n_shot}-shot, {queries}{ways}"
        for queries in ("4 queries per class", "9 queries in all, Dirichlet(0.5) shares")
        for ways in (" of 2 of the ways", "")
        for n_shot in (1, 2)
    ]
    assert list(found["candidates"][0]["by_regime"]) == [regime["name"] for regime in found["regimes"]]
    mean = np.mean(list(found["candidates"][0]["by_regime"].values()))
    assert found["candidates"][0]["accuracy"] == pytest.approx(mean)


def test_many_combinations_are_tried_in_part_and_that_is_said(features: Path) -> None:
    more = ("--method", "paddle", "--grid", "n_layers=1,2,3,4,5", "--n-candidates", 3)
    table = succeeds(*words(features, *more))
    assert "tried     3 of 6 combinations, drawn at random; more with --n-candidates" in table
    found = document(*words(features, *more))
    assert found["candidates"] == document(*words(features, *more))["candidates"]
    assert {row["method"] for row in found["candidates"]} != {
        row["method"] for row in document(*words(features, *more, "--seed", 3))["candidates"]
    }


@pytest.mark.parametrize(
    ("penalty", "end"), [(0.01, "lowest tried: lower"), (100.0, "highest tried: higher"), (1.0, None)]
)
def test_a_chosen_number_at_the_end_of_its_values_is_said(penalty: float, end: str | None, features: Path) -> None:
    pool = load_features(features).select_classes([0, 1, 2])
    settings = TuningExperiment(
        method="logistic-regression", n_way=3, n_shot=(1,), n_query=4, query_distribution=("balanced",), n_episodes=30
    )
    found = run_tuning(pool, settings)
    options = {"inverse_penalty": penalty, "is_normalized": False}
    chosen = found.tuning.chosen._replace(candidate=found.tuning.chosen.candidate._replace(options=options))
    lines = list(edges(found.tuning._replace(chosen=chosen)))
    assert lines == ([f"inverse_penalty {penalty:g} is the {end} ones may be better, see --grid"] if end else [])


def test_a_held_option_stays(features: Path) -> None:
    found = document(*words(features, "--method", "paddle:n_layers=4"))
    assert all(row["method"].startswith("paddle:n_layers=4,class_balance=") for row in found["candidates"])
    assert len(found["candidates"]) == 8


@pytest.mark.parametrize(
    ("code", "more", "message"),
    [
        (2, ("--method", "padle"), "unknown method 'padle': did you mean 'paddle'? Known: "),
        (2, ("--method", "paddle,unem"), "one method at a time: run fewshot tune for each"),
        (2, ("--method", "simpleshot"), "Error: simpleshot has no options to tune"),
        (2, ("--method", "paddle:n_layers=x"), "Error: paddle:n_layers must be a whole number, got 'x'"),
        (2, ("--grid", "is_normalised=true"),
         "Error: unknown option of logistic-regression 'is_normalised': did you mean 'is_normalized'? Known: "),
        (2, ("--grid", "inverse_penalty"), "needs OPTION=VALUE,VALUE,...; got 'inverse_penalty'"),
        (2, ("--grid", "inverse_penalty=,"), "needs OPTION=VALUE,VALUE,...; got 'inverse_penalty=,'"),
        (2, ("--grid", "inverse_penalty=1,2", "--grid", "inverse_penalty=3"), "inverse_penalty is given twice"),
        (2, ("--grid", "inverse_penalty=-2"),
         "Error: logistic-regression:inverse_penalty=-2.0: inverse_penalty must be positive, got -2.0"),
        (2, ("--method", "em-dirichlet:inputs=cosines"), "that em-dirichlet:inputs=cosines takes belong to all"),
        (2, ("--method", "tip-adapter:n_cosines=3"), "--classes numbers the classes anew, but the columns that tip"),
        (2, ("--n-episodes", 29), "29 is not in the range x>=30"),
        (2, ("--n-query-total", 9), "--n-query-total does nothing with --query-distribution balanced"),
        (2, ("--dirichlet-concentration", 1), "--dirichlet-concentration does nothing with --query-distribution"),
        (2, ("--query-distribution", "uniform"), "--n-query does nothing with --query-distribution uniform"),
        (2, ("--query-distribution", "balance"), "unknown word 'balance': did you mean 'balanced'?"),
        (1, ("--n-shot", 40), "ask for less, or leave small classes out (--on-small-class=skip)"),
        (1, ("--out", "no/such/t.json"), "Error: no such folder: no/such: create it before writing t.json"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_writes_nothing(
    features: Path, code: int, more: tuple[object, ...], message: str
) -> None:
    assert message in fails(code, *words(features, *more))
    assert not features.with_name("tuned.json").exists()


def test_an_interrupt_says_that_nothing_was_written(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, progress: object, **settings: object) -> None:
        for n_shot, n_done in ((1, 300), (2, 60)):
            progress(f"3-way {n_shot}-shot, 4 queries per class", n_done)  # type: ignore[operator]
        raise KeyboardInterrupt

    monkeypatch.setattr("fewshot.tuning.experiment.tune", interrupted)
    result = fewshot(*words(features, "--n-shot", "1,2"))
    assert (result.exit_code, result.stdout) == (130, "")
    written = features.with_name("tuned.json")
    assert result.stderr == (
        f"Interrupted after 360 of 600 episodes (10 candidates); nothing was written to {written}\n"
    )
    assert not written.exists()


def test_a_folder_that_is_not_there_is_said_before_any_work(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewshot.cli.shared.options.load_pool", None)
    assert "no such folder: no: create it before" in fails(1, *words(features, "--out", "no/t.json"))


# --- what takes the file ---------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Settings of logistic regression, chosen on crows, jays and kites."""
    path = tmp_path / "lr.json"
    source = {"extractor_key": "1f", "extractor": {"name": "resnet50"}}
    save_tuned(path, "logistic-regression:is_normalized=false", NAMES[:3], {"features": {"source": source}})
    return path


def test_a_tuned_method_is_built_for_other_classes(tuned: Path) -> None:
    found = tuned_method(tuned)
    check_unseen(found, NAMES[3:])
    assert (found.name, found.text) == ("logistic-regression", "logistic-regression:is_normalized=false")
    assert build_method(found.text).is_normalized is False
    assert found.describe(NAMES[3:]) == {
        "file": str(tuned),
        "method": found.text,
        "n_classes": 3,
        "seen_classes": [],
    }


def test_classes_that_it_was_tuned_on_are_refused(tuned: Path) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is compared)
        check_unseen(tuned_method(tuned), NAMES[1:])
    assert str(caught.value) == (
        f"{tuned} was tuned on 2 of these 5 classes, such as 'jay': take other classes, or, if the names mean other "
        "classes (as numbers often do), add allow_seen_classes"
    )
    check_unseen(tuned_method(tuned), NAMES[1:], allow_seen_classes=True)
    assert tuned_method(tuned).describe(NAMES[1:])["seen_classes"] == ["jay", "kite"]


def test_two_files_of_one_method_are_refused(tuned: Path) -> None:
    other = tuned.with_name("other.json")
    save_tuned(other, "logistic-regression", ["x"], {})
    with pytest.raises(ValueError, match=r"lr\.json and .*other\.json are both for logistic-regression: give one"):
        fitted_by_name([tuned_method(tuned), tuned_method(other)])
    save_tuned(other, "paddle:n_layers=3", ["x"], {})
    found = fitted_by_name([tuned_method(tuned), tuned_method(other)])
    assert list(found) == ["logistic-regression", "paddle"]


def test_features_of_another_extractor_are_worth_a_warning(tuned: Path) -> None:
    found = tuned_method(tuned)
    other = {"extractor_key": "2e", "extractor": {"name": "resnet18"}}
    with pytest.warns(UserWarning, match=r"another extractor \(name is 'resnet50' and here 'resnet18'\): its settings"):
        warn_of_other_features(found, other)
    warn_of_other_features(found, {"extractor_key": "1f"})
    warn_of_other_features(found, {"files": ["a.npz"]})
    warn_of_other_features(replace(found, source={}), other)


def evaluated(features: Path, *more: object) -> dict:
    return document("episode", "--features", features, "--classes", "owl,tit,wren", *QUICK, *more)


def test_episode_runs_the_tuned_method_in_place_of_its_namesake(features: Path, tuned: Path) -> None:
    found = evaluated(features, "--method", "logistic-regression,simpleshot", "--tuned", tuned)
    text = "logistic-regression:is_normalized=false"
    assert [row["method"] for row in found["results"]] == found["settings"]["methods"] == [text, "simpleshot"]
    assert found["results"][0]["settings"] == build_method(text).describe()
    assert found["tuned"] == [{"file": str(tuned), "method": text, "n_classes": 3, "seen_classes": []}]
    expected = evaluated(features, "--method", text)
    assert found["results"][0]["accuracy"] == expected["results"][0]["accuracy"]
    assert expected["tuned"] == []


def test_episode_runs_it_beside_others_and_beside_other_settings_of_itself(features: Path, tuned: Path) -> None:
    found = evaluated(features, "--tuned", tuned, "--method", "simpleshot,logistic-regression:inverse_penalty=2")
    assert [row["method"] for row in found["results"]] == [
        "simpleshot",
        "logistic-regression:inverse_penalty=2",
        "logistic-regression:is_normalized=false",
    ]


def test_episode_refuses_classes_that_were_tuned_on_and_says_so_if_let(features: Path, tuned: Path) -> None:
    asked = ("episode", "--features", features, "--classes", "2-5", *QUICK, "--tuned", tuned)
    assert "was tuned on 1 of these 4 classes, such as 'kite': take other classes, or" in fails(1, *asked)
    table = succeeds(*asked, "--allow-seen-classes")
    assert f"tuned     {tuned}: chosen on 3 classes; 1 evaluated classes carry names of these" in table
    assert f"tuned     {tuned}: chosen on 3 classes\n" in succeeds(*asked, "--classes", "3-5")


def test_episode_refuses_two_sets_of_numbers_for_unem(features: Path) -> None:
    tuned, weights = features.with_name("u.json"), features.with_name("w.safetensors")
    save_tuned(tuned, "unem:preset=mini-wrn", ["x"], {})
    save_unem(UNEM.from_preset(), weights)
    message = fails(1, "episode", "--features", features, *QUICK, "--weights", weights, "--tuned", tuned)
    assert message == f"Error: {weights} and {tuned} are both for unem: give one"


@pytest.fixture
def shots(features: Path) -> tuple[object, ...]:
    """Few owls, tits and wrens to learn from, and others to name, as words of the command."""
    with np.load(features) as archive:
        rows = {name: archive["features"][archive["labels"] == name] for name in NAMES[3:]}
    support, query = features.with_name("support.npz"), features.with_name("query.npz")
    np.savez(support, features=np.concatenate([each[:4] for each in rows.values()]), labels=np.repeat(NAMES[3:], 4))
    np.savez(query, features=np.concatenate([each[4:9] for each in rows.values()]))
    out = features.with_name("classified")
    return ("classify", "--support-features", support, "--query-features", query, "--out", out)


def test_classify_takes_the_tuned_method(shots: tuple[object, ...], tuned: Path) -> None:
    found = document(*shots, "--tuned", tuned)
    text = "logistic-regression:is_normalized=false"
    assert (found["method"], found["settings"]["method"]) == (text, text)
    assert found["method_settings"] == build_method(text).describe()
    assert found["tuned"] == {"file": str(tuned), "method": text, "n_classes": 3, "seen_classes": []}
    assert [row["n_queries"] + found["n_unknown"] >= 5 for row in found["classes"]] == [True] * 3
    assert document(*shots, "--method", text)["tuned"] is None


def test_classify_refuses_classes_that_were_tuned_on(shots: tuple[object, ...], tuned: Path) -> None:
    save_tuned(tuned, "simpleshot", ["owl", "crow"], {})
    message = fails(1, *shots, "--tuned", tuned)
    assert "was tuned on 1 of these 3 classes, such as 'owl': take other classes, or, if the names mean" in message
    assert not Path(str(shots[-1])).exists()
    found = document(*shots, "--tuned", tuned, "--allow-seen-classes")
    assert found["tuned"]["seen_classes"] == ["owl"]


def test_classify_refuses_before_any_image_is_read(
    tmp_path: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("crow/a.png", "owl/b.png", "to_name/c.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(name.encode())
    (tmp_path / "images" / "to_name").rename(tmp_path / "queries")
    monkeypatch.setattr("fewshot.cli.classify.command.read_support_query", None)
    words = ("classify", "--support", tmp_path / "images", "--query", tmp_path / "queries", "--out", tmp_path / "o")
    assert "was tuned on 1 of these 2 classes, such as 'crow'" in fails(1, *words, "--tuned", tuned)


@pytest.mark.filterwarnings("default")
def test_classify_warns_of_other_features(shots: tuple[object, ...], tuned: Path) -> None:
    support = load_features(str(shots[2]))
    source = {"extractor_key": "2e", "extractor": {"name": "resnet18"}}
    path = Path(str(shots[2])).with_name("support.safetensors")
    FeatureSet(support.features, support.labels, support.class_names, source).save(path)
    result = fewshot(*shots[:2], path, *shots[3:], "--tuned", tuned)
    assert result.exit_code == 0
    assert "Warning: " in result.stderr
    assert "another extractor (name is 'resnet50' and here 'resnet18')" in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "unem", "--tuned", "t.json"), "--tuned says the method: leave out --method"),
        (("--allow-seen-classes",), "--allow-seen-classes needs --tuned"),
    ],
)
def test_classify_refuses_words_that_do_not_go_together(
    shots: tuple[object, ...], more: tuple[str, ...], message: str
) -> None:
    assert fails(2, *shots, *more).endswith(message)
