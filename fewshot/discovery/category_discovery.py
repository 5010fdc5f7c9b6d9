"""Category discovery by split and merge."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewshot.checks import check_positive, warn_deprecated
from fewshot.discovery.estimator import CategoryDiscoverer, Discovered
from fewshot.discovery.outliers import outlier_scores
from fewshot.discovery.space import DiscoverySpace, principal_space, project
from fewshot.discovery.split_merge.evidence_check import EvidenceCheck, check_evidence
from fewshot.discovery.split_merge.evidence_power import two_covariance
from fewshot.discovery.split_merge.partition import Partition
from fewshot.discovery.split_merge.search import Discovery
from fewshot.discovery.split_merge.subspaces import (
    POWER_WITHOUT_LABELS,
    SubspaceRun,
    median_count,
    search_subspace,
    space_sizes,
)
from fewshot.discovery.split_merge.target_count import adjust_to_n_components
from fewshot.discovery.split_merge.trace import Proposal, Round
from fewshot.discovery.statistics import cluster_sums
from fewshot.estimators.arrays import ArrayLike, like

__all__ = ["CategoryDiscovery"]


class CategoryDiscovery(CategoryDiscoverer):
    """Split-and-merge discovery with Gaussian classes of one covariance: stops when no proposal raises the evidence.

    The labels set both scales: features are whitened by the covariance within labelled classes, and the power of the
    tempered likelihood is that at which held-out known classes are found exactly once each.

    Parameters
    ----------
    n_classes : "auto" or int
        The number of classes, known ones included; "auto" finds it.
    power : "auto" or float
        Weight of one row in the evidence (the power of a tempered likelihood), in (0, 1]; larger values find more
        classes. "auto": the value at which held-out known classes are each found exactly once, see
        `fewshot.discovery.split_merge.evidence_power`; 0.4 where fewer than two are known.
    n_dims : "auto", int or sequence of int
        Principal directions kept. Of several, the number of classes is the median of the numbers found in these
        subspaces, and the classes are those of the largest, adjusted to that number. "auto": as many as there are known
        classes, twice and four times as many, see `fewshot.discovery.split_merge.subspaces.space_sizes`.
    normalize : bool
        Whether rows are scaled to unit length first, default True.
    concentration : float
        α of the Dirichlet process, default 1.
    n_start : int, optional
        Components at the start. Default: the known classes. Up to about three times the number of classes the answer
        is nearly the same.
    n_rounds : int
        Of split and merge at most, default 20.
    is_stochastic : bool
        Accept a proposal with probability min(1, H), as Metropolis and Hastings; default False: wherever log H > 0.
    random_state : int
        Decides which classes are held out, the starts beyond the known classes, and random acceptance.
    progress : callable, optional
        Called with the subspace that is being searched, and the number of powers tried in it.

    Attributes
    ----------
    power_ : float
        The power used in the largest subspace.
    subspace_runs_ : list of (int, float, int)
        Of each subspace its size, its power and the number of classes found in it.
    power_curve_ : list of (float, float)
        The powers tried, and the surplus of components per held-out class there; empty where ``power`` is given.
    trace_ : list of Round
    proposals_ : list of Proposal
        Every proposed split and merge, with its outcome and reason.
    component_ids_ : list of int
        The ids of the classes in ``proposals_``.
    outlier_score_ : array or Tensor (n,)
        The share of known items that lie nearer to the mean of their class than this row to that of its own, in [0, 1].
    evidence_check_ : EvidenceCheck
    warnings_ : list of str

    Notes
    -----
    A class is assumed to be one cluster: one of two separate parts counts as two, unless known classes have such parts
    too. The result does not depend on the order of rows, nor on rotations of the features.

    Source
    ------
    [GPC] §3, extended to find the number of classes; the power and the split-off of unlabelled rows are ours.

    Examples
    --------
    >>> centers = 9 * torch.eye(6)[torch.arange(240) % 6]
    >>> rows = centers + torch.randn((240, 6), generator=torch.Generator().manual_seed(0))
    >>> labels = [["ant", "bee", "wasp"][i % 6] if i % 6 < 3 and i < 120 else -1 for i in range(240)]
    >>> found = CategoryDiscovery().fit(rows, labels)
    >>> found.n_classes_, found.classes_.tolist()
    (6, ['ant', 'bee', 'wasp', 'new-01', 'new-02', 'new-03'])
    """

    power_: float
    subspace_runs_: list[tuple[int, float, int]]
    power_curve_: list[tuple[float, float]]
    trace_: list[Round]
    proposals_: list[Proposal]
    component_ids_: list[int]
    outlier_score_: Any
    evidence_check_: EvidenceCheck
    warnings_: list[str]

    @property
    def attempts_(self) -> list[tuple[int, float, int]]:
        """Deprecated name of ``subspace_runs_``."""
        warn_deprecated("CategoryDiscovery.attempts_", "CategoryDiscovery.subspace_runs_")
        return self.subspace_runs_

    def __init__(
        self,
        n_classes: str | int = "auto",
        *,
        power: str | float = "auto",
        n_dims: str | int | Sequence[int] = "auto",
        normalize: bool = True,
        concentration: float = 1.0,
        n_start: int | None = None,
        n_rounds: int = 20,
        is_stochastic: bool = False,
        random_state: int = 0,
        progress: Callable[[str, int], None] | None = None,
    ) -> None:
        self.n_classes = n_classes
        self.power = power
        self.n_dims = n_dims
        self.normalize = normalize
        self.concentration = concentration
        self.n_start = n_start
        self.n_rounds = n_rounds
        self.is_stochastic = is_stochastic
        self.random_state = random_state
        self.progress = progress

    def _discover(self, features: Tensor, labels: Tensor, n_known: int, generator: torch.Generator) -> Discovered:
        asked = None if self.n_classes == "auto" else self._count(features, labels, n_known, generator)
        self._check_settings()
        sizes = space_sizes(self.n_dims, n_known)
        principal = principal_space(features, sizes[-1], normalize=self.normalize)
        projected = project(principal, features, normalize=self.normalize)
        sizes = sorted({min(size, projected.shape[1]) for size in sizes})[-1 if asked else 0 :]
        runs = [self._search(projected[:, :size], labels, n_known, generator) for size in sizes]
        last = runs[-1]
        rows = projected @ last.basis.to(projected.dtype)
        evidence = two_covariance(last.variances, last.search.power)
        partition = adjust_to_n_components(
            rows,
            labels,
            n_known,
            evidence,
            last.found.partition,
            asked or median_count(runs),
            next_id=last.found.next_id,
        )
        counts = [each.found.n_components for each in runs]
        self.subspace_runs_ = list(zip(sizes, [each.search.power for each in runs], counts, strict=True))
        self.power_, self.power_curve_ = last.search
        self.trace_, self.proposals_ = last.found.rounds, last.found.proposals
        self.evidence_check_ = check_evidence(rows, labels, n_known, evidence, concentration=self.concentration)
        self.warnings_ = self._warnings(n_known, last.found)
        self._space = DiscoverySpace(principal.center, principal.basis @ last.basis, last.variances)
        self._keep(rows, labels, partition)
        return Discovered(partition.labels, rows)

    def _check_settings(self) -> None:
        if self.power != "auto" and not (not isinstance(self.power, str) and 0 < self.power <= 1):
            raise ValueError(f"power must be above 0 and 1 at most, or 'auto', got {self.power!r}")
        sizes = [self.n_dims] if isinstance(self.n_dims, (int, str)) else list(self.n_dims)
        if self.n_dims != "auto" and not (sizes and all(isinstance(size, int) and size >= 1 for size in sizes)):
            raise ValueError(f"n_dims must be a positive whole number, several, or 'auto', got {self.n_dims!r}")
        check_positive("concentration", self.concentration)

    def _keep(self, rows: Tensor, labels: Tensor, partition: Partition) -> None:
        n_components = len(partition.ids)
        self._ids = partition.ids
        self._counts, sums = cluster_sums(rows, partition.labels, n_components, dtype=torch.float64)
        self._means = sums / self._counts.clamp(min=1)[:, None]
        self._outlier_score = outlier_scores(rows, partition.labels, labels >= 0, n_components)

    def _search(self, projected: Tensor, labels: Tensor, n_known: int, generator: torch.Generator) -> SubspaceRun:
        size, progress = projected.shape[1], self.progress
        return search_subspace(
            projected,
            labels,
            n_known,
            generator=generator,
            power=None if self.power == "auto" else float(self.power),
            concentration=self.concentration,
            n_start=self.n_start,
            n_rounds=self.n_rounds,
            is_stochastic=self.is_stochastic,
            progress=None if progress is None else lambda done: progress(f"{size} dimensions", done),
        )

    def _warnings(self, n_known: int, found: Discovery) -> list[str]:
        texts = [self.evidence_check_.warning]
        if self.power == "auto" and n_known < 2:
            texts.append(
                f"{n_known} classes are known, none can be held out: the number of classes found rests on the guess "
                f"power={POWER_WITHOUT_LABELS}; label some items of at least two classes"
            )
        if not found.is_converged:
            texts.append(
                f"split and merge had not settled after {len(found.rounds)} rounds: the partition of most evidence is "
                "kept; more n_rounds may change it"
            )
        return [text for text in texts if text is not None]

    def _finish(self, X: ArrayLike, names: list[Hashable], labels: Tensor, is_labelled: Tensor) -> None:  # noqa: N803
        super()._finish(X, names, labels, is_labelled)
        self.outlier_score_ = like(X, self._outlier_score)
        self.component_ids_ = self._ids.tolist()

    def _reorder(self, order: Tensor) -> None:
        self._ids, self._counts, self._means = (field[order] for field in (self._ids, self._counts, self._means))

    def _embed(self, features: Tensor) -> Tensor:
        return project(self._space, features, normalize=self.normalize)

    def _log_probs(self, rows: Tensor) -> Tensor:
        scores = rows.double() @ self._means.mT - 0.5 * self._means.square().sum(-1) + self._counts.log()
        return (self.power_ * scores).log_softmax(-1).to(rows.dtype)

    def _class_state(self) -> dict[str, Tensor]:
        return {
            **self._space._asdict(),
            "ids": self._ids,
            "counts": self._counts,
            "means": self._means,
            "outlier_score": self._outlier_score,
            "power": torch.tensor(self.power_, dtype=torch.float64, device=self._means.device),
        }

    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        self._space = DiscoverySpace(*(tensors[name] for name in DiscoverySpace._fields))
        self._ids, self._counts, self._means = (tensors[name] for name in ("ids", "counts", "means"))
        self._outlier_score = tensors["outlier_score"]
        self.power_ = float(tensors["power"])
