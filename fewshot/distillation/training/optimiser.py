"""Which parameters are decayed, at which rate they learn, and how far a step may go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.checks import check_positive

__all__ = ["clip_each", "parameter_groups"]

_PATCH_EMBEDDING = "patch_embed"


def parameter_groups(module: nn.Module, *, patch_scale: float = 1.0) -> list[dict[str, Any]]:
    """Sort a module's trainable parameters for an optimiser.

    Parameters
    ----------
    module : nn.Module
    patch_scale : float
        What the learning rate of the patch embedding is multiplied by: of names that contain ``patch_embed``. Default
        1; [MUGS]: 0.2.

    Returns
    -------
    list of dict
        Groups that hold something, each with ``params``, ``is_decayed`` and ``lr_scale``, in a fixed order. Those that
        are not decayed have ``weight_decay`` 0 already; the schedule sets the others'. An optimiser keeps all keys.

    Notes
    -----
    Biases and parameters of one dimension are not decayed; all else is, class token, positions and learned norms of
    prototypes included.

    Source
    ------
    [DINO] Released code; ``patch_scale``: [MUGS] released code.

    Examples
    --------
    >>> [(len(group["params"]), group["is_decayed"]) for group in parameter_groups(nn.Linear(2, 3))]
    [(1, True), (1, False)]
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.ndim > 1 and not name.endswith("bias")
            scale = patch_scale if _PATCH_EMBEDDING in name else 1.0
            groups.setdefault((is_decayed, scale), []).append(parameter)
    return [_group(*key, groups[key]) for key in sorted(groups, reverse=True)]


def _group(is_decayed: bool, scale: float, parameters: list[nn.Parameter]) -> dict[str, Any]:
    group = {"params": parameters, "is_decayed": is_decayed, "lr_scale": scale}
    return group if is_decayed else {**group, "weight_decay": 0.0}


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Shorten the gradient of each parameter on its own to a norm of at most ``max_norm``.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        All on one device; those without a gradient are left out.
    max_norm : float
        Positive. 3 in [DINO], [MUGS] and [CMD].

    Returns
    -------
    Tensor (n,)
        The norms before, float32 at least; without a gradient anywhere, of no entries.

    Notes
    -----
    Not the norm of all gradients together, which ``torch.nn.utils.clip_grad_norm_`` takes. A gradient that is short
    enough does not change by a bit. The host does not wait for the device; the originals do, once a parameter.

    Source
    ------
    [DINO] Released code.
    """
    check_positive("max_norm", max_norm)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(0)
    norms = torch.stack(torch._foreach_norm(gradients))
    norms = norms.to(torch.promote_types(norms.dtype, torch.float32))
    factors = (max_norm / (norms + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms
