"""Choosing a method's settings: grids, the choice, and what it may see."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
from fewshot_episodes import EpisodeSampler
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fewshot import load_tuned, save_tuned, tune, tuning_candidates
from fewshot.evaluation.episodes import evaluate_episodes
from fewshot.registry.episodic import METHODS, build_method
from fewshot.tuning import search as tuning
from fewshot.tuning.grids import GRIDS, Candidate, count_combinations, default_grid
from fewshot.tuning.search import choose
from tests.reference import tuning_loops

# Their options are facts or have one value, so that there is nothing to choose.
UNTUNED = {"nearest-prototype", "simpleshot", "unem-dirichlet", "unem-adaptive"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pool(n_classes: int = 6, n_each: int = 30, n_features: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes that differ in the length of their rows alone."""
    labels = torch.arange(n_classes * n_each) % n_classes
    noise = 0.3 * torch.randn((len(labels), n_features), generator=seeded())
    return 4.0 * (1 + labels[:, None]) + noise, labels


def regimes(labels: torch.Tensor) -> dict[str, EpisodeSampler]:
    return {
        "balanced": EpisodeSampler(labels, n_way=3, n_shot=1, n_query=4),
        "skewed": EpisodeSampler(labels, n_way=4, n_shot=2, n_query_total=9, query_distribution="dirichlet"),
    }


# --- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_holds_its_method_and_only_values_that_it_takes(name: str) -> None:
    found = tuning_candidates(name)
    defaults = METHODS[name].options()
    assert found[0].options == {option: defaults[option] for option in GRIDS[name]}
    assert build_method(found[0].method).describe() == build_method(name).describe()
    assert len({candidate.method for candidate in found}) == len(found) == count_combinations(name) > 1
    assert all(type(value) is type(defaults[o]) for each in found for o, value in each.options.items())
    assert [candidate.n_steps_away for candidate in found].count(0) == 1


def test_every_method_has_a_grid_or_nothing_to_choose() -> None:
    assert {name for name in METHODS if name not in GRIDS} == UNTUNED
    assert not {"inputs", "n_cosines"} & {option for grid in GRIDS.values() for option in grid}


def test_candidates_are_all_combinations_of_the_values_and_the_default() -> None:
    found = tuning_candidates("tim:n_steps=9", {"softmax_scale": ["30", 5], "cross_entropy_weight": [1]})
    # 15 and 0.1 are the defaults; on the axes 5, 15, 30 and 0.1, 1.
    assert [(*each.options.values(), each.n_steps_away) for each in found] == [
        (15.0, 0.1, 0), (5.0, 0.1, 1), (5.0, 1.0, 2), (15.0, 1.0, 1), (30.0, 0.1, 1), (30.0, 1.0, 2),
    ]  # fmt: skip
    assert found[1].method == "tim:n_steps=9,softmax_scale=5.0,cross_entropy_weight=0.1"


def test_words_are_one_step_apart_and_numbers_as_many_as_there_are_between() -> None:
    found = tuning_candidates("unem", {"preset": ["mini-wrn", "cub-resnet18"]})
    assert [each.n_steps_away for each in found] == [0, 1, 1]
    assert [each.n_steps_away for each in tuning_candidates("soft-kmeans", {"n_layers": [1, 2, 3]})] == [0, 3, 2, 1]


def test_what_is_held_leaves_the_methods_own_grid() -> None:
    assert list(tuning_candidates("em-dirichlet:class_balance=4")[0].options) == ["softmax_scale"]
    assert tuning_candidates("em-dirichlet:inputs=cosines")[0].method.startswith("em-dirichlet:inputs=cosines,")


@given(n=st.integers(2, 59), seed=st.integers(0, 99))
def test_a_random_part_of_a_grid_is_distinct_and_holds_the_default(n: int, seed: int) -> None:
    grid = {"scale": range(1, 6), "class_balance": range(5), "temperature": [1, 2]}
    everything = tuning_candidates("em-gaussian", grid)
    assert len(everything) == count_combinations("em-gaussian", grid) == 60
    part = tuning_candidates("em-gaussian", grid, n_candidates=n, generator=seeded(seed))
    assert (len(part), part[0]) == (n, everything[0])
    assert len({each.method for each in part} & {each.method for each in everything}) == n
    assert part == tuning_candidates("em-gaussian", grid, n_candidates=n, generator=seeded(seed))


def test_every_combination_can_be_drawn() -> None:
    grid = {"n_layers": [1, 2, 3, 4]}
    drawn = [tuning_candidates("paddle", grid, n_candidates=2, generator=seeded(seed))[1] for seed in range(60)]
    assert {each.options["n_layers"] for each in drawn} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("method", "grid", "message"),
    [
        ("simpleshot", None, "simpleshot has no options to tune"),
        (
            "unem-dirichlet",
            None,
            "no values are known for unem-dirichlet: give some of its options (preset) values to try",
        ),
        ("soft-kmeans:n_layers=3", None, "no values are known for soft-kmeans: give some of its options "
         "(class_balance, n_layers) values to try beside what is held"),
        ("paddle:n_layers=3", {"n_layers": [5]},
         "paddle:n_layers is held at one value and tuned: leave out one of the two"),
        ("paddle", {"n_layer": [5]},
         "unknown option of paddle 'n_layer': did you mean 'n_layers'? Known: class_balance, n_layers"),
        ("paddle", {"n_layers": ["5.5"]}, "paddle:n_layers must be a whole number, got '5.5'"),
        ("paddle", {"n_layers": [5.5]}, "paddle:n_layers must be a whole number, got '5.5'"),
        ("paddle", {"class_balance": ["inf"]}, "paddle:class_balance must be a finite number, got 'inf'"),
        ("paddle", {"class_balance": [-1]}, "paddle:class_balance=-1.0: class_balance must not be negative, got -1.0"),
        ("paddle", {"class_balance": ["1"]}, "the grid holds nothing but the default of paddle: name other values"),
        ("em-dirichlet", {"inputs": ["cosines"]}, "em-dirichlet:inputs says what the features are and is not tuned: "
         "give it with the method, as in em-dirichlet:inputs=embeddings"),
        ("laplacian-shot", {"is_rectified": ["no"]}, "laplacian-shot:is_rectified must be true or false, got 'no'"),
        ("paddle", {"n_layers": range(1, 2000), "class_balance": range(600)},
         "the grid has 1,199,400 combinations, at most 1,000,000 can be: name fewer values"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be_is_one_line(method: str, grid: dict | None, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is compared)
        tuning_candidates(method, grid)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"n_candidates": 1}, "n_candidates must be at least 2, the default and another, got 1"),
        ({"n_candidates": 3}, "a generator is needed to draw 3 of 24 combinations: give one"),
    ],
)
def test_a_draw_that_cannot_be_is_one_line(words: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tuning_candidates("paddle", **words)


def test_a_grid_is_given_away_as_a_copy() -> None:
    default_grid("paddle").clear()
    assert default_grid("paddle")


# --- the choice ------------------------------------------------------------------------------------------------------


def named(n: int, steps: list[int] | None = None) -> list[Candidate]:
    return [Candidate(f"m{i}", {}, step) for i, step in enumerate(steps or range(n))]


@given(seed=st.integers(0, 999), n_candidates=st.integers(2, 7), n_regimes=st.integers(1, 3))
def test_the_choice_is_that_of_loops(seed: int, n_candidates: int, n_regimes: int) -> None:
    gains = 0.05 * torch.rand(n_candidates, 1, generator=seeded(seed)).double()
    noise = 0.1 * torch.randn((n_regimes, n_candidates, 31), generator=seeded(seed)).double()
    accuracies = {f"r{i}": each for i, each in enumerate(0.5 + gains + noise)}
    found = choose(named(n_candidates), accuracies, {})
    values = [each.tolist() for each in accuracies.values()]
    z = float(norm.ppf(1 - 0.025 / (n_candidates - 1)))
    assert found.chosen.candidate.method == f"m{tuning_loops.chosen(values, z)}"
    for score in found.scores:
        position = int(score.candidate.method[1:])
        mean, error = tuning_loops.differences(values)[position]
        assert score.difference.mean == pytest.approx(mean, abs=1e-12)
        assert score.difference.half_width == pytest.approx(z * error, rel=1e-9, abs=1e-12)
        assert score.by_regime == {regime: each[position].mean().item() for regime, each in accuracies.items()}
    assert [score.accuracy.mean for score in found.scores] == sorted(
        (score.accuracy.mean for score in found.scores), reverse=True
    )


def test_the_default_is_seldom_left_where_all_are_equal() -> None:
    """One run in twenty at most, although the best of 40 looks better than the default almost always."""
    noise = 0.1 * torch.randn((300, 40, 100), generator=seeded())
    found = [choose(named(40), {"r": 0.5 + each}, {}) for each in noise]
    assert sum(not each.is_default_kept for each in found) <= 0.08 * len(found)
    assert sum(each.scores[0] is not each.default for each in found) > 0.9 * len(found)


def test_of_those_beyond_the_default_the_best_is_chosen_even_if_a_shaky_one_has_a_higher_mean() -> None:
    steady = torch.full((40,), 0.55)
    shaky = 0.56 + torch.tensor([-0.5, 0.5]).repeat(20)
    found = choose(named(4), {"r": torch.stack([torch.full((40,), 0.5), shaky, steady, steady - 0.01])}, {})
    assert [score.candidate.method for score in found.scores] == ["m1", "m2", "m3", "m0"]
    assert (found.chosen.candidate.method, found.is_default_kept) == ("m2", False)


def test_of_equal_candidates_the_nearest_to_the_default_is_chosen() -> None:
    better = torch.full((40,), 0.6)
    accuracies = torch.stack([better - 0.1, better, better, better])
    found = choose(named(4, [0, 3, 1, 2]), {"r": accuracies}, {})
    assert (found.chosen.candidate.method, found.default.candidate.method) == ("m2", "m0")
    assert choose(named(3, [0, 2, 1]), {"r": torch.stack([better] * 3)}, {}).scores[0].candidate.method == "m0"


def test_every_regime_counts_the_same() -> None:
    base = torch.full((2, 30), 0.5)
    up, down = base.clone(), base.clone()
    up[1] += 0.2
    down[1] -= 0.1
    found = choose(named(2), {"a": up, "b": down, "c": base}, {})
    assert found.chosen.difference.mean == pytest.approx(0.1 / 3)
    assert found.chosen.by_regime == pytest.approx({"a": 0.7, "b": 0.4, "c": 0.5})


# --- tuning ----------------------------------------------------------------------------------------------------------


def test_the_candidate_that_must_win_wins() -> None:
    """Classes differ in length alone, which the default of logistic regression takes away."""
    features, labels = pool()
    tried = tuning_candidates("logistic-regression")
    found = tune(tried, features, regimes(labels), n_episodes=40, generator=seeded())
    assert not found.is_default_kept
    assert found.chosen.candidate.options["is_normalized"] is False
    assert found.default.accuracy.mean < 0.6 < 0.85 < found.chosen.accuracy.mean


def test_nothing_changes_where_labels_mean_nothing() -> None:
    labels = torch.arange(180) % 6
    features = torch.randn((180, 5), generator=seeded())
    found = tune(tuning_candidates("bd-cspn"), features, regimes(labels), n_episodes=60, generator=seeded())
    assert found.is_default_kept
    assert found.chosen is found.default
    assert found.scores[0].accuracy.mean > found.default.accuracy.mean


def test_accuracies_are_those_of_the_evaluation_on_the_same_episodes() -> None:
    features, labels = pool()
    tried = tuning_candidates("soft-kmeans", {"n_layers": [1, 2, 3, 4, 6]})
    found = tune(tried, features, regimes(labels), n_episodes=33, generator=seeded(5))
    for regime, sampler in regimes(labels).items():
        methods = {each.method: build_method(each.method) for each in tried}
        expected = evaluate_episodes(methods, features, sampler, n_episodes=33, generator=seeded(5))
        assert found.episode_hashes[regime] == expected.episode_hash
        for score in found.scores:
            mean = expected.scores[score.candidate.method].interval.mean
            assert score.by_regime[regime] == pytest.approx(mean, abs=1e-12)


def test_neither_batches_nor_groups_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = pool()
    tried = tuning_candidates("bd-cspn", {"softmax_scale": [1, 2, 5, 20]})
    whole = tune(tried, features, regimes(labels), n_episodes=30, generator=seeded())
    monkeypatch.setattr(tuning, "_N_AT_ONCE", 2)
    parts = tune(tried, features, regimes(labels), n_episodes=30, batch_size=7, generator=seeded())
    assert parts == whole


def test_the_generator_is_left_as_it_was() -> None:
    features, labels = pool()
    generator = seeded(3)
    tune(
        tuning_candidates("soft-kmeans", {"n_layers": [1]}),
        features,
        regimes(labels),
        n_episodes=30,
        generator=generator,
    )
    assert torch.equal(generator.get_state(), seeded(3).get_state())


def test_modules_run_where_the_features_are() -> None:
    features, labels = pool()
    tried = tuning_candidates("unem", {"preset": ["mini-wrn"]})
    found = tune(tried, features.double(), regimes(labels), n_episodes=30, generator=seeded())
    assert {score.candidate.options["preset"] for score in found.scores} == {"frozen-features", "mini-wrn"}


def test_progress_counts_every_candidate() -> None:
    features, labels = pool()
    seen: list[tuple[str, int]] = []
    tune(
        tuning_candidates("soft-kmeans", {"n_layers": [1, 2, 3, 4, 5]}), features, regimes(labels), n_episodes=30,
        batch_size=20, generator=seeded(), progress=lambda regime, n_done: seen.append((regime, n_done)),
    )  # fmt: skip
    assert seen == [(regime, n) for regime in ("balanced", "skewed") for n in (80, 120, 160, 180)]


def test_there_is_one_pool_and_no_way_to_hand_in_another() -> None:
    words = inspect.signature(tune).parameters
    assert list(words) == ["tried", "features", "samplers", "n_episodes", "batch_size", "generator", "progress"]
    features, labels = pool()
    with pytest.raises(ValueError, match="one row for each of the sampler's 180 labels, got 179 rows"):
        tune(tuning_candidates("unem"), features[1:], regimes(labels), generator=seeded())


@pytest.mark.parametrize(
    ("n_tried", "n_regimes", "n_episodes", "message"),
    [
        (1, 2, 30, "tuning needs at least the default, another candidate and a regime, got 1 candidates and 2 regimes"),
        (2, 0, 30, "tuning needs at least the default, another candidate and a regime, got 2 candidates and 0 regimes"),
        (2, 1, 29, "n_episodes must be at least 30 for an interval to mean much, got 29"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(n_tried: int, n_regimes: int, n_episodes: int, message: str) -> None:
    features, labels = pool()
    some = dict(list(regimes(labels).items())[:n_regimes])
    with pytest.raises(ValueError, match=message):
        tune(tuning_candidates("bd-cspn")[:n_tried], features, some, n_episodes=n_episodes, generator=seeded())


def test_a_protocol_that_leaks_is_refused() -> None:
    features, labels = pool()
    leaking = {"r": EpisodeSampler(labels, n_way=3, n_shot=1, n_query=4, protocol="unem-official")}
    with pytest.raises(ValueError, match="regime 'r' lets queries be support items: tune on a protocol that keeps"):
        tune(tuning_candidates("bd-cspn"), features, leaking, generator=seeded())


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    facts = {"seed": 3, "kind": "something else", "candidates": [{"accuracy": 0.25}]}
    save_tuned(path, "paddle:class_balance=0.5", ["wren", "crow"], facts)
    method, found = load_tuned(path)
    assert (method, found["class_names"], found["seed"]) == ("paddle:class_balance=0.5", ["crow", "wren"], 3)
    assert (found["kind"], found["format_version"]) == ("tuned-method", 1)
    with pytest.raises(ValueError, match="unknown option of paddle 'x'"):
        save_tuned(path, "paddle:x=1", ["wren"], {})
    assert load_tuned(path)[1] == found


HEAD = {"kind": "tuned-method", "format_version": 1, "method": "paddle", "class_names": ["crow"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95", "expected a file of `fewshot tune` (JSON), got something else"),
        (b"", "expected a file of `fewshot tune` (JSON), got something else"),
        (b"[" * 100_000, "expected a file of `fewshot tune` (JSON), got something else"),
        (b"[1]", "expected a file of `fewshot tune`, got other JSON"),
        (b'{"kind": "x"}', "expected a file of `fewshot tune`, got other JSON"),
        (json.dumps({**HEAD, "format_version": 2}).encode(),
         "expected format version 1, got 2: upgrade fewshot to read it"),
        (json.dumps({**HEAD, "class_names": []}).encode(),
         "does not say which classes it was tuned on: write it again with `fewshot tune`"),
        (json.dumps({**HEAD, "class_names": [3]}).encode(),
         "does not say which classes it was tuned on: write it again with `fewshot tune`"),
        (json.dumps({**HEAD, "method": None}).encode(),
         "does not say which method was tuned: write it again with `fewshot tune`"),
        (json.dumps({**HEAD, "method": "padle"}).encode(),
         "is for another version of fewshot (unknown method 'padle': did you mean 'paddle'? Known: "),
    ],
)  # fmt: skip
def test_a_foreign_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is compared)
        load_tuned(path)
    assert str(caught.value).removeprefix(f"{path}").lstrip(": ").startswith(message)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*a\.json: write it with `fewshot tune --out"):
        load_tuned(tmp_path / "a.json")
    with pytest.raises(ValueError, match="expected a file of `fewshot tune`, got a folder"):
        load_tuned(tmp_path)
