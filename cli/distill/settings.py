"""The numbers of a distillation: defaults for its size, what the command's words say, and what ``--set`` changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import torch

from fewshot.checks import check_choice
from fewshot.distillation.backbone import Tokens
from fewshot.distillation.cmd import CMDSettings
from fewshot.distillation.memory import check_capacity, suggested_capacity
from fewshot.distillation.mugs import MugsSettings
from fewshot.distillation.training.state import TrainingSettings
from fewshot.distillation.views.settings import ViewSettings, cmd_views, mugs_views
from fewshot.image_distillation.backbones import BackboneBuilt

__all__ = ["METHODS", "SAME_AS", "Settings", "key_and_value", "read_options", "run_settings"]

METHODS = ("mugs", "cmd")
# Keys of --set that an option sets too, by the option's name in the program.
SAME_AS = {
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
# Keys that --set would change for the views alone, and not for the network or the features.
_NOT_ALONE = {
    "size": "give --size, for the network and its features too",
    "mean": "images are normalised as the weights of --init need it, from scratch by their own pixels",
    "std": "images are normalised as the weights of --init need it, from scratch by their own pixels",
}
# Of the side of global crops, as in the originals: 96 of 224 pixels.
_LOCAL_SHARE = 3 / 7
# DINO's rule of the learning rate, per 256 images; a network that has been trained is only adapted.
_RATE, _ADAPTING_RATE = 2e-3, 5e-4
# A look at the features' health every so many steps, and at least one an epoch.
_HEALTH_EVERY = 10


class Settings(NamedTuple):
    """The numbers of a run: of its method, its views and its training."""

    method: MugsSettings | CMDSettings
    views: ViewSettings
    training: TrainingSettings

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON can say it."""
        return {name: asdict(part) for name, part in self._asdict().items()}


def run_settings(words: Mapping[str, Any], built: BackboneBuilt, n_images: int, steps_per_epoch: int) -> Settings:
    """Return the numbers of a run.

    Raises
    ------
    ValueError
        If a number is out of range or of no use to the network, or a key of ``--set`` unknown.
    """
    known = Settings(
        _method_settings(words, n_images), _view_settings(words, built), _training_settings(words, steps_per_epoch)
    )
    of_method, of_views, of_training = _read_changes(words["changes"], words["method"], known)
    settings = Settings(
        replace(known.method, **of_method), replace(known.views, **of_views), replace(known.training, **of_training)
    )
    if isinstance(settings.method, MugsSettings):
        check_capacity(settings.method.capacity, n_images)
    if settings.views.n_local:
        _check_local_size(built, settings.views.local_size)
    return settings


def _method_settings(words: Mapping[str, Any], n_images: int) -> MugsSettings | CMDSettings:
    if words["method"] == "cmd":
        return CMDSettings(n_prototypes=words["n_prototypes"])
    capacity = words["memory"] or suggested_capacity(n_images)
    return MugsSettings(
        n_prototypes=words["n_prototypes"], capacity=capacity, n_neighbours=min(MugsSettings().n_neighbours, capacity)
    )


def _view_settings(words: Mapping[str, Any], built: BackboneBuilt) -> ViewSettings:
    make = mugs_views if words["method"] == "mugs" else cmd_views
    patch = _patch(built)
    size: int = built.preprocess.size[0]
    return make(
        size=size,
        local_size=words["local_size"] or max(1, round(_LOCAL_SHARE * size / patch)) * patch,
        n_local=words["n_local"],
        flip_probability=0.5 if words["is_flipped"] else 0.0,
        mean=built.preprocess.mean,
        std=built.preprocess.std,
    )


def _training_settings(words: Mapping[str, Any], steps_per_epoch: int) -> TrainingSettings:
    rate = _RATE if words["init"] == "random" else _ADAPTING_RATE
    n_steps, n_epochs = words["epochs"] * steps_per_epoch, words["warmup_epochs"]
    return TrainingSettings(
        learning_rate=words["learning_rate"] or rate * words["batch_size"] / 256,
        n_warmup_steps=n_steps // 10 if n_epochs is None else n_epochs * steps_per_epoch,
        momentum=(words["momentum"], 1.0),
        n_frozen_steps=words["freeze_epochs"] * steps_per_epoch,
        precision=words["precision"],
        health_every=min(_HEALTH_EVERY, steps_per_epoch),
    )


@torch.no_grad()
def _n_tokens(built: BackboneBuilt, size: int) -> int:
    """Return how many tokens an image of this side has, without those that are no part of it."""
    tokens: Tokens = built.backbone.eval()(torch.zeros(1, 3, size, size))
    return tokens.instances.shape[1]


def _patch(built: BackboneBuilt) -> int:
    """Return the side of what a token stands for, in pixels."""
    size = built.preprocess.size[0]
    return round(size / math.sqrt(_n_tokens(built, size)))


def _check_local_size(built: BackboneBuilt, size: int) -> None:
    try:
        _n_tokens(built, size)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the network takes no local crops of {size} pixels: give a --local-size that is a multiple of "
            f"{_patch(built)}"
        ) from error


# Words of the form KEY=VALUE


def key_and_value(text: str) -> tuple[str, str]:
    """Split ``KEY=VALUE``.

    Raises
    ------
    ValueError
        If it is something else.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"expected KEY=VALUE, got {text!r}")
    return key, value


def read_options(texts: Sequence[str]) -> dict[str, object]:
    """Read options of the backbone: numbers, true and false where they are some, lists where there is a +.

    Examples
    --------
    >>> read_options(["patch_size=4", "depths=2+6", "qkv_bias=false", "global_pool=avg"])
    {'patch_size': 4, 'depths': [2, 6], 'qkv_bias': False, 'global_pool': 'avg'}
    """
    return {key: _guessed(value) for key, value in map(key_and_value, texts)}


def _guessed(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if "+" in text:
        return [_guessed(part) for part in text.split("+")]
    return text == "true" if text in ("true", "false") else text


def _read_changes(texts: Sequence[str], method: str, known: Settings) -> list[dict[str, Any]]:
    """Sort changes by the settings that they are of."""
    owners = {field.name: i for i, part in enumerate(known) for field in fields(part)}
    changes: list[dict[str, Any]] = [{} for _ in known]
    for key, value in map(key_and_value, texts):
        if key in _NOT_ALONE:
            raise ValueError(f"--set {key} would contradict the features: {_NOT_ALONE[key]}")
        owner = owners[check_choice(f"setting of {method}", key, owners.keys() - _NOT_ALONE)]
        changes[owner][key] = _read_as(key, value, known[owner])
    return changes


def _read_as(key: str, text: str, settings: Any) -> object:
    """Read a value as the settings have it, ``none`` where they may have nothing."""
    (declared,) = (f"{field.type}" for field in fields(settings) if field.name == key)
    return None if text == "none" and "None" in declared else _typed(key, text, getattr(settings, key))


def _typed(key: str, text: str, default: object) -> object:
    """Read a value as the default is: ``true`` or ``false``, a number, a word, or several with + between them."""
    if isinstance(default, tuple):
        parts = text.split("+")
        if len(parts) != len(default):
            like = "+".join(map(str, default))
            raise ValueError(f"{key} needs {len(default)} numbers with + between them, such as {like}, got {text!r}")
        return tuple(_typed(key, part, default[0]) for part in parts)
    if isinstance(default, bool):
        return check_choice(key, text, ("true", "false")) == "true"
    kind: Any = float if default is None else type(default)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key} must be {_KINDS[kind]}, got {text!r}") from None


_KINDS = {int: "a whole number", float: "a number"}
