"""TEEN: new prototypes calibrated by the base classes that resemble them."""

from __future__ import annotations

from typing import NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_choice, check_non_negative, check_positive
from fewshot.incremental.calibration import RESTORATION, BasePrior, calibrated, fit_base_prior, posterior_blend
from fewshot.incremental.ncm import PrototypeClassifier
from fewshot.prototypes import l2_normalize

__all__ = ["TEEN"]


class _Base(NamedTuple):
    """Unit prototypes of the base classes, their lengths, and the prior fitted on them for ``auto``."""

    anchors: Tensor
    norms: Tensor
    prior: BasePrior | None


class TEEN(PrototypeClassifier):
    """Cosine nearest class mean whose few-shot prototypes are calibrated, without training.

    Classes of the base session keep their prototypes; every other class's is calibrated from its raw mean and count
    whenever they change.

    Parameters
    ----------
    shift_weight : float or "auto"
        Share of the base blend, 1 - α of the paper: 0.5 for miniImageNet and CUB-200, 0.1 for CIFAR-100. ``auto``
        estimates it, and the length that sampling noise adds, from the base session and the number of shots:
        `posterior_prototypes`.
    softmax_scale : float
        τ, which multiplies cosines; 16.
    renormalize_delta : bool
        As in the authors' code; not in their formula. Without effect for ``auto``.
    normalize_before_mean : bool
    center : None, "base" or array (n_features,)
        As in `NearestClassMean`.
    logit_scale : float
        Multiplies cosines in `predict_proba`; 16 in the original (CIFAR-100), 32 (CUB-200).

    Notes
    -----
    Adding a class, or shots of one, changes no other class's score, as long as it is not a base class. In whatever
    order and parts shots come, the result is the same up to rounding. A base class given more shots stays one.

    Without any base class prototypes stay as they are; so they do for ``auto`` with a single one, or with one item of
    each, which say nothing of how classes vary.

    Source
    ------
    [TEEN]; defaults of its released code.

    Examples
    --------
    >>> import numpy as np
    >>> model = TEEN(shift_weight=0.5).fit(np.array([[1.0, 0.0], [0.0, 1.0]]), ["crow", "wren"])
    >>> model.partial_fit(np.array([[-1.0, 0.1]]), ["tit"]).classes_.tolist()
    ['crow', 'wren', 'tit']
    """

    def __init__(
        self,
        shift_weight: float | str = 0.5,
        softmax_scale: float = 16.0,
        renormalize_delta: bool = True,
        normalize_before_mean: bool = False,
        center: str | npt.ArrayLike | None = None,
        logit_scale: float = 16.0,
    ) -> None:
        self.shift_weight = shift_weight
        self.softmax_scale = softmax_scale
        self.renormalize_delta = renormalize_delta
        self.normalize_before_mean = normalize_before_mean
        self.center = center
        self.logit_scale = logit_scale

    def _check_settings(self) -> None:
        super()._check_settings()
        check_non_negative("softmax_scale", self.softmax_scale)
        check_positive("logit_scale", self.logit_scale)
        if isinstance(self.shift_weight, str):
            check_choice("shift_weight", self.shift_weight, ("auto",))
        elif not 0 <= self.shift_weight <= 1:
            raise ValueError(f"shift_weight must lie in [0, 1] or be 'auto', got {self.shift_weight}")

    def _shared(self) -> _Base:
        base = torch.nonzero(self._statistics.is_base)[:, 0]
        prototypes = self._prototypes(base)
        prior = None
        if self.shift_weight == "auto" and len(base) > 1:
            trace = self._statistics.within_trace().nan_to_num(0.0).to(self.dtype_)
            counts = self._statistics.counts[base].to(self.dtype_)
            prior = fit_base_prior(prototypes, counts, trace, softmax_scale=self.softmax_scale)
        return _Base(l2_normalize(prototypes), torch.linalg.vector_norm(prototypes, dim=1), prior)

    def _vectors(self, index: Tensor, shared: _Base) -> Tensor:
        prototypes = self._prototypes(index)
        vectors = l2_normalize(prototypes)
        is_new = ~self._statistics.is_base[index]
        if len(shared.anchors) and bool(is_new.any()):
            vectors[is_new] = self._calibrated(prototypes[is_new], self._statistics.counts[index[is_new]], shared)
        return vectors

    def _calibrated(self, prototypes: Tensor, n_shots: Tensor, base: _Base) -> Tensor:
        """Return the vectors of new classes from their raw means."""
        if not isinstance(self.shift_weight, str):
            settings = self.softmax_scale, self.shift_weight, self.renormalize_delta
            return l2_normalize(calibrated(base.anchors, prototypes, *settings))
        if base.prior is None:
            return l2_normalize(prototypes)
        weights = (self.softmax_scale * l2_normalize(prototypes) @ base.anchors.mT).softmax(1)
        delta = (weights * base.norms) @ base.anchors
        return posterior_blend(prototypes, delta, n_shots.to(self.dtype_), base.prior, RESTORATION)
