"""The bars of ``fewshot distill``: scores before, training, scores after."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

from fewshot.distillation.training.state import StepReport
from fewshot.image_distillation import DistillReport

from ..shared import output

__all__ = ["Bars"]


class Bars:
    """One bar a stage; after a step it shows losses, the features' health when last measured, and speed."""

    def __init__(self, batch_size: int, *, is_quiet: bool) -> None:
        self._batch_size, self._is_quiet = batch_size, is_quiet
        self._open = ExitStack()
        self._bar: output.Progress | None = None
        self._stage, self._health, self._n_steps, self._start = "", "", 0, 0.0

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def __call__(self, report: DistillReport) -> None:
        """Show a report."""
        if self._bar is None or report.stage != self._stage:
            self._bar = self._begun(report)
        self._bar.update(report.n_done, "" if report.step is None else self._words(report.step))

    def _begun(self, report: DistillReport) -> output.Progress:
        self._open.close()
        self._stage, self._start = report.stage, time.perf_counter()
        unit = "steps" if report.stage == "training" else "images"
        bar = self._open.enter_context(output.Progress(unit, is_quiet=self._is_quiet))
        bar.start(report.stage, report.n_todo)
        return bar

    def _words(self, step: StepReport) -> str:
        self._n_steps += 1
        if step.health is not None:
            self._health = f"; spread {step.health.feature_spread:.2f}, rank {step.health.effective_rank:.1f}"
        parts = ", ".join(f"{name} {value:.2f}" for name, value in step.losses.items() if name != "total")
        speed = self._n_steps * self._batch_size / (time.perf_counter() - self._start)
        return f"loss {step.losses['total']:.3f} ({parts}){self._health}; {speed:,.0f} images/s"
