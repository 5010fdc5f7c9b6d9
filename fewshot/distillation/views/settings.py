"""How many views an image has and how they are made; the published choices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fewshot.checks import check_non_negative, check_positive

__all__ = ["CropSettings", "ViewSettings", "cmd_views", "mugs_views"]


class CropSettings(NamedTuple):
    """A side in pixels, and the least and largest share of the image's area that is scaled to it."""

    size: int
    scale: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """How many views an image has, and how they are made.

    Parameters
    ----------
    size, local_size : int
        Sides of the large (global) and small (local) views, in pixels. Default 224 and 96, as in both papers.
    n_local : int
        Local views, which the student alone sees. Default 10 [MUGS].
    global_scale, local_scale : (float, float)
        Least and largest share of the image's area that a crop has, in (0, 1]. Default as in [MUGS].
    weak_probability : float or None
        In [0, 1]: the student has two global views of its own; with this probability both are weak, else both are
        strong. Each local view tosses a coin of its own. Default 0.5 [MUGS]. None: nothing is strong, and the
        student's global views are the teacher's (DINO, CMD).
    flip_probability : float
        Of mirroring a view. Default 0.5; 0 for images in which left and right differ, such as digits.
    colour : bool
        Whether weak views are jittered in brightness, contrast, saturation and hue, and some turned grey.
    is_reduced : bool
        Whether an image that is larger than any crop needs is made smaller before it is cut; see
        `fewshot.distillation.views.crops.reduced`.
    mean, std : (float, float, float)
        Per channel, in units of the range [0, 1]. Default ImageNet's.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> ViewSettings(size=32, local_size=16, n_local=4).n_local
    4
    >>> ViewSettings(global_scale=(0.5, 0.4))
    Traceback (most recent call last):
    ...
    ValueError: global_scale must be two shares with 0 < least <= largest <= 1, got (0.5, 0.4)
    """

    size: int = 224
    local_size: int = 96
    n_local: int = 10
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)
    weak_probability: float | None = 0.5
    flip_probability: float = 0.5
    colour: bool = True
    is_reduced: bool = True
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check_positive("size", self.size)
        check_positive("local_size", self.local_size)
        check_non_negative("n_local", self.n_local)
        for name in ("global_scale", "local_scale"):
            scale = getattr(self, name)
            if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
                raise ValueError(f"{name} must be two shares with 0 < least <= largest <= 1, got {scale}")
        for name in ("weak_probability", "flip_probability"):
            probability = getattr(self, name)
            if probability is not None and not 0 <= probability <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {probability}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std must be 3 numbers, std positive, got {self.mean} and {self.std}")

    @property
    def global_crop(self) -> CropSettings:
        """The crops of large views."""
        return CropSettings(self.size, self.global_scale)

    @property
    def local_crop(self) -> CropSettings:
        """The crops of small views."""
        return CropSettings(self.local_size, self.local_scale)

    @property
    def has_strong(self) -> bool:
        """Whether the student's views are of its own, weak or strong."""
        return self.weak_probability is not None


def mugs_views(**changes: Any) -> ViewSettings:
    """Return the settings of [MUGS], with ``changes``.

    Examples
    --------
    >>> mugs_views(size=32, local_size=16) == ViewSettings(size=32, local_size=16)
    True
    """
    return replace(ViewSettings(), **changes)


def cmd_views(**changes: Any) -> ViewSettings:
    """Return the settings of [CMD], which are DINO's, with ``changes``.

    Examples
    --------
    >>> cmd_views().n_local, cmd_views().global_scale, cmd_views().local_scale, cmd_views().weak_probability
    (8, (0.4, 1.0), (0.05, 0.4), None)
    """
    settings = ViewSettings(n_local=8, global_scale=(0.4, 1.0), local_scale=(0.05, 0.4), weak_probability=None)
    return replace(settings, **changes)
