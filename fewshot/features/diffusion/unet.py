"""The U-Net of ADM and improved-diffusion, with the layout of their state dicts, run no further than it has to."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.features.diffusion.config import N_GROUPS, UNetConfig

__all__ = ["UNet", "timestep_embedding"]


def timestep_embedding(t: Tensor, n_features: int) -> Tensor:
    """Return [cos(t w), sin(t w)] with w_k = 10000^(-k / half), k in [0, half), half = n_features / 2.

    Parameters
    ----------
    t
        (b,) real.
    n_features
        Even.

    Returns
    -------
    Tensor (b, n_features) float32
    """
    half = n_features // 2
    w = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * w
    return torch.cat([angles.cos(), angles.sin()], 1)


class GroupNorm32(nn.GroupNorm):
    """Group norm in float32, whatever the dtype of the map."""

    def __init__(self, n_channels: int) -> None:
        super().__init__(N_GROUPS, n_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (b, channels, ...)."""
        return functional.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(
            x.dtype
        )


class Resample(nn.Module):
    """Halve a map by 2 x 2 means, double it by repeating, or leave it."""

    def __init__(self, direction: str = "") -> None:
        super().__init__()
        self.direction = direction

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, channels, height, width)."""
        if self.direction == "down":
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2.0, mode="nearest") if self.direction == "up" else x


class Downsample(nn.Module):
    """Halve a map by a convolution."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(n_channels, n_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, channels, height, width)."""
        halved: Tensor = self.op(x)
        return halved


class Upsample(nn.Module):
    """Double a map and convolve it."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_channels, n_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, channels, height, width)."""
        convolved: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return convolved


class ResBlock(nn.Module):
    """A residual block with time embedding and optional resampling."""

    def __init__(self, config: UNetConfig, n_in: int, n_out: int, direction: str = "") -> None:
        super().__init__()
        self.use_scale_shift_norm = config.use_scale_shift_norm
        self.resample = Resample(direction)
        n_embedded = 2 * n_out if config.use_scale_shift_norm else n_out
        self.in_layers = nn.Sequential(GroupNorm32(n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.num_channels, n_embedded))
        self.out_layers = nn.Sequential(
            GroupNorm32(n_out), nn.SiLU(), nn.Identity(), nn.Conv2d(n_out, n_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (b, n_in, height, width) and the embedded time (b, 4 num_channels)."""
        norm, activation, conv = self.in_layers
        h: Tensor = conv(self.resample(activation(norm(x))))
        embedded = self.emb_layers(emb).to(h.dtype)[..., None, None]
        norm, *rest = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = embedded.chunk(2, 1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + embedded)
        for layer in rest:
            h = layer(h)
        skip: Tensor = self.skip_connection(self.resample(x))
        return skip + h


class Attention(nn.Module):
    """Self-attention over the places of a map."""

    def __init__(self, config: UNetConfig, n_channels: int) -> None:
        super().__init__()
        self.n_heads = config.n_heads(n_channels)
        self.is_head_first = not config.use_new_attention_order
        self.norm = GroupNorm32(n_channels)
        self.qkv = nn.Conv1d(n_channels, 3 * n_channels, 1)
        self.proj_out = nn.Conv1d(n_channels, n_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, channels, height, width)."""
        places = x.flatten(2)
        qkv = self.qkv(self.norm(places))
        if self.is_head_first:
            q, k, v = qkv.unflatten(1, (self.n_heads, 3, -1)).unbind(2)
        else:
            q, k, v = qkv.unflatten(1, (3, self.n_heads, -1)).unbind(1)
        scale = q.shape[2] ** -0.25
        logits = torch.einsum("bhdq,bhdk->bhqk", q * scale, k * scale)
        weights = logits.float().softmax(-1).to(v.dtype)
        h = torch.einsum("bhqk,bhdk->bhdq", weights, v).flatten(1, 2)
        attended: Tensor = self.proj_out(h)
        return (places + attended).view_as(x)


class Block(nn.Sequential):
    """A sequence of layers, the residual ones with time embedding; the numbered unit."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        """Map (b, channels, height, width) and the embedded time."""
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """The noise-predicting network; its blocks b = 1 ... ``config.n_blocks`` are counted as they run.

    The encoder's blocks come first, then the middle one, then the decoder's. What a block puts out is taken after
    attention and resampling. Blocks b and 2 · middle - b stand opposite each other.

    Parameters
    ----------
    config
        Its shape.

    Notes
    -----
    The published initialisation sets the last convolution of every residual branch to zero, which makes a fresh network
    nearly blind to its input at depth. This one does not, so that an untrained network is a fair baseline.
    There is no dropout: the published rates matter to training only.

    Source
    ------
    [ADM] and [IDDPM], released code.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        n_time = 4 * config.num_channels
        self.time_embed = nn.Sequential(nn.Linear(config.num_channels, n_time), nn.SiLU(), nn.Linear(n_time, n_time))
        if config.num_classes:
            self.label_emb = nn.Embedding(config.num_classes, n_time)
        input_blocks, skip_channels = _encoder(config)
        n_bottom, n_top = config.level_channels[-1], config.level_channels[0]
        self.input_blocks = nn.ModuleList(input_blocks)
        self.middle_block = Block(
            ResBlock(config, n_bottom, n_bottom), Attention(config, n_bottom), ResBlock(config, n_bottom, n_bottom)
        )
        self.output_blocks = nn.ModuleList(_decoder(config, skip_channels))
        n_out = 6 if config.learn_sigma else 3
        self.out = nn.Sequential(GroupNorm32(n_top), nn.SiLU(), nn.Conv2d(n_top, n_out, 3, padding=1))

    @property
    def n_blocks(self) -> int:
        """The number of blocks of the whole architecture."""
        return self.config.n_blocks

    def blocks(self) -> Iterator[nn.Module]:
        """Iterate over the blocks, b = 1, 2, ..., as far as they are left."""
        yield from self.input_blocks
        if len(self.middle_block):
            yield self.middle_block
        yield from self.output_blocks

    def truncate(self, last: int) -> None:
        """Remove, in place, all weights that the blocks up to ``last`` do not use."""
        middle = self.config.middle
        self.input_blocks = self.input_blocks[:last]
        if last < middle:
            self.middle_block = Block()
        self.output_blocks = self.output_blocks[: max(0, last - middle)]
        self.out = nn.Sequential()
        if self.config.num_classes:
            del self.label_emb

    def forward_to(self, x: Tensor, t: float | Tensor, blocks: Collection[int]) -> dict[int, Tensor]:
        """Run up to the last wanted block and no further.

        Parameters
        ----------
        x
            (b, 3, image_size, image_size), noised.
        t
            Time input of the network: a number, or (b,).
        blocks
            Numbers of blocks in [1, n_blocks].

        Returns
        -------
        dict
            From number to output (b, channels, height, width), in the order in which the blocks ran.
        """
        emb = self._embed_time(x, t)
        found: dict[int, Tensor] = {}
        skips: list[Tensor] = []
        for b, block in enumerate(self.blocks(), 1):
            if b > self.config.middle:
                x = torch.cat([x, skips.pop()], 1)
            x = block(x, emb)
            if b < self.config.middle:
                skips.append(x)
            if b in blocks:
                found[b] = x
            if b == max(blocks):
                break
        return found

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the prediction, (b, 3 or 6, image_size, image_size): noise, and variance if ``learn_sigma``."""
        out: Tensor = self.out(self.forward_to(x, t, [self.n_blocks])[self.n_blocks])
        return out

    def _embed_time(self, x: Tensor, t: float | Tensor) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        emb: Tensor = self.time_embed(timestep_embedding(times, self.config.num_channels))
        return emb


def _encoder(config: UNetConfig) -> tuple[list[Block], list[int]]:
    """Return the encoder's blocks, and the number of output channels of each."""
    n_channels = config.level_channels[0]
    blocks, widths = [Block(nn.Conv2d(3, n_channels, 3, padding=1))], [n_channels]
    for level, n_out in enumerate(config.level_channels):
        for _ in range(config.num_res_blocks):
            blocks.append(Block(*_stage(config, level, n_channels)))
            widths.append(n_channels := n_out)
        if level < config.n_levels - 1:
            blocks.append(
                Block(ResBlock(config, n_out, n_out, "down") if config.resblock_updown else Downsample(n_out))
            )
            widths.append(n_out)
    return blocks, widths


def _decoder(config: UNetConfig, skip_channels: list[int]) -> list[Block]:
    """Return the decoder's blocks, each with the skip connection of one encoder block."""
    n_channels, skips = config.level_channels[-1], list(skip_channels)
    blocks = []
    for level, n_out in reversed(list(enumerate(config.level_channels))):
        for i in range(config.num_res_blocks + 1):
            layers = _stage(config, level, n_channels + skips.pop())
            n_channels = n_out
            if level and i == config.num_res_blocks:
                layers.append(ResBlock(config, n_out, n_out, "up") if config.resblock_updown else Upsample(n_out))
            blocks.append(Block(*layers))
    return blocks


def _stage(config: UNetConfig, level: int, n_in: int) -> list[nn.Module]:
    """Return a residual block, and the attention that goes with it."""
    n_out = config.level_channels[level]
    residual = ResBlock(config, n_in, n_out)
    return [residual, Attention(config, n_out)] if config.has_attention(level) else [residual]
