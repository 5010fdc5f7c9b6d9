"""The transformer block in which Mugs lets an image look at its neighbours."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

__all__ = ["RelationBlock"]


class RelationBlock(nn.Module):
    """A pre-norm transformer block without positions: self-attention, then an MLP of four times the width.

    Parameters
    ----------
    width : int
        d, a multiple of ``n_heads``.
    n_heads : int

    Notes
    -----
    Parameters have the names of a ViT's block, so that ``relation_blocks.0`` of a published Mugs checkpoint loads.
    Permuting the tokens permutes the output.

    Source
    ------
    [MUGS] §3.2 and released code; LayerNorm with eps 1e-6, linear layers drawn from a truncated normal of std 0.02.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (b, n, d) of tokens (b, n, d)."""
        tokens = tokens + self._attend(self.norm1(tokens))
        output: Tensor = tokens + self.mlp["fc2"](gelu(self.mlp["fc1"](self.norm2(tokens))))
        return output

    def _attend(self, tokens: Tensor) -> Tensor:
        # (b, n, 3 h e) → 3 × (b, h, n, e)
        query, key, value = self.attn["qkv"](tokens).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value)
        output: Tensor = self.attn["proj"](attended.transpose(1, 2).flatten(-2))
        return output
