"""Features from images without labels: a student network learns from its own running average, Mugs and CMD."""

from fewshot.distillation.backbone import TokenBackbone, Tokens
from fewshot.distillation.cmd import CMD, CMDSettings
from fewshot.distillation.distiller import Comparison, Distiller
from fewshot.distillation.mugs import Mugs, MugsSettings
from fewshot.distillation.stream import Stream, ViewBatch
from fewshot.distillation.training.health import Health, measure_health
from fewshot.distillation.training.loop import fit_distillation
from fewshot.distillation.training.monitor import CollapseError, CollapseMonitor, collapse_losses
from fewshot.distillation.training.state import DistillationTrace, StepReport, TrainingSettings, TrainingState
from fewshot.distillation.views.settings import ViewSettings, cmd_views, mugs_views

__all__ = [
    "CMD",
    "CMDSettings",
    "CollapseError",
    "CollapseMonitor",
    "Comparison",
    "DistillationTrace",
    "Distiller",
    "Health",
    "Mugs",
    "MugsSettings",
    "StepReport",
    "Stream",
    "TokenBackbone",
    "Tokens",
    "TrainingSettings",
    "TrainingState",
    "ViewBatch",
    "ViewSettings",
    "cmd_views",
    "collapse_losses",
    "fit_distillation",
    "measure_health",
    "mugs_views",
]
