"""A comparison on episodes as one library call: what the command prints, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewshot.checks import SettingError
from fewshot.episodic.nearest_prototype import NearestPrototype
from fewshot.evaluation.episode_experiment import EpisodeExperiment
from fewshot.evaluation.episode_runs import EpisodeResults, run_episodes
from fewshot.features import FeatureSet, load_features
from tests.kits.cli import document

MIXED = ("--query-distribution", "balanced,dirichlet", "--n-effective-way", "2,5", "--method", "unem,simpleshot")


def same(found: EpisodeResults, told: dict[str, Any]) -> bool:
    """Whether every number of the library's results is the command's."""
    names = (
        "method",
        "accuracy",
        "half_width",
        "episode_hash",
        "n_query",
        "n_query_total",
        "n_effective_way",
        "protocol",
    )
    rows = [{name: getattr(record, name) for name in names} for record in found.records()]
    behind = [{**record.behind_best._asdict(), "is_tie": record.behind_best.is_tie} for record in found.records()]
    return (
        rows == [{name: row[name] for name in names} for row in told["results"]]
        and behind == [row["behind_best"] for row in told["results"]]
        and [difference._asdict() for difference in found.differences()] == told["differences"]
    )


def test_defaults_are_the_commands() -> None:
    assert same(run_episodes(load_features("digits"), EpisodeExperiment()), document("episode", "--features", "digits"))


def test_a_call_gives_the_numbers_of_the_command() -> None:
    experiment = EpisodeExperiment(
        methods=("unem", "simpleshot"),
        query_distribution=("balanced", "dirichlet"),
        n_effective_way=(2, 5),
        n_shot=(1, 2),
        n_episodes=20,
        seed=4,
    )
    words = ("--features", "digits", "--n-shot", "1,2", "--n-episodes", 20, "--seed", 4)
    assert same(run_episodes(load_features("digits"), experiment), document("episode", *words, *MIXED))


def test_meta_dataset_is_the_commands_too() -> None:
    experiment = EpisodeExperiment(protocol="meta-dataset", n_episodes=5)
    words = ("--features", "digits", "--protocol", "meta-dataset", "--n-episodes", 5)
    assert same(run_episodes(load_features("digits"), experiment), document("episode", *words))


def test_a_method_of_ones_own_runs_beside_the_others() -> None:
    experiment = EpisodeExperiment(methods=("nearest-prototype", "mine"), n_shot=(1,), n_episodes=9)
    seen: list[tuple[str, int]] = []
    results = run_episodes(
        load_features("digits"),
        experiment,
        methods={"mine": NearestPrototype()},
        progress=lambda run, n_done, means: seen.append((run, n_done)),
    )
    assert list(results.methods) == ["nearest-prototype", "mine"]
    assert results.differences()[0].mean == 0
    assert seen == [("", 0), ("", 9)]
    with pytest.raises(ValueError, match="unknown method 'mine'"):
        run_episodes(load_features("digits"), experiment)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ()}, "methods needs one value or more, each once, got ()"),
        ({"n_shot": (1, 1)}, "n_shot needs one value or more, each once, got (1, 1)"),
        ({"n_episodes": 0}, "n_episodes must be at least 1, got 0"),
        ({"protocol": "disjiont"}, "protocol must be one of disjoint, unem-official, meta-dataset; got 'disjiont'"),
        ({"dirichlet_concentration": 1.0}, "dirichlet_concentration needs query_distribution=dirichlet"),
        (
            {"protocol": "meta-dataset", "n_way": 3, "n_query": 2},
            "protocol=meta-dataset draws ways, shots and queries as the class sizes: leave out n_way, n_query",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_birth(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        EpisodeExperiment(**settings)
    assert str(caught.value) == message


def test_base_features_are_of_simpleshot_and_of_one_length() -> None:
    pool, base = load_features("digits"), FeatureSet(torch.eye(3), torch.tensor([0, 1, 1]), ("a", "b"))
    with pytest.raises(SettingError, match="base_features gives a mean to the method simpleshot: add it to methods"):
        run_episodes(pool, EpisodeExperiment(), base_features=base)
    with pytest.raises(SettingError, match="base_features has 3 features a row, the features to evaluate 64"):
        run_episodes(pool, EpisodeExperiment(methods=("simpleshot",)), base_features=base)
