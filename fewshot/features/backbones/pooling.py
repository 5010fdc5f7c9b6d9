"""How an output becomes one vector per image, whatever its layout.

The shape and the known properties of the network (`Known`) determine the layout:

- (b, d): a vector.
- (b, tokens, channels): tokens, of which the first are prefix tokens (class, registers). Their number must be known: an
  output of exactly ``n_patches`` tokens has none (a patch embedding), one of ``n_patches + n_prefix_tokens`` has them.
- 4-D, of a square image: the two equal sizes are the space: (b, c, s, s) is channels first, (b, s, s, c) channels last.
  Where all three are equal, and for other images, ``channels_last`` decides.
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from fewshot.checks import check_choice

__all__ = ["READOUTS", "Known", "check_readout", "read_output", "readout"]

Layout = Literal["nchw", "nhwc", "tokens", "vector"]
READOUTS = ("default", "gap", "gem", "max", "cls", "mean_patch", "cls+mean_patch", "flatten", "adaptive2")
_ADAPTIVE = re.compile(r"adaptive([1-9]\d*)")


class Known(NamedTuple):
    """Layout of a network's outputs, beyond their shapes.

    Attributes
    ----------
    n_prefix_tokens : int or None
        Class and register tokens that stand before the patches; None if that is not known, and readouts that need to
        tell them apart are then refused.
    n_patches : int or None
        Patches of an image, if there is one number for all layers.
    channels_last : bool
        Whether a map whose shape does not tell is (b, height, width, channels).
    """

    n_prefix_tokens: int | None = 0
    n_patches: int | None = None
    channels_last: bool = False


def check_readout(kind: str) -> str:
    """Return ``kind`` if it is one of `READOUTS`, or ``adaptive`` with another whole number.

    Raises
    ------
    ValueError
        Otherwise.
    """
    return kind if _ADAPTIVE.fullmatch(kind) else check_choice("readout", kind, READOUTS)


def readout(output: Tensor, kind: str, layout: Layout, n_prefix_tokens: int | None = 0) -> Tensor:
    """Make one vector per image of a layer's output.

    Parameters
    ----------
    output
        (b, d), (b, channels, height, width), (b, height, width, channels) or (b, tokens, channels); half precision is
        widened to float32 before it is averaged.
    kind
        - ``default``, ``gap``, ``mean_patch``: the mean over the map, or over the patches without the prefix tokens.
        - ``max``: the largest over the map or the patches.
        - ``gem``: (mean of x^3)^(1/3) over the map or the patches; x below 1e-6, negative too, counts as 1e-6.
        - ``cls``: the first prefix token. ``cls+mean_patch``: it, then the mean of the patches.
        - ``adaptiveN``: means over an N x N grid of windows, which overlap unless N divides the sides. Channels vary
          slowest, as in ``flatten`` of a map.
        - ``flatten``: all that there is; a map channels first.

        Of vectors there is only ``default`` and ``flatten``: themselves.
    layout
        ``vector``, ``nchw``, ``nhwc`` or ``tokens``.
    n_prefix_tokens
        Tokens before the patches; None if not known.

    Returns
    -------
    Tensor
        (b, d), float32 or float64.

    Raises
    ------
    ValueError
        If the kind is unknown, or is not available from the layout.

    Source
    ------
    ``gem``: Radenović, Tolias & Chum, "Fine-tuning CNN image retrieval with no human annotation" (2019), Eq. 3, with
    p = 3. ``adaptive``: as the published diffusion features are read.

    Examples
    --------
    >>> images = torch.tensor([[[[1.0, 3.0]], [[5.0, 9.0]]]])
    >>> readout(images, "gap", "nchw"), readout(images, "max", "nchw"), readout(images, "flatten", "nchw")
    (tensor([[2., 7.]]), tensor([[3., 9.]]), tensor([[1., 3., 5., 9.]]))
    """
    check_readout(kind)
    output = output if output.dtype == torch.float64 else output.float()
    if layout == "vector":
        return _read_vector(output, kind)
    if layout == "tokens":
        return output.flatten(1) if kind == "flatten" else _read_tokens(output, kind, n_prefix_tokens)
    channels_first = output if layout == "nchw" else output.permute(0, 3, 1, 2)
    return channels_first.flatten(1) if kind == "flatten" else _read_map(channels_first, kind)


def _read_vector(output: Tensor, kind: str) -> Tensor:
    if kind not in ("default", "flatten"):
        raise ValueError(f"readout {kind!r} needs a map or tokens, got vectors {tuple(output.shape)}: use 'default'")
    return output


def _read_tokens(output: Tensor, kind: str, n_prefix_tokens: int | None) -> Tensor:
    if n_prefix_tokens is None:
        raise ValueError(
            f"readout {kind!r} needs to know how many of the {output.shape[1]} tokens are not patches, "
            "which is not known of this layer: use 'flatten', or another layer"
        )
    prefix, patches = output[:, :n_prefix_tokens], output[:, n_prefix_tokens:]
    if kind not in ("cls", "cls+mean_patch"):
        return _read_patches(patches.mT, kind)
    if n_prefix_tokens == 0:
        raise ValueError(f"readout {kind!r} needs a class token, and this layer has none: use 'mean_patch'")
    return prefix[:, 0] if kind == "cls" else torch.cat([prefix[:, 0], patches.mean(1)], dim=1)


def _read_patches(patches: Tensor, kind: str) -> Tensor:
    """Read (b, channels, n_patches)."""
    if not _ADAPTIVE.fullmatch(kind):
        return _read_map(patches, kind)
    side = math.isqrt(patches.shape[2])
    if side * side != patches.shape[2]:
        raise ValueError(f"readout {kind!r} needs a square grid of patches, got {patches.shape[2]} patches")
    return _read_map(patches.reshape(*patches.shape[:2], side, side), kind)


def _read_map(channels_first: Tensor, kind: str) -> Tensor:
    """Read (b, channels, ...)."""
    grid = _ADAPTIVE.fullmatch(kind)
    if grid:
        return adaptive_avg_pool2d(channels_first, int(grid[1])).flatten(1)
    if kind in ("cls", "cls+mean_patch"):
        raise ValueError(f"readout {kind!r} needs tokens, got a map {tuple(channels_first.shape)}: use 'gap'")
    positions = channels_first.flatten(2)
    if kind == "max":
        return positions.amax(2)
    return _generalised_mean(positions) if kind == "gem" else positions.mean(2)


def _generalised_mean(positions: Tensor, power: float = 3.0, floor: float = 1e-6) -> Tensor:
    return positions.clamp(min=floor).pow(power).mean(2).pow(1 / power)


def read_output(output: Tensor, kind: str, images: Tensor, known: Known, what: str) -> Tensor:
    """Pool an output to vectors; the module's docstring defines the layouts.

    Raises
    ------
    ValueError
        If it has not a row per image, no layout that is known, or the readout is not available from it; the message
        begins with ``what``.
    """
    if output.ndim not in (2, 3, 4) or len(output) != len(images):
        raise ValueError(
            f"{what}: expected a vector, tokens or a map for each of {len(images)} images, "
            f"got {tuple(output.shape)}: choose another layer"
        )
    try:
        return readout(output, kind, _layout(output, images, known), _n_prefix_tokens(output, known))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _layout(output: Tensor, images: Tensor, known: Known) -> Layout:
    if output.ndim < 4:
        return "vector" if output.ndim == 2 else "tokens"
    first, middle, last = output.shape[1:]
    is_square = images.shape[-2] == images.shape[-1]
    if is_square and (first == middle) != (middle == last):
        return "nhwc" if first == middle else "nchw"
    return "nhwc" if known.channels_last else "nchw"


def _n_prefix_tokens(output: Tensor, known: Known) -> int | None:
    if output.ndim != 3 or not known.n_prefix_tokens or known.n_patches is None:
        return known.n_prefix_tokens
    n_extra = output.shape[1] - known.n_patches
    return n_extra if n_extra in (0, known.n_prefix_tokens) else None
