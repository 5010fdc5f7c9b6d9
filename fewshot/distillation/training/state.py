"""Settings, reports, trace and state of a distillation's training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from fewshot.checks import check_choice, check_non_negative, check_positive
from fewshot.distillation.training.health import Health

__all__ = [
    "PRECISIONS",
    "DistillationTrace",
    "EpochSummary",
    "Progress",
    "StepReport",
    "TrainingSettings",
    "TrainingState",
]

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a student is trained; everything but the method's own numbers.

    Parameters
    ----------
    learning_rate, min_learning_rate : float
        Peak and end of a cosine. Default 5e-4 and 1e-6. The authors scale the peak by batch / 256: 5e-4 (CMD), 8e-4
        (Mugs) per 256 images.
    n_warmup_steps : int
        Steps of linear growth from 0. Default 100; the authors: 10 epochs.
    weight_decay : pair of floats
        From and to, by a cosine; none on biases and norms. Default (0.04, 0.4), as DINO and CMD; Mugs ends at 0.1 or
        0.2.
    patch_rate : float
        Factor on the learning rate of the patch embedding. Default 1; Mugs: 0.2.
    momentum : pair of floats
        Of the teacher, from and to, by a half cosine. Default (0.99, 1), for small data; the authors: (0.996, 1).
    teacher_temperature : pair of floats
        From and to, linearly over ``n_temperature_steps``. Default 0.04 throughout; the authors: 0.04 to 0.07 in 30
        epochs, but for short runs.
    n_temperature_steps : int
        Default 0: the second temperature from the start.
    clip : float
        Largest norm of the gradient of each parameter tensor. Default 3, as the authors.
    n_frozen_steps : int
        First steps in which prototypes are not trained. Default 0; the authors: one epoch.
    precision : str
        Of the networks: ``float32``, or ``bfloat16`` by autocast; losses are float32 in any case.
    health_every : int
        Steps between two looks at the features. Default 10.

    Raises
    ------
    ValueError
        If a number is out of range or the precision unknown.
    """

    learning_rate: float = 5e-4
    min_learning_rate: float = 1e-6
    n_warmup_steps: int = 100
    weight_decay: tuple[float, float] = (0.04, 0.4)
    patch_rate: float = 1.0
    momentum: tuple[float, float] = (0.99, 1.0)
    teacher_temperature: tuple[float, float] = (0.04, 0.04)
    n_temperature_steps: int = 0
    clip: float = 3.0
    n_frozen_steps: int = 0
    precision: str = "float32"
    health_every: int = 10

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        for name in ("learning_rate", "clip", "health_every", "patch_rate"):
            check_positive(name, getattr(self, name))
        for name in ("min_learning_rate", "n_warmup_steps", "n_temperature_steps", "n_frozen_steps"):
            check_non_negative(name, getattr(self, name))
        if not all(0 <= share <= 1 for share in self.momentum):
            raise ValueError(f"momentum must lie in [0, 1], got {self.momentum}")
        is_positive = all(temperature > 0 for temperature in self.teacher_temperature)
        if not is_positive or not all(decay >= 0 for decay in self.weight_decay):
            raise ValueError(
                "teacher_temperature must be positive and weight_decay not negative, got "
                f"{self.teacher_temperature} and {self.weight_decay}"
            )


class StepReport(NamedTuple):
    """Progress of a training after a step.

    Attributes
    ----------
    step, n_steps : int
        Steps done, of how many.
    losses : dict of str to float
        Before the step: ``total`` and its parts, those that apply.
    health : Health or None
        Of the teacher's features, every few steps.
    learning_rate : float
    """

    step: int
    n_steps: int
    losses: dict[str, float]
    health: Health | None
    learning_rate: float


class EpochSummary(NamedTuple):
    """Mean losses of an epoch, by name, and the health of the features when it was last measured in it."""

    losses: dict[str, float]
    health: Health | None


class DistillationTrace(NamedTuple):
    """Losses and health of the features over a training.

    Attributes
    ----------
    names : tuple of str
        ``total`` and the method's losses.
    losses : Tensor (n_steps, n_names), float64
        Before each step, over all processes; NaN where a loss does not apply yet.
    health_steps : Tensor (n_looks,), int64
    health : Tensor (n_looks, n_figures), float64
        The fields of `Health` at these steps.
    n_run : int
        Steps that this call took; those of a run that was resumed come on top.
    seconds, seconds_waiting : float
        Of this call: wall clock, and the part of it spent waiting for the stream.
    """

    names: tuple[str, ...]
    losses: Tensor
    health_steps: Tensor
    health: Tensor
    n_run: int
    seconds: float
    seconds_waiting: float

    def epochs(self, steps_per_epoch: int) -> list[EpochSummary]:
        """Summarise each epoch; a loss that never applied in it is NaN.

        Examples
        --------
        >>> import torch
        >>> losses = torch.tensor([[1.0], [3.0], [5.0]], dtype=torch.float64)
        >>> trace = DistillationTrace(("total",), losses, torch.empty(0), torch.empty(0, 5), 3, 1.0, 0.0)
        >>> trace.epochs(2)
        [EpochSummary(losses={'total': 2.0}, health=None), EpochSummary(losses={'total': 5.0}, health=None)]
        """
        return [self._epoch(i, steps_per_epoch) for i in range(-(-len(self.losses) // steps_per_epoch))]

    def _epoch(self, epoch: int, n_steps: int) -> EpochSummary:
        means = self.losses[epoch * n_steps : (epoch + 1) * n_steps].nanmean(0).tolist()
        measured = self.health[self.health_steps // n_steps == epoch]
        health = Health(*measured[-1].tolist()) if len(measured) else None
        return EpochSummary(dict(zip(self.names, means, strict=True)), health)


class TrainingState(NamedTuple):
    """Everything from which a stopped run is resumed as if it had not been stopped.

    Attributes
    ----------
    step : int
        Steps done.
    tensors : dict of str to Tensor
        Weights of both networks, memories, centers, the optimiser's moments, the trace.
    metadata : dict
        JSON-serialisable: the number of steps, the seed, the monitor's counts.
    """

    step: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


# Called after each step.
Progress: TypeAlias = Callable[[StepReport], object]
