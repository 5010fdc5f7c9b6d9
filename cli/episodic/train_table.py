"""UNEM's training as a table and lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from fewshot.episodic.unem.model import UNEM
from fewshot.evaluation.training import TrainingResult

from ..shared.output import BOX
from ..shared.tables import fact_lines

__all__ = ["training_report"]

_LEARNED = ("λ/|Q|", "T")


def training_report(result: TrainingResult, facts: Sequence[tuple[str, str]]) -> list[RenderableType]:
    """Return the learned schedule, the course of the training, and facts about its files."""
    return ["Learned schedule", _schedule_table(result.model), *fact_lines([*_facts(result), *facts])]


def _schedule_table(model: UNEM) -> Table:
    table = Table(box=BOX)
    for name in ("layer", *(f"{letter}{_at(n_shot, model)}" for n_shot in model.shots for letter in _LEARNED)):
        table.add_column(name, justify="right")
    pairs = zip(model.class_balance.tolist(), model.temperature.tolist(), strict=True)
    columns = [values for pair in pairs for values in pair]
    for layer, row in enumerate(zip(*columns, strict=True), start=1):
        table.add_row(f"{layer}", *[f"{value:.3f}" for value in row])
    return table


def _at(n_shot: int, model: UNEM) -> str:
    return f" at {n_shot}-shot" if len(model.shots) > 1 else ""


def _facts(result: TrainingResult) -> Iterator[tuple[str, str]]:
    """Yield labels and sentences."""
    model, (loss, accuracy) = result.model, result.trace
    scales = zip(model.scale.tolist(), model.shots, strict=True)
    yield "scale", ", ".join(f"{scale:.3f}{_at(n_shot, model)}" for scale, n_shot in scales)
    yield "loss", f"{loss[0]:.4f} at first, {loss[-1]:.4f} at last"
    yield "accuracy", f"{100 * accuracy[0].item():.2f} % at first, {100 * accuracy[-1].item():.2f} % at last (training)"
    for words in result.protocol.split("; "):
        yield "episodes", words
