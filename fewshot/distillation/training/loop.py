"""Training of a student against its own running average, and the state that resumes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fewshot.checks import check_positive
from fewshot.distillation.distiller import Comparison, Distiller, seeded_draws
from fewshot.distillation.stream import Stream, ViewBatch
from fewshot.distillation.teacher import update_teacher
from fewshot.distillation.training.health import Health, measure_health
from fewshot.distillation.training.monitor import CollapseMonitor
from fewshot.distillation.training.optimiser import clip_each, parameter_groups
from fewshot.distillation.training.schedules import cosine, linear, warmup_cosine
from fewshot.distillation.training.state import (
    DistillationTrace,
    Progress,
    StepReport,
    TrainingSettings,
    TrainingState,
)
from fewshot.distributed import gather_rows, mean_over_processes, rank, world_size

__all__ = ["fit_distillation"]


def fit_distillation(
    method: Distiller,
    stream: Stream,
    *,
    n_steps: int,
    settings: TrainingSettings | None = None,
    seed: int = 0,
    state: TrainingState | None = None,
    save: Callable[[TrainingState], object] | None = None,
    save_every: int = 0,
    progress: Progress | None = None,
) -> DistillationTrace:
    """Train a method's student, and its teacher with it.

    Parameters
    ----------
    method : Distiller
        `Mugs` or `CMD`; trained in place, on the device that it is on.
    stream : callable
        See `Stream`.
    n_steps : int
        Of the whole run; schedules follow from it.
    settings : TrainingSettings
    seed : int
        Of what networks draw as they run (drop path); nothing else is drawn here.
    state : TrainingState, optional
        To go on from, of a run with the same method, settings and number of steps.
    save : callable, optional
        Called with the `TrainingState` after every ``save_every`` steps and at the end, in the first process alone. Its
        tensors are those in use: copy or write them before it returns.
    save_every : int
        0: at the end only.
    progress : callable, optional
        Called after each step with its `StepReport`.

    Returns
    -------
    DistillationTrace
        From the first step of the run, resumed or not.

    Raises
    ------
    CollapseError
        If the features collapse; the message says by what sign, and what to change.
    FloatingPointError
        If a loss is not finite.
    ValueError
        If ``state`` is of another run, or the stream ends early.

    Notes
    -----
    Of an interrupted run and its continuation every number is that of a run without interruption, on one device with
    deterministic kernels. Under ``torchrun`` gradients are averaged (DDP), memories and centers take the rows of all
    processes, and the trace is that of one process with the joint batch, to rounding. Per step: losses with the centers
    and queues as they were, clipping of each tensor's gradient, AdamW, the teacher, then memories and centers.

    Source
    ------
    [DINO] [MUGS] [ESVIT] Training scripts: AdamW, cosines per step. The teacher's temperature grows by the step, not
    by the epoch.
    """
    check_positive("n_steps", n_steps)
    run = _Run(method, TrainingSettings() if settings is None else settings, n_steps, seed)
    if state is not None:
        run.restore(state)
    start, method = time.perf_counter(), method.train()
    with seeded_draws(seed):
        for batch in run.batches(stream):
            report = run.step(batch)
            if progress is not None:
                progress(report)
            is_due = run.n_done == n_steps or (save_every > 0 and run.n_done % save_every == 0)
            if save is not None and is_due and rank() == 0:
                save(run.state())
    return run.trace(time.perf_counter() - start)


class _Run:
    """A run: the method with its optimiser, its monitor and its trace."""

    def __init__(self, method: Distiller, settings: TrainingSettings, n_steps: int, seed: int) -> None:
        self.method, self.settings, self.n_steps, self.seed = method, settings, n_steps, seed
        self.device = next(method.student.parameters()).device
        self.optimizer = torch.optim.AdamW(
            parameter_groups(method.student, patch_scale=settings.patch_rate), lr=settings.learning_rate
        )
        self.monitor = CollapseMonitor(
            n_prototypes=method.n_prototypes,
            n_negatives=method.n_negatives,
            student_temperature=method.student_temperature,
        )
        self.names = ("total", *method.part_names)
        self.n_done = self.n_before = 0
        self.seconds_waiting = 0.0
        self.losses: list[list[float]] = []
        self.health: list[tuple[float, ...]] = []
        self.student = _distributed(method)

    def batches(self, stream: Stream) -> Iterator[ViewBatch]:
        """Yield the remaining batches, on the device, and add up how long they were waited for."""
        if self.n_done == self.n_steps:
            return
        incoming = stream(self.n_done)
        while self.n_done < self.n_steps:
            start = time.perf_counter()
            batch = next(incoming, None)
            self.seconds_waiting += time.perf_counter() - start
            if batch is None:
                raise ValueError(
                    f"the stream ended after {self.n_done} of {self.n_steps} steps: let it go on, epoch after epoch"
                )
            yield _moved(batch, self.device)

    def step(self, batch: ViewBatch) -> StepReport:
        """Train on a batch."""
        settings, method = self.settings, self.method
        torch.manual_seed(_seed_of(self.seed, self.n_done))
        rate = self._set_rates()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            outputs = method.embed(batch, self.student)
        comparison = method.compare(outputs, self._scheduled_temperature())
        losses = self._checked(comparison)
        self._update(comparison.total)
        update_teacher(method.teacher, method.student, cosine(self.n_done, self.n_steps, *settings.momentum))
        method.remember(outputs)
        health = self._look(losses, method.teacher_features(outputs), comparison.log_teacher)
        self.n_done += 1
        self.losses.append([losses.get(name, float("nan")) for name in self.names])
        return StepReport(self.n_done, self.n_steps, losses, health, rate)

    def trace(self, seconds: float) -> DistillationTrace:
        """Return the trace of the run."""
        looks = torch.tensor(self.health, dtype=torch.float64).reshape(-1, 1 + len(Health._fields))
        losses = torch.tensor(self.losses, dtype=torch.float64).reshape(-1, len(self.names))
        n_run = self.n_done - self.n_before
        return DistillationTrace(
            self.names, losses, looks[:, 0].long(), looks[:, 1:], n_run, seconds, self.seconds_waiting
        )

    # Going on

    def state(self) -> TrainingState:
        """Return all that decides the steps to come."""
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        tensors |= {f"optimizer.{i}.{name}": tensor for i, moment in moments.items() for name, tensor in moment.items()}
        trace = self.trace(0.0)
        tensors |= {
            "trace.losses": trace.losses,
            "trace.health_steps": trace.health_steps,
            "trace.health": trace.health,
        }
        return TrainingState(self.n_done, tensors, self._identity() | {"monitor": self.monitor.state()})

    def restore(self, state: TrainingState) -> None:
        """Take over another run's state.

        Raises
        ------
        ValueError
            If it is of another run; the message names what differs.
        """
        for name, value in self._identity().items():
            if state.metadata.get(name) != value:
                raise ValueError(
                    f"the run to go on with has {name} {state.metadata.get(name)!r}, got {value!r}: "
                    "resume it with the settings that it was begun with"
                )
        groups = _split(state.tensors)
        self.method.load_state_dict(groups["method"])
        self._restore_moments(groups.get("optimizer", {}))
        self.monitor.restore(state.metadata["monitor"])
        trace = groups["trace"]
        self.losses = trace["losses"].tolist()
        looks = zip(trace["health_steps"].tolist(), trace["health"].tolist(), strict=True)
        self.health = [(float(step), *figures) for step, figures in looks]
        self.n_done = self.n_before = state.step

    def _identity(self) -> dict[str, Any]:
        return {"method": type(self.method).__name__, "n_steps": self.n_steps, "seed": self.seed}

    def _restore_moments(self, tensors: Mapping[str, Tensor]) -> None:
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, what = name.partition(".")
            moments.setdefault(int(number), {})[what] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})

    # A step's parts

    def _set_rates(self) -> float:
        """Set learning rates and weight decay of this step; return the former."""
        settings, step = self.settings, self.n_done
        rate = warmup_cosine(
            step, self.n_steps, settings.n_warmup_steps, settings.learning_rate, settings.min_learning_rate
        )
        decay = cosine(step, self.n_steps, *settings.weight_decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
            group["weight_decay"] = decay if group["is_decayed"] else 0.0
        return rate

    def _scheduled_temperature(self) -> float:
        return linear(self.n_done, self.settings.n_temperature_steps, *self.settings.teacher_temperature)

    def _checked(self, comparison: Comparison) -> dict[str, float]:
        """Return the losses as numbers, means over the processes."""
        named = {"total": comparison.total, **comparison.parts}
        values = mean_over_processes(torch.stack([loss.detach().double() for loss in named.values()])).tolist()
        losses = dict(zip(named, values, strict=True))
        bad = [name for name, value in losses.items() if value - value != 0]
        if bad:
            raise FloatingPointError(
                f"the loss is not finite at step {self.n_done + 1} ({', '.join(bad)}): lower the learning rate, "
                "or take float32"
            )
        return losses

    def _update(self, total: Tensor) -> None:
        """Step along the gradient, of which each tensor's part is clipped."""
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        if self.n_done < self.settings.n_frozen_steps:
            for parameter in self.method.last_layers():
                parameter.grad = None
        clip_each(self.method.student.parameters(), self.settings.clip)
        self.optimizer.step()

    def _look(self, losses: Mapping[str, float], features: Tensor, log_teacher: Tensor) -> Health | None:
        """Have the monitor judge the losses, and the features where it is their turn."""
        health = None
        if self.n_done % self.settings.health_every == 0:
            health = measure_health(gather_rows(features), gather_rows(log_teacher))
            self.health.append((float(self.n_done), *health))
        self.monitor.observe(self.n_done, losses, health)
        return health


def _distributed(method: Distiller) -> nn.Module:
    """Return the student, wrapped where there are several processes."""
    student: nn.Module = method.student
    if world_size() == 1:
        return student
    return DistributedDataParallel(student, find_unused_parameters=method.has_idle_weights)


def _moved(batch: ViewBatch, device: torch.device) -> ViewBatch:
    """Move a batch; views that teacher and student share stay shared."""
    teacher = batch.teacher.to(device, non_blocking=True)
    student = teacher if batch.student is batch.teacher else batch.student.to(device, non_blocking=True)
    local = None if batch.local is None else batch.local.to(device, non_blocking=True)
    return ViewBatch(teacher, student, local, batch.is_weak.to(device, non_blocking=True))


def _seed_of(seed: int, step: int) -> int:
    """Return a seed for a step of a process, none of which two share."""
    return int(np.random.SeedSequence((seed, step, rank())).generate_state(1, np.uint64)[0] >> 1)


def _split(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        head, _, tail = name.partition(".")
        groups.setdefault(head, {})[tail] = tensor
    return groups
