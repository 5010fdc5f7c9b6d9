"""Tuning as one library call gives the numbers of the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot.features import load_features
from fewshot.tuning import TuningExperiment, run_tuning
from tests.kits.cli import document


def test_a_call_gives_the_numbers_of_the_command(tmp_path: Path) -> None:
    words = ("--features", "digits", "--classes", "0-4", "--method", "soft-kmeans", "--n-episodes", 30, "--seed", 2)
    told = document("tune", *words, "--out", tmp_path / "t.json")
    pool = load_features("digits").select_classes(range(5))
    found = run_tuning(pool, TuningExperiment(method="soft-kmeans", n_episodes=30, seed=2))
    scores = [(score.candidate.method, score.accuracy.mean, *score.difference) for score in found.tuning.scores]
    assert scores == [
        (row["method"], row["accuracy"], row["difference"]["mean"], row["difference"]["half_width"])
        for row in told["candidates"]
    ]
    assert found.tuning.episode_hashes == {row["name"]: row["episode_hash"] for row in told["regimes"]}
    assert list(found.samplers) == [row["name"] for row in told["regimes"]]


def test_regimes_are_counted_without_a_pool() -> None:
    pool = load_features("digits")
    settings = TuningExperiment(
        method="paddle", n_shot=(1, 2, 4), query_distribution=("uniform", "dirichlet"), n_effective_way=(2, 3, 5)
    )
    assert settings.n_regimes == len(settings.samplers(pool)) == 3 * 2 * 3


def test_what_cannot_be_tuned_is_refused_at_birth() -> None:
    with pytest.raises(ValueError, match="simpleshot has no options to tune"):
        TuningExperiment(method="simpleshot")
    with pytest.raises(ValueError, match="n_shot needs at least one value"):
        TuningExperiment(method="paddle", n_shot=())
