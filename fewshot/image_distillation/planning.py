"""`plan`: everything that a distillation consists of, from a folder of images and its settings, before any training."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fewshot.checks import SettingError
from fewshot.distillation.backbone import Tokens
from fewshot.distillation.memory import check_capacity
from fewshot.distillation.mugs import MugsSettings
from fewshot.distributed import rank, world_size
from fewshot.features.images.listing import ImageList, list_images
from fewshot.features.images.pixels import measure_pixels
from fewshot.image_distillation.backbones import BackboneBuilt, build_backbone
from fewshot.image_distillation.scores import choose_images
from fewshot.image_distillation.settings import DistillSettings, RunSettings, run_settings

__all__ = ["DistillPlan", "plan"]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class DistillPlan:
    """A distillation before it is run.

    Attributes
    ----------
    settings : DistillSettings
        With the defaults that follow from other settings.
    images : ImageList
        The images to train on, listed once.
    scored : ImageList or None
        Labelled images to score features on, before and after; None without labels and in all processes but the first.
    built : BackboneBuilt
        The network that student and teacher start from.
    numbers : RunSettings
        Of the method, the views and the training.
    steps_per_epoch : int
        Of all processes together.
    """

    settings: DistillSettings
    images: ImageList
    scored: ImageList | None
    built: BackboneBuilt
    numbers: RunSettings
    steps_per_epoch: int

    @property
    def n_steps(self) -> int:
        """The number of optimiser steps."""
        return self.settings.epochs * self.steps_per_epoch

    def identity(self) -> dict[str, object]:
        """Return the settings that two runs must share for one to resume the other, as JSON values."""
        settings = self.settings
        return {
            "method": settings.method,
            "backbone": self.built.description._asdict(),
            "images": os.path.abspath(self.images.root),
            "n_images": len(self.images.records),
            "batch_size": settings.batch_size,
            "epochs": settings.epochs,
            "drop_path": settings.drop_path,
            "seed": settings.seed,
            "settings": self.numbers.to_dict(),
        }


def plan(images: PathLike, settings: DistillSettings | None = None, *, evaluate: PathLike | None = None) -> DistillPlan:
    """Plan a distillation: list the images, build the network, and work out the numbers.

    Parameters
    ----------
    images
        A folder of images or tar archives, as `fewshot.features.images.listing.find_images` takes them.
    settings
        Default ``DistillSettings()``.
    evaluate
        Labelled images to score features on; None for ``images`` themselves.

    Returns
    -------
    DistillPlan
        Run it with `run_plan`. Under ``torchrun`` each process makes its own after joining the process group.

    Raises
    ------
    ValueError
        If settings do not fit the images or the network, or the images to score on have too few labels.
    FileNotFoundError
        If there is no such folder, or no such file of weights.

    Notes
    -----
    The folder is listed once, and the network runs once at the size of global crops, from which the side of its
    patches follows, and once at that of local crops, to see that it takes them.
    """
    settings = (DistillSettings() if settings is None else settings).resolved()
    listed = list_images(images, "none" if evaluate is not None or _is_table(settings.labels) else settings.labels)
    steps_per_epoch = _steps_per_epoch(len(listed.records), settings.batch_size)
    built = _built(listed, settings)
    patch = _patch_side(built)
    numbers = run_settings(settings, built.preprocess, patch, len(listed.records), steps_per_epoch)
    if isinstance(numbers.method, MugsSettings):
        check_capacity(numbers.method.capacity, len(listed.records))
    if numbers.views.n_local:
        _check_local_size(built, numbers.views.local_size, patch)
    return DistillPlan(settings, listed, _scored(images, listed, settings, evaluate), built, numbers, steps_per_epoch)


def _is_table(labels: PathLike) -> bool:
    return Path(labels).suffix.lower() == ".csv"


def _steps_per_epoch(n_images: int, batch_size: int) -> int:
    if batch_size % world_size():
        raise SettingError("{batch_size} must be a multiple of the {0} processes, got {1}", world_size(), batch_size)
    if n_images < 2:
        raise SettingError("expected several images, got one: give {images} a folder of many")
    if n_images < batch_size:
        raise SettingError("{batch_size} must be at most the number of images, {0:,}, got {1}", n_images, batch_size)
    return n_images // batch_size


def _built(images: ImageList, settings: DistillSettings) -> BackboneBuilt:
    """Build the backbone; from scratch, images are normalised by their own pixels."""
    built = build_backbone(
        settings.backbone,
        settings.init,
        size=settings.size,
        options=settings.options,
        drop_path=settings.drop_path,
        seed=settings.seed,
        image=settings.image,
    )
    preprocess = built.preprocess
    if settings.init == "random":
        pixels = measure_pixels(images, seed=settings.seed)
        preprocess = replace(preprocess, mean=pixels.mean, std=pixels.std)
    if settings.crop_fraction is not None:
        preprocess = replace(preprocess, crop_fraction=settings.crop_fraction)
    return built._replace(preprocess=preprocess)


def _patch_side(built: BackboneBuilt) -> int:
    """Return the side of a token's patch in pixels."""
    size = built.preprocess.size[0]
    return round(size / math.sqrt(_n_instances(built, size)))


@torch.no_grad()
def _n_instances(built: BackboneBuilt, size: int) -> int:
    """Return the number of patch tokens of an image of this side."""
    tokens: Tokens = built.backbone.eval()(torch.zeros(1, 3, size, size))
    return tokens.instances.shape[1]


def _check_local_size(built: BackboneBuilt, size: int, patch: int) -> None:
    try:
        _n_instances(built, size)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise SettingError(
            "the network takes no local crops of {0} pixels: give a {local_size} that is a multiple of {1}", size, patch
        ) from error


def _scored(
    images: PathLike, listed: ImageList, settings: DistillSettings, evaluate: PathLike | None
) -> ImageList | None:
    """Return the images to score on, in the first process alone."""
    if settings.labels == "none" or rank() > 0:
        return None
    if evaluate is not None or _is_table(settings.labels):
        listed = list_images(images if evaluate is None else evaluate, settings.labels)
    chosen = choose_images(listed, settings.n_scored, seed=settings.seed)
    if chosen is None and (evaluate, settings.labels) != (None, "auto"):
        raise SettingError(
            "scores need two classes with two images each, which those drawn from {0} are not: give {labels} none, "
            "more images or a larger {n_scored}",
            listed.root,
        )
    return chosen
