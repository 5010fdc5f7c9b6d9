"""Category discovery as one call: what it cuts, finds and shows; the command gives the same."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from fewshot.cli.discover.command import discover

from fewshot.checks import SettingError
from fewshot.discovery import category_discovery
from fewshot.discovery.category_discovery import CategoryDiscovery
from fewshot.evaluation.discovery import (
    DiscoveryExperiment,
    cut_pool,
    lay_out,
    layout,
    named_confusion,
    profiles,
    run_discovery,
    true_classes,
)
from fewshot.evaluation.discovery import (
    experiment as experiment_module,
)
from fewshot.features import FeatureSet
from fewshot.registry.discovery import DISCOVERY_METHODS, build_discoverer, discoverer_options
from tests.kits.cli import document
from tests.kits.discovery import ColumnDiscovery, PlainDiscovery, TalkingDiscovery, column_pool, use_discoverer
from tests.kits.drawing import refuses

SIZES = {"crow": 20, "jay": 4, "owl": 12}
HIDDEN = {"crow": 10, "jay": 1, "owl": 12}
QUICK = DiscoveryExperiment(n_map_rows=0)


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    use_discoverer(monkeypatch, "discovery", ColumnDiscovery)
    use_discoverer(monkeypatch, "kmeans", PlainDiscovery)


def birds(**settings: Any) -> FeatureSet:
    """Crows and jays labelled in part; owls are new."""
    return column_pool(SIZES, n_unlabelled=HIDDEN, **settings)[0]


# --- the pool that is cut ---------------------------------------------------------------------------------------------


def test_rows_without_truth_stay_unlabelled_where_labels_are_held_out() -> None:
    pool, _ = column_pool({"crow": 9, "jay": 7, "owl": 8}, n_unlabelled={"crow": 4, "jay": 3, "owl": 8})
    data = cut_pool(pool, DiscoveryExperiment(n_known=1, labelled_fraction=1.0))
    assert data.truth is not None
    assert data.shown.tolist() == [0] * 5 + [-1] * 19
    assert data.truth.tolist() == [0] * 5 + [-1] * 4 + [1] * 4 + [-1] * 11


def test_known_classes_are_named_and_classes_may_count_as_unlabelled() -> None:
    pool, _ = column_pool({"crow": 4, "unsorted": 3, "jay": 5})
    data = cut_pool(pool, DiscoveryExperiment(unlabelled=("unsorted",), known_classes=("jay",), labelled_fraction=1.0))
    assert data.pool.class_names == ("crow", "jay")
    assert data.shown.tolist() == [-1] * 7 + [1] * 5
    assert data.is_unlabelled.tolist() == [True] * 7 + [False] * 5


def test_a_pool_that_does_not_fit_is_refused() -> None:
    pool, _ = column_pool({"crow": 4, "jay": 5})
    message = (
        "all 9 rows are labelled: mark some as unlabelled (-1 or an empty label in labels, or unlabelled CLASS), or "
        "hold some out to test with n_known N or known_classes LIST"
    )
    with refuses(SettingError, message):
        run_discovery(pool)
    with refuses(SettingError, "known_classes: no class 'jai' among 2 classes: did you mean 'jay'?"):
        run_discovery(pool, DiscoveryExperiment(known_classes=("jai",)))
    with refuses(SettingError, "unlabelled: no class 'emu' among 2 classes."):
        run_discovery(pool, DiscoveryExperiment(unlabelled=("emu",)))
    bare = replace(pool, labels=torch.full((9,), -1), class_names=())
    with refuses(SettingError, "n_known and known_classes hold labels out, and no row has one"):
        run_discovery(bare, DiscoveryExperiment(n_known=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_classes": 0}, "n_classes must be at least 1, or auto, got 0"),
        ({"power": 0.0}, "power must lie in (0, 1], or be auto, got 0.0"),
        ({"power": "all"}, "power must lie in (0, 1], or be auto, got 'all'"),
        ({"power": 0.5, "method": "ward"}, "power is no setting of the method ward"),
        ({"known_classes": "crow"}, "known_classes must be a tuple of names or random, got 'crow'"),
        ({"known_classes": "random"}, "known_classes random needs n_known, how many to draw"),
        ({"known_classes": ("crow",), "n_known": 1}, "give n_known or the known_classes themselves, not both"),
        ({"labelled_fraction": 0.0}, "labelled_fraction must lie in (0, 1], got 0.0"),
        ({"n_examples": 0}, "n_examples must be positive and n_map_rows not negative, got 0 and 1500"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    with refuses(SettingError, message):
        DiscoveryExperiment(**settings)


def test_an_unknown_method_or_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown method 'kmean': did you mean 'kmeans'"):
        DiscoveryExperiment(method="kmean")
    with pytest.raises(ValueError, match="unknown setting of kmeans 'n_class': did you mean 'n_classes'"):
        build_discoverer("kmeans", n_class=3)
    assert all("n_classes" in discoverer_options(name) for name in DISCOVERY_METHODS)


# --- the classes that are found ---------------------------------------------------------------------------------------


def test_names_keep_the_order_of_the_pool() -> None:
    names = ("wren", "10", "9", "-1")
    rows = 9 * torch.eye(4)[torch.arange(80) % 4] + torch.rand((80, 4), generator=torch.Generator().manual_seed(0))
    pool = FeatureSet(rows, torch.arange(80) % 4, names)
    result = run_discovery(pool, replace(QUICK, known_classes=("-1", "wren", "9")))
    assert result.found.names == ["wren", "9", "-1", "new-01"]
    assert [profile.name for profile in result.classes] == result.found.names
    assert result.scores is not None
    assert [row.found_as for row in true_classes(result.scores, names, result.found.names)] == [
        "wren", "new-01", "9", "-1",
    ]  # fmt: skip
    assert set(named_confusion(result.scores, names, result.found.names)) == {*result.found.names}


def test_rows_are_projected_once_and_means_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counting(module: Any, name: str) -> None:
        own = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: calls.append(name) or own(*args, **kwargs))

    counting(category_discovery, "project")
    counting(CategoryDiscovery, "predict_proba")
    counting(CategoryDiscovery, "fit")
    counting(experiment_module, "mean_directions")
    rows = 9 * torch.eye(4)[torch.arange(80) % 4] + torch.rand((80, 4), generator=torch.Generator().manual_seed(0))
    pool = FeatureSet(rows, torch.arange(80) % 4, ("ant", "bee", "fly", "wasp"))
    run_discovery(pool, DiscoveryExperiment(n_known=2, n_map_rows=20))
    assert sorted(calls) == ["fit", "mean_directions", "project"]


def test_probabilities_and_profiles_are_those_of_the_method(columns: None) -> None:
    pool = birds()
    result = run_discovery(pool, QUICK)
    shares = (2 * pool.features).softmax(1)
    assert torch.equal(result.found.probability, shares.gather(1, result.found.labels[:, None])[:, 0])
    for number, profile in enumerate(result.classes):
        own = result.found.labels == number
        free = own & (pool.labels < 0)
        assert (profile.n_rows, profile.n_unlabelled) == (int(own.sum()), int(free.sum()))
        assert profile.mean_probability == pytest.approx(float(result.found.probability[free].mean()))
        assert profile.is_known == (number < 2)


def test_a_method_that_reports_its_progress_is_heard_and_not_named_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    use_discoverer(monkeypatch, "discovery", TalkingDiscovery)
    heard: list[tuple[str, int, str]] = []
    result = run_discovery(birds(), QUICK, progress=lambda *stage: heard.append(stage))
    assert result.found.method == "TalkingDiscovery()"
    assert heard == [
        ("finding classes", 0, ""),
        ("finding classes", 0, "4 dimensions, 2"),
        ("finding classes", 1, ""),
        ("drawing the map", 0, ""),
        ("drawing the map", 1, ""),
    ]


def test_examples_are_the_most_typical_the_least_sure_and_the_labelled(columns: None) -> None:
    result = run_discovery(birds(), replace(QUICK, n_examples=5))
    found, shown = result.found, result.data.shown
    assert found.outlier_score is not None
    for number, groups in enumerate(result.examples):
        free = [row for row in range(36) if found.labels[row] == number and shown[row] < 0]
        own = [row for row in range(36) if found.labels[row] == number and shown[row] >= 0]
        by_score = sorted(free, key=lambda row: float(found.outlier_score[row]))
        by_doubt = sorted(by_score[5:], key=lambda row: float(found.probability[row]))
        assert groups.typical == by_score[:5]
        assert groups.unsure == by_doubt[:3]
        assert groups.labelled == sorted(own, key=lambda row: float(found.outlier_score[row]))[:2]


def test_many_classes_share_the_room_for_examples(columns: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "MAX_EXAMPLES", 15)
    for groups in run_discovery(birds(), replace(QUICK, method="kmeans")).examples:
        assert len(groups.labelled + groups.typical + groups.unsure) <= 5
        assert groups.typical


def test_a_large_pool_is_thinned_out_on_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_MAX_POINTS", 50)
    pool, _ = column_pool({"crow": 80, "jay": 40})
    labels = torch.tensor([0] * 80 + [1] * 40)
    found = lay_out(pool, labels, n_rows=20, seed=0)
    assert found is not None
    assert (len(found.rows), found.places.shape) == (50, (50, 2))
    assert torch.equal(found.rows, found.rows.unique())
    gap = torch.cdist(found.places.double(), found.places.double()) + 9e9 * torch.eye(50)
    assert torch.equal(labels[found.rows][gap.argmin(1)], labels[found.rows])
    two = FeatureSet(torch.eye(2), torch.tensor([0, 0]), ("a",))
    assert lay_out(two, torch.tensor([0, 0]), n_rows=20, seed=0) is None


# --- the same in Python and on the command line -----------------------------------------------------------------------


def test_the_defaults_of_the_command_are_those_of_the_library() -> None:
    given = {parameter.name: parameter.default for parameter in discover.params}
    renamed = {"n_examples": "examples", "n_map_rows": "map_rows"}
    for field in fields(DiscoveryExperiment):
        default = given[renamed.get(field.name, field.name)]
        assert default == field.default or (field.default in (None, ()) and not isinstance(default, (int, str))), field


@pytest.mark.parametrize("method", DISCOVERY_METHODS)
def test_python_and_the_command_give_the_same(method: str, tmp_path: Any) -> None:
    pool, _ = column_pool({"crow": 30, "jay": 20, "owl": 24, "tit": 12, "emu": 16}, seed=3)
    pool.save(tmp_path / "birds.safetensors")
    words = ("discover", "--features", tmp_path / "birds.safetensors", "--out", tmp_path / "found", "--quiet")
    told = document(*words, "--method", method, "--n-known", 3, "--seed", 2, "--map-rows", 0)
    result = run_discovery(pool, DiscoveryExperiment(method=method, n_known=3, seed=2, n_map_rows=0))
    assert result.scores is not None
    assert told["method"] == result.found.method
    assert (told["n_classes"], told["n_known"]) == (result.found.n_classes, result.found.n_known)
    assert told["scores"]["accuracy"] == result.scores.to_dict()["accuracy"]
    for row, profile in zip(told["classes"], result.classes, strict=True):
        assert {name: row[name] for name in profile._fields if name != "lineage"} == {
            name: value for name, value in profile._asdict().items() if name != "lineage"
        }
