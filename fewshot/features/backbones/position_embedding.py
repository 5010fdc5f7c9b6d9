"""Learned position embeddings of a ViT for another grid of patches, by two rules that agree at the grid of training."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewshot.checks import check_choice

__all__ = ["POSITION_RULES", "resize_position_embedding"]

POSITION_RULES = ("dino", "timm")
# Added to the wanted grid in DINO's scale factor, lest rounding lose a row.
_DINO_OFFSET = 0.1


def resize_position_embedding(embedding: Tensor, grid: tuple[int, int], rule: str = "dino") -> Tensor:
    """Interpolate the position embedding of a square grid of patches; the class token's stays.

    Parameters
    ----------
    embedding
        (1, 1 + n_patches, width), the class token first; n_patches is a square number.
    grid
        Rows and columns of patches that are wanted.
    rule
        Both are bicubic. ``dino`` scales by (grid + 0.1) / side without antialiasing, as DINO, iBOT and Mugs do;
        ``timm`` resizes to exactly the grid, with antialiasing. They differ by a few per cent, more when shrinking.

    Returns
    -------
    Tensor
        (1, 1 + rows * columns, width), of the same dtype; ``embedding`` itself if the grid is already its own.

    Raises
    ------
    ValueError
        If the rule is unknown, a shape is not as above, or the grid has no patches.

    Notes
    -----
    Linear in the embedding; an embedding that is the same everywhere stays so.

    Source
    ------
    [DINO] code (``interpolate_pos_encoding``); timm, ``resample_abs_pos_embed``.

    Examples
    --------
    >>> resize_position_embedding(torch.zeros(1, 1 + 14 * 14, 64), (6, 9)).shape
    torch.Size([1, 55, 64])
    """
    check_choice("rule of position embeddings", rule, POSITION_RULES)
    side = _grid_side(embedding)
    if min(grid) < 1:
        raise ValueError(f"a grid needs at least one patch each way, got {grid[0]} x {grid[1]}: use larger images")
    if grid == (side, side):
        return embedding
    widened = embedding[:, 1:].to(torch.promote_types(embedding.dtype, torch.float32))
    patches = widened.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = _resize(patches, grid, rule).flatten(2).mT.to(embedding.dtype)
    return torch.cat([embedding[:, :1], resized], dim=1)


def _resize(patches: Tensor, grid: tuple[int, int], rule: str) -> Tensor:
    """Resize (1, width, side, side)."""
    if rule == "timm":
        return interpolate(patches, size=grid, mode="bicubic", antialias=True)
    scales = [(n + _DINO_OFFSET) / patches.shape[-1] for n in grid]
    return interpolate(patches, scale_factor=scales, mode="bicubic")


def _grid_side(embedding: Tensor) -> int:
    side = math.isqrt(max(embedding.shape[1] - 1, 0)) if embedding.ndim == 3 else 0
    if side == 0 or embedding.shape[:2] != (1, 1 + side * side):
        raise ValueError(
            "a position embedding must have shape (1, 1 + side * side, width), the class token first, "
            f"got {tuple(embedding.shape)}"
        )
    return side
