"""From a decoded image to a network's input: resized and cut in uint8, normalised on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.images.resize import Size, border_size, cover_size, halved, padded, resized_center, short_size

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocess"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIZES = ("short", "squash", "border", "adm")
INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Preprocessing of an image for a network; part of an extractor's key.

    Parameters
    ----------
    size
        (height, width) of the network's input, in pixels.
    resize
        - ``short``: the image is scaled to just cover floor(size / crop_fraction), then the center is cut out.
        - ``squash``: each side becomes floor(size / crop_fraction), whatever the aspect ratio, then the center is cut
          out.
        - ``border``: scaled to just fit in floor(size / crop_fraction), then cut, or padded with the mean, to ``size``.
        - ``adm``: halved by 2 x 2 means while both sides are at least twice ``size``, scaled to just cover ``size``,
          then the center is cut out [ADM]. Needs ``crop_fraction`` 1 and ``bicubic``.
    crop_fraction
        Share of the resized image that is kept, per side, in (0, 1].
    interpolation
        ``bicubic`` or ``bilinear``, antialiased.
    mean, std
        Per channel, in units of the range [0, 1]: the input is (pixel / 255 - mean) / std.
    bit_range
        The darkest and the lightest value of 16-bit gray images, see `fewshot.features.images.decode.decode`; None for
        what a file states, else all 16 bits.

    Raises
    ------
    ValueError
        If a field is out of its range, or ``adm`` comes with other settings than its own.
    TypeError
        If a field is not of its type.

    Notes
    -----
    ``short``, ``squash`` and ``border`` give timm's pixels for its crop modes center, squash and border; ``short`` also
    those of torchvision's ``Resize(floor(size / crop_fraction))`` and ``CenterCrop(size)``. Resampling is PIL's. What
    would be resized to more than 2^24 pixels, a long strip, is resized only where it is kept, which bounds the memory;
    pixels may then differ by a few levels, since PIL takes its two passes in the cheaper order.

    Source
    ------
    [TIMM] ``transforms_imagenet_eval``; [ADM] ``center_crop_arr``. Only the codes were at hand.

    Examples
    --------
    >>> import numpy as np
    >>> preprocess = Preprocess(size=(4, 6), crop_fraction=1.0)
    >>> preprocess.apply_array(np.zeros((9, 17, 3), dtype=np.uint8)).shape
    torch.Size([4, 6, 3])
    >>> Preprocess.from_spec(preprocess.spec()) == preprocess
    True
    """

    size: tuple[int, int] = (224, 224)
    resize: str = "short"
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    bit_range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_choice("resize", self.resize, RESIZES)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        object.__setattr__(self, "size", _checked_size(self.size))
        object.__setattr__(self, "crop_fraction", _checked_fraction(self.crop_fraction))
        object.__setattr__(self, "mean", _checked_channels("mean", self.mean))
        object.__setattr__(self, "std", _checked_channels("std", self.std))
        object.__setattr__(self, "bit_range", _checked_bit_range(self.bit_range))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive in every channel, got {self.std}")
        if self.resize == "adm" and (self.crop_fraction, self.interpolation) != (1.0, "bicubic"):
            raise ValueError(
                "resize 'adm' needs crop_fraction 1.0 and interpolation 'bicubic', "
                f"got {self.crop_fraction} and {self.interpolation!r}"
            )

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Preprocess:
        """Rebuild it from the fields that `spec` returned, read from JSON or not.

        Raises
        ------
        ValueError
            If a field is missing or not known.
        """
        names = {field.name for field in fields(cls)}
        missing, unknown = sorted(names - set(spec) - {"bit_range"}), sorted(set(spec) - names)
        if missing or unknown:
            raise ValueError(f"a spec must name every field of Preprocess, got missing {missing}, unknown {unknown}")
        return cls(**spec)

    def spec(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "bit_range" or value is not None}

    def apply(self, image: Image.Image) -> Tensor:
        """Resize and cut an RGB image of PIL to (height, width, 3) uint8.

        Raises
        ------
        ValueError
            If the image is not RGB.
        """
        if image.mode != "RGB":
            raise ValueError(f"image must be of mode RGB, got {image.mode}: decode() makes it so, or convert('RGB')")
        old = (image.height, image.width)
        height, width = (math.floor(side / self.crop_fraction) for side in self.size)
        match self.resize:
            case "short":
                cut = self._center(image, short_size(old, (height, width)))
            case "squash":
                cut = self._center(image, (height, width))
            case "border":
                cut = padded(self._center(image, border_size(old, (height, width))), self.size, self.mean)
            case _:
                image = halved(image, self.size)
                cut = self._center(image, cover_size((image.height, image.width), self.size))
        return torch.from_numpy(np.array(cut))

    def apply_array(self, image: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        """Resize and cut an array or tensor (h, w, 3), or (h, w) gray, uint8, to (height, width, 3) uint8.

        Raises
        ------
        TypeError
            If it is not uint8.
        ValueError
            If it is of another shape, or has no pixels.
        """
        from PIL import Image

        array = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
        if array.dtype != np.uint8:
            raise TypeError(f"image must be uint8, got {array.dtype}: scale it to 0 ... 255 first")
        if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or 0 in array.shape:
            raise ValueError(f"image must have shape (height, width, 3) or (height, width), got {array.shape}")
        return self.apply(Image.fromarray(np.ascontiguousarray(array)).convert("RGB"))

    def normalise(self, images: Tensor) -> Tensor:
        """Turn (b, height, width, 3) uint8 into (b, 3, height, width) float32, on the same device."""
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std

    def _center(self, image: Image.Image, new: Size) -> Image.Image:
        return resized_center(image, new, self.size, self.interpolation, floor=self.resize == "adm")


def _checked_size(size: Sequence[int]) -> tuple[int, int]:
    if isinstance(size, str) or not isinstance(size, Sequence) or not all(type(side) is int for side in size):
        raise TypeError(f"size must be two integers (height, width), got {size!r}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width), each at least 1 pixel, got {tuple(size)}")
    return size[0], size[1]


def _checked_bit_range(bit_range: Sequence[int] | None) -> tuple[int, int] | None:
    if bit_range is None:
        return None
    values = tuple(bit_range)
    if len(values) != 2 or not all(type(value) is int for value in values) or not 0 <= values[0] < values[1] <= 65535:
        raise ValueError(f"bit_range must be two integers 0 <= low < high <= 65535, got {bit_range!r}")
    return values[0], values[1]


def _checked_fraction(crop_fraction: float) -> float:
    if isinstance(crop_fraction, bool) or not isinstance(crop_fraction, (int, float)):
        raise TypeError(f"crop_fraction must be a number, got {crop_fraction!r}")
    if not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction must lie in (0, 1], got {crop_fraction}")
    return float(crop_fraction)


def _checked_channels(what: str, values: Sequence[float]) -> tuple[float, float, float]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{what} must be three numbers, got {values!r}")
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        raise TypeError(f"{what} must be three numbers, got {values!r}")
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"{what} must be three finite numbers, one a channel, got {tuple(values)}")
    return float(values[0]), float(values[1]), float(values[2])
