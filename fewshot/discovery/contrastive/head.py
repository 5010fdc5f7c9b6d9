"""A projection head initialised to the identity, or to given directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from fewshot.prototypes import l2_normalize

__all__ = ["ProjectionHead", "principal_basis"]

_CHUNK = 8192


class ProjectionHead(nn.Module):
    """A map of frozen features to unit rows that starts as their projection to a basis.

    ``z = u / ‖u‖,  u = v + R(v),  v = Bᵀ x / ‖x‖``, where R is ``W v``, or ``W gelu(V v)``; W starts at 0.

    Parameters
    ----------
    basis : Tensor (n_features, n_dims)
        B, kept as it is: ``torch.eye(n_features)``, or `principal_basis`. The parameters have its dtype; half
        precision is widened to float32.
    n_hidden : int
        Width of the hidden layer; default 0: R is linear.
    generator : torch.Generator, optional
        Draws V; needed where there is a hidden layer.

    Notes
    -----
    With the identity for basis the untrained head scales rows to unit length, which `CategoryDiscovery` does anyway:
    untrained is frozen. The authors train the last block of the backbone and, for the instance losses, a projector of
    three layers that is thrown away; neither is at hand where features are cached.

    Examples
    --------
    >>> ProjectionHead(torch.eye(2))(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """

    basis: Tensor
    weight: Tensor
    hidden: Tensor | None

    def __init__(self, basis: Tensor, *, n_hidden: int = 0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        basis = basis.detach().to(torch.promote_types(basis.dtype, torch.float32), copy=True)
        n_dims = basis.shape[1]
        self.register_buffer("basis", basis)
        self.weight = nn.Parameter(basis.new_zeros((n_dims, n_hidden or n_dims)))
        self.register_parameter("hidden", None)
        if n_hidden:
            if generator is None:
                raise ValueError("a head with a hidden layer starts at random, got generator=None: give a generator")
            drawn = torch.randn((n_hidden, n_dims), generator=generator, device=generator.device, dtype=basis.dtype)
            self.hidden = nn.Parameter(drawn.to(basis.device))

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, n_features) to unit rows (n, n_dims); half precision is widened to float32."""
        rows = l2_normalize(features.to(self.basis.dtype)) @ self.basis
        inner = rows if self.hidden is None else gelu(rows @ self.hidden.mT)
        wide = torch.promote_types(features.dtype, torch.float32)
        return l2_normalize(rows + inner @ self.weight.mT).to(wide)

    @torch.no_grad()
    def project(self, features: Tensor) -> Tensor:
        """Map a pool in chunks, without gradients."""
        parts: list[Tensor] = [self(rows) for rows in torch.split(features, _CHUNK)]
        return torch.cat(parts)


@torch.no_grad()
def principal_basis(features: Tensor, n_dims: int) -> Tensor:
    """Return the ``n_dims`` orthonormal directions (n_features, n_dims) in which unit rows have the largest squares.

    Principal directions about the origin, not about the mean: inner products of unit rows are kept, and so is what
    unit length means, up to what lies outside.

    Examples
    --------
    >>> principal_basis(torch.tensor([[0.0, 2.0, 0.0], [0.1, 3.0, 0.0]]), 1).abs().round(decimals=1).flatten().tolist()
    [0.0, 1.0, 0.0]
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    moment = features.new_zeros((features.shape[1],) * 2, dtype=torch.float64)
    for part in torch.split(features, _CHUNK):
        rows = l2_normalize(part.to(dtype)).double()
        moment += rows.mT @ rows
    directions: Tensor = torch.linalg.eigh(moment)[1].flip(1)[:, :n_dims]
    return directions.to(dtype)
