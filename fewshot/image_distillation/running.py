"""`distill` and `DistillRun`: score the features, train, score again, and write the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import NamedTuple, TypeAlias

import torch

from fewshot.distillation.cmd import CMD, CMDSettings
from fewshot.distillation.distiller import Distiller
from fewshot.distillation.mugs import Mugs
from fewshot.distillation.training.loop import fit_distillation
from fewshot.distillation.training.monitor import CollapseError
from fewshot.distillation.training.state import DistillationTrace, StepReport
from fewshot.distributed import rank, world_size
from fewshot.image_distillation.backbones import image_extractor, save_distilled
from fewshot.image_distillation.planning import DistillPlan, plan
from fewshot.image_distillation.resuming import StateFile, state_path
from fewshot.image_distillation.scores import FeatureScores, score_features
from fewshot.image_distillation.settings import DistillSettings
from fewshot.image_distillation.stream import ImageStream, default_n_workers

__all__ = ["DistillReport", "DistillResult", "DistillRun", "distill"]

PathLike: TypeAlias = str | os.PathLike[str]


class DistillReport(NamedTuple):
    """Progress of a distillation.

    Attributes
    ----------
    stage : str
        ``scores before``, ``training`` or ``scores after``.
    n_done, n_todo : int
        Images of the scores, or steps of the training.
    step : StepReport or None
        Of the training.
    """

    stage: str
    n_done: int
    n_todo: int
    step: StepReport | None = None


DistillProgress: TypeAlias = Callable[[DistillReport], object]


class DistillResult(NamedTuple):
    """Result of a distillation; the network is in the file that it was written to.

    Attributes
    ----------
    trace : DistillationTrace
        Losses and health of the features over the whole run.
    before, after : FeatureScores or None
        Of the features at the start and at the end; None without labels, and in all processes but the first.
    failures : dict of str to str
        Images that could not be read, and why.
    n_processes : int
    memory_bytes : int
        Size of queues and memories.
    """

    trace: DistillationTrace
    before: FeatureScores | None
    after: FeatureScores | None
    failures: dict[str, str]
    n_processes: int
    memory_bytes: int


def distill(
    images: PathLike,
    settings: DistillSettings | None = None,
    *,
    out: PathLike,
    evaluate: PathLike | None = None,
    device: torch.device | str = "cpu",
    n_workers: int | None = None,
    is_resumed: bool = True,
    progress: DistillProgress | None = None,
) -> DistillResult:
    """Learn features from images without labels, and write a network: `plan`, then run it.

    Parameters
    ----------
    images, settings, evaluate
        See `plan`.
    out, device, n_workers, is_resumed
        See `DistillRun`.
    progress
        Called with a `DistillReport` at the start of each stage, and after each step or batch.

    Returns
    -------
    DistillResult

    Raises
    ------
    CollapseError
        If the features collapse; nothing is written then, and the run cannot be resumed.
    FloatingPointError
        If a loss is not finite; likewise.
    ValueError
        As `plan` and `DistillRun`.

    Examples
    --------
    >>> from fewshot.image_distillation import DistillSettings, distill
    >>> result = distill("photos/", DistillSettings(epochs=20), out="own.safetensors")  # doctest: +SKIP
    """
    planned = plan(images, settings, evaluate=evaluate)
    return DistillRun(planned, out, device=device, n_workers=n_workers, is_resumed=is_resumed)(progress)


class DistillRun:
    """A plan with its networks, its stream of views and the file of its state, ready to be run once.

    Parameters
    ----------
    plan : DistillPlan
        Stays as it is.
    out : path
        The ``.safetensors`` file to write, by the first process.
    device
        Where to compute.
    n_workers : int, optional
        Processes that cut views, for each process that trains; None for `default_n_workers`.
    is_resumed : bool
        Whether to continue a run with the same settings that was stopped; otherwise its state is deleted.

    Attributes
    ----------
    plan : DistillPlan
    state : StateFile

    Raises
    ------
    ValueError
        If the state beside ``out`` is of a run with other settings, or damaged.
    """

    def __init__(
        self,
        plan: DistillPlan,
        out: PathLike,
        *,
        device: torch.device | str = "cpu",
        n_workers: int | None = None,
        is_resumed: bool = True,
    ) -> None:
        self.plan, self._out, self._device = plan, out, device
        self._n_workers = default_n_workers() if n_workers is None else n_workers
        self.state = StateFile(state_path(out), plan.identity())
        if is_resumed:
            self.state.read()
        self._is_resumed = is_resumed
        settings = plan.settings
        self._stream = ImageStream(
            plan.images,
            plan.numbers.views,
            batch_size=settings.batch_size // world_size(),
            seed=settings.seed,
            n_workers=self._n_workers,
            rank=rank(),
            world_size=world_size(),
            device=device,
        )
        self._method = _method(plan).to(device)

    def __call__(self, progress: DistillProgress | None = None) -> DistillResult:
        """Score, train, score again and write; see `distill`."""
        report = progress or _ignore
        if not self._is_resumed and rank() == 0:
            self.state.remove()
        before = self._scores("scores before", report)
        trace = self._fit(report)
        failures = _all_failures(self._stream.failures)
        after = self._scores("scores after", report)
        if rank() == 0:
            self._write()
        return DistillResult(trace, before, after, failures, world_size(), self._method.memory_bytes())

    def _scores(self, stage: str, report: DistillProgress) -> FeatureScores | None:
        """Return the scores of the teacher's features, if there are labelled images."""
        images = self.plan.scored
        if images is None:
            return None
        n_images = len(images.records)
        report(DistillReport(stage, 0, n_images))
        return score_features(
            image_extractor(self._method.teacher.backbone, self.plan.built.preprocess, device=self._device),
            images,
            seed=self.plan.settings.seed,
            batch_size=self.plan.settings.batch_size,
            n_threads=self._n_workers,
            progress=lambda n_done: report(DistillReport(stage, n_done, n_images)),
        )

    def _fit(self, report: DistillProgress) -> DistillationTrace:
        """Train, from where a run was stopped if there is one."""
        plan = self.plan
        report(DistillReport("training", 0, plan.n_steps))
        try:
            return fit_distillation(
                self._method,
                self._stream,
                n_steps=plan.n_steps,
                settings=plan.numbers.training,
                seed=plan.settings.seed,
                state=self.state.state,
                save=lambda state: self.state.save(state, is_last=state.step == plan.n_steps),
                save_every=plan.steps_per_epoch,
                progress=lambda step: report(DistillReport("training", step.step, plan.n_steps, step)),
            )
        except (CollapseError, FloatingPointError):
            if rank() == 0:
                self.state.remove()
            raise

    def _write(self) -> None:
        """Write the teacher's network, and delete the state."""
        backbone = self._method.teacher.backbone
        save_distilled(
            self._out,
            backbone,
            self.plan.built.description,
            recipe=backbone.image,
            preprocess=self.plan.built.preprocess,
            training=self.plan.identity(),
        )
        self.state.remove()


def _ignore(_: DistillReport) -> None:
    return


def _method(plan: DistillPlan) -> Distiller:
    """Build student and teacher on copies of the plan's backbone."""
    backbone, settings, seed = deepcopy(plan.built.backbone), plan.numbers.method, plan.settings.seed
    if isinstance(settings, CMDSettings):
        return CMD(backbone, settings, seed=seed)
    mugs = Mugs(backbone, settings, seed=seed)
    if plan.built.relation is not None:
        mugs.student.relation.load_state_dict(plan.built.relation)
        mugs.start_teacher()
    return mugs


def _all_failures(own: Mapping[str, str]) -> dict[str, str]:
    """Return the images that could not be read, of all processes."""
    if world_size() == 1:
        return dict(own)
    parts: list[dict[str, str]] = [{} for _ in range(world_size())]
    torch.distributed.all_gather_object(parts, dict(own))
    return {name: text for part in parts for name, text in part.items()}
