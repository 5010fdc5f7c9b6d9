"""`DistillSettings`: the settings of a distillation from images, and the numbers that follow from them for its size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from fewshot.checks import SettingError, check_choice, check_non_negative, check_positive
from fewshot.distillation.backbone import IMAGE_EMBEDDINGS
from fewshot.distillation.cmd import CMDSettings
from fewshot.distillation.memory import suggested_capacity
from fewshot.distillation.mugs import MugsSettings
from fewshot.distillation.training.state import PRECISIONS, TrainingSettings
from fewshot.distillation.views.settings import ViewSettings, cmd_views, mugs_views
from fewshot.features.images.preprocess import Preprocess
from fewshot.parsing import parse_value, split_option

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["METHODS", "DistillSettings", "RunSettings", "changeable_numbers", "parse_changes", "run_settings"]

METHODS = ("mugs", "cmd")
MethodSettings: TypeAlias = MugsSettings | CMDSettings
Numbers: TypeAlias = Mapping[str, object]
Part = TypeVar("Part", bound="DataclassInstance")

_BACKBONE = "vit_small_patch16_224"
_POSITIVE = frozenset({"size", "local_size", "epochs", "learning_rate", "n_prototypes", "memory", "n_scored"})
_NON_NEGATIVE = frozenset({"n_local", "seed", "warmup_epochs", "freeze_epochs"})
# Other names of numbers in `DistillSettings.changes`.
_SAME_AS = {
    "n_prototypes": "n_prototypes",
    "capacity": "memory",
    "local_size": "local_size",
    "n_local": "n_local",
    "flip_probability": "is_flipped",
    "learning_rate": "learning_rate",
    "n_warmup_steps": "warmup_epochs",
    "momentum": "momentum",
    "n_frozen_steps": "freeze_epochs",
    "precision": "precision",
}
# Numbers of the views that hold for the network and its features too.
_BY_PIXELS = "images are normalised as the weights of {init} need it, from scratch by their own pixels"
_NOT_ALONE = {
    "size": "give {size}, for the network and its features too",
    "mean": _BY_PIXELS,
    "std": _BY_PIXELS,
}
# Side of local crops over that of global crops, as in the originals: 96 of 224 pixels.
_LOCAL_SHARE = 3 / 7
# DINO's rule of the learning rate, for 256 images; a network that has been trained is only adapted.
_RATE, _ADAPTING_RATE, _RATE_BATCH = 2e-3, 5e-4, 256
# The health of the features is measured every so many steps, at least once an epoch.
_HEALTH_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """Settings of a distillation from images.

    Parameters
    ----------
    method : str
        ``mugs`` (default) or ``cmd``.
    backbone : str, optional
        A ViT, Swin or CNN of timm. Default: that of ``init``, else ``vit_small_patch16_224``.
    init, options, image, drop_path
        See `build_backbone`. Default ``random``, none, ``token`` and 0.1.
    crop_fraction : float, optional
        Share of an image's side that the feature is made of, in (0, 1]. Default: that of the backbone.
    size : int, optional
        Side of global crops and of the network's input in pixels. Default: the backbone's.
    local_size : int, optional
        Side of local crops in pixels. Default: 3/7 of ``size``, in whole patches.
    n_local : int
        Local crops of an image. Default 6; the authors: mugs 10, cmd 8.
    is_flipped : bool
        Whether crops are mirrored at random. Default True; False for letters and digits.
    epochs : int
        Passes over the images. Default 100.
    batch_size : int
        Images a step, of all processes together. Default 64.
    learning_rate : float, optional
        Peak of AdamW's. Default: 0.002 for 256 images a step, 0.0005 if ``init`` is not ``random``, in proportion to
        ``batch_size``.
    warmup_epochs : int, optional
        Epochs in which the learning rate grows to its peak. Default: a tenth of the steps.
    momentum : float
        Of the teacher at first; it grows to 1. Default 0.99; 0.996 for more than 10,000 images.
    n_prototypes : int
        Groups that images are assigned to. Default 1024.
    memory : int, optional
        Images that mugs remembers. Default: a quarter of the images, at most 4096.
    freeze_epochs : int, optional
        First epochs in which prototypes are not trained. Default 1; 0 of fewer than 10 epochs.
    precision : str
        Of the networks: ``float32`` (default) or ``bfloat16``; losses are float32.
    seed : int
        Decides every draw. Default 0.
    changes : mapping
        Any other field of `MugsSettings` or `CMDSettings`, `ViewSettings` and `TrainingSettings`, by name.
    labels : str or path
        Classes of the images on which features are scored before and after: ``auto`` (default), ``folder``, ``none``
        (no scores) or a CSV file, see `fewshot.features.images.listing.find_images`. Training does not see them.
    n_scored : int
        Images to score on, at most, drawn at random. Default 2000.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or settings contradict each other.

    Examples
    --------
    >>> DistillSettings(epochs=5, freeze_epochs=5)
    Traceback (most recent call last):
    ...
    fewshot_episodes.errors.SettingError: freeze_epochs must be less than epochs, 5, got 5
    """

    method: str = "mugs"
    backbone: str | None = None
    init: str | os.PathLike[str] = "random"
    options: Numbers = field(default_factory=dict)
    image: str = "token"
    crop_fraction: float | None = None
    drop_path: float = 0.1
    size: int | None = None
    local_size: int | None = None
    n_local: int = 6
    is_flipped: bool = True
    epochs: int = 100
    batch_size: int = 64
    learning_rate: float | None = None
    warmup_epochs: int | None = None
    momentum: float = 0.99
    n_prototypes: int = 1024
    memory: int | None = None
    freeze_epochs: int | None = None
    precision: str = "float32"
    seed: int = 0
    changes: Numbers = field(default_factory=dict)
    labels: str | os.PathLike[str] = "auto"
    n_scored: int = 2000

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("embedding of images", self.image, IMAGE_EMBEDDINGS)
        check_choice("precision", self.precision, PRECISIONS)
        self._check_ranges()
        self._check_use()
        self._check_changes()

    def _check_ranges(self) -> None:
        given = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        for name in _POSITIVE & given.keys():
            check_positive(name, given[name])
        for name in _NON_NEGATIVE & given.keys():
            check_non_negative(name, given[name])
        if self.batch_size < 2:
            raise SettingError("{batch_size} must be at least 2, got {0}", self.batch_size)
        if not 0 < given.get("crop_fraction", 1) <= 1:
            raise SettingError("{crop_fraction} must lie in (0, 1], got {0}", self.crop_fraction)
        for name in ("warmup_epochs", "freeze_epochs"):
            if given.get(name, 0) >= self.epochs:
                raise SettingError(
                    f"{{{name}}} must be less than {{epochs}}, {{0}}, got {{1}}", self.epochs, given[name]
                )

    def _check_use(self) -> None:
        """Refuse settings that would do nothing."""
        if self.method == "cmd" and self.memory is not None:
            raise SettingError("{memory} is of mugs: cmd remembers no images")
        if self.n_local == 0 and self.local_size is not None:
            raise SettingError("{local_size} needs local crops, and {n_local} is 0")

    def _check_changes(self) -> None:
        """Refuse changes that are unknown, contradict the features, or are given by a setting of their own too."""
        known = changeable_numbers(self.method)
        for key in self.changes:
            if key in _NOT_ALONE:
                raise SettingError(f"{{changes}} {key} would contradict the features: {_NOT_ALONE[key]}")
            check_choice(f"setting of {self.method}", key, known)
            same = _SAME_AS.get(key)
            if same is not None and getattr(self, same) != _DEFAULTS[same]:
                raise SettingError(f"give {{{same}}} or {{changes}} {key}, not both")

    def resolved(self) -> DistillSettings:
        """Return the settings with the defaults that follow from other settings alone."""
        is_named = self.backbone is None and f"{self.init}" in ("random", "published")
        return replace(
            self,
            backbone=_BACKBONE if is_named else self.backbone,
            freeze_epochs=min(1, self.epochs // 10) if self.freeze_epochs is None else self.freeze_epochs,
        )


_DEFAULTS = {entry.name: entry.default for entry in fields(DistillSettings)}


class RunSettings(NamedTuple):
    """The numbers of a run: of its method, its views and its training."""

    method: MethodSettings
    views: ViewSettings
    training: TrainingSettings

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Return the numbers by name, JSON-serialisable."""
        return {name: asdict(part) for name, part in self._asdict().items()}


def changeable_numbers(method: str) -> dict[str, str]:
    """Return the fields that `DistillSettings.changes` may name, with their types.

    Examples
    --------
    >>> changeable_numbers("cmd")["inter_weight"]
    'float'
    """
    parts = (CMDSettings if method == "cmd" else MugsSettings, ViewSettings, TrainingSettings)
    numbers = {entry.name: f"{entry.type}" for part in parts for entry in fields(part)}
    return {name: annotation for name, annotation in numbers.items() if name not in _NOT_ALONE}


def parse_changes(texts: Iterable[str], method: str) -> dict[str, object]:
    """Parse ``KEY=VALUE`` texts into `DistillSettings.changes`, which refuses unknown keys.

    Examples
    --------
    >>> parse_changes(["inter_weight=1", "momentum=0.9+1", "weak_probability=none"], "cmd")
    {'inter_weight': 1.0, 'momentum': (0.9, 1.0), 'weak_probability': None}
    """
    known = changeable_numbers(method)
    return {key: parse_value(key, text, known.get(key, "str")) for key, text in map(split_option, texts)}


def run_settings(
    settings: DistillSettings, preprocess: Preprocess, patch: int, n_images: int, steps_per_epoch: int
) -> RunSettings:
    """Return the numbers of a run of some images.

    Parameters
    ----------
    settings
        As `DistillSettings.resolved` returns them.
    preprocess, patch
        Of the backbone: its preprocessing, and the side of a token's patch in pixels.
    n_images, steps_per_epoch

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    return RunSettings(
        _changed(_method_settings(settings, n_images), settings.changes),
        _changed(_view_settings(settings, preprocess, patch), settings.changes),
        _changed(_training_settings(settings, steps_per_epoch), settings.changes),
    )


def _method_settings(settings: DistillSettings, n_images: int) -> MethodSettings:
    if settings.method == "cmd":
        return CMDSettings(n_prototypes=settings.n_prototypes)
    capacity = settings.memory or suggested_capacity(n_images)
    n_neighbours = min(MugsSettings().n_neighbours, capacity)
    return MugsSettings(n_prototypes=settings.n_prototypes, capacity=capacity, n_neighbours=n_neighbours)


def _view_settings(settings: DistillSettings, preprocess: Preprocess, patch: int) -> ViewSettings:
    make = mugs_views if settings.method == "mugs" else cmd_views
    size = preprocess.size[0]
    return make(
        size=size,
        local_size=settings.local_size or max(1, round(_LOCAL_SHARE * size / patch)) * patch,
        n_local=settings.n_local,
        flip_probability=0.5 if settings.is_flipped else 0.0,
        mean=preprocess.mean,
        std=preprocess.std,
    )


def _training_settings(settings: DistillSettings, steps_per_epoch: int) -> TrainingSettings:
    rate = _RATE if settings.init == "random" else _ADAPTING_RATE
    n_steps, n_epochs = settings.epochs * steps_per_epoch, settings.warmup_epochs
    return TrainingSettings(
        learning_rate=settings.learning_rate or rate * settings.batch_size / _RATE_BATCH,
        n_warmup_steps=n_steps // 10 if n_epochs is None else n_epochs * steps_per_epoch,
        momentum=(settings.momentum, 1.0),
        n_frozen_steps=(settings.freeze_epochs or 0) * steps_per_epoch,
        precision=settings.precision,
        health_every=min(_HEALTH_EVERY, steps_per_epoch),
    )


def _changed(part: Part, changes: Numbers) -> Part:
    """Return a part of the numbers with those changes that are among its fields."""
    names = {entry.name for entry in fields(part)}
    return replace(part, **{name: value for name, value in changes.items() if name in names})
