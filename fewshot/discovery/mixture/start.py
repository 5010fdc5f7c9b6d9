"""The start of EM: a state from a partition of the rows, from responsibilities, or from means."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.discovery.mixture.chunked_sums import (
    HardResponsibilities,
    Pool,
    Responsibilities,
    SoftResponsibilities,
    data_standardization,
    scaled_chunks,
    total_scatter,
)
from fewshot.discovery.mixture.em_steps import Penalty, chunk_moments, m_step, no_moments
from fewshot.discovery.mixture.forms import FORMS
from fewshot.discovery.mixture.forms.base import Moments
from fewshot.discovery.mixture.scaling import Standardization
from fewshot.discovery.mixture.state import MixtureState, assign
from fewshot.discovery.niw import NIWPrior
from fewshot.distributed import all_sum

__all__ = ["state_from_means", "state_from_partition", "state_from_responsibilities"]


@torch.no_grad()
def state_from_partition(
    features: Tensor,
    partition: Tensor,
    n_components: int,
    *,
    form: str = "tied",
    rank: int = 1,
    prior: NIWPrior | None = None,
    weight_concentration: float = 1.0,
    covariance_floor: float = 1e-6,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
) -> MixtureState:
    """Make one M-step from a partition of the rows.

    Parameters
    ----------
    features : Tensor (n, d)
    partition : Tensor (n,), int64
        The component of each row; -1 for a row that does not count.
    n_components : int
    form : str
        As in `fewshot.discovery.mixture.fit.fit_mixture`, and so are those that are not named here.
    rank : int
        Columns of W, for the low-rank form: at most d.

    Returns
    -------
    MixtureState
        A component without rows, where there is no prior, lies over all rows.

    Examples
    --------
    >>> features, partition = torch.tensor([[0.0], [2.0], [5.0], [9.0]]), torch.tensor([0, 0, 1, 1])
    >>> state_from_partition(features, partition, 2, form="spherical", covariance_floor=0.0).covariances
    tensor([1.0000, 4.0000], dtype=torch.float64)
    """
    counted = (partition >= 0).double() if sample_weight is None else (partition >= 0) * sample_weight
    scaling = data_standardization(features, counted, chunk_size=chunk_size)
    pool = Pool(features, partition, counted, chunk_size)
    parts = (
        (rows, HardResponsibilities(partition[part], _weights(rows, sample_weight, part), n_components))
        for rows, part in scaled_chunks(pool, scaling, max(features.shape[1], n_components))
    )
    penalty = Penalty(prior, weight_concentration, covariance_floor)
    return _started(pool, scaling, parts, n_components, form, rank, penalty)


@torch.no_grad()
def state_from_responsibilities(
    features: Tensor,
    responsibilities: Tensor,
    *,
    form: str = "tied",
    rank: int = 1,
    prior: NIWPrior | None = None,
    weight_concentration: float = 1.0,
    covariance_floor: float = 1e-6,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
) -> MixtureState:
    """Make one M-step from responsibilities (n, k), rows that sum to 1; see `state_from_partition`."""
    n_components = responsibilities.shape[1]
    scaling = data_standardization(features, sample_weight, chunk_size=chunk_size)
    pool = Pool(features, torch.empty(0), sample_weight, chunk_size)
    parts = (
        (rows, SoftResponsibilities(responsibilities[part].to(rows) * _weights(rows, sample_weight, part)[:, None]))
        for rows, part in scaled_chunks(pool, scaling, max(features.shape[1], n_components))
    )
    penalty = Penalty(prior, weight_concentration, covariance_floor)
    return _started(pool, scaling, parts, n_components, form, rank, penalty)


def state_from_means(
    features: Tensor,
    labels: Tensor,
    means: Tensor,
    *,
    form: str = "tied",
    rank: int = 1,
    prior: NIWPrior | None = None,
    weight_concentration: float = 1.0,
    covariance_floor: float = 1e-6,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
) -> MixtureState:
    """Assign each unlabelled row to its nearest mean, then make one M-step; see `state_from_partition`.

    Parameters
    ----------
    features : Tensor (n, d)
    labels : Tensor (n,), int64
        The component of a labelled row, -1 for an unlabelled one.
    means : Tensor (k, d)
    """
    variances = data_standardization(features, chunk_size=chunk_size).unit.square().expand(len(means))
    even = MixtureState(torch.zeros_like(variances), means.double(), variances)
    nearest = assign(features, even, form="spherical", chunk_size=chunk_size).components
    return state_from_partition(
        features,
        torch.where(labels >= 0, labels, nearest),
        len(means),
        form=form,
        rank=rank,
        prior=prior,
        weight_concentration=weight_concentration,
        covariance_floor=covariance_floor,
        sample_weight=sample_weight,
        chunk_size=chunk_size,
    )


def _weights(rows: Tensor, sample_weight: Tensor | None, part: slice) -> Tensor:
    return rows.new_ones(len(rows)) if sample_weight is None else sample_weight[part].to(rows)


def _started(
    pool: Pool,
    scaling: Standardization,
    parts: Iterable[tuple[Tensor, Responsibilities]],
    n_components: int,
    form: str,
    rank: int,
    penalty: Penalty,
) -> MixtureState:
    """Make one M-step from the standardized rows of all chunks and their responsibilities."""
    check_choice("form of covariance", form, FORMS)
    closed = "tied" if form == "low-rank" else form
    base = _whole(closed, scaling, n_components)
    points = scaling.points(base.means)
    moments = no_moments(points)
    for rows, responsibilities in parts:
        moments = moments.plus(chunk_moments(closed, responsibilities, rows, points))
    moments = Moments(*all_sum(*moments))
    if FORMS[closed].is_shared:
        second = total_scatter(pool.features, scaling, pool.weights, chunk_size=pool.chunk_size)
        moments = moments._replace(second=second)
    state = m_step(closed, moments, base, scaling, penalty)
    return state if form != "low-rank" else state._replace(covariances=_leading(state.covariances, rank, n_components))


def _whole(form: str, scaling: Standardization, n_components: int) -> MixtureState:
    """Return components that all lie over the whole of the data."""
    means = scaling.shift.expand(n_components, -1)
    variances = scaling.unit.square().expand(n_components)
    shapes = {
        "spherical": variances,
        "diagonal": variances[:, None].expand_as(means),
        "tied": torch.diag_embed(variances[:1].expand(means.shape[1])),
        "full": torch.diag_embed(variances[:, None].expand_as(means)),
    }
    return MixtureState(torch.zeros_like(variances), means, shapes[form])


def _leading(covariance: Tensor, rank: int, n_components: int) -> Tensor:
    """Return the rank-r form of one covariance (d, d) for all components, by probabilistic PCA."""
    n_features = len(covariance)
    if not 1 <= rank <= n_features:
        raise ValueError(f"rank must lie in 1 … {n_features}, the number of features, got {rank}")
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[: n_features - rank].mean() if rank < n_features else values[0] / 2
    columns = vectors[:, n_features - rank :] * (values[n_features - rank :] - noise).clamp(min=0).sqrt()
    packed = torch.cat([columns, noise.clamp(min=0).expand(n_features, 1)], -1)
    return packed.expand(n_components, -1, -1).contiguous()
