"""A backbone as distillation sees it: views in, an embedding of the image and of its instances out."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from fewshot.checks import check_choice

__all__ = ["IMAGE_EMBEDDINGS", "TokenBackbone", "Tokens"]

IMAGE_EMBEDDINGS = ("token", "mean")
_HEAD_WIDTH = 64


class Tokens(NamedTuple):
    """Embeddings of b views.

    Attributes
    ----------
    image : Tensor (b, d)
        Of the whole view, after the final norm.
    instances : Tensor (b, n, d)
        Of its patches or regions, after the final norm.
    raw : Tensor (b, n_prefix + n, d)
        All tokens before the final norm, the class token first if there is one.
    """

    image: Tensor
    instances: Tensor
    raw: Tensor


class TokenBackbone(nn.Module):
    """A network with a grid of tokens: ViT, Swin or CNN.

    Parameters
    ----------
    trunk : nn.Module
        Views (b, ...) to tokens (b, n_prefix + n, d) before the final norm.
    norm : nn.Module
        The final norm; `torch.nn.Identity` where there is none.
    width : int
        d.
    n_prefix : int
        Tokens before the patches: 1 with a class token, else 0.
    n_heads : int, optional
        Of its attention; 64 channels a head by default.
    image : str
        ``token``: the view's embedding is the class token (DINO, Mugs); ``mean``: the mean of the instances (EsViT,
        CMD), the only one without a class token.

    Raises
    ------
    ValueError
        If ``image`` is unknown, or is ``token`` without a class token.
    """

    def __init__(
        self,
        trunk: nn.Module,
        norm: nn.Module,
        *,
        width: int,
        n_prefix: int,
        n_heads: int | None = None,
        image: str = "token",
    ) -> None:
        super().__init__()
        check_choice("embedding of images", image, IMAGE_EMBEDDINGS)
        if image == "token" and n_prefix == 0:
            raise ValueError("image='token' needs a class token, and this backbone has none: use image='mean'")
        self.trunk, self.norm = trunk, norm
        self.width, self.n_prefix, self.image = width, n_prefix, image
        self.n_heads = max(1, width // _HEAD_WIDTH) if n_heads is None else n_heads

    def forward(self, views: Tensor) -> Tokens:
        """Return the embeddings of views (b, ...)."""
        raw = self.trunk(views)
        tokens = self.norm(raw)
        instances = tokens[:, self.n_prefix :]
        return Tokens(tokens[:, 0] if self.image == "token" else instances.mean(1), instances, raw)
