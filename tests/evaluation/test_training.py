"""UNEM's training as a library call: the command's numbers, and a setting that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot.checks import SettingError
from fewshot.evaluation import TrainingExperiment, run_training
from fewshot.evaluation.training import check_disjoint
from fewshot.features import load_features
from tests.kits.cli import document


def test_the_call_gives_the_numbers_of_the_command(tmp_path: Path) -> None:
    words = ("--features", "digits", "--classes", "0-4", "--n-steps", 2, "--n-episodes", 6, "--out", tmp_path / "w.st")
    command = document("train", "unem", *words)
    call = run_training(load_features("digits").select_classes(range(5)), TrainingExperiment(n_steps=2, n_episodes=6))
    assert call.trace.loss.tolist() == command["trace"]["loss"]
    assert call.trace.accuracy.tolist() == command["trace"]["accuracy"]
    assert call.model.temperature.tolist() == command["schedule"]["temperature"]
    assert call.training == command["training"]


def test_defaults_of_the_command_are_those_of_the_call(tmp_path: Path) -> None:
    command = document("train", "unem", "--features", "digits", "--n-steps", 1, "--out", tmp_path / "w.st")
    settings = {name: command["settings"][name] for name in ("n_layers", "likelihood", "loss", "seed", "n_episodes")}
    defaults = TrainingExperiment()
    assert settings == {name: getattr(defaults, name) for name in settings}
    assert command["settings"]["n_shot"] == list(defaults.n_shot)


def test_classes_to_train_on_are_not_those_to_test_on() -> None:
    pool = load_features("digits")
    check_disjoint(pool.select_classes(range(5)), pool.select_classes(range(5, 10)))
    said = (
        "^2 of the 5 training classes are test classes too, such as '3': choose disjoint ones with classes and "
        "test_classes$"
    )
    with pytest.raises(SettingError, match=said):
        check_disjoint(pool.select_classes(range(5)), pool.select_classes([8, 4, 3]))


def test_a_setting_that_does_not_fit_is_named_as_the_call_has_it() -> None:
    digits = load_features("digits")
    with pytest.raises(SettingError, match=r"^effective_ways = 20 exceeds n_way = 5$"):
        run_training(digits, TrainingExperiment(n_way=5, effective_ways=(20,)))
    with pytest.raises(SettingError, match=r"^n_episodes 2 cannot cover 3 numbers of effective ways \[2, 3, 4\]$"):
        run_training(digits, TrainingExperiment(n_episodes=2, effective_ways=(2, 3, 4)))
    with pytest.raises(SettingError, match=r"leave small classes out \(on_small_class=skip\)$"):
        run_training(digits, TrainingExperiment(n_shot=(500,)))
