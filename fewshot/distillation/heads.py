"""Heads on the backbone, for training only, and the weights of instances in their bag."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from fewshot.checks import check_choice, check_positive
from fewshot.distillation.precision import wide, without_autocast
from fewshot.prototypes import l2_normalize

__all__ = ["POOLINGS", "ContrastHead", "InstancePooling", "PrototypeHead"]

POOLINGS = ("mean", "attention", "max")
_INIT_STD = 0.02


class PrototypeHead(nn.Module):
    """Compare features with learned prototypes: ``z_k = g_k cos(c_k, MLP(x))``.

    The MLP has three layers with GELU between them and no batch normalisation.

    Parameters
    ----------
    n_features : int
    n_prototypes : int
    hidden : int
        Width of both hidden layers. Default 2048, as in [DINO], [MUGS] and [CMD].
    bottleneck : int
        Width of what is compared with the prototypes. Default 256, as there.
    is_norm_frozen : bool
        Whether g stays 1; else it is learned. Default True, the steadier; [MUGS] (but for ViT-L) and [CMD] learn it.
    generator : torch.Generator, optional
        Draws the weights; default torch's global one, as for any layer.

    Attributes
    ----------
    projector : nn.Sequential
    last_layer : nn.Linear
        The prototypes, weight-normalised, without a bias.

    Notes
    -----
    Scaling the MLP's output changes nothing. Unlike the originals' legacy weight normalisation, this one can be copied;
    their ``weight_g`` and ``weight_v`` load into it. The comparison is computed in float32 at least, also where
    autocast is on: temperatures multiply its error by ten and more.

    Source
    ------
    [DINO] Released code; all weights from a truncated normal of standard deviation 0.02, biases 0.
    """

    def __init__(
        self,
        n_features: int,
        n_prototypes: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        is_norm_frozen: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.projector = _mlp([n_features, hidden, hidden, bottleneck], has_bias=True, generator=generator)
        self.last_layer = _prototypes(bottleneck, n_prototypes, is_norm_frozen, generator)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (..., n_features) to logits (..., n_prototypes) before any temperature; cosines if g = 1."""
        projected = self.projector(features)
        with without_autocast(projected):
            logits: Tensor = self.last_layer(_unit(projected))
        return logits


class ContrastHead(nn.Module):
    """Map features to unit rows that are compared with each other.

    Parameters
    ----------
    n_features : int
    hidden : int
        Width of the projector's two hidden layers. Default 2048, as in [MUGS].
    n_out : int
        Default 256, as in [MUGS].
    predictor_hidden : int, optional
        Width of the predictor's hidden layer; 4096 in [MUGS]. Default: no predictor, as a teacher has none.
    generator : torch.Generator, optional
        Draws the weights; default torch's global one, as for any layer.

    Notes
    -----
    No biases, no batch normalisation. Rows have unit length after the projector and after the predictor. A student's
    parameters include all names of a teacher's, see `copy_into`.

    Source
    ------
    [MUGS] Released code: projector from a truncated normal of standard deviation 0.02, predictor from the uniform
    distribution that torch's linear layers start from.
    """

    def __init__(
        self,
        n_features: int,
        *,
        hidden: int = 2048,
        n_out: int = 256,
        predictor_hidden: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.projector = _mlp([n_features, hidden, hidden, n_out], has_bias=False, generator=generator)
        self.predictor: nn.Sequential | None = None
        if predictor_hidden is not None:
            widths = [n_out, predictor_hidden, n_out]
            self.predictor = _mlp(widths, has_bias=False, generator=generator, is_uniform=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (..., n_features) to unit rows (..., n_out); half precision is widened to float32."""
        projected = self.projector(features)
        rows = _unit(projected)
        return rows if self.predictor is None else _unit(self.predictor(rows.to(projected.dtype)))


class InstancePooling(nn.Module):
    """Weigh the instances of a bag: log a_n, Σ_n a_n = 1.

    Parameters
    ----------
    kind : str
        - ``mean``: all alike, the released sum of [CMD], normalised;
        - ``attention``: ``a = softmax_n( wᵀ (tanh(V h_n) ⊙ sigmoid(U h_n)) )``, learned;
        - ``max``: all weight on the instance that is nearest to a prototype, that is, of the largest of all logits;
          shared by equals. No gradient.
    n_features : int
    hidden : int
        Rows of U and V. Default 128.
    generator : torch.Generator, optional
        Draws the weights of ``attention``; default torch's global one, as for any layer.

    Raises
    ------
    ValueError
        If ``kind`` is unknown, or ``max`` is asked for without logits.

    Notes
    -----
    Permuting instances permutes weights. With every instance twice, each pair shares the weight of the one. [CMD]
    weighs all alike; ``attention`` and ``max`` are offered beside it.

    Source
    ------
    Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, Eq. 9.

    Examples
    --------
    >>> InstancePooling("mean", 3)(torch.ones(4, 3)).exp()
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    >>> InstancePooling("max", 3)(torch.ones(3, 3), torch.tensor([[0.1, 0.2], [0.9, 0.0], [0.4, 0.5]])).exp()
    tensor([0., 1., 0.])
    """

    def __init__(
        self, kind: str, n_features: int, hidden: int = 128, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.kind = check_choice("pooling", kind, POOLINGS)
        if kind == "attention":
            self.content, self.gate, self.score = (
                _linear(n_in, n_out, has_bias=False, generator=generator, is_uniform=True)
                for n_in, n_out in ((n_features, hidden), (n_features, hidden), (hidden, 1))
            )

    def forward(self, instances: Tensor, logits: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Return log weights.

        Parameters
        ----------
        instances : Tensor (..., n, n_features)
        logits : Tensor (..., n, k), optional
            Of the instances, such as cosines with prototypes; ``max`` alone needs them.
        mask : Tensor (..., n), bool, optional
            Which instances are real, at least one; default all. The others weigh nothing.

        Returns
        -------
        Tensor (..., n)
            Float32 at least.
        """
        scores = self._scores(instances, logits)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        if self.kind == "max":
            scores = torch.zeros_like(scores).masked_fill(scores < scores.amax(-1, keepdim=True), -torch.inf)
        return scores.log_softmax(-1)

    def _scores(self, instances: Tensor, logits: Tensor | None) -> Tensor:
        if self.kind == "mean":
            return torch.zeros_like(wide(instances[..., 0]))
        if self.kind == "attention":
            gated = self.content(instances).tanh() * self.gate(instances).sigmoid()
            attention: Tensor = self.score(gated).squeeze(-1)
            return wide(attention)
        if logits is None:
            raise ValueError("pooling 'max' picks an instance by its logits, got logits=None: pass them")
        return wide(logits.amax(-1))


def _unit(rows: Tensor) -> Tensor:
    return l2_normalize(wide(rows))


def _linear(
    n_in: int, n_out: int, *, has_bias: bool, generator: torch.Generator | None, is_uniform: bool = False
) -> nn.Linear:
    """Return a linear layer; all that is random comes from one draw of ``generator``."""
    layer = nn.Linear(n_in, n_out, bias=has_bias, device="meta").to_empty(device=torch.get_default_device())
    if is_uniform:
        nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    else:
        nn.init.trunc_normal_(layer.weight, std=_INIT_STD, generator=generator)
    if has_bias:
        nn.init.zeros_(layer.bias)
    return layer


def _mlp(
    widths: list[int], *, has_bias: bool, generator: torch.Generator | None, is_uniform: bool = False
) -> nn.Sequential:
    """Return linear layers with GELU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [_linear(n_in, n_out, has_bias=has_bias, generator=generator, is_uniform=is_uniform), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _prototypes(n_in: int, n_prototypes: int, is_norm_frozen: bool, generator: torch.Generator | None) -> nn.Linear:
    """Return weight-normalised prototypes of unit length."""
    check_positive("n_prototypes", n_prototypes)
    layer: nn.Linear = weight_norm(_linear(n_in, n_prototypes, has_bias=False, generator=generator))
    norms: nn.Parameter = layer.get_parameter("parametrizations.weight.original0")
    nn.init.ones_(norms)
    norms.requires_grad_(not is_norm_frozen)
    return layer
