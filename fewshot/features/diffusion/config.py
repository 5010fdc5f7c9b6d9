"""The shape of an ADM or improved-diffusion U-Net, under the names of its published flags."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from fewshot.checks import check_choice
from fewshot.features.diffusion.schedule import Schedule, cosine_betas, linear_betas

__all__ = ["PRESETS", "UNetConfig"]

N_GROUPS = 32
SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Configuration of a U-Net beyond its state dict. The defaults are ADM's unconditional 256 x 256 model.

    Parameters
    ----------
    image_size
        Height and width of the input, in pixels.
    num_channels, channel_mult
        Channels of level l are ``num_channels * channel_mult[l]``, each a multiple of 32; every level halves the map.
    num_res_blocks
        Residual blocks per level on the way down; one more on the way up.
    attention_resolutions
        Heights of the maps, in pixels, that get attention. The middle always does.
    num_head_channels, num_heads
        Width of an attention head; where it is 0, ``num_heads`` heads share the channels.
    resblock_updown
        Whether residual blocks resample (ADM), or 3 x 3 convolutions (improved-diffusion).
    use_scale_shift_norm
        Whether the time embedding scales and shifts the normalised map, or is added before the norm.
    use_new_attention_order
        Whether ``qkv`` holds (q, k, v) of all heads one after the other, or head by head ("legacy").
    learn_sigma
        Whether the network also predicts a variance: 6 output channels in place of 3.
    num_classes
        Size of the label embedding, 0 if there is none. It has to be read, and is not used: features are those of a
        zero label embedding.
    noise_schedule, diffusion_steps
        ``linear`` or ``cosine``, and the number of timesteps.
    rescale_timesteps
        Whether the network's input is t · 1000 / ``diffusion_steps`` in place of t. On by default in
        improved-diffusion, and so in its published CIFAR-10 and ImageNet-64 models.

    Raises
    ------
    ValueError
        If channels, heads or sizes do not divide, or the schedule is unknown.

    Examples
    --------
    >>> PRESETS["adm_256_uncond"].n_blocks, PRESETS["adm_256_uncond"].middle
    (37, 19)
    """

    image_size: int = 256
    num_channels: int = 256
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    num_head_channels: int = 64
    num_heads: int = 4
    resblock_updown: bool = True
    use_scale_shift_norm: bool = True
    use_new_attention_order: bool = False
    learn_sigma: bool = True
    num_classes: int = 0
    noise_schedule: str = "linear"
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False

    def __post_init__(self) -> None:
        check_choice("noise_schedule", self.noise_schedule, SCHEDULES)
        for level, n_channels in enumerate(self.level_channels):
            if n_channels % N_GROUPS:
                raise ValueError(f"channels must be multiples of {N_GROUPS}, got {n_channels} at level {level}")
            self.n_heads(n_channels)
        if self.image_size % 2 ** (self.n_levels - 1):
            raise ValueError(
                f"image_size must be a multiple of {2 ** (self.n_levels - 1)}, as {self.n_levels} levels halve it, "
                f"got {self.image_size}"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> UNetConfig:
        """Build from names and values; lists become tuples.

        Raises
        ------
        ValueError
            If a name is not a field.
        """
        known = [field.name for field in fields(cls)]
        named = {check_choice("field of a U-Net", name, known): value for name, value in values.items()}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in named.items()})  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> UNetConfig:
        """Read the fields from a JSON file; those it does not name keep their defaults.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no JSON object, or names something that is not a field.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {path}")
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(
                f"{path}: expected a JSON object with the fields of UNetConfig, got {type(values).__name__}"
            )
        return cls.from_mapping(values)

    def spec(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)

    @property
    def n_levels(self) -> int:
        """The number of map sizes."""
        return len(self.channel_mult)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, from the largest map to the smallest."""
        return tuple(self.num_channels * mult for mult in self.channel_mult)

    @property
    def middle(self) -> int:
        """The number b of the middle block; blocks before it are the encoder's."""
        return self.n_levels * (self.num_res_blocks + 1) + 1

    @property
    def n_blocks(self) -> int:
        """The number of blocks, counted in the order in which they run: 1 to ``n_blocks``."""
        return 2 * self.middle - 1

    def n_heads(self, n_channels: int) -> int:
        """Return the number of attention heads over so many channels.

        Raises
        ------
        ValueError
            If they do not divide.
        """
        divisor = self.num_head_channels or self.num_heads
        if n_channels % divisor:
            what = "num_head_channels" if self.num_head_channels else "num_heads"
            raise ValueError(f"{what} must divide the channels of a level, got {divisor} and {n_channels}")
        return n_channels // self.num_head_channels if self.num_head_channels else self.num_heads

    def has_attention(self, level: int) -> bool:
        """Whether a level has attention."""
        return self.image_size // 2**level in self.attention_resolutions

    def schedule(self) -> Schedule:
        """Return the noise schedule that the model was trained on."""
        return Schedule(SCHEDULES[self.noise_schedule](self.diffusion_steps))

    def model_time(self, t: int) -> float:
        """Return the network's input for timestep ``t``."""
        return t * 1000 / self.diffusion_steps if self.rescale_timesteps else float(t)


_IMPROVED = UNetConfig(
    image_size=64,
    num_channels=128,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=3,
    attention_resolutions=(16, 8),
    num_head_channels=0,
    num_heads=4,
    resblock_updown=False,
    noise_schedule="cosine",
    diffusion_steps=4000,
    rescale_timesteps=True,
)

PRESETS = {
    "adm_256_uncond": UNetConfig(),
    "improved_cifar10": replace(_IMPROVED, image_size=32, channel_mult=(1, 2, 2, 2)),
    "improved_imagenet64": _IMPROVED,
}
"""Shapes of published checkpoints; the weights themselves do not come with this library."""
