"""One view of an image: a random crop, weakly or strongly changed.

The operations are torchvision's and timm's on PIL images. All draws are those of the global generators, as timm's are:
`seeded` makes them repeatable.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot.distillation.views.erasing import Erased, draw_erased, nothing_erased
from fewshot.distillation.views.settings import CropSettings, ViewSettings

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FIRST",
    "LOCAL",
    "SECOND",
    "Box",
    "Look",
    "View",
    "draw_box",
    "reduced",
    "require_operations",
    "seeded",
    "strong_view",
    "weak_view",
]

_RATIO = (3 / 4, 4 / 3)
_N_CROP_TRIES = 10
_JITTER_PROBABILITY, _GREY_PROBABILITY = 0.8, 0.2
_BLUR_RADIUS = (0.1, 2.0)
_SOLARISE_FROM = 128
_RAND_AUGMENT, _N_OPERATIONS = "rand-m9-mstd0.5-inc1", 2
# Just below timm's largest, at which no bit of a colour is kept: a black image, or an error of newer PIL.
_LARGEST_MAGNITUDE = math.nextafter(10.0, 0.0)


class Look(NamedTuple):
    """Probabilities of blurring and of solarising, which differ between weak views."""

    blur: float
    solarise: float


FIRST, SECOND, LOCAL = Look(1.0, 0.0), Look(0.1, 0.2), Look(0.5, 0.0)


class Box(NamedTuple):
    """A part of an image in pixels."""

    left: int
    top: int
    width: int
    height: int


class View(NamedTuple):
    """A view in bytes (3, s, s), and its erased pixels."""

    pixels: Tensor
    erased: Erased


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and of torch's CPU, and give them their states back afterwards.

    Parameters
    ----------
    seed : int
        Not negative; hashed to the seeds of the two.

    Notes
    -----
    NumPy's is left alone: nothing here draws from it.

    Examples
    --------
    >>> with seeded(3):
    ...     first = random.random()
    >>> with seeded(3):
    ...     first == random.random()
    True
    """
    own, torchs = np.random.SeedSequence(seed).generate_state(2, np.uint64).tolist()
    state, torch_state = random.getstate(), torch.get_rng_state()
    try:
        random.seed(own)
        torch.default_generator.manual_seed(torchs)
        yield
    finally:
        random.setstate(state)
        torch.set_rng_state(torch_state)


def reduced(image: Image.Image, settings: ViewSettings) -> Image.Image:
    """Return an image with no more pixels than its crops need, of the same shape to a pixel.

    That is ``max(size² / global_scale[0], local_size² / local_scale[0])``: the smallest crop then has as many pixels
    as its view. By default 200,704, about 500 x 400, at which most operations cost what they cost on ImageNet.

    Parameters
    ----------
    image : PIL.Image.Image
    settings : ViewSettings
        With ``is_reduced=False`` the image is returned as it is.

    Returns
    -------
    PIL.Image.Image
        The image itself if it is not larger.
    """
    from PIL import Image

    crops = [settings.global_crop] + [settings.local_crop] * (settings.n_local > 0)
    needed = max(crop.size**2 / crop.scale[0] for crop in crops)
    factor = math.sqrt(needed / (image.width * image.height))
    if factor >= 1 or not settings.is_reduced:
        return image
    sides = max(round(image.width * factor), 1), max(round(image.height * factor), 1)
    return image.resize(sides, Image.Resampling.BICUBIC, reducing_gap=2.0)


def weak_view(image: Image.Image, settings: ViewSettings, crop: CropSettings, look: Look) -> View:
    """Draw a view as DINO's: crop, mirror, jitter colours, grey, blur, solarise.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB.
    settings : ViewSettings
    crop : CropSettings
    look : Look
        `FIRST` and `SECOND` of the two global views, or `LOCAL`.

    Source
    ------
    [DINO] released code; [MUGS] released code, the same.
    """
    view = _mirrored(_cropped(image, crop), settings)
    view = _recoloured(view) if settings.colour else view
    view = _blurred(view) if random.random() < look.blur else view
    view = _solarised(view) if random.random() < look.solarise else view
    return View(_bytes(view), nothing_erased())


def strong_view(image: Image.Image, settings: ViewSettings, crop: CropSettings) -> View:
    """Draw a view as DeiT's: mirror, RandAugment, crop, erase a rectangle.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB.
    settings : ViewSettings
    crop : CropSettings

    Source
    ------
    [MUGS] released code: RandAugment sees the whole image, before it is cropped.
    """
    view = _augmented(_mirrored(image, settings), settings.mean)
    return View(_bytes(_cropped(view, crop)), draw_erased(crop.size))


def require_operations(settings: ViewSettings) -> None:
    """Import the modules that draw views.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    import torchvision.transforms.v2  # noqa: F401

    if settings.has_strong:
        try:
            import timm.data  # noqa: F401
        except ImportError as error:
            raise ImportError('strong views need timm: pip install "fewshot[images]"') from error


def draw_box(width: int, height: int, scale: tuple[float, float]) -> Box:
    """Draw a crop of an image as ``torchvision.transforms.RandomResizedCrop`` does.

    Parameters
    ----------
    width, height : int
        Of the image.
    scale : (float, float)
        Least and largest share of its area, drawn uniformly. The aspect ratio in [3/4, 4/3] is drawn uniformly in its
        logarithm.

    Returns
    -------
    Box
        Inside of the image. Where ten draws do not fit: the largest part in its middle with an aspect ratio in
        [3/4, 4/3].
    """
    for _ in range(_N_CROP_TRIES):
        area = width * height * random.uniform(*scale)
        ratio = math.exp(random.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return Box(random.randint(0, width - wide), random.randint(0, height - tall), wide, tall)
    wide, tall = min(width, round(height * _RATIO[1])), min(height, round(width * _RATIO[1]))
    return Box((width - wide) // 2, (height - tall) // 2, wide, tall)


def _cropped(image: Image.Image, crop: CropSettings) -> Image.Image:
    from torchvision.transforms.v2 import InterpolationMode, functional

    left, top, width, height = draw_box(image.width, image.height, crop.scale)
    sides = [crop.size, crop.size]
    view: Image.Image = functional.resized_crop(image, top, left, height, width, sides, InterpolationMode.BICUBIC)
    return view


def _mirrored(image: Image.Image, settings: ViewSettings) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.mirror(image) if random.random() < settings.flip_probability else image


def _recoloured(image: Image.Image) -> Image.Image:
    image = _jittered(image) if random.random() < _JITTER_PROBABILITY else image
    return image.convert("L").convert("RGB") if random.random() < _GREY_PROBABILITY else image


def _jittered(image: Image.Image) -> Image.Image:
    """Change brightness, contrast, saturation and hue, in a random order."""
    from torchvision.transforms.v2 import functional

    changes: list[tuple[Callable[[Image.Image, float], Image.Image], float, float]] = [
        (functional.adjust_brightness, 0.6, 1.4),
        (functional.adjust_contrast, 0.6, 1.4),
        (functional.adjust_saturation, 0.8, 1.2),
        (functional.adjust_hue, -0.1, 0.1),
    ]
    random.shuffle(changes)
    for change, least, largest in changes:
        image = change(image, random.uniform(least, largest))
    return image


def _blurred(image: Image.Image) -> Image.Image:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(random.uniform(*_BLUR_RADIUS)))


def _solarised(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.solarize(image, _SOLARISE_FROM)


def _augmented(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """Apply two different operations of RandAugment, where timm's own draw may take one twice."""
    for operation in random.sample(_operations(mean), _N_OPERATIONS):
        image = operation(image)
    return image


@functools.cache
def _operations(mean: tuple[float, float, float]) -> list[Callable[[Image.Image], Image.Image]]:
    """Return the operations of timm's RandAugment, which fill gaps with the mean colour."""
    from timm.data.auto_augment import rand_augment_transform

    fill = tuple(min(255, max(0, round(255 * value))) for value in mean)
    augment = rand_augment_transform(_RAND_AUGMENT, {"img_mean": fill, "magnitude_max": _LARGEST_MAGNITUDE})
    operations: list[Callable[[Image.Image], Image.Image]] = augment.ops
    return operations


def _bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
