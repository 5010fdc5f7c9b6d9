"""The two families of diffusion features: published ADM and improved-diffusion files, and folders of diffusers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.checks import check_choice, check_non_negative, check_positive
from fewshot.features.diffusion.checkpoints import fill, fill_at_random, read_weights
from fewshot.features.diffusion.config import PRESETS, UNetConfig
from fewshot.features.diffusion.diffusers_format import (
    HookedUNet,
    read_folder_weights,
    read_schedule,
    read_unet_config,
)
from fewshot.features.diffusion.noise import STREAM, keyed_noise, recover_pixels
from fewshot.features.diffusion.schedule import Schedule
from fewshot.features.diffusion.unet import UNet
from fewshot.features.frozen import Built
from fewshot.features.images.preprocess import Preprocess

__all__ = ["DiffusionFeatures", "Recipe", "build_adm", "build_diffusers"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image becomes features.

    Parameters
    ----------
    layers
        Numbers of blocks, as strings.
    t, snr
        Timestep, and the signal-to-noise ratio there.
    model_time
        Time input of the network at ``t``.
    pool
        Cells along a side of the pooled map, at most; smaller maps stay as they are.
    n_noise
        Draws of noise over which features are averaged.
    noise_seed
        Seed of all noise.
    share_noise
        Whether an image keeps its noise at every timestep.
    """

    layers: tuple[str, ...]
    t: int
    snr: float
    model_time: float
    pool: int
    n_noise: int
    noise_seed: int
    share_noise: bool

    def __post_init__(self) -> None:
        check_positive("pool", self.pool)
        check_positive("n_noise", self.n_noise)

    @property
    def last_block(self) -> int:
        """The number of the block after which nothing is needed."""
        return max(int(layer) for layer in self.layers)

    def spec(self) -> dict[str, object]:
        """Return the fields as JSON values, with the name of the noise's stream."""
        return {**asdict(self), "layers": list(self.layers), "noise": STREAM}


class DiffusionFeatures(nn.Module):
    """Noise an image once, run the network up to a block, pool.

    Parameters
    ----------
    unet
        Already cut after the last wanted block.
    schedule
        The noise schedule.
    recipe
        What to do with them.

    Notes
    -----
    An image's features depend on its pixels and on the settings, and on nothing else: its noise is keyed by its
    content, see `keyed_noise`. The published code draws it anew at every pass, which moves features by 7 to 29 %.

    Source
    ------
    [DIFFSSL]; averaging over draws as in [DIFT].
    """

    is_traceable = False  # the noise depends on the values of the pixels

    def __init__(self, unet: UNet | HookedUNet, schedule: Schedule, recipe: Recipe) -> None:
        super().__init__()
        self.unet, self.schedule, self.recipe = unet, schedule, recipe

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Map (b, 3, height, width) in [-1, 1] to (b, channels · cells), or to a mapping from layer to such.

        Raises
        ------
        ValueError
            If values are not those of 8-bit pixels.
        """
        pixels = recover_pixels(images)
        draws = [self.features_of_draw(images, pixels, draw) for draw in range(self.recipe.n_noise)]
        features = {layer: torch.stack([draw[layer] for draw in draws]).mean(0) for layer in self.recipe.layers}
        return features if len(features) > 1 else features[self.recipe.layers[0]]

    def features_of_draw(self, images: Tensor, pixels: Tensor, draw: int) -> dict[str, Tensor]:
        """Return each layer's features, (b, channels · cells), under one draw of noise."""
        recipe = self.recipe
        timestep = None if recipe.share_noise else recipe.t
        noise = keyed_noise(pixels, seed=recipe.noise_seed, draw=draw, timestep=timestep)
        noised = self.schedule.add_noise(images, noise, recipe.t)
        maps = self.unet.forward_to(noised, recipe.model_time, [int(layer) for layer in recipe.layers])
        return {layer: pool_map(maps[int(layer)], recipe.pool) for layer in recipe.layers}


def pool_map(maps: Tensor, n_cells: int) -> Tensor:
    """Average (b, channels, height, width) over at most n_cells x n_cells cells; (b, channels · cells) float32.

    Where ``n_cells`` does not divide a side, cells overlap. Maps smaller than that stay whole.
    """
    height, width = maps.shape[2:]
    return functional.adaptive_avg_pool2d(maps.float(), (min(n_cells, height), min(n_cells, width))).flatten(1)


def build_adm(
    name: str | None,
    weights: str | os.PathLike[str] | None,
    *,
    config: str = "",
    layers: Sequence[str] = ("24",),
    t: int = 90,
    snr: float = 0.0,
    pool: int = 2,
    n_noise: int = 1,
    noise_seed: int = 0,
    share_noise: bool = True,
    seed: int = 0,
) -> Built:
    """Build features of a U-Net in the layout of ADM and improved-diffusion.

    Parameters
    ----------
    name
        A key of `PRESETS`; None with ``config``.
    weights
        The published ``.pt`` or a ``.safetensors`` with the same names, checked against the whole architecture and then
        read as far as the last wanted block; or "random".
    config
        A JSON file with the fields of `UNetConfig`, for a network without a preset.
    layers
        Numbers of blocks, from "1". Default "24": of ADM's 37 the best on ImageNet, at 29 % of the computation.
    t
        Timestep, counted from 0; default 90, the best on ImageNet.
    snr
        In place of ``t`` if positive: the timestep with this signal-to-noise ratio, comparable across schedules.
    pool
        Cells along a side of the pooled map, 2 by default. The size of the map or more keeps it whole.
    n_noise
        Draws of noise over which features are averaged.
    noise_seed
        Seed of all noise.
    share_noise
        Whether an image keeps its noise at every timestep, as it does by default: features at two timesteps then differ
        by the timestep alone, as in DDPM-seg; False gives every timestep its own, as in DifFormer.
    seed
        Of random weights.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the name is unknown, a setting is out of range, or the weights are not those of this architecture.
    """
    unet_config = _choose_config(name, config)
    is_random = _is_random(weights, "a checkpoint")
    with torch.device("meta"):
        unet = UNet(unet_config)
    schedule = unet_config.schedule()
    t = schedule.timestep_of_snr(snr) if check_non_negative("snr", snr) else schedule.check_timestep(t)
    chosen = _checked_layers(layers, unet.n_blocks)
    recipe = Recipe(
        chosen, t, schedule.snr(t), unet_config.model_time(t), pool, n_noise, noise_seed, share_noise=share_noise
    )
    if is_random:
        fill_at_random(unet, seed, lambda: unet.truncate(recipe.last_block))
    else:
        fill(unet, read_weights(str(weights)), f"{weights}", lambda: unet.truncate(recipe.last_block))
    spec = {"family": "adm", "name": name, "config": unet_config.spec(), **recipe.spec()}
    size = (unet_config.image_size, unet_config.image_size)
    return Built(DiffusionFeatures(unet, schedule, recipe), _preprocess(size), spec, {"weights": f"{weights}"})


def build_diffusers(
    name: str | None,
    weights: str | os.PathLike[str] | None,
    *,
    layers: Sequence[str] = ("24",),
    t: int = 90,
    snr: float = 0.0,
    pool: int = 2,
    n_noise: int = 1,
    noise_seed: int = 0,
    share_noise: bool = True,
    seed: int = 0,
) -> Built:
    """Build features of a `UNet2DModel` in a folder saved by diffusers.

    Parameters
    ----------
    name
        The folder, if ``weights`` is "random"; otherwise not used.
    weights
        The folder: ``config.json`` and ``diffusion_pytorch_model.safetensors``, in it or in its ``unet``, and
        ``scheduler_config.json``, in it or in its ``scheduler``. Or "random".
    layers
        Numbers of blocks, from "1", counted as ADM's; see `HookedUNet`. Default "24", as in `build_adm`; the equivalent
        place in another network is five blocks after the middle one.
    t, snr, pool, n_noise, noise_seed, share_noise, seed
        As in `build_adm`.

    Raises
    ------
    ImportError
        If diffusers is not installed.
    FileNotFoundError
        If there is no such folder, or a file of it is missing.
    ValueError
        If a setting is out of range, the network is of another kind, or the weights are not those of its config.
    """
    is_random = _is_random(weights, "a folder saved by diffusers")
    folder = f"{name}" if is_random else f"{weights}"
    unet_config, schedule = read_unet_config(folder), read_schedule(folder)
    with torch.device("meta"):
        unet = HookedUNet(unet_config)
    t = schedule.timestep_of_snr(snr) if check_non_negative("snr", snr) else schedule.check_timestep(t)
    chosen = _checked_layers(layers, unet.n_blocks)
    recipe = Recipe(chosen, t, schedule.snr(t), t, pool, n_noise, noise_seed, share_noise=share_noise)
    if is_random:
        fill_at_random(unet.unet, seed, lambda: unet.truncate(recipe.last_block))
    else:
        path, state = read_folder_weights(folder)
        fill(unet.unet, state, f"{path}", lambda: unet.truncate(recipe.last_block))
    spec = {"family": "diffusers", "name": "diffusers", "config": unet_config, **recipe.spec()}
    about = {"folder": folder, "weights": f"{weights}", "diffusers": version("diffusers")}
    return Built(DiffusionFeatures(unet, schedule, recipe), _preprocess(_sample_size(unet_config)), spec, about)


def _choose_config(name: str | None, path: str) -> UNetConfig:
    if (name is None) == (path == ""):
        raise ValueError(f"give the name of a preset or a config file, one of them; got {name!r} and {path!r}")
    return PRESETS[check_choice("diffusion network", name, PRESETS)] if name is not None else UNetConfig.from_json(path)


def _is_random(weights: str | os.PathLike[str] | None, what: str) -> bool:
    if weights is None:
        raise ValueError(f"weights must be {what} or 'random': none come with this library")
    return weights == "random"


def _checked_layers(layers: Sequence[str], n_blocks: int) -> tuple[str, ...]:
    known = {str(b) for b in range(1, n_blocks + 1)}
    if isinstance(layers, str) or not layers or len(set(layers)) < len(layers) or not known.issuperset(layers):
        raise ValueError(f"layers must be distinct block numbers from '1' to '{n_blocks}', got {layers!r}")
    return tuple(layers)


def _sample_size(config: Mapping[str, object]) -> tuple[int, int]:
    size = config.get("sample_size")
    match size:
        case int(side):
            return side, side
        case [int(height), int(width)]:
            return height, width
    raise ValueError(f"the config of a UNet2DModel must give its sample_size, got {size!r}")


def _preprocess(size: tuple[int, int]) -> Preprocess:
    half = (0.5, 0.5, 0.5)
    return Preprocess(size, resize="adm", crop_fraction=1.0, interpolation="bicubic", mean=half, std=half)
