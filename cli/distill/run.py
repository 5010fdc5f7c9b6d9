"""A distillation from the command's words: what is built, what it is fed, and where it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fewshot.distillation.cmd import CMD, CMDSettings
from fewshot.distillation.distiller import Distiller
from fewshot.distillation.mugs import Mugs, MugsSettings
from fewshot.distillation.training.loop import fit_distillation
from fewshot.distillation.training.state import DistillationTrace, Progress, TrainingState
from fewshot.distributed import rank, world_size
from fewshot.features.images.listing import count_images
from fewshot.features.images.pixels import measure_pixels
from fewshot.image_distillation.backbones import (
    BackboneBuilt,
    build_backbone,
    load_training,
    save_distilled,
    save_training,
)
from fewshot.image_distillation.stream import ImageStream

from .settings import Settings, read_options, run_settings

__all__ = ["Plan", "StateFile", "all_failures", "prepare", "state_path"]

# At most one part in this of a run's time goes into states that it could go on from.
_SAVING_PART = 20


class StateFile:
    """Where a run keeps what it needs to go on, beside its result.

    Parameters
    ----------
    path : path
    identity : mapping
        What the run shares with one that it can go on from.
    steps_per_epoch : int

    Attributes
    ----------
    state : TrainingState or None
        To go on from, as `read` has found it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], steps_per_epoch: int) -> None:
        self.path, self.identity, self._steps_per_epoch = path, identity, steps_per_epoch
        self.state: TrainingState | None = None
        self._n_steps_kept = 0
        self._due = 0.0

    def read(self) -> None:
        """Read the state of a run that was stopped, if there is one.

        Raises
        ------
        ValueError
            If it is of a run with other settings, or no state at all.
        """
        if not self.path.exists():
            return
        self.state = load_training(self.path)
        begun, wanted = _flat(self.state.metadata.get("run", {})), _flat(self.identity)
        for key in {**wanted, **begun}:
            if begun.get(key) != wanted.get(key):
                raise ValueError(
                    f"{self.path} is of a run with {key} {begun.get(key)}, got {wanted.get(key)}: give what it was "
                    "begun with, or --no-resume to begin anew"
                )
        self._n_steps_kept = self.state.step

    def save(self, state: TrainingState, *, is_last: bool) -> None:
        """Write a state, unless the last one was written so recently that writing would take much of the time."""
        start = time.perf_counter()
        if start < self._due and not is_last:
            return
        save_training(self.path, state._replace(metadata={**state.metadata, "run": dict(self.identity)}))
        self._n_steps_kept = state.step
        end = time.perf_counter()
        self._due = end + (_SAVING_PART - 1) * (end - start)

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
        self.state, self._n_steps_kept = None, 0

    def remark(self) -> str:
        """Say what a run that is stopped now leaves behind."""
        if not self._n_steps_kept:
            return "; nothing was written"
        epoch = self._n_steps_kept // self._steps_per_epoch
        return f"; the same command goes on after epoch {epoch:,}, which {self.path} has"


class Plan(NamedTuple):
    """All that a run consists of.

    Attributes
    ----------
    built : BackboneBuilt
        Its backbone is the student's.
    method : Distiller
    stream : ImageStream
    settings : Settings
    n_steps : int
    identity : dict
        What a run shares with one that it can go on from.
    kept : StateFile
    """

    built: BackboneBuilt
    method: Distiller
    stream: ImageStream
    settings: Settings
    n_steps: int
    identity: dict[str, Any]
    kept: StateFile

    def fit(self, progress: Progress) -> DistillationTrace:
        """Train, from where a run was stopped if there is one."""
        return fit_distillation(
            self.method,
            self.stream,
            n_steps=self.n_steps,
            settings=self.settings.training,
            seed=self.identity["seed"],
            state=self.kept.state,
            save=lambda state: self.kept.save(state, is_last=state.step == self.n_steps),
            save_every=self.stream.steps_per_epoch,
            progress=progress,
        )

    def write(self, out: str) -> None:
        """Write the teacher's network, of which nothing needs to be kept then."""
        backbone = self.method.teacher.backbone
        save_distilled(
            out,
            backbone,
            self.built.description,
            recipe=backbone.image,
            preprocess=self.built.preprocess,
            training=self.identity,
        )
        self.kept.remove()


def state_path(out: str) -> Path:
    """Return where the state of a run is kept until its result is written."""
    return Path(out).with_suffix(".state.safetensors")


def prepare(words: Mapping[str, Any]) -> Plan:
    """Build all that a run consists of, and read the state of one that was stopped.

    Raises
    ------
    ValueError
        If words contradict each other, the images or that state.
    """
    n_images = count_images(words["images"])
    steps_per_epoch = _steps_per_epoch(n_images, words["batch_size"])
    built = _built(words)
    settings = run_settings(words, built, n_images, steps_per_epoch)
    identity = _identity(words, built, settings, n_images)
    kept = StateFile(state_path(words["out"]), identity, steps_per_epoch)
    if words["is_resumed"]:
        kept.read()
    stream = ImageStream(
        words["images"],
        settings.views,
        batch_size=words["batch_size"] // world_size(),
        seed=words["seed"],
        n_workers=words["workers"],
        rank=rank(),
        world_size=world_size(),
        device=words["device"],
    )
    method = _method(settings.method, built, words["seed"]).to(words["device"])
    return Plan(built, method, stream, settings, words["epochs"] * steps_per_epoch, identity, kept)


def all_failures(own: Mapping[str, str]) -> dict[str, str]:
    """Return the images that could not be read, of all processes."""
    if world_size() == 1:
        return dict(own)
    parts: list[dict[str, str]] = [{} for _ in range(world_size())]
    torch.distributed.all_gather_object(parts, dict(own))
    return {name: text for part in parts for name, text in part.items()}


def _steps_per_epoch(n_images: int, batch_size: int) -> int:
    if batch_size % world_size():
        raise ValueError(f"--batch-size must be a multiple of the {world_size()} processes, got {batch_size}")
    if n_images < 2:
        raise ValueError("one image has nothing to be told from: give --images a folder of many")
    if n_images < batch_size:
        raise ValueError(f"--batch-size must be at most the number of images, {n_images:,}, got {batch_size}")
    return n_images // batch_size


def _built(words: Mapping[str, Any]) -> BackboneBuilt:
    built = build_backbone(
        words["backbone"],
        words["init"],
        size=words["size"],
        options=read_options(words["options"]),
        drop_path=words["drop_path"],
        seed=words["seed"],
        image=words["image"],
    )
    changes: dict[str, Any] = {}
    if words["init"] == "random":
        changes |= measure_pixels(words["images"], seed=words["seed"])._asdict()
    if words["crop_fraction"] is not None:
        changes["crop_fraction"] = words["crop_fraction"]
    return built._replace(preprocess=replace(built.preprocess, **changes))


def _identity(words: Mapping[str, Any], built: BackboneBuilt, settings: Settings, n_images: int) -> dict[str, Any]:
    return {
        "method": words["method"],
        "backbone": built.description,
        "images": os.path.abspath(words["images"]),
        "n_images": n_images,
        **{name: words[name] for name in ("batch_size", "epochs", "drop_path", "seed")},
        "settings": settings.to_dict(),
    }


def _method(settings: MugsSettings | CMDSettings, built: BackboneBuilt, seed: int) -> Distiller:
    if isinstance(settings, CMDSettings):
        return CMD(built.backbone, settings, seed=seed)
    mugs = Mugs(built.backbone, settings, seed=seed)
    if built.relation is not None:
        mugs.student.relation.load_state_dict(built.relation)
        mugs.start_teacher()
    return mugs


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested mapping with names such as settings.views.size, sequences as lists."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat
