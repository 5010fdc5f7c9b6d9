"""CategoryDiscovery: the estimator over split and merge, and how it is kept."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewshot import CategoryDiscovery, SemiSupervisedKMeans, estimate_n_classes, load_discoverer, save_discoverer
from fewshot.discovery.outliers import outlier_scores
from fewshot.discovery.space import principal_space, project
from fewshot.discovery.split_merge.evidence_power import find_power
from fewshot.discovery.split_merge.subspaces import median_count, search_subspace
from tests.kits.mixtures import anisotropic, separated


def quick(**settings):
    return CategoryDiscovery(n_dims=8, power=0.4).set_params(**settings)


@parametrize_with_checks([quick(), CategoryDiscovery(n_dims=(2, 3), power=0.5)])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def pool():
    return anisotropic(1, n_classes=9, n_rows=540, n_features=24, n_known=5)


@pytest.mark.parametrize("n_start", [None, 5, 7, 9, 13, 22])
def test_classes_are_found_from_any_start(pool, n_start):
    rows, truth, labels = pool
    model = CategoryDiscovery(n_dims=(8, 16), n_start=n_start).fit(rows, labels)
    assert (model.n_classes_, model.n_known_) == (9, 5)
    assert adjusted_rand_score(truth, model.labels_) == 1.0
    assert torch.equal(model.labels_[labels >= 0], labels[labels >= 0])
    assert [size for size, _, _ in model.subspace_runs_] == [8, 16]
    assert [count for _, _, count in model.subspace_runs_] == [9, 9]
    assert model.warnings_ == []
    assert model.trace_[-1].n_classes == 9


def test_names_are_those_given_and_new_ones(pool):
    rows, truth, labels = pool
    names = [("wren", "crow", "jay", "tit", "rook")[label] if label >= 0 else -1 for label in labels.tolist()]
    model = quick().fit(rows.numpy(), np.array(names, dtype=object))
    assert model.classes_.tolist() == ["crow", "jay", "rook", "tit", "wren", *(f"new-0{i}" for i in range(1, 5))]
    assert adjusted_rand_score(truth, model.transduction_) == 1.0


def test_without_labels_it_says_what_its_number_rests_on(pool):
    rows, truth, _ = pool
    model = CategoryDiscovery(n_dims=8).fit(rows)
    assert (model.n_known_, model.power_, model.power_curve_) == (0, 0.4, [])
    assert model.warnings_[-1] == (
        "0 classes are known, none can be held out: the number of classes found rests on the guess power=0.4; label "
        "some items of at least two classes"
    )
    assert adjusted_rand_score(truth, model.labels_) > 0.9


def test_all_labelled_leaves_nothing_to_find(pool):
    rows, truth, _ = pool
    assert torch.equal(CategoryDiscovery(n_dims=8).fit(rows, truth).labels_, truth)


@pytest.mark.parametrize("n_classes", [5, 8, 9, 12])
def test_a_number_of_classes_can_be_asked_for(pool, n_classes):
    rows, _, labels = pool
    model = quick(n_classes=n_classes).fit(rows, labels)
    assert model.n_classes_ == n_classes
    assert len(model.subspace_runs_) == 1


def test_rows_that_were_not_in_the_pool_are_predicted(pool):
    rows, truth, labels = pool
    model = quick().fit(rows[:400], labels[:400])
    assert torch.equal(model.predict(rows[:400]), model.labels_)
    assert adjusted_rand_score(truth[400:], model.predict(rows[400:])) == 1.0
    probabilities = model.predict_proba(rows[400:])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(140))
    assert torch.equal(probabilities.argmax(1), model.predict(rows[400:]))


def test_outliers_lie_farther_than_known_items(pool):
    rows, _, labels = pool
    far = rows.clone()
    far[3] += 40 * (rows[3] - rows[0])
    model = quick(normalize=False).fit(far, torch.where(torch.arange(len(labels)) == 3, -1, labels))
    assert model.outlier_score_[3] == 1.0
    known = model.outlier_score_[labels >= 0].sort().values
    assert float((known - torch.linspace(0, 1, len(known))).abs().max()) < 0.02  # ranks among themselves


def test_outlier_scores_are_the_share_of_known_rows_nearer_to_their_mean():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(30, 3)), rng.integers(0, 3, size=30)
    is_known = rng.random(30) < 0.5
    distances = np.array([np.linalg.norm(rows[i] - rows[labels == labels[i]].mean(0)) for i in range(30)])
    expected = [np.mean(distances[is_known] < distance - 1e-12) for distance in distances]
    tensors = (torch.from_numpy(part) for part in (rows, labels, is_known))
    np.testing.assert_allclose(outlier_scores(*tensors, 3), expected)


def test_what_is_saved_predicts_the_same(pool, tmp_path):
    rows, _, labels = pool
    names = np.array(["abcde"[label] if label >= 0 else "-1" for label in labels])
    for model in (CategoryDiscovery(n_dims=(4, 8), progress=print), SemiSupervisedKMeans(9, n_init=1)):
        model.set_params(random_state=3).fit(rows, names)
        save_discoverer(model, tmp_path / "found.safetensors", {"extractor": "made up"})
        restored, source = load_discoverer(tmp_path / "found.safetensors")
        assert type(restored) is type(model)
        assert restored.random_state == 3
        assert source == {"extractor": "made up"}
        assert restored.classes_.tolist() == model.classes_.tolist()
        assert torch.equal(restored.predict(rows), model.predict(rows))
        torch.testing.assert_close(restored.predict_proba(rows), model.predict_proba(rows))
        assert torch.equal(restored.labels_, model.labels_)
    assert "outlier_score" in CategoryDiscovery(n_dims=4).fit(rows, names).tensors()


def test_a_file_that_is_no_discoverer_is_refused(tmp_path):
    from fewshot.storage import save_tensors

    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, kind="discoverer", metadata={"class": "PIM"})
    with pytest.raises(ValueError, match=r"is not a whole discoverer \('settings'\): fit and save it again"):
        load_discoverer(tmp_path / "x.safetensors")


def test_the_seed_decides_and_global_state_does_not(pool):
    rows, _, labels = pool
    state = torch.get_rng_state()
    first = CategoryDiscovery(n_dims=8, n_start=12, is_stochastic=True).fit(rows, labels)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    second = clone(first).fit(rows, labels)
    torch.set_rng_state(state)
    assert torch.equal(first.labels_, second.labels_)
    assert first.proposals_ == second.proposals_


def test_progress_is_told():
    rows, _, labels = separated(0, n_features=4, n_known=4, n_new=2)
    told = []
    CategoryDiscovery(n_dims=(2, 4), normalize=False, progress=lambda *what: told.append(what)).fit(rows, labels)
    assert told[0] == ("2 dimensions", 1)
    assert told[-1][0] == "4 dimensions"


def test_power_depends_on_the_halves_hidden_and_nothing_else(pool):
    rows, _, labels = pool
    rows = rows - rows.mean(0)
    curves = [
        find_power(rows, labels, 5, generator=torch.Generator().manual_seed(seed), n_repeats=1).curve for seed in (0, 0)
    ]
    assert curves[0] == curves[1]


def test_the_old_name_of_the_runs_warns(pool):
    rows, _, labels = pool
    model = CategoryDiscovery(n_classes=9, n_dims=8, power=0.4).fit(rows, labels)
    with pytest.warns(FutureWarning, match=r"CategoryDiscovery.attempts_ is deprecated .*: use .*subspace_runs_"):
        assert model.attempts_ == model.subspace_runs_


def test_spaces_are_no_larger_than_there_are_directions(pool):
    rows, _, labels = pool
    assert [size for size, _, _ in CategoryDiscovery(n_dims=(8, 20, 30)).fit(rows, labels).subspace_runs_] == [
        8,
        20,
        24,
    ]
    assert [size for size, _, _ in CategoryDiscovery(n_dims="auto").fit(rows, labels).subspace_runs_] == [8, 10, 20]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"power": 0}, "power must be above 0 and 1 at most, or 'auto', got 0"),
        ({"power": "high"}, "power must be above 0 and 1 at most, or 'auto', got 'high'"),
        ({"n_dims": ()}, "n_dims must be a positive whole number, several, or 'auto', got ()"),
        ({"n_dims": (8, 0)}, "n_dims must be a positive whole number, several, or 'auto', got (8, 0)"),
        ({"n_dims": "many"}, "n_dims must be a positive whole number, several, or 'auto', got 'many'"),
        ({"concentration": 0}, "concentration must be positive, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(pool, settings, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        CategoryDiscovery(**settings).fit(pool[0], pool[2])


def test_ids_of_what_was_asked_for_are_not_those_of_what_was_merged_away(pool):
    rows, _, labels = pool
    model = quick(n_classes=14, n_start=22).fit(rows, labels)
    gone = {p.parents[1] for p in model.proposals_ if p.kind == "merge" and p.is_accepted}
    assert gone
    assert not gone & set(model.component_ids_)


def test_split_and_merge_counts_classes_too(pool):
    rows, _, labels = pool
    generator = torch.Generator().manual_seed(0)
    found = estimate_n_classes(rows, labels, method="split-merge", generator=generator, n_seeds=2)
    assert (found.n_classes, found.interval, found.curve.tolist()) == (9, (9, 9), [[9.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    "rows",
    [
        torch.ones((20, 4)),
        torch.ones((20, 4)) * torch.arange(20)[:, None] * 1e-20,
        torch.randn((20, 4), generator=torch.Generator().manual_seed(0)).double() * 1e20,
        torch.randn((20, 40), generator=torch.Generator().manual_seed(0)).half(),
        torch.eye(20),
    ],
)
@pytest.mark.parametrize("n_labelled", [0, 1, 4, 20])
def test_degenerate_pools_give_an_answer(rows, n_labelled):
    labels = torch.where(torch.arange(20) < n_labelled, torch.arange(20) % 4, -1)
    model = CategoryDiscovery(n_dims=(3, 5)).fit(rows, labels)
    assert torch.equal(model.labels_[labels >= 0], labels[labels >= 0])
    assert model.n_classes_ >= max(1, min(4, n_labelled))
    assert model.predict_proba(rows).isfinite().all()
    assert model.outlier_score_.isfinite().all()


def test_the_number_is_the_median_of_what_the_spaces_find(pool):
    counts = [SimpleNamespace(found=SimpleNamespace(n_components=count)) for count in (40, 7, 9)]
    assert median_count(counts) == 9
    rows, _, labels = pool
    model = quick(n_dims=(1, 2, 8)).fit(rows, labels)
    found = [count for _, _, count in model.subspace_runs_]
    assert model.n_classes_ == sorted(found)[1] != found[-1]


def test_where_a_number_is_asked_for_the_largest_space_is_searched(pool):
    rows, _, labels = pool
    model = quick(n_classes=9, n_dims=(4, 8)).fit(rows, labels)
    assert [size for size, _, _ in model.subspace_runs_] == [8]


def test_probabilities_are_those_of_gaussians_of_one_shape_to_the_power(pool):
    rows, _, labels = pool
    keep = torch.arange(540) % 9 * 60 < torch.arange(540)  # classes of different sizes
    rows, labels = rows[keep].double(), labels[keep]
    model = quick(power=0.3).fit(rows, labels)
    state = {name: tensor.numpy() for name, tensor in model.tensors().items()}
    unit = rows.numpy() / np.linalg.norm(rows.numpy(), axis=1, keepdims=True)
    z, own = (unit - state["center"]) @ state["basis"], model.labels_.numpy()
    scores = np.stack(
        [np.log((own == k).sum()) - 0.5 * ((z - z[own == k].mean(0)) ** 2).sum(1) for k in range(9)], axis=1
    )
    expected = np.exp(0.3 * (scores - scores.max(1, keepdims=True)))
    np.testing.assert_allclose(model.predict_proba(rows), expected / expected.sum(1, keepdims=True), atol=1e-8)


def test_ids_of_classes_lead_to_the_proposals_that_made_them(pool):
    rows, truth, labels = pool
    sizes = torch.tensor([60, 60, 60, 60, 60, 20, 50, 30, 40])
    keep = torch.arange(540) // 9 < sizes[truth]
    model = quick().fit(rows[keep], labels[keep])
    ids = model.component_ids_
    assert ids[:5] == [0, 1, 2, 3, 4]
    assert ids[5:] != sorted(ids[5:])
    accepted = [p for p in model.proposals_ if p.is_accepted]
    made = {p.children[1]: p.parents[0] for p in accepted if p.kind != "merge"}
    assert {*ids[5:]} <= {*made}
    projected = project(principal_space(rows[keep], 8), rows[keep])
    found = search_subspace(projected, labels[keep], 5, generator=torch.Generator().manual_seed(0), power=0.4).found
    assert [ids[k] for k in model.labels_.tolist()] == found.component_ids[found.labels].tolist()


def test_concentration_has_its_say_in_the_power_and_in_the_number(pool):
    rows, _, labels = pool
    assert quick(concentration=1e-300).fit(rows, labels).n_classes_ == 5
    projected = project(principal_space(rows, 4), rows)[:180]
    first, second = (
        search_subspace(
            projected, labels[:180], 5, generator=torch.Generator().manual_seed(0), concentration=value
        ).search
        for value in (1.0, 1e-300)
    )
    assert first.curve[0][1] > -0.5
    assert second.curve[0][1] < -0.8  # hardly any of the hidden classes is found


def test_rounds_and_start_are_those_asked_for(pool):
    rows, _, labels = pool
    model = quick(n_rounds=1, n_start=14).fit(rows, labels)
    assert len(model.trace_) == 1
    assert model.trace_[0].n_classes_before == 14
    assert model.warnings_ == [
        "split and merge had not settled after 1 rounds: the partition of most evidence is kept; more n_rounds may "
        "change it"
    ]
    assert quick(n_start=14).fit(rows, labels).warnings_ == []


def test_coins_ask_every_component_in_every_round(pool):
    rows, _, labels = pool
    model = quick(is_stochastic=True).fit(rows, labels)
    assert len(model.trace_) > 1
    for number, done in enumerate(model.trace_):
        parted = [p for p in model.proposals_ if p.round == number and p.kind != "merge"]
        assert len(parted) == done.n_classes_before


def test_with_one_known_class_the_number_rests_on_the_guess(pool):
    rows, _, labels = pool
    model = CategoryDiscovery(n_dims=8).fit(rows, torch.where(labels == 0, 0, -1))
    assert (model.n_known_, model.power_, model.power_curve_) == (1, 0.4, [])
    assert model.warnings_[-1].startswith("1 classes are known, none can be held out")


def test_the_space_is_that_of_unit_rows_or_of_rows_as_they_are(pool):
    rows, _, labels = pool
    rows = rows.double() * torch.linspace(1, 3, len(rows))[:, None]
    for normalize, seen in ((True, rows / rows.norm(dim=1, keepdim=True)), (False, rows)):
        state = quick(normalize=normalize).fit(rows, labels).tensors()
        torch.testing.assert_close(state["center"], seen.mean(0))
        spread = ((seen - seen.mean(0)) @ state["basis"]).square().mean(0)
        torch.testing.assert_close(spread, state["variances"])
