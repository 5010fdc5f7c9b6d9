"""The result of ``fewshot distill`` as tables and lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from fewshot.distillation.training.state import DistillationTrace, EpochSummary
from fewshot.image_distillation import DistillPlan, DistillResult, FeatureScores

from ..shared.output import BOX
from ..shared.tables import fact_lines
from ..shared.words import counted
from .document import protocol

__all__ = ["distillation_report"]

_N_EPOCHS_SHOWN = 10
_DASH = "–"
_HEALTH = {"feature_spread": "spread", "effective_rank": "rank", "n_used_prototypes": "prototypes used"}
_SCORES = ("k-NN", "linear SVM", "Rank-1", "Rank-5", "mAP")


def distillation_report(plan: DistillPlan, result: DistillResult, out: str, next_command: str) -> list[RenderableType]:
    """Return the losses and the health of the features by epoch, their scores, and how to use them."""
    parts: list[RenderableType] = ["Means over an epoch", _epoch_table(result.trace.epochs(plan.steps_per_epoch))]
    if result.before is not None and result.after is not None:
        parts += ["In %, before and after", _score_table(result.before, result.after)]
    return [*parts, *fact_lines(_facts(plan, result, out, next_command))]


def _epoch_table(epochs: Sequence[EpochSummary]) -> Table:
    table = Table(box=BOX)
    for name in ("epoch", *(name.replace("_", " ") for name in epochs[-1].losses), *_HEALTH.values()):
        table.add_column(name, justify="right")
    for number in _spread_out(len(epochs)):
        losses, health = epochs[number]
        numbers = [_number(value, 3) for value in losses.values()]
        table.add_row(f"{number + 1:,}", *numbers, *(_number(getattr(health, name, None), 2) for name in _HEALTH))
    return table


def _spread_out(n: int) -> Sequence[int]:
    """Return the first, the last, and some numbers evenly between."""
    if n <= _N_EPOCHS_SHOWN:
        return range(n)
    return [round(i * (n - 1) / (_N_EPOCHS_SHOWN - 1)) for i in range(_N_EPOCHS_SHOWN)]


def _number(value: float | None, digits: int) -> str:
    return _DASH if value is None or value != value else f"{value:.{digits}f}"


def _score_table(before: FeatureScores, after: FeatureScores) -> Table:
    table = Table(box=BOX)
    table.add_column("")
    for label in _SCORES:
        table.add_column(label, justify="right")
    for when, scores in (("before", before), ("after", after)):
        means = scores.retrieval.means()
        ranks = (means["rank_1"], means["rank_5"], means["mean_average_precision"])
        table.add_row(when, *(_number(100 * value, 2) for value in (scores.knn.accuracy, scores.svm.accuracy, *ranks)))
    return table


def _facts(plan: DistillPlan, result: DistillResult, out: str, next_command: str) -> Iterator[tuple[str, str]]:
    """Yield labels and sentences."""
    settings, backbone = plan.settings, plan.built.description
    n_images, epochs = len(plan.images.records), counted(settings.epochs, "epoch", "epochs")
    yield "method", f"{settings.method}, {backbone.name} at {backbone.size} pixels from {backbone.init}"
    yield "images", f"{n_images:,}, {epochs} of {settings.batch_size} a step"
    if result.memory_bytes:
        yield "memory", f"queues and memories hold {_bytes(result.memory_bytes)}"
    yield "speed", _speed(result.trace, settings.batch_size)
    if result.after is not None:
        yield "scores", protocol(result.after)
    yield "written", out
    yield "use it", next_command


def _bytes(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB" if number >= 2**20 else f"{number / 2**10:,.1f} KiB"


def _speed(trace: DistillationTrace, batch_size: int) -> str:
    if not trace.n_run:
        return "nothing was left to do"
    rate, share = trace.n_run * batch_size / trace.seconds, 100 * trace.seconds_waiting / trace.seconds
    return f"{rate:,.1f} images a second for {trace.seconds:,.1f} s, {share:.0f} % of them spent waiting for views"
