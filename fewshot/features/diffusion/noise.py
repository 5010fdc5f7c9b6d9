"""Noise that belongs to an image: the same bits in whatever batch, order or process it is drawn.

Every image has a random stream of its own: Philox, a generator that counts, under the 128-bit BLAKE2b hash of the
image's pixels and of the settings. Drawn in float32 on the CPU, then moved, so that a GPU sees the same noise.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["keyed_noise", "noise_key", "recover_pixels"]

STREAM = "blake2b-philox-1"
"""Names the stream in an extractor's key; another way to draw must have another name."""


def recover_pixels(images: Tensor) -> Tensor:
    """Return the uint8 pixels that were normalised to [-1, 1] by mean 0.5 and standard deviation 0.5; exact.

    Raises
    ------
    ValueError
        If a value is none of the 256 that pixels give.

    Examples
    --------
    >>> recover_pixels(torch.tensor([-1.0, 0.0039215, 1.0])).tolist()
    [0, 128, 255]
    """
    levels = (images.float() + 1) * 127.5
    pixels = levels.round()
    is_pixel = ((levels - pixels).abs() < 1e-2) & (pixels >= 0) & (pixels <= 255)
    if not bool(is_pixel.all()):
        raise ValueError(
            "noise is keyed by 8-bit pixels: expected images of uint8 normalised by mean 0.5 and standard deviation "
            f"0.5, got the value {float(images[~is_pixel][0]):g}, which is {float(levels[~is_pixel][0]):g} of 255"
        )
    return pixels.to(torch.uint8)


def noise_key(pixels: np.ndarray, *, seed: int, draw: int, timestep: int | None = None) -> int:
    """Return the 128-bit key of one image's noise; see `keyed_noise`."""
    header = f"{STREAM};seed={seed};draw={draw};shape={pixels.shape};timestep={timestep};"
    digest = hashlib.blake2b(header.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest(), "little")


def keyed_noise(pixels: Tensor, *, seed: int, draw: int, timestep: int | None = None) -> Tensor:
    """Draw standard normal noise for each image, from a stream that its content and the settings determine.

    Parameters
    ----------
    pixels
        (b, channels, height, width) uint8, after preprocessing.
    seed, draw
        Any integers: the seed of all noise, and which of the independent draws this is.
    timestep
        Without it, an image keeps its noise at every timestep; with it, each timestep has its own.

    Returns
    -------
    Tensor (b, channels, height, width) float32
        On the device of ``pixels``.

    Notes
    -----
    Equal images have equal noise. The loop over images is inherent: each has its own stream.
    """
    arrays = pixels.cpu().numpy()
    noise = np.empty(arrays.shape, np.float32)
    for image, out in zip(arrays, noise, strict=True):
        key = noise_key(image, seed=seed, draw=draw, timestep=timestep)
        np.random.Generator(np.random.Philox(key=key)).standard_normal(dtype=np.float32, out=out)
    return torch.from_numpy(noise).to(pixels.device)
