"""Least squares in running sums: G = Σ φφᵀ and the classes' sums of φ, from which ridge weights are solved on use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from fewshot.incremental.class_statistics import ClassStatistics

__all__ = ["Expansion", "GramStatistics", "expanded_chunks", "ridge_solution"]

# Features (n, n_features) -> expanded features (n, n_expanded), float64.
Expansion: TypeAlias = Callable[[Tensor], Tensor]

# Numbers of expanded features that are held at a time; 128 MB in float64.
_MAX_EXPANDED = 2**24


def ridge_solution(gram: Tensor, responses: Tensor, ridge: float) -> Tensor:
    """Solve ridge regression without intercept from its sums: W = (G + λI)⁻¹ Q, by Cholesky.

    Parameters
    ----------
    gram : Tensor (..., n_features, n_features)
        G = XᵀX, float64 in all but the tamest cases.
    responses : Tensor (..., n_features, n_classes)
        Q = XᵀY.
    ridge : float
        λ.

    Returns
    -------
    Tensor (..., n_features, n_classes)
        W, which minimises ‖XW - Y‖² + λ‖W‖².

    Raises
    ------
    ValueError
        If G + λI is not positive definite in this precision.

    Source
    ------
    [RANPAC] and [ACIL], which invert or solve by LU.

    Examples
    --------
    >>> ridge_solution(torch.tensor([[3.0, 0.0], [0.0, 8.0]]), torch.tensor([[4.0], [18.0]]), 1.0)
    tensor([[1.],
            [2.]])
    """
    penalised = gram.clone()
    penalised.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor, info = torch.linalg.cholesky_ex(penalised)
    if bool((info > 0).any()):
        largest = float(gram.diagonal(dim1=-2, dim2=-1).max())
        rounding = largest * gram.shape[-1] * torch.finfo(gram.dtype).eps
        raise ValueError(
            f"the Gram matrix plus ridge = {ridge} is not positive definite in {gram.dtype}, "
            f"whose rounding is about {rounding:.1e} here: raise ridge above that"
        )
    return torch.cholesky_solve(responses, factor)


def expanded_chunks(
    features: Tensor, index: Tensor, expand: Expansion, n_expanded: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield expanded features and their classes, a bounded number of rows at a time."""
    size = max(1, _MAX_EXPANDED // n_expanded)
    for rows, classes in zip(torch.split(features, size), torch.split(index, size), strict=True):
        yield expand(rows), classes


class GramStatistics:
    """G, and the classes' sums and counts of expanded features φ, in float64, with the ridge weights they lead to.

    Parameters
    ----------
    n_expanded
    device
    n_groups
        1, or 2 to keep G apart for base classes and the others, so that the two can be weighed against each other.

    Attributes
    ----------
    classes : ClassStatistics
        Sums (the rows of Qᵀ), counts and base flags.

    Notes
    -----
    Weights of items, with two groups: N C_g / (C N_g), for N items of C classes of which N_g and C_g are in the item's
    group: scikit-learn's ``balanced`` weight for the group's *mean* number of items per class. They sum to N, and are 1
    as long as there is one group.
    """

    def __init__(self, n_expanded: int, device: torch.device, *, n_groups: int = 1) -> None:
        self.classes = ClassStatistics(n_expanded, device)
        self._gram = torch.zeros((n_groups, n_expanded, n_expanded), dtype=torch.float64, device=device)
        self._solution: tuple[float, Tensor] | None = None

    @property
    def n_groups(self) -> int:
        """1 or 2."""
        return self._gram.shape[0]

    @property
    def n_expanded(self) -> int:
        """Number of expanded features."""
        return self._gram.shape[1]

    def add(self, features: Tensor, index: Tensor, n_classes: int, expand: Expansion, *, base: bool) -> None:
        """Take in features (n, n_features) of classes ``index`` (n,) in [0, n_classes); new classes come last."""
        for expanded, classes in expanded_chunks(features, index, expand, self.n_expanded):
            self.classes.add(expanded, classes, n_classes, base=base)
            self._add_products(expanded, classes, 1)
        self._solution = None

    def subtract(self, features: Tensor, index: Tensor, expand: Expansion) -> None:
        """Take items out again.

        Raises
        ------
        ValueError
            If a class has fewer items, or its last ones are not those that were taken in; nothing is changed then.
        """
        left = self._left(features, index, expand)
        for expanded, classes in expanded_chunks(features, index, expand, self.n_expanded):
            self._add_products(expanded, classes, -1)
        self.classes.load(left)
        self._solution = None

    def remove(self, position: int) -> None:
        """Forget a class; those after it move up.

        G keeps its items, as items of no class, unless they were subtracted before or no class of its group is left.
        """
        self.classes.remove(position)
        for group in range(self.n_groups):
            if not bool((self._groups() == group).any()):
                self._gram[group].zero_()
        self._solution = None

    def group_weights(self) -> Tensor:
        """Return the weight of an item of each group (n_groups,); 0 where there is none."""
        counts, member = self.classes.counts, torch.nn.functional.one_hot(self._groups(), self.n_groups).double()
        n_items, n_classes = counts @ member, member.sum(0)
        return (counts.sum() / len(counts) * n_classes / n_items).nan_to_num(0.0)

    def weights(self, ridge: float) -> Tensor:
        """Return the ridge weights (n_classes, n_expanded), solved anew only if something changed."""
        if self._solution is None or self._solution[0] != ridge:
            gram, responses = self.weighted()
            self._solution = (ridge, ridge_solution(gram, responses, ridge).mT.contiguous())
        return self._solution[1]

    def weighted(self) -> tuple[Tensor, Tensor]:
        """Return the G (n_expanded, n_expanded) and Q (n_expanded, n_classes) of all items under their weights."""
        if self.n_groups == 1:
            return self._gram[0], self.classes.sums.mT
        weights = self.group_weights()
        return torch.tensordot(weights, self._gram, dims=1), (weights[self._groups()][:, None] * self.classes.sums).mT

    def tensors(self) -> dict[str, Tensor]:
        """Return all there is to keep."""
        return {"gram": self._gram, **self.classes.tensors()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        self._gram = tensors["gram"].clone()
        self.classes.load(tensors)
        self._solution = None

    def _groups(self) -> Tensor:
        """Return the group (n_classes,) of each class."""
        return (~self.classes.is_base).long() if self.n_groups == 2 else torch.zeros_like(self.classes.is_base).long()

    def _add_products(self, expanded: Tensor, classes: Tensor, sign: int) -> None:
        groups = self._groups()[classes]
        for group in range(self.n_groups):
            rows = expanded if self.n_groups == 1 else expanded[groups == group]
            self._gram[group].addmm_(rows.mT, rows, alpha=sign)

    def _left(self, features: Tensor, index: Tensor, expand: Expansion) -> dict[str, Tensor]:
        """Return the classes' statistics less these items, checked."""
        taken = ClassStatistics(self.n_expanded, features.device)
        for expanded, classes in expanded_chunks(features, index, expand, self.n_expanded):
            taken.add(expanded, classes, self.classes.n_classes, base=False)
        had, gone = self.classes.tensors(), taken.tensors()
        left = {name: had[name] - gone[name] for name in ("sums", "counts", "squares")} | {"is_base": had["is_base"]}
        tolerance = 1e-9 * (had["squares"] * had["counts"]).clamp(min=0).sqrt()
        is_wrong = (left["counts"] < 0) | ((left["counts"] == 0) & (left["sums"].abs().amax(1) > tolerance))
        if bool(is_wrong.any()):
            first = int(torch.nonzero(is_wrong)[0])
            raise ValueError(
                f"these are not rows that were learned: the class at position {first} of classes_ has "
                f"{int(had['counts'][first])} rows, and {int(gone['counts'][first])} others were to be taken out"
            )
        return left
