"""What the tests of drawn episodes share."""

from contextlib import contextmanager

import pytest
import torch
from fewshot_episodes import EpisodeHash, EpisodeSampler, MetaDatasetSampler
from hypothesis import strategies as st
from scipy import stats

SEEDS = st.integers(0, 2**32 - 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@contextmanager
def refuses(kind, message):
    with pytest.raises(kind) as error:
        yield
    assert str(error.value) == message


def assert_follows(draws, probabilities):
    """Chi-square of hashable draws against a dict of exact probabilities; the seed is fixed, so is the answer."""
    observed = dict.fromkeys(probabilities, 0)
    for draw in draws:
        observed[draw] += 1  # an impossible outcome is a KeyError
    expected = [len(draws) * p for p in probabilities.values()]
    assert min(expected) > 5
    assert stats.chisquare(list(observed.values()), expected).pvalue > 1e-3


def uniform(outcomes):
    outcomes = list(outcomes)
    return dict.fromkeys(outcomes, 1 / len(outcomes))


def pool_of(sizes, class_ids=None, seed=0):
    """Shuffled labels with ``sizes[i]`` items of the i-th class."""
    class_ids = range(len(sizes)) if class_ids is None else class_ids
    labels = torch.tensor([i for i, size in zip(class_ids, sizes, strict=True) for _ in range(size)])
    return labels[torch.randperm(len(labels), generator=generator(seed))]


def listed(index):
    """Episodes as plain lists, padding left out."""

    def real(tensor):
        return [[value for value in row if value != -1] for row in tensor.tolist()]

    return list(zip(*(real(tensor) for tensor in index), strict=True))


def joined(batches):
    return [episode for index in batches for episode in listed(index)]


def hash_of(batches):
    fingerprint = EpisodeHash()
    for index in batches:
        fingerprint.update(index)
    return fingerprint.hexdigest()


SAMPLERS = {
    "balanced": EpisodeSampler(pool_of([9, 8, 12, 7]), 3, 2, 3),
    "uniform": EpisodeSampler(
        pool_of([9, 8, 12, 7]), 3, 2, n_query_total=7, query_distribution="uniform", n_effective_way=2
    ),
    "dirichlet": EpisodeSampler(pool_of([9, 8, 12, 7]), 3, 2, n_query_total=7, query_distribution="dirichlet"),
    "meta-dataset": MetaDatasetSampler(pool_of([4, 60, 9, 25, 33, 14, 2]), min_way=2, max_query=5),
}
