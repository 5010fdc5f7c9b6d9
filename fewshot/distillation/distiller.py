"""Interface of a distillation method to the training loop: a student, its teacher, and losses between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewshot.distillation.heads import PrototypeHead
from fewshot.distillation.memory import FifoMemory
from fewshot.distillation.stream import ViewBatch
from fewshot.distillation.teacher import copy_into

__all__ = ["Comparison", "Distiller", "seeded_draws", "view_groups"]


class Comparison(NamedTuple):
    """Student against teacher.

    Attributes
    ----------
    total : Tensor ()
        What is minimised.
    parts : dict of str to Tensor ()
        The losses that it is made of, not weighed; one that does not apply yet is absent.
    log_teacher : Tensor (r, n_prototypes)
        The teacher's assignments of global views, log-probabilities, for the monitor.
    """

    total: Tensor
    parts: dict[str, Tensor]
    log_teacher: Tensor


class Distiller(nn.Module, ABC):
    """A student network, its running average as the teacher, and their memories.

    The teacher stays in evaluation mode and receives no gradient.

    Attributes
    ----------
    student, teacher : nn.Module
        Each has a ``backbone``, a `TokenBackbone`.
    part_names : tuple of str
        Of all losses.
    n_prototypes, n_negatives : int
        What the losses of a collapsed network follow from; 0 negatives where no loss has any.
    student_temperature : float
        Likewise.
    has_idle_weights : bool
        Whether some of the student's weights are of no use at first.
    """

    student: Any
    teacher: Any
    part_names: tuple[str, ...]
    n_prototypes: int
    n_negatives: int = 0
    student_temperature: float
    has_idle_weights: bool = False

    @abstractmethod
    def embed(self, batch: ViewBatch, student: nn.Module) -> Any:
        """Run the teacher, and the student as it is given (it may be wrapped), on a batch."""

    @abstractmethod
    def compare(self, outputs: Any, teacher_temperature: float) -> Comparison:
        """Return the losses of the outputs of `embed`."""

    @abstractmethod
    def remember(self, outputs: Any) -> None:
        """Update memories and centers with the outputs of `embed`, after its losses have been used."""

    @abstractmethod
    def teacher_features(self, outputs: Any) -> Tensor:
        """Return the teacher's embeddings (b, d) of the first global view."""

    def train(self, mode: bool = True) -> Distiller:
        """Set the student's mode; the teacher's stays."""
        super().train(mode)
        self.teacher.eval()
        return self

    def start_teacher(self) -> None:
        """Make the teacher a copy of the student, out of the gradient's reach."""
        copy_into(self.teacher, self.student)
        self.teacher.requires_grad_(False).eval()

    def last_layers(self) -> Iterator[nn.Parameter]:
        """Yield the student's prototypes, which the originals hold fixed in the first epoch."""
        for module in self.student.modules():
            if isinstance(module, PrototypeHead):
                yield from module.last_layer.parameters()

    def memory_bytes(self) -> int:
        """Return the size of queues and memories in bytes."""
        return sum(module.n_bytes for module in self.modules() if isinstance(module, FifoMemory))


def view_groups(batch: ViewBatch) -> list[Tensor]:
    """Return the student's views, those of one size together."""
    return [batch.student] if batch.local is None else [batch.student, batch.local]


@contextmanager
def seeded_draws(seed: int) -> Iterator[None]:
    """Let torch's own draws come from a seed, and restore its generators after."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
