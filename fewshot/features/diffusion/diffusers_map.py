"""ADM's state dict and diffusers' `UNet2DModel`'s: one network under two sets of names.

The one step that a glance at shapes does not find: with the published ("legacy") order, the rows of ``qkv`` are
(head, q or k or v, feature of the head), and a plain split into three would load without complaint and be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.features.diffusion.config import N_GROUPS, UNetConfig

__all__ = ["adm_to_diffusers", "diffusers_config", "diffusers_to_adm", "join_qkv", "split_qkv"]

QKV = ("to_q", "to_k", "to_v")
_INNER = {
    "plain": {"": ""},
    "residual": {
        ".in_layers.0": ".norm1",
        ".in_layers.2": ".conv1",
        ".emb_layers.1": ".time_emb_proj",
        ".out_layers.0": ".norm2",
        ".out_layers.3": ".conv2",
        ".skip_connection": ".conv_shortcut",
    },
    "attention": {".norm": ".group_norm", ".proj_out": ".to_out.0"},
    "down": {".op": ".conv"},
    "up": {".conv": ".conv"},
}


class Layer(NamedTuple):
    """A layer's name in ADM and in diffusers, and its kind, a key of ``_INNER``."""

    adm: str
    diffusers: str
    kind: str


def adm_to_diffusers(weights: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Rename ADM's tensors to those of a `UNet2DModel` built from `diffusers_config`.

    Parameters
    ----------
    weights
        The whole state dict of `UNet(config)`.
    config
        Its shape.

    Raises
    ------
    ValueError
        If the config has a label embedding.
    """
    _check_unconditional(config)
    renamed: dict[str, Tensor] = {}
    for layer in _layers(config):
        for ours, theirs in _renamings(layer):
            for end in ("weight", "bias"):
                if f"{ours}.{end}" in weights:
                    tensor = weights[f"{ours}.{end}"]
                    renamed[f"{theirs}.{end}"] = tensor.squeeze(-1) if _is_projection(ours, end) else tensor
        if layer.kind == "attention":
            for end in ("weight", "bias"):
                parts = split_qkv(weights[f"{layer.adm}.qkv.{end}"], config)
                renamed |= {f"{layer.diffusers}.{name}.{end}": part for name, part in zip(QKV, parts, strict=True)}
    return renamed


def diffusers_to_adm(weights: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Rename the tensors of a `UNet2DModel` to ADM's: the inverse of `adm_to_diffusers`.

    Raises
    ------
    ValueError
        If the config has a label embedding.
    """
    _check_unconditional(config)
    renamed: dict[str, Tensor] = {}
    for layer in _layers(config):
        for ours, theirs in _renamings(layer):
            for end in ("weight", "bias"):
                if f"{theirs}.{end}" in weights:
                    tensor = weights[f"{theirs}.{end}"]
                    renamed[f"{ours}.{end}"] = tensor[..., None] if _is_projection(ours, end) else tensor
        if layer.kind == "attention":
            for end in ("weight", "bias"):
                parts = [weights[f"{layer.diffusers}.{name}.{end}"] for name in QKV]
                renamed[f"{layer.adm}.qkv.{end}"] = join_qkv(parts, config)
    return renamed


def split_qkv(qkv: Tensor, config: UNetConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the rows of ``qkv`` into those of q, k and v, heads in their order.

    Parameters
    ----------
    qkv
        Weight (3 · n_channels, n_channels, 1) or bias (3 · n_channels,).
    config
        Gives the number of heads and the order of the rows.

    Returns
    -------
    tuple of Tensor
        Three of (n_channels, n_channels) or (n_channels,).
    """
    rows = qkv.flatten(1) if qkv.ndim > 1 else qkv
    if config.use_new_attention_order:
        q, k, v = rows.chunk(3)
    else:
        n_heads = config.n_heads(len(qkv) // 3)
        q, k, v = (part.flatten(0, 1) for part in rows.reshape(n_heads, 3, -1, *rows.shape[1:]).unbind(1))
    return q, k, v


def join_qkv(parts: list[Tensor], config: UNetConfig) -> Tensor:
    """Put the rows of q, k and v together: the inverse of `split_qkv`."""
    if config.use_new_attention_order:
        qkv = torch.cat(parts)
    else:
        n_heads = config.n_heads(len(parts[0]))
        qkv = torch.stack([part.reshape(n_heads, -1, *part.shape[1:]) for part in parts], 1).flatten(0, 2)
    return qkv[..., None] if qkv.ndim > 1 else qkv


def diffusers_config(config: UNetConfig) -> dict[str, object]:
    """Return the ``config.json`` of the `UNet2DModel` that equals `UNet(config)`.

    Raises
    ------
    ValueError
        If diffusers cannot say it: a label embedding, heads whose width differs between levels, a first level
        wider than ``num_channels``, rescaled timesteps.
    """
    _check_unconditional(config)
    _check_time_input(config)
    down, up = _block_types(config)
    resample = "resnet" if config.resblock_updown else "conv"
    return {
        "_class_name": "UNet2DModel",
        "sample_size": config.image_size,
        "in_channels": 3,
        "out_channels": 6 if config.learn_sigma else 3,
        "layers_per_block": config.num_res_blocks,
        "block_out_channels": list(config.level_channels),
        "down_block_types": down,
        "up_block_types": up,
        "downsample_type": resample,
        "upsample_type": resample,
        "attention_head_dim": _head_width(config),
        "resnet_time_scale_shift": "scale_shift" if config.use_scale_shift_norm else "default",
        "norm_num_groups": N_GROUPS,
        "attn_norm_num_groups": N_GROUPS,
        "norm_eps": 1e-5,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def _block_types(config: UNetConfig) -> tuple[list[str], list[str]]:
    """Return the kinds of the blocks on the way down, and on the way up."""
    attends = [config.has_attention(level) for level in range(config.n_levels)]
    plain = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if config.resblock_updown else ("DownBlock2D", "UpBlock2D")
    )
    down = ["AttnDownBlock2D" if attend else plain[0] for attend in attends]
    up = ["AttnUpBlock2D" if attend else plain[1] for attend in reversed(attends)]
    return down, up


def _head_width(config: UNetConfig) -> int:
    """Return the width of all attention heads, one of which is in the middle."""
    attended = [n for level, n in enumerate(config.level_channels) if config.has_attention(level)]
    widths = {n // config.n_heads(n) for n in (*attended, config.level_channels[-1])}
    if len(widths) > 1:
        raise ValueError(f"diffusers gives all attention heads one width, and these have {sorted(widths)}")
    return widths.pop()


def _check_time_input(config: UNetConfig) -> None:
    if config.channel_mult[0] != 1:
        raise ValueError(
            "diffusers embeds time as wide as the first level, so channel_mult must begin with 1, "
            f"got {config.channel_mult}"
        )
    if config.rescale_timesteps:
        raise ValueError("diffusers has no flag for rescale_timesteps, which changes the network's time input")


def _check_unconditional(config: UNetConfig) -> None:
    if config.num_classes:
        raise ValueError(f"only networks without labels go to and from diffusers, got num_classes {config.num_classes}")


def _renamings(layer: Layer) -> Iterator[tuple[str, str]]:
    for ours, theirs in _INNER[layer.kind].items():
        yield layer.adm + ours, layer.diffusers + theirs


def _is_projection(name: str, end: str) -> bool:
    """Whether a tensor is a convolution over places in ADM, and a matrix in diffusers."""
    return name.endswith(".proj_out") and end == "weight"


def _layers(config: UNetConfig) -> Iterator[Layer]:
    """Yield all layers, in the order in which they run."""
    yield from (Layer(f"time_embed.{n}", f"time_embedding.linear_{n // 2 + 1}", "plain") for n in (0, 2))
    yield from _encoder_layers(config)
    yield Layer("middle_block.0", "mid_block.resnets.0", "residual")
    yield Layer("middle_block.1", "mid_block.attentions.0", "attention")
    yield Layer("middle_block.2", "mid_block.resnets.1", "residual")
    yield from _decoder_layers(config)
    yield from (Layer("out.0", "conv_norm_out", "plain"), Layer("out.2", "conv_out", "plain"))


def _encoder_layers(config: UNetConfig) -> Iterator[Layer]:
    yield Layer("input_blocks.0.0", "conv_in", "plain")
    per_level = config.num_res_blocks + 1
    for level in range(config.n_levels):
        first, theirs = 1 + level * per_level, f"down_blocks.{level}"
        for i in range(config.num_res_blocks):
            yield from _stage(f"input_blocks.{first + i}", theirs, i, config.has_attention(level))
        if level < config.n_levels - 1:
            kind = "residual" if config.resblock_updown else "down"
            yield Layer(f"input_blocks.{first + per_level - 1}.0", f"{theirs}.downsamplers.0", kind)


def _decoder_layers(config: UNetConfig) -> Iterator[Layer]:
    per_level = config.num_res_blocks + 1
    for up, level in enumerate(reversed(range(config.n_levels))):
        first, theirs, attends = up * per_level, f"up_blocks.{up}", config.has_attention(level)
        for i in range(per_level):
            yield from _stage(f"output_blocks.{first + i}", theirs, i, attends)
        if level:
            ours = f"output_blocks.{first + per_level - 1}.{2 if attends else 1}"
            yield Layer(ours, f"{theirs}.upsamplers.0", "residual" if config.resblock_updown else "up")


def _stage(ours: str, theirs: str, i: int, attends: bool) -> Iterator[Layer]:
    yield Layer(f"{ours}.0", f"{theirs}.resnets.{i}", "residual")
    if attends:
        yield Layer(f"{ours}.1", f"{theirs}.attentions.{i}", "attention")
