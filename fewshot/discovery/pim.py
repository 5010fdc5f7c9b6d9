r"""PIM: a linear head on frozen features that maximises mutual information of rows and classes, and fits the labels.

With p_i = softmax(s (W x_i + b)) over the classes, the head minimises

    J = λ · mean_{i unlabelled} H(p_i) - H(mean over all of p_i) + mean_{i labelled} -log p_{i, y_i}.

Confident answers, classes of even size unless the rows say otherwise, and right answers where these are known. A
surplus class may stay without a row.

Source: [PIM], from a description of the paper and its code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.discovery.estimator import CategoryDiscoverer, Discovered
from fewshot.discovery.kmeans import semi_supervised_kmeans
from fewshot.metrics import adjusted_rand_index, contingency_table
from fewshot.prototypes import one_hot

__all__ = ["PIM", "PIMResult", "choose_entropy_weight", "fit_pim", "pim_gradient"]

# Entries of a block of probabilities.
_MAX_ENTRIES = 2**21
_ENTROPY_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class PIMResult(NamedTuple):
    """A fitted head.

    Attributes
    ----------
    weight : Tensor (n_classes, n_features)
    bias : Tensor (n_classes,)
        The logits of a row are ``softmax_scale · (W x + b)``.
    objective : Tensor (n_steps,), float64
        J before each step.
    """

    weight: Tensor
    bias: Tensor
    objective: Tensor


def fit_pim(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    entropy_weight: float = 1.0,
    softmax_scale: float = 25.0,
    n_steps: int = 1000,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
) -> PIMResult:
    """Train the head by Adam on all rows at once, from the nearest-center head.

    Parameters
    ----------
    features : Tensor (n, n_features)
        Of mean squared length about 1: the defaults are for such.
    labels : Tensor (n,), int64
        -1 for a row without a label.
    centers : Tensor (n_classes, n_features)
        The head starts from W = c, b = -‖c‖²/2: the softmax of -s‖x - c‖²/2.
    entropy_weight : float
        λ, not negative.
    softmax_scale : float
        s, positive; it multiplies the logits. Default 25, called a temperature there.
    n_steps, learning_rate, weight_decay
        Of Adam. Defaults 1000, 1e-3 and 1e-2, the authors'.

    Returns
    -------
    PIMResult

    Notes
    -----
    The gradient is exact whatever the number of rows: mean p is gathered in a first pass over blocks, the gradient in a
    second. The bias, its start, and weight decay towards 0 are this library's reading.

    Source
    ------
    [PIM], from a description.
    """
    weight = centers.clone().requires_grad_()
    bias = (-0.5 * centers.square().sum(1)).requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=learning_rate, weight_decay=weight_decay)
    trace = []
    for _ in range(n_steps):
        head = weight.detach(), bias.detach()
        value, weight.grad, bias.grad = pim_gradient(features, labels, *head, entropy_weight, softmax_scale)
        trace.append(value)
        optimizer.step()
    objective = torch.stack(trace) if trace else features.new_zeros(0, dtype=torch.float64)
    return PIMResult(weight.detach(), bias.detach(), objective)


def pim_gradient(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, entropy_weight: float, softmax_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return J, a float64 scalar, and its gradients by the weight and the bias.

    With g_i = ∂J/∂p_i of the entropies and logits z_i, ``∂J/∂z_i = p_i (g_i - p_i·g_i)``; the labels add
    ``(p_i - onehot(y_i)) / n_labelled``.
    """
    n_classes = len(weight)
    size = max(1, _MAX_ENTRIES // n_classes)
    blocks = list(zip(torch.split(features, size), torch.split(labels, size), strict=True))
    mean = sum((_log_probs(rows, weight, bias, softmax_scale).exp().sum(0) for rows, _ in blocks), bias.new_zeros(1))
    mean = mean / len(features)
    marginal = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
    n_labelled = int((labels >= 0).sum())
    n_free = len(labels) - n_labelled
    value = (mean * marginal).sum().double()
    weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
    for rows, own in blocks:
        log_probs = _log_probs(rows, weight, bias, softmax_scale)
        probs = log_probs.exp()
        is_free = (own < 0).to(probs.dtype)[:, None] * (entropy_weight / max(1, n_free))
        known = one_hot(own, n_classes, probs.dtype) / max(1, n_labelled)
        per_probability = marginal / len(features) - is_free * log_probs
        by_logit = probs * (per_probability - (probs * per_probability).sum(1, keepdim=True))
        by_logit = softmax_scale * (by_logit + probs * known.sum(1, keepdim=True) - known)
        value = value - ((is_free * probs + known) * log_probs).sum().double()
        weight_gradient += by_logit.mT @ rows
        bias_gradient += by_logit.sum(0)
    return value, weight_gradient, bias_gradient


def choose_entropy_weight(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    generator: torch.Generator,
    candidates: Sequence[float] = _ENTROPY_WEIGHTS,
    settings: Mapping[str, Any] | None = None,
) -> float:
    """Return the λ whose head, trained without labels, agrees best with them, by the adjusted Rand index.

    Parameters
    ----------
    features, labels
        As in `fit_pim`.
    n_classes : int
    generator : torch.Generator
        Decides the start, one k-means for all.
    candidates : sequence of float
    settings : mapping, optional
        Other arguments of `fit_pim`.

    Returns
    -------
    float
        1 where no row has a label.
    """
    if not bool((labels >= 0).any()):
        return 1.0
    unseen = torch.full_like(labels, -1)
    centers = semi_supervised_kmeans(features, unseen, n_classes, generator=generator).centers

    def agreement(entropy_weight: float) -> float:
        head = fit_pim(features, unseen, centers, entropy_weight=entropy_weight, **(settings or {}))
        found = _answers(features, head.weight, head.bias)
        return float(adjusted_rand_index(contingency_table(found, labels)))

    return max(candidates, key=agreement)


class PIM(CategoryDiscoverer):
    """A linear head on frozen features, trained by mutual information and labels.

    Parameters
    ----------
    n_classes : int or str
        Known and found classes together, or a method of `estimate_n_classes`.
    entropy_weight : float or "auto"
        λ; "auto" is `choose_entropy_weight` over 0.1, 0.2, ..., 1, ten trainings more.
    softmax_scale, n_steps, learning_rate, weight_decay
        As in `fit_pim`.
    n_init : int
        Runs of the semi-supervised k-means that the head starts from. Default 10; the authors make 100.
    random_state : int

    Attributes
    ----------
    entropy_weight_ : float
    objective_ : list of float
        J before each step.

    Notes
    -----
    Features are moved to mean 0 and scaled to mean squared length 1 inside, for which the defaults are. Classes that
    end without a row are left out.

    Source
    ------
    [PIM], from a description; `fit_pim` lists what is a reading of it. Its λ is chosen by accuracy.

    Examples
    --------
    >>> rows = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]]
    >>> PIM(n_classes=2, n_steps=50).fit(rows, ["crow", None, None, None]).transduction_.tolist()
    ['crow', 'crow', 'new-01', 'new-01']
    """

    def __init__(
        self,
        n_classes: int | str = "auto",
        entropy_weight: float | str = "auto",
        softmax_scale: float = 25.0,
        n_steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        n_init: int = 10,
        random_state: int = 0,
    ) -> None:
        self.n_classes = n_classes
        self.entropy_weight = entropy_weight
        self.softmax_scale = softmax_scale
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.n_init = n_init
        self.random_state = random_state

    def _discover(self, features: Tensor, labels: Tensor, n_known: int, generator: torch.Generator) -> Discovered:
        check_positive("softmax_scale", self.softmax_scale)
        self._shift, self._unit = _frame(features)
        rows = self._embed(features)
        n_classes = self._count(rows, labels, n_known, generator)
        centers = semi_supervised_kmeans(rows, labels, n_classes, generator=generator, n_init=self.n_init).centers
        self.entropy_weight_ = self._entropy_weight(rows, labels, n_classes, generator)
        head = fit_pim(rows, labels, centers, entropy_weight=self.entropy_weight_, **self._settings())
        self._weight, self._bias = head.weight, head.bias
        self.objective_ = head.objective.tolist()
        clusters = torch.where(labels >= 0, labels, _answers(rows, self._weight, self._bias))
        return Discovered(clusters, rows)

    def _settings(self) -> dict[str, Any]:
        names = ("softmax_scale", "n_steps", "learning_rate", "weight_decay")
        return {name: getattr(self, name) for name in names}

    def _entropy_weight(self, rows: Tensor, labels: Tensor, n_classes: int, generator: torch.Generator) -> float:
        if isinstance(self.entropy_weight, str):
            if self.entropy_weight != "auto":
                raise ValueError(f"entropy_weight must be a number or 'auto', got {self.entropy_weight!r}")
            return choose_entropy_weight(rows, labels, n_classes, generator=generator, settings=self._settings())
        return check_non_negative("entropy_weight", self.entropy_weight)

    def _embed(self, features: Tensor) -> Tensor:
        return (features - self._shift) / self._unit

    def _reorder(self, order: Tensor) -> None:
        self._weight, self._bias = self._weight[order], self._bias[order]

    def _log_probs(self, rows: Tensor) -> Tensor:
        return _log_probs(rows, self._weight, self._bias, self.softmax_scale)

    def _class_state(self) -> dict[str, Tensor]:
        return {"weight": self._weight, "bias": self._bias, "shift": self._shift, "unit": self._unit}

    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        self._weight, self._bias = tensors["weight"], tensors["bias"]
        self._shift, self._unit = tensors["shift"], tensors["unit"]


def _log_probs(rows: Tensor, weight: Tensor, bias: Tensor, softmax_scale: float) -> Tensor:
    return (softmax_scale * torch.addmm(bias, rows, weight.mT)).log_softmax(1)


def _answers(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    size = max(1, _MAX_ENTRIES // len(weight))
    return torch.cat([torch.addmm(bias, part, weight.mT).argmax(1) for part in torch.split(rows, size)])


def _frame(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean row and the root of the mean squared distance to it, or 1."""
    shift = features.mean(0, dtype=torch.float64).to(features.dtype)
    total = torch.linalg.vector_norm(features - shift, dtype=torch.float64)
    length = (total / len(features) ** 0.5).to(features.dtype)
    return shift, torch.where(length > 0, length, torch.ones_like(length))
