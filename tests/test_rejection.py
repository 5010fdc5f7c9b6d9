"""Telling what is of no known class: against loops, and that the share that was asked for holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.rejection import calibration_scores, is_rejected, known_p_values, nonconformity, smallest_share
from tests.reference import rejection_loops as loops


def problem(seed, counts=(3, 1, 5), n_queries=7, n_features=4, dtype=torch.float64):
    """Return support, labels in random order, and queries."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    means = 2 * torch.randn((len(counts), n_features), generator=generator, dtype=torch.float64)
    support = means[labels] + torch.randn((len(labels), n_features), generator=generator, dtype=torch.float64)
    query = 2 * torch.randn((n_queries, n_features), generator=generator, dtype=torch.float64)
    return support.to(dtype), labels, query.to(dtype)


@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    n_queries=st.integers(1, 9),
    n_features=st.integers(2, 7),
)
def test_scores_and_p_values_are_those_of_the_loops(seed, counts, n_queries, n_features):
    support, labels, query = problem(seed, counts, n_queries, n_features)
    n_way, arrays = len(counts), (support.numpy(), labels.tolist())
    scores, calibration = nonconformity(query, support, labels, n_way), calibration_scores(support, labels, n_way)
    np.testing.assert_allclose(scores, loops.nonconformity(query.numpy(), *arrays, n_way), atol=1e-12)
    wanted = loops.calibration_scores(*arrays, n_way)
    np.testing.assert_allclose(calibration, wanted, atol=1e-12)
    p_values = loops.p_values(scores.numpy(), calibration.numpy())
    np.testing.assert_allclose(known_p_values(scores, calibration), p_values, rtol=1e-12)
    assert float(smallest_share(calibration)) == pytest.approx(1 / (1 + np.isfinite(wanted).sum()))


def test_p_values_with_ties_count_equal_scores():
    calibration = torch.tensor([1.0, 2.0, 2.0, -torch.inf, 3.0], dtype=torch.float64)
    scores = torch.tensor([2.0, 3.0, 3.1, 0.0], dtype=torch.float64)
    assert known_p_values(scores, calibration).tolist() == [4 / 5, 2 / 5, 1 / 5, 1.0]


def test_leading_dimensions_are_one_by_one():
    parts = [problem(seed) for seed in range(6)]
    support, labels, query = (torch.stack(tensors).unflatten(0, (2, 3)) for tensors in zip(*parts, strict=True))
    scores, calibration = nonconformity(query, support, labels, 3), calibration_scores(support, labels, 3)
    p_values, least = known_p_values(scores, calibration), smallest_share(calibration)
    for row, (one_support, one_labels, one_query) in enumerate(parts):
        own = calibration_scores(one_support, one_labels, 3)
        place = divmod(row, 3)
        torch.testing.assert_close(calibration[place], own)
        torch.testing.assert_close(scores[place], nonconformity(one_query, one_support, one_labels, 3))
        torch.testing.assert_close(p_values[place], known_p_values(scores[place], own))
        assert least[place] == smallest_share(own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_out_is_dtype_in(dtype):
    support, labels, query = problem(0, dtype=dtype)
    scores, calibration = nonconformity(query, support, labels, 3), calibration_scores(support, labels, 3)
    assert {scores.dtype, calibration.dtype, known_p_values(scores, calibration).dtype} == {dtype}


def test_device_is_taken_from_the_input():
    support, labels, query = (tensor.to("meta") for tensor in problem(0))
    scores, calibration = nonconformity(query, support, labels, 3), calibration_scores(support, labels, 3)
    assert (scores.shape, calibration.shape) == ((7,), (9,))
    assert known_p_values(scores, calibration).is_meta


def test_length_rotation_order_and_companions_do_not_matter():
    support, labels, query = problem(1)
    wanted, calibration = nonconformity(query, support, labels, 3), calibration_scores(support, labels, 3)
    lengths = torch.linspace(0.1, 9, len(query), dtype=torch.float64)[:, None]
    rotation = torch.linalg.qr(torch.randn((4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    torch.testing.assert_close(nonconformity(lengths * query, support, labels, 3), wanted)
    torch.testing.assert_close(nonconformity(query @ rotation, support @ rotation, labels, 3), wanted)
    order = torch.tensor([4, 0, 8, 2, 1, 7, 3, 5, 6])
    torch.testing.assert_close(nonconformity(query, support[order], labels[order], 3), wanted)
    torch.testing.assert_close(calibration_scores(support[order], labels[order], 3), calibration[order])
    torch.testing.assert_close(nonconformity(query[2:3], support, labels, 3), wanted[2:3])


def test_identical_items_and_zero_vectors_are_finite():
    support, labels = torch.ones((4, 3)), torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(calibration_scores(support, labels, 2), torch.zeros(4), atol=1e-6, rtol=0)
    scores = nonconformity(torch.zeros((1, 3)), support, labels, 2)
    torch.testing.assert_close(scores, torch.tensor([1 / 1.5]))


@pytest.mark.parametrize("n", [9, 19, 99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_share_that_is_a_p_value_is_reached(n, dtype):
    p_values = torch.arange(1, n + 2, dtype=dtype) / (n + 1)
    for count in (1, 2, n // 2):
        assert int(is_rejected(p_values, count / (n + 1)).sum()) == count


def drawn(generator, counts, n_each, n_features=40, n_unknown=0):
    """Return support, labels, queries of each class, and queries of other classes; classes as in real features."""
    n_way = len(counts)
    means = torch.randn((n_way + 1, n_features), generator=generator, dtype=torch.float64)
    labels = torch.repeat_interleave(torch.arange(n_way), torch.tensor(counts))
    noise = torch.randn((len(labels) + n_way * n_each + n_unknown, n_features), generator=generator).double()
    queries = torch.repeat_interleave(torch.arange(n_way), n_each)
    rows = torch.cat([labels, queries, torch.full((n_unknown,), n_way)])
    features = means[rows] + 0.7 * noise
    return features[: len(labels)], labels, features[len(labels) :]


@pytest.mark.parametrize(("counts", "shares"), [((5,) * 5, (0.05, 0.1, 0.3)), ((2, 3, 10, 6, 9), (0.05, 0.2))])
def test_about_the_share_that_was_asked_for_is_called_unknown(counts, shares):
    generator = torch.Generator().manual_seed(0)
    n_way, n_each, n_unknown, p_values = len(counts), 20, 50, []
    for _ in range(300):
        support, labels, query = drawn(generator, counts, n_each, n_unknown=n_unknown)
        scores = nonconformity(query, support, labels, n_way)
        p_values.append(known_p_values(scores, calibration_scores(support, labels, n_way)))
    known, unknown = torch.stack(p_values).split([n_way * n_each, n_unknown], dim=1)
    n_calibrating = sum(counts)
    for share in shares:
        reached = int(share * (n_calibrating + 1) + 1e-9) / (n_calibrating + 1)  # p takes whole steps
        found = float(is_rejected(known, share).double().mean())
        assert 0.6 * reached < found < reached + 0.015
        assert float(is_rejected(unknown, share).double().mean()) > 0.8


def test_the_unit_of_a_class_does_not_depend_on_its_number_of_items():
    generator = torch.Generator().manual_seed(1)
    scores = []
    for _ in range(200):
        support, labels, query = drawn(generator, (1, 2, 12), 10, n_features=60)
        scores.append(nonconformity(query, support, labels, 3).view(3, 10).mean(1))
    means = torch.stack(scores).mean(0)
    assert float(means.max() / means.min()) < 1.06
