"""Multinomial logistic regression whose penalty is chosen on a part of the training rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fewshot_episodes.stratified import stratified_split
from torch import Tensor

from fewshot.checks import check_positive
from fewshot.probing.inputs import check_labels, check_rows
from fewshot.probing.linear import LinearProbe, as_float64

__all__ = ["C_GRID", "LogisticRegression"]

# 45 values from 1e-6 to 1e5, evenly spaced in their logarithm [DINOv2, Ericsson et al.].
C_GRID = tuple(float(c) for c in 10.0 ** np.linspace(-6, 5, 45))

# Called after each fit with the fits done and the best held-out accuracy so far.
Progress = Callable[[int, float], None]
Rows = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LogisticRegression:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS in float64 through scikit-learn.

    ::

        min_{w,b}  ½ Σ_k ‖w_k‖² + C Σ_i -log softmax_k(w_k·x_i + b_k) at k = y_i

    Parameters
    ----------
    c_grid
        Values of C to choose from: the one with the best accuracy on a tenth of the training rows that the fits did not
        see, the smallest if several are. Then a last fit on all training rows. A single value is taken as it is.
    held_out_fraction
        Of each class, see `stratified_split`.
    tolerance
        L-BFGS stops when no entry of the gradient of the mean loss exceeds this. DINOv2 asks for 1e-12, which
        in practice means ``max_iter`` steps.
    max_iter
        DINOv2's.

    Raises
    ------
    ValueError
        If ``c_grid`` is empty or a value is not positive.

    Notes
    -----
    What differs from DINOv2: the tenth is drawn class by class, and each fit of the grid starts where the one before it
    (of the next smaller C) ended, as Ericsson et al. do. Nothing is ever chosen on test rows.

    Source
    ------
    Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, and its code.
    Ericsson, Gouk and Hospedales, "How Well Do Self-Supervised Models Transfer?", CVPR 2021.

    Examples
    --------
    >>> features, labels = torch.tensor([[0.0, 1.0], [0.1, 0.9], [1.0, 0.1], [0.8, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> probe, c = LogisticRegression((10.0,)).fit(features, labels, generator=torch.Generator())
    >>> probe(features).argmax(-1).tolist(), c
    ([0, 0, 1, 1], 10.0)
    """

    c_grid: Sequence[float] = C_GRID
    held_out_fraction: float = 0.1
    tolerance: float = 1e-6
    max_iter: int = 1000

    def __post_init__(self) -> None:
        if not self.c_grid:
            raise ValueError("c_grid must hold at least one value of C, got none")
        for c in self.c_grid:
            check_positive("c", c)

    def fit(
        self, features: Tensor, labels: Tensor, *, generator: torch.Generator, progress: Progress | None = None
    ) -> tuple[LinearProbe, float]:
        """Choose C and learn from labelled rows.

        Parameters
        ----------
        features : Tensor (n, n_features)
        labels : Tensor (n,), integer
            0, 1, ..., each at least once.
        generator : torch.Generator
            On the CPU; decides which rows are held out to choose C.
        progress : callable, optional
            Called after each fit of the choice with the number of fits done and the best accuracy so far.

        Returns
        -------
        LinearProbe
            Its scores are logits: their softmax is the class probabilities.
        float
            The C taken.

        Raises
        ------
        TypeError, ValueError
            If features or labels are not so, or no class has a row to hold out.
        """
        features = check_rows("features", features)
        n_classes = check_labels(labels, len(features))
        rows, targets = as_float64(features), labels.cpu().numpy()
        c = float(self.c_grid[0])
        if len(self.c_grid) > 1:
            held_out = stratified_split(labels, self.held_out_fraction, generator=generator).cpu().numpy()
            c = self._chosen_c(rows, targets, held_out, progress)
        return _probe(self._solver(c).fit(rows, targets), n_classes), c

    def describe(self) -> str:
        """Describe the settings in one line."""
        if len(self.c_grid) == 1:
            return f"multinomial logistic regression, C = {self.c_grid[0]:g}"
        share = f"{100 * self.held_out_fraction:g} %"
        return f"multinomial logistic regression, C chosen of {len(self.c_grid)} values on {share} of the training rows"

    def _chosen_c(
        self,
        rows: Rows,
        targets: npt.NDArray[np.int64],
        held_out: npt.NDArray[np.bool_],
        progress: Progress | None,
    ) -> float:
        """Return the C of the best held-out accuracy, the smallest of those that tie."""
        solver = self._solver(1.0)
        chosen, best = 0.0, -1.0
        for n_done, c in enumerate(sorted(self.c_grid), start=1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a candidate that did not converge is judged as it is
                solver.set_params(C=c).fit(rows[~held_out], targets[~held_out])
            accuracy = float(solver.score(rows[held_out], targets[held_out]))
            chosen, best = (c, accuracy) if accuracy > best else (chosen, best)
            if progress is not None:
                progress(n_done, best)
        return chosen

    def _solver(self, c: float) -> Any:
        from sklearn.linear_model import LogisticRegression as Solver

        return Solver(C=c, tol=self.tolerance, max_iter=self.max_iter, warm_start=True)


def _probe(solved: Any, n_classes: int) -> LinearProbe:
    """Return the fitted classifier; of two classes scikit-learn keeps the difference, which is split evenly here."""
    weights, bias = torch.from_numpy(solved.coef_), torch.from_numpy(solved.intercept_)
    if n_classes == 2:
        weights, bias = torch.cat([-weights, weights]) / 2, torch.cat([-bias, bias]) / 2
    return LinearProbe(weights, bias, n_classes)
