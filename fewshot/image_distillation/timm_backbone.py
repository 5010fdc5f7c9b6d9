"""A network of timm as distillation sees it: its tokens before and after its final norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewshot.distillation.backbone import TokenBackbone
from fewshot.features.backbones.timm_models import check_size
from fewshot.features.backbones.token_models import as_tokens, has_class_token, is_channels_first, n_prefix_tokens

__all__ = ["TokenTrunk", "backbone_of"]


class TokenTrunk(nn.Module):
    """A network of timm up to its final norm: images (b, 3, height, width) to tokens (b, n_prefix + n, d)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens, a map's row by row."""
        return as_tokens(self.network.forward_features(images), self.network)  # type: ignore[operator]


def backbone_of(model: nn.Module, size: int, image: str) -> TokenBackbone:
    """Separate a model's final norm, so that tokens before and after it are available; a CNN keeps its norm.

    Parameters
    ----------
    model
        Of `token_model`, in evaluation mode; changed in place.
    size
        Side of its input in pixels.
    image
        ``token`` or ``mean``, see `TokenBackbone`; without a class token it is ``mean`` in any case.

    Raises
    ------
    ValueError
        If the size is not one of whole patches, the model does not end in tokens or a map, or its tokens before the
        final norm are not available.
    """
    check_size(model, (size, size))
    output = _output_of_ramp(model, size)
    expected = as_tokens(output, model)
    norm = nn.Identity() if is_channels_first(output, model) else _taken_norm(model)
    _check_norm(model, norm, expected, norm(as_tokens(_output_of_ramp(model, size), model)))
    return TokenBackbone(
        TokenTrunk(model),
        norm,
        width=expected.shape[-1],
        n_prefix=n_prefix_tokens(model),
        n_heads=_n_heads(model),
        image=image if has_class_token(model) else "mean",
    )


@torch.no_grad()
def _output_of_ramp(model: Any, size: int) -> Tensor:
    """Return the trunk's output for one image."""
    output: Tensor = model.forward_features(torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size))
    return output


def _taken_norm(model: Any) -> nn.Module:
    """Replace the norm that tokens end with by nothing, and return it."""
    norm = getattr(model, "norm", None)
    if not isinstance(norm, nn.Module):
        return nn.Identity()
    model.norm = nn.Identity()
    return norm


def _check_norm(model: nn.Module, norm: nn.Module, expected: Tensor, found: Tensor) -> None:
    if found.shape != expected.shape or not torch.allclose(found.detach(), expected, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"{type(model).__name__} does not end with its {type(norm).__name__} 'norm', so that its tokens before the "
            "norm are not available: choose a ViT, a Swin or a CNN"
        )
    if isinstance(norm, nn.Identity) and isinstance(getattr(model, "fc_norm", None), nn.LayerNorm):
        raise ValueError("this ViT has its final norm after pooling, its tokens none: pass the option fc_norm=False")


def _n_heads(model: Any) -> int | None:
    """Return the heads of the last block; None of a network without attention."""
    attention = [module for module in model.modules() if hasattr(module, "num_heads")]
    return int(attention[-1].num_heads) if attention else None
