"""Which files of Mugs, DINO and iBOT there are: a ViT under timm's names, and the exact tensors that come with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from fewshot.checks import check_choice
from fewshot.features.backbones.checkpoints import listed, strip_prefixes, unwrap

__all__ = [
    "ARCHITECTURES",
    "LAYOUTS",
    "Architecture",
    "Layout",
    "architecture_of",
    "named_architecture",
    "read_layout",
    "split_layout",
]


# Sizes


class Architecture(NamedTuple):
    """The numbers that make a ViT; a head has 64 channels."""

    width: int
    depth: int
    patch: int

    @property
    def n_heads(self) -> int:
        """Heads of every block."""
        return self.width // _HEAD_WIDTH

    def __str__(self) -> str:
        known = [name for name, size in ARCHITECTURES.items() if size == (self.width, self.depth)]
        return f"{known[0] if known else f'vit_width{self.width}_depth{self.depth}'}_patch{self.patch}"


_HEAD_WIDTH = 64
ARCHITECTURES = {"vit_tiny": (192, 12), "vit_small": (384, 12), "vit_base": (768, 12), "vit_large": (1024, 24)}


def named_architecture(name: str) -> Architecture:
    """Return the sizes of ``vit_small``, ``vit_small_patch8`` and their like; 16 pixels a patch by default.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> named_architecture("vit_base_patch8")
    Architecture(width=768, depth=12, patch=8)
    """
    size, _, patch = name.partition("_patch")
    check_choice("ViT", size, ARCHITECTURES)
    return Architecture(*ARCHITECTURES[size], int(check_choice("size of patches", patch or "16", ("8", "16"))))


def architecture_of(state: Mapping[str, Tensor], what: str) -> Architecture:
    """Read the sizes of a ViT off the shapes of its tensors.

    Raises
    ------
    ValueError
        If the tensors that say so are missing or are no ViT's; the message begins with ``what``.
    """
    absent = [name for name in ("cls_token", "pos_embed", "patch_embed.proj.weight") if name not in state]
    if absent:
        raise ValueError(f"{what}: expected a ViT, got a checkpoint without {', '.join(absent)}")
    width, patch = _kernel_sizes(state["patch_embed.proj.weight"], what)
    _check_positions(state["pos_embed"], width, what)
    blocks = {int(found[1]) for found in map(_BLOCK.match, state) if found}
    return Architecture(width, 1 + max(blocks, default=-1), patch)


def _kernel_sizes(weight: Tensor, what: str) -> tuple[int, int]:
    """Return the width and the side of a patch from the kernel that embeds patches."""
    kernel = tuple(weight.shape)
    if len(kernel) == 4:
        width, n_channels, height, side = kernel
        if n_channels == 3 and height == side and width % _HEAD_WIDTH == 0:
            return width, side
    raise ValueError(
        f"{what}: expected patch_embed.proj.weight of shape (width, 3, patch, patch), "
        f"width a multiple of {_HEAD_WIDTH}, got {kernel}"
    )


def _check_positions(embedding: Tensor, width: int, what: str) -> None:
    """Check that there is a position for the class token and for each patch of a square."""
    n_patches = embedding.shape[1] - 1 if embedding.ndim == 3 else 0
    if n_patches < 1 or math.isqrt(n_patches) ** 2 != n_patches:
        raise ValueError(
            f"{what}: expected pos_embed of shape (1, 1 + side * side, {width}), got {tuple(embedding.shape)}"
        )


_BLOCK = re.compile(r"blocks\.(\d+)\.")


# Layouts


class Layout(NamedTuple):
    """A kind of file.

    Attributes
    ----------
    family : str
    name : str
        For people.
    extras : frozenset of str
        The tensors beside the ViT's own, exactly; they are not needed for its features.
    """

    family: str
    name: str
    extras: frozenset[str]


def _layers(prefix: str, positions: Iterable[int], parts: Iterable[str] = ("weight", "bias")) -> frozenset[str]:
    return frozenset(f"{prefix}.{position}.{part}" for position in positions for part in parts)


def _weight_norm(layer: str) -> frozenset[str]:
    return frozenset({f"{layer}.weight_g", f"{layer}.weight_v"})


_BLOCK_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_RELATION = frozenset(f"relation_blocks.0.{layer}.{part}" for layer in _BLOCK_LAYERS for part in ("weight", "bias"))
_MUGS_TEACHER = (
    _RELATION
    | _layers("instance_head.projector", (0, 2, 4), ("weight",))
    | _layers("local_group_head.projector", (0, 2, 4), ("weight",))
    | _layers("group_head.projector", (0, 2, 4))
    | _weight_norm("group_head.last_layer")
)
_MUGS_STUDENT = (
    _MUGS_TEACHER
    | _layers("instance_head.predictor", (0, 2), ("weight",))
    | _layers("local_group_head.predictor", (0, 2), ("weight",))
)
_DINO_HEAD = _layers("head.mlp", (0, 2, 4)) | _weight_norm("head.last_layer")
_IBOT_HEAD = _DINO_HEAD | _weight_norm("head.last_layer2")
_MASK = frozenset({"masked_embed"})

LAYOUTS = (
    Layout("mugs", "Mugs backbone", _RELATION),
    Layout("mugs", "Mugs training, teacher", _MUGS_TEACHER),
    Layout("mugs", "Mugs training, student", _MUGS_STUDENT),
    Layout("dino", "DINO backbone", frozenset()),
    Layout("dino", "DINO training", _DINO_HEAD),
    Layout("ibot", "iBOT backbone", frozenset()),
    Layout("ibot", "iBOT backbone, student", _MASK),
    Layout("ibot", "iBOT training, teacher", _IBOT_HEAD),
    Layout("ibot", "iBOT training, student", _IBOT_HEAD | _MASK),
    Layout("timm", "timm ViT with a classifier", frozenset({"head.weight", "head.bias"})),
)

# Files that are often taken for one of these: a pattern of their names, what they are and what to do.
_FOREIGN = (
    (
        re.compile(r"(.*\.)?(blocks\.\d+\.ls[12]\.gamma|blocks\.\d+\.\d+\..*|mask_token|register_tokens)"),
        "a DINOv2 ViT",
        "use timm:vit_small_patch14_dinov2 or its like",
    ),
    (
        re.compile(r"(.*\.)?layers\.\d+\.blocks\..*"),
        "a Swin Transformer, as of EsViT and CMD",
        "use esvit",
    ),
)


def read_layout(checkpoint: Mapping[str, object], family: str, key: str, what: str) -> tuple[dict[str, Tensor], Layout]:
    """Return a ViT's own tensors under timm's names, and the kind of file they came from.

    Raises
    ------
    ValueError
        If the file is not exactly one of the family's; the message begins with ``what`` and names what is missing or
        left over, or whose file it looks like.
    """
    try:
        state = strip_prefixes(unwrap(checkpoint, key))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    own, _, layout = split_layout(state, family, what)
    return own, layout


def split_layout(
    state: Mapping[str, Tensor], family: str | None, what: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], Layout]:
    """Return a ViT's own tensors, those beside them, and the kind of file, of one family or of any.

    Raises
    ------
    ValueError
        As `read_layout` says.
    """
    _refuse_foreign(state, what)
    own = {name: tensor for name, tensor in state.items() if _OWN.match(name)}
    extras = {name: tensor for name, tensor in state.items() if name not in own}
    layouts = (one for one in LAYOUTS if family in (None, one.family))
    layout = min(layouts, key=lambda one: len(one.extras ^ extras.keys()))
    if layout.extras != extras.keys():
        raise ValueError(f"{what}: {_mismatch(layout, frozenset(extras))}")
    return own, extras, layout


_OWN = re.compile(r"(cls_token|pos_embed)$|(patch_embed|blocks|norm)\.")


def _refuse_foreign(state: Mapping[str, Tensor], what: str) -> None:
    for pattern, kind, remedy in _FOREIGN:
        found = next((name for name in state if pattern.fullmatch(name)), None)
        if found:
            raise ValueError(f"{what}: looks like {kind} (it has {found}): {remedy}")


def _mismatch(layout: Layout, extras: frozenset[str]) -> str:
    """Describe how a file's extra tensors differ from the nearest layout."""
    faults = {"missing": layout.extras - extras, "left over": extras - layout.extras}
    said = "; ".join(f"{len(names)} {fault}: {listed(sorted(names))}" for fault, names in faults.items() if names)
    others = [f"{one.name} (use {one.family})" for one in LAYOUTS if one.extras == extras]
    hint = f". It has the layout of {' or '.join(others)}" if others else ""
    return f"expected the tensors of a {layout.name}, got {said}{hint}"
