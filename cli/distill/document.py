"""The JSON document of ``fewshot distill``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewshot.distillation.training.health import Health
from fewshot.distillation.training.state import EpochSummary
from fewshot.image_distillation import DistillPlan, DistillResult, FeatureScores

from ..shared.words import counted

__all__ = ["distillation_document", "protocol"]

_N_SHOWN = 5


def distillation_document(
    words: dict[str, Any], plan: DistillPlan, result: DistillResult, out: str, next_command: str
) -> dict[str, Any]:
    """Return the document, less its head; its warnings name the images that could not be read."""
    trace, before, after = result.trace, result.before, result.after
    return {
        "settings": words,
        "run": {
            **plan.identity(),
            "preprocess": plan.built.preprocess.spec(),
            "n_steps": plan.n_steps,
            "n_steps_before": plan.n_steps - trace.n_run,
            "n_processes": result.n_processes,
            "memory_bytes": result.memory_bytes,
        },
        "epochs": [_epoch(number, epoch) for number, epoch in enumerate(trace.epochs(plan.steps_per_epoch), start=1)],
        "seconds": trace.seconds,
        "images_per_second": trace.n_run * plan.settings.batch_size / trace.seconds if trace.n_run else None,
        "seconds_waiting": trace.seconds_waiting,
        "scores": None if before is None or after is None else {"before": before.to_rows(), "after": after.to_rows()},
        "protocol": None if after is None else protocol(after),
        "failures": result.failures,
        "out": out,
        "next_command": next_command,
        "warnings": _failure_warnings(result.failures),
    }


def protocol(scores: FeatureScores) -> str:
    """Describe the scored images in one sentence."""
    unread = f"; {counted(scores.n_unreadable, 'image', 'images')} that cannot be read left out"
    return (
        f"{scores.n_test:,} test images against {scores.n_train:,} with labels, {scores.n_classes:,} classes; "
        f"k = {scores.k}; retrieval of each test image among the others{unread if scores.n_unreadable else ''}"
    )


def _epoch(number: int, epoch: EpochSummary) -> dict[str, float | None]:
    health = dict.fromkeys(Health._fields) if epoch.health is None else epoch.health._asdict()
    return {"epoch": number, **epoch.losses, **health}


def _failure_warnings(failures: Mapping[str, str]) -> list[str]:
    if not failures:
        return []
    named = "; ".join(f"{name} ({text})" for name, text in list(failures.items())[:_N_SHOWN])
    more = f" and {len(failures) - _N_SHOWN:,} more" if len(failures) > _N_SHOWN else ""
    return [f"{counted(len(failures), 'image', 'images')} could not be read, others took their place: {named}{more}"]
