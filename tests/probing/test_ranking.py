"""Neighbours, retrieval, set distances and the metrics of rankings against plain loops and scikit-learn."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.metrics.classification import AP_VARIANTS, average_precision, class_accuracy, mean_class_accuracy
from fewshot.probing import nearest_rows, neighbour_scores, ranking_scores, retrieval_scores, set_distance
from tests.reference import retrieval_loop


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=17, d=5, seed=0, n_classes=3):
    labels = torch.arange(n_classes).repeat(n)[:n][torch.randperm(n, generator=seeded(seed))]
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64), labels


def grid_points(n=17, seed=0):
    """Points with many equal distances, exact in floating point."""
    x, labels = points(n, 2, seed)
    return x.round(), labels


def rotation(d):
    return torch.linalg.qr(torch.randn(d, d, generator=seeded(8), dtype=torch.float64)).Q


# Average precision


@pytest.mark.parametrize("variant", AP_VARIANTS)
@given(data=st.data())
def test_average_precision_is_its_definition_ties_included(variant, data):
    n = data.draw(st.integers(1, 12))
    scores = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    is_positive = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    expected = retrieval_loop.average_precision(scores, is_positive, variant)
    found = average_precision(torch.tensor(scores).double(), torch.tensor(is_positive), variant)
    assert found.item() == pytest.approx(expected, nan_ok=True)


def test_precision_at_hits_is_that_of_scikit_learn():
    from sklearn.metrics import average_precision_score

    for seed in range(5):
        scores = torch.randn(40, generator=seeded(seed)).mul(2).round()
        is_positive = torch.rand(40, generator=seeded(seed + 9)) < 0.3
        expected = average_precision_score(is_positive.numpy(), scores.numpy())
        assert average_precision(scores, is_positive).item() == pytest.approx(expected)


@pytest.mark.parametrize("variant", AP_VARIANTS)
def test_average_precision_of_a_batch_is_one_by_one(variant):
    scores = torch.randn(2, 3, 11, generator=seeded()).round()
    is_positive = torch.rand(2, 3, 11, generator=seeded(1)) < 0.4
    whole = average_precision(scores, is_positive, variant)
    for i in range(2):
        for j in range(3):
            one = average_precision(scores[i, j], is_positive[i, j], variant)
            torch.testing.assert_close(whole[i, j], one, equal_nan=True)


@pytest.mark.parametrize("variant", AP_VARIANTS)
def test_average_precision_sees_the_order_only(variant):
    scores = torch.randn(23, generator=seeded(), dtype=torch.float64)
    is_positive = torch.rand(23, generator=seeded(1)) < 0.4
    expected = average_precision(scores, is_positive, variant)
    torch.testing.assert_close(average_precision(scores.exp() * 7 - 3, is_positive, variant), expected)
    order = torch.randperm(23, generator=seeded(2))
    torch.testing.assert_close(average_precision(scores[order], is_positive[order], variant), expected)
    assert average_precision(is_positive.double(), is_positive, variant).item() == 1


def test_a_random_ranking_has_the_precision_of_the_share_of_positives():
    scores = torch.rand(60, 500, generator=seeded())
    is_positive = (torch.arange(500) < 100).expand(60, 500)
    assert average_precision(scores, is_positive).mean().item() == pytest.approx(0.2, abs=0.02)
    assert average_precision(torch.zeros(500), is_positive[0]).item() == pytest.approx(0.2)


def test_an_unknown_variant_is_refused():
    message = "unknown variant of average precision 'voc07'. Known: 11-point, all-points, hits"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        average_precision(torch.zeros(2), torch.tensor([True, False]), "voc07")


# Accuracy per class


def test_accuracy_per_class_is_that_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score, recall_score

    labels = torch.tensor([0] * 11 + [1] * 3 + [2] * 7)
    answers = torch.randint(3, labels.shape, generator=seeded())
    expected = recall_score(labels.numpy(), answers.numpy(), average=None)
    np.testing.assert_allclose(class_accuracy(answers, labels, 3).numpy(), expected)
    mean = mean_class_accuracy(answers, labels, 3).item()
    assert mean == pytest.approx(balanced_accuracy_score(labels.numpy(), answers.numpy()))
    assert mean_class_accuracy(answers, labels, 5).item() == pytest.approx(mean)
    batch = mean_class_accuracy(torch.stack([answers, labels]), labels.expand(2, -1), 3)
    assert batch.tolist() == pytest.approx([mean, 1.0])


# Neighbours


@given(st.integers(0, 99), st.sampled_from([False, True]), st.floats(0.05, 1.0))
def test_neighbour_scores_are_a_loop(seed, is_leave_one_out, temperature):
    gallery, labels = points(seed=seed)
    query = gallery if is_leave_one_out else points(6, seed=seed + 1)[0]
    ours = neighbour_scores(
        query, gallery, labels, (4, 1, 9), temperature=temperature, is_leave_one_out=is_leave_one_out, batch_size=4
    )
    expected = retrieval_loop.neighbour_scores(
        query.numpy(), gallery.numpy(), labels.numpy(), 3, (4, 1, 9), temperature, is_leave_one_out
    )
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def test_the_default_neighbours_and_temperature_are_those_of_dinov2():
    gallery, labels = points(230)
    found = neighbour_scores(points(6, seed=1)[0], gallery, labels)
    expected = neighbour_scores(points(6, seed=1)[0], gallery, labels, (10, 20, 100, 200), temperature=0.07)
    assert torch.equal(found, expected)


def test_one_neighbour_of_the_gallery_itself_is_itself_unless_left_out():
    x, labels = points()
    assert neighbour_scores(x, x, labels, [1])[0].argmax(-1).tolist() == labels.tolist()
    pairs = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    left_out = neighbour_scores(pairs, pairs, torch.tensor([0, 1, 1, 0]), [1], is_leave_one_out=True)
    assert left_out[0].argmax(-1).tolist() == [1, 0, 0, 1]


def test_mass_grows_with_k_to_one_and_rotation_and_scale_do_not_matter():
    gallery, labels = points()
    query, q = points(6, seed=1)[0], rotation(5)
    scores = neighbour_scores(query, gallery, labels, (2, 5, 11))
    assert bool((scores.diff(dim=0) >= 0).all())
    torch.testing.assert_close(scores[-1].sum(-1), torch.ones(6).double())
    assert bool((scores.sum(-1)[:-1] < 1).all())
    torch.testing.assert_close(neighbour_scores(3 * query @ q, 2 * gallery @ q, labels, (2, 5, 11)), scores)


def test_the_batch_size_changes_no_neighbour_and_no_rank():
    gallery, labels = points()
    for batch_size in (1, 5, 17):
        ours = neighbour_scores(gallery, gallery, labels, (4,), is_leave_one_out=True, batch_size=batch_size)
        torch.testing.assert_close(ours, neighbour_scores(gallery, gallery, labels, (4,), is_leave_one_out=True))


def test_too_many_neighbours_are_all_there_are_and_said():
    gallery, labels = points()
    query = points(6, seed=1)[0]
    with pytest.warns(UserWarning, match="^k = 99 neighbours were asked for, but there are 17: all of them vote$"):
        found = neighbour_scores(query, gallery, labels, (3, 40, 99), temperature=1.0)
    expected = retrieval_loop.neighbour_scores(
        query.numpy(), gallery.numpy(), labels.numpy(), 3, (3, 17, 17), 1.0, False
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    with pytest.warns(UserWarning, match="^k = 17 neighbours were asked for, but there are 16: all of them vote$"):
        neighbour_scores(gallery, gallery, labels, (17,), is_leave_one_out=True)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.data())
def test_nearest_rows_are_in_order_and_the_first_of_equals(values, data):
    k = data.draw(st.integers(1, len(values)))
    expected = sorted(range(len(values)), key=lambda row: (-values[row], row))[:k]
    assert nearest_rows(torch.tensor([values, values[::-1]]).double(), k)[0].tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_neighbours": ()}, "n_neighbours must hold at least one number, got none"),
        ({"n_neighbours": (3, 0)}, "n_neighbours must be positive, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"is_leave_one_out": True}, "leave-one-out takes the gallery for queries, got 6 queries and 17 gallery rows"),
        (
            {"query": torch.zeros(6, 4)},
            "query must have 5 features a row, got 4: take both from one extractor",
        ),
        (
            {"gallery_labels": torch.zeros(3, dtype=torch.int64)},
            "labels must be 17 integers, one a row, got torch.int64 of shape (3,)",
        ),
    ],
)
def test_neighbours_that_cannot_be_are_refused(changes, message):
    gallery, labels = points()
    inputs = {"query": points(6, seed=1)[0], "gallery": gallery, "gallery_labels": labels}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        neighbour_scores(**{"n_neighbours": (3,), **inputs, **changes})


# Retrieval


@given(st.integers(0, 99), st.sampled_from([False, True]), st.sampled_from([points, grid_points]))
def test_retrieval_is_a_loop_ties_included(seed, is_leave_one_out, draw):
    gallery, labels = draw(17, seed=seed)
    labels[labels == 2] = torch.arange(2, 2 + int((labels == 2).sum()))  # some classes of one
    query, query_labels = (gallery, labels) if is_leave_one_out else draw(6, seed=seed + 1)
    scores = retrieval_scores(query, query_labels, gallery, labels, is_leave_one_out=is_leave_one_out, batch_size=4)
    expected = retrieval_loop.retrieval(
        query.numpy(), query_labels.numpy(), gallery.numpy(), labels.numpy(), is_leave_one_out
    )
    np.testing.assert_allclose(torch.stack(scores, 1).numpy(), expected, atol=1e-12)
    n_unanswerable = int(np.isnan(expected[:, 0]).sum())
    assert scores.n_unanswerable == n_unanswerable
    names = ("rank_1", "rank_5", "mean_average_precision", "recall_at_4")
    assert scores.means() == pytest.approx(dict(zip(names, np.nanmean(expected, axis=0), strict=True)))


def test_ukbench_counts_the_query_among_its_four():
    generator = seeded()
    centers = 9 * torch.randn(5, 3, generator=generator)
    x, labels = centers.repeat_interleave(4, 0) + torch.randn(20, 3, generator=generator) / 9, torch.arange(20) // 4
    assert retrieval_scores(x, labels, x, labels).means()["recall_at_4"] == 1


def test_distances_to_regions_are_ranked_likewise():
    gallery, labels = points()
    query, query_labels = points(6, seed=1)
    distances = set_distance(query[:, None], gallery[:, None])
    ours = ranking_scores(-distances, query_labels[:, None] == labels)
    for found, expected in zip(ours, retrieval_scores(query, query_labels, gallery, labels), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_leave_one_out": True}, "leave-one-out takes the gallery for queries, got 6 queries and 17 gallery rows"),
        ({"gallery": torch.zeros(17, 4)}, "query must have 4 features a row, got 5: take both from one extractor"),
        ({"query_labels": torch.zeros(5)}, "query labels must have shape (6,), got (5,)"),
        ({"gallery_labels": torch.zeros(17, 1)}, "gallery labels must have shape (17,), got (17, 1)"),
    ],
)
def test_retrieval_that_cannot_be_is_refused(changes, message):
    gallery, labels = points()
    query, query_labels = points(6, seed=1)
    inputs = {"query": query, "query_labels": query_labels, "gallery": gallery, "gallery_labels": labels}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        retrieval_scores(**{**inputs, **changes})


# Sets of regions


def regions(n, n_regions, d=5, seed=0):
    return torch.randn(n, n_regions, d, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_set_distances_are_a_loop(batch_size):
    query, references = regions(7, 3), regions(4, 6, seed=1)
    expected = retrieval_loop.set_distance(query.numpy(), references.numpy())
    np.testing.assert_allclose(set_distance(query, references, batch_size=batch_size).numpy(), expected)


def test_a_set_is_at_no_distance_from_one_that_holds_it():
    references = regions(4, 6)
    inside = set_distance(references[:, [4, 0, 2]], references)
    assert float(inside.diagonal().abs().max()) < 1e-7
    assert float((inside + torch.eye(4)).min()) > 0.1


def test_more_reference_regions_are_never_farther():
    query, references = regions(7, 3), regions(4, 6, seed=1)
    fewer = set_distance(query, references[:, :5])
    more = set_distance(query, references)
    assert bool((more <= fewer + 1e-12).all())
    assert bool((more < fewer - 1e-6).any())


def test_half_precision_regions_are_widened():
    query, references = regions(7, 3).half(), regions(4, 6, seed=1).half()
    torch.testing.assert_close(set_distance(query, references), set_distance(query.float(), references.float()))


@pytest.mark.parametrize(
    ("query", "references", "message"),
    [
        (
            torch.zeros(7, 5),
            torch.zeros(4, 6, 5),
            "regions must have shape (n, n_regions, n_features), got (7, 5) and (4, 6, 5)",
        ),
        (
            torch.zeros(7, 3, 2),
            torch.zeros(4, 6, 5),
            "query_regions must have 5 features a row, got 2: take both from one extractor",
        ),
    ],
)
def test_regions_that_do_not_fit_are_refused(query, references, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        set_distance(query, references)
