"""Layouts of the files of EsViT and CMD: a Swin Transformer under its original names, and the tensors beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.backbones.checkpoints import listed, strip_prefixes, unwrap

__all__ = [
    "SWIN_ARCHITECTURES",
    "SwinArchitecture",
    "is_original_swin",
    "named_swin",
    "original_name",
    "read_swin_layout",
    "swin_architecture_of",
]


# Sizes


class SwinArchitecture(NamedTuple):
    """The numbers that make a Swin Transformer.

    Attributes
    ----------
    width : int
        Channels of the first stage; every other has twice those of the one before.
    depths, heads, windows : tuple of int
        Blocks, heads and the side of the attention's windows, in tokens, of every stage.
    patch : int
        Side of a patch in pixels.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    patch: int

    @property
    def size(self) -> int:
        """Side of the input, in pixels, of which the last stage makes one window."""
        return self.windows[-1] * self.patch << (len(self.depths) - 1)

    def __str__(self) -> str:
        known = [name for name, sizes in SWIN_ARCHITECTURES.items() if sizes == self[:3]]
        depths = "-".join(map(str, self.depths))
        return f"{known[0] if known else f'swin_width{self.width}_depths{depths}'}_window{self.windows[0]}"


SWIN_ARCHITECTURES = {
    "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
# The input of every published checkpoint, in patches of 4 pixels.
_PUBLISHED_GRID, _PUBLISHED_PATCH = 56, 4


def named_swin(name: str) -> SwinArchitecture:
    """Return the sizes of ``swin_tiny``, ``swin_base_window14`` and their like; windows of 7 by default.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> named_swin("swin_tiny_window14").windows, named_swin("swin_tiny").size
    ((14, 14, 14, 7), 224)
    """
    sizes, _, side = name.partition("_window")
    width, depths, heads = SWIN_ARCHITECTURES[check_choice("Swin Transformer", sizes, SWIN_ARCHITECTURES)]
    window = int(check_choice("size of windows", side or "7", ("7", "14")))
    windows = _clipped(window, _PUBLISHED_GRID, len(depths))
    return SwinArchitecture(width, depths, heads, windows, _PUBLISHED_PATCH)


def _clipped(window: int, grid: int, n_stages: int) -> tuple[int, ...]:
    """Return every stage's window: no larger than its grid, which halves from stage to stage."""
    return tuple(min(window, grid // 2**stage) for stage in range(n_stages))


def swin_architecture_of(state: Mapping[str, Tensor], what: str) -> SwinArchitecture:
    """Read the sizes of a Swin Transformer off the shapes of its tensors.

    Raises
    ------
    ValueError
        If the tensors that say so are missing or are no Swin's; the message begins with ``what``.
    """
    kernel = tuple(state["patch_embed.proj.weight"].shape) if "patch_embed.proj.weight" in state else ()
    if len(kernel) != 4 or kernel[1] != 3 or kernel[2] != kernel[3]:
        raise ValueError(
            f"{what}: expected patch_embed.proj.weight of shape (width, 3, patch, patch), got {kernel or 'none'}"
        )
    depths = _depths(state)
    tables = [_window_and_heads(state, f"layers.{stage}.blocks.0.attn.{_TABLE}", what) for stage in range(len(depths))]
    windows, heads = tuple(window for window, _ in tables), tuple(n_heads for _, n_heads in tables)
    found = SwinArchitecture(kernel[0], depths, heads, windows, kernel[2])
    expected = _clipped(windows[0], found.size // found.patch, len(depths))
    if windows != expected:
        raise ValueError(f"{what}: expected windows of {expected} tokens in the stages of a Swin, got {windows}")
    return found


_TABLE = "relative_position_bias_table"


def _depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    places = {(int(found[1]), int(found[2])) for found in map(_BLOCK.match, state) if found}
    n_stages = 1 + max((stage for stage, _ in places), default=-1)
    return tuple(1 + max((block for at, block in places if at == stage), default=-1) for stage in range(n_stages))


def _window_and_heads(state: Mapping[str, Tensor], name: str, what: str) -> tuple[int, int]:
    """Return w and heads of a table of (2 w - 1)^2 relative positions."""
    shape = tuple(state[name].shape) if name in state else ()
    side = math.isqrt(shape[0]) if len(shape) == 2 else 0
    if side % 2 == 0 or shape[0] != side * side:
        raise ValueError(f"{what}: expected {name} of shape ((2 window - 1)^2, heads), got {shape or 'none'}")
    return (side + 1) // 2, shape[1]


# Layouts

_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.")
_OWN = re.compile(r"(patch_embed|layers|norm)\.")
# Follow from the sizes: the original keeps them among its tensors, timm does not.
_BUFFER = re.compile(r"layers\.\d+\.blocks\.\d+\.(attn\.relative_position_index|attn_mask)")
_DOWNSAMPLE = re.compile(r"layers\.(\d+)\.downsample\.")


def _head(name: str) -> frozenset[str]:
    linear = {f"{name}.mlp.{position}.{part}" for position in (0, 2, 4) for part in ("weight", "bias")}
    return frozenset(linear | {f"{name}.last_layer.weight_g", f"{name}.last_layer.weight_v"})


SWIN_LAYOUTS = {
    "EsViT backbone": frozenset[str](),
    "EsViT training, views alone": _head("head"),
    "EsViT training": _head("head") | _head("head_dense"),
}


def is_original_swin(state: Mapping[str, Tensor]) -> bool:
    """Return whether names, without prefixes, are those of a Swin whose stages end, not begin, with a downsampling."""
    stages = {int(found[1]) for found in map(_BLOCK.match, state) if found}
    merges = {int(found[1]) for found in map(_DOWNSAMPLE.match, state) if found}
    return bool(stages) and max(stages) not in merges


def original_name(name: str) -> str:
    """Return the original's name of one of timm's Swin: it counts a downsampling to the stage before.

    Examples
    --------
    >>> original_name("layers.1.downsample.norm.weight"), original_name("layers.1.blocks.0.norm1.weight")
    ('layers.0.downsample.norm.weight', 'layers.1.blocks.0.norm1.weight')
    """
    return _DOWNSAMPLE.sub(lambda found: f"layers.{int(found[1]) - 1}.downsample.", name)


def read_swin_layout(checkpoint: Mapping[str, object], key: str, what: str) -> tuple[dict[str, Tensor], str]:
    """Return a Swin's own tensors under its original names, without buffers, and the kind of file they came from.

    Raises
    ------
    ValueError
        If the file is not exactly one of EsViT or CMD; the message begins with ``what`` and names what is missing or
        left over, or whose file it looks like.
    """
    try:
        state = strip_prefixes(unwrap(checkpoint, key))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    _refuse_others(state, what)
    own = {name: tensor for name, tensor in state.items() if _OWN.match(name) and not _BUFFER.fullmatch(name)}
    extras = frozenset(name for name in state if not _OWN.match(name))
    layout = min(SWIN_LAYOUTS, key=lambda name: len(SWIN_LAYOUTS[name] ^ extras))
    faults = {"missing": SWIN_LAYOUTS[layout] - extras, "left over": extras - SWIN_LAYOUTS[layout]}
    said = "; ".join(f"{len(names)} {fault}: {listed(sorted(names))}" for fault, names in faults.items() if names)
    if said:
        raise ValueError(f"{what}: expected the tensors of an {layout}, got {said}")
    return own, layout


def _refuse_others(state: Mapping[str, Tensor], what: str) -> None:
    if "cls_token" in state:
        raise ValueError(f"{what}: looks like a ViT (it has cls_token): use mugs, dino or ibot")
    if not any(map(_BLOCK.match, state)):
        raise ValueError(
            f"{what}: expected a Swin Transformer of EsViT or CMD, with tensors such as "
            f"layers.0.blocks.0.norm1.weight, got {listed(state)}"
        )
    if not is_original_swin(state):
        last = max(name for name in state if _DOWNSAMPLE.match(name))
        raise ValueError(f"{what}: looks like timm's Swin (it has {last}): use timm:swin_tiny_patch4_window7_224")
