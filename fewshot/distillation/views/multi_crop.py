"""Multi-crop views of an image, as Mugs, CMD and DINO train on.

Views are drawn in bytes where images are decoded (`draw_views`): a quarter of what floats would take on their way to
another process or a GPU. They are normalised where the network is (`finish_views`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fewshot.distillation.stream import ViewBatch
from fewshot.distillation.views.crops import FIRST, LOCAL, SECOND, View, reduced, seeded, strong_view, weak_view
from fewshot.distillation.views.erasing import Erased, concatenated, in_batch, nothing_erased
from fewshot.distillation.views.settings import ViewSettings, cmd_views, mugs_views

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "DrawnViews",
    "ViewSettings",
    "Views",
    "cmd_views",
    "draw_views",
    "finish_views",
    "join_views",
    "make_views",
    "mugs_views",
    "seeded",
]


class Views(NamedTuple):
    """The views of one image, normalised float32.

    Attributes
    ----------
    teacher, student : Tensor (2, 3, size, size)
        One tensor where the student sees what the teacher sees.
    local : Tensor (n_local, 3, local_size, local_size) or None
    is_weak : bool
        Whether the student's global views are weak.
    """

    teacher: Tensor
    student: Tensor
    local: Tensor | None
    is_weak: bool


class DrawnViews(NamedTuple):
    """The views of b images in bytes.

    Attributes
    ----------
    teacher : Tensor (2, b, 3, size, size), uint8
    student : Tensor (2, b, 3, size, size), uint8, or None
        None: the teacher's.
    local : Tensor (n_local, b, 3, local_size, local_size), uint8, or None
    student_erased, local_erased : Erased
        Which of the student's pixels are replaced by noise, which bytes cannot hold.
    is_weak : Tensor (b,), bool
    """

    teacher: Tensor
    student: Tensor | None
    local: Tensor | None
    student_erased: Erased
    local_erased: Erased
    is_weak: Tensor

    def to(self, device: torch.device) -> DrawnViews:
        """Return the same on a device, without waiting for it."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return DrawnViews(
            moved(self.teacher),
            None if self.student is None else moved(self.student),
            None if self.local is None else moved(self.local),
            Erased(*map(moved, self.student_erased)),
            Erased(*map(moved, self.local_erased)),
            moved(self.is_weak),
        )


def make_views(image: Image.Image, settings: ViewSettings, *, seed: int) -> Views:
    """Return the views of one image: `draw_views`, then `finish_views`.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB, any size.
    settings : ViewSettings
    seed : int
        Not negative. One image and one seed give the same views in any process.

    Returns
    -------
    Views

    Raises
    ------
    ValueError
        If the image is not RGB.
    """
    batch = finish_views(draw_views(image, settings, seed=seed), settings)
    teacher = batch.teacher[:, 0]
    student = teacher if batch.student is batch.teacher else batch.student[:, 0]
    return Views(teacher, student, None if batch.local is None else batch.local[:, 0], bool(batch.is_weak))


def draw_views(image: Image.Image, settings: ViewSettings, *, seed: int) -> DrawnViews:
    """Draw the views of one image, not yet normalised.

    - Weak: a crop is mirrored (50 %), jittered in its colours (80 %), turned grey (20 %), blurred with a radius between
      0.1 and 2 pixels (the first global view always, the second in 10 %, local ones in 50 %) and solarised (the second
      global view in 20 %).
    - Strong: the image is mirrored (50 %), changed by RandAugment (magnitude 9 ± 0.5, two of 15 operations, each of
      which happens in 50 %) and cropped; a rectangle is replaced by noise (25 %).

    The teacher's two global views are weak. See `ViewSettings.weak_probability` for the student's.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB, any size.
    settings : ViewSettings
    seed : int
        Not negative.

    Returns
    -------
    DrawnViews
        Of b = 1 image, on the CPU.

    Raises
    ------
    ValueError
        If the image is not RGB.

    Notes
    -----
    The help text of Mugs' released code calls 0.5 the probability of strong views; its code, and `weak_probability`
    here, take it for that of weak ones. Differs from that code: large images are first `reduced`; posterising keeps at
    least one bit, where the original turns an image black in about one of 40 cases; its ``strong_ratio`` is left out,
    which none of RandAugment's operations uses. The image should be upright and is not resized otherwise.

    The global generators are as they were afterwards.

    Source
    ------
    [MUGS] released code; [DINO] §3.1 and the released code; [CMD] released code.
    """
    if image.mode != "RGB":
        raise ValueError(f"views need an image of mode RGB, got {image.mode}: use image.convert('RGB')")
    image = reduced(image, settings)
    with seeded(seed):
        teacher = _weak_pair(image, settings)
        is_weak, student = _student_pair(image, settings)
        local = [_local_view(image, settings) for _ in range(settings.n_local)]
    return DrawnViews(
        _stacked(teacher),
        _stacked(student) if student else None,
        _stacked(local) if local else None,
        _all_erased(student),
        _all_erased(local),
        torch.tensor([is_weak]),
    )


def join_views(drawn: Sequence[DrawnViews]) -> DrawnViews:
    """Return the views of single images as one batch, in their order."""
    student = [one.student for one in drawn if one.student is not None]
    local = [one.local for one in drawn if one.local is not None]
    return DrawnViews(
        torch.cat([one.teacher for one in drawn], 1),
        torch.cat(student, 1) if student else None,
        torch.cat(local, 1) if local else None,
        in_batch([one.student_erased for one in drawn], student),
        in_batch([one.local_erased for one in drawn], local),
        torch.cat([one.is_weak for one in drawn]),
    )


def finish_views(drawn: DrawnViews, settings: ViewSettings) -> ViewBatch:
    """Return the normalised views, on the device of the drawn ones.

    Notes
    -----
    Noise takes its place before normalising and is normalised too, as in Mugs' released code.
    """
    teacher = _normalised(drawn.teacher, nothing_erased(), settings)
    return ViewBatch(
        teacher,
        teacher if drawn.student is None else _normalised(drawn.student, drawn.student_erased, settings),
        None if drawn.local is None else _normalised(drawn.local, drawn.local_erased, settings),
        drawn.is_weak,
    )


def _weak_pair(image: Image.Image, settings: ViewSettings) -> list[View]:
    return [weak_view(image, settings, settings.global_crop, look) for look in (FIRST, SECOND)]


def _student_pair(image: Image.Image, settings: ViewSettings) -> tuple[bool, list[View]]:
    """Return whether the student's global views are weak, and the views, none if they are the teacher's."""
    if not settings.has_strong:
        return True, []
    if _is_weak(settings):
        return True, _weak_pair(image, settings)
    return False, [strong_view(image, settings, settings.global_crop) for _ in range(2)]


def _local_view(image: Image.Image, settings: ViewSettings) -> View:
    if _is_weak(settings):
        return weak_view(image, settings, settings.local_crop, LOCAL)
    return strong_view(image, settings, settings.local_crop)


def _is_weak(settings: ViewSettings) -> bool:
    """Toss a coin; `random.random` is below 1."""
    return settings.weak_probability is None or random.random() < settings.weak_probability


def _stacked(views: list[View]) -> Tensor:
    """Return views (v, 1, 3, s, s)."""
    return torch.stack([view.pixels for view in views])[:, None]


def _all_erased(views: list[View]) -> Erased:
    """Return the erased rectangles of stacked views."""
    starts = [number * view.pixels.numel() for number, view in enumerate(views)]
    erased = [Erased(view.erased.where + start, view.erased.noise) for view, start in zip(views, starts, strict=True)]
    return concatenated(erased)


def _normalised(pixels: Tensor, erased: Erased, settings: ViewSettings) -> Tensor:
    values = pixels.to(torch.float32).div_(255)
    values.view(-1).index_copy_(0, erased.where, erased.noise)
    mean, std = (
        torch.tensor(numbers)[:, None, None].to(values.device, non_blocking=True)
        for numbers in (settings.mean, settings.std)
    )
    return values.sub_(mean).div_(std)
