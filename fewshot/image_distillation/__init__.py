"""Self-supervised distillation on a folder of images: settings, plan and run; backbones, streams of views, checkpoints.

`distill` does all of it; `plan` and `DistillRun` are its two halves. The method alone, on any stream of views, is
`fewshot.distillation`.
"""

from fewshot.image_distillation.backbones import BackboneBuilt, build_backbone, image_extractor, save_distilled
from fewshot.image_distillation.planning import DistillPlan, plan
from fewshot.image_distillation.running import DistillReport, DistillResult, DistillRun, distill
from fewshot.image_distillation.scores import FeatureScores, score_features
from fewshot.image_distillation.settings import DistillSettings
from fewshot.image_distillation.stream import ImageStream

__all__ = [
    "BackboneBuilt",
    "DistillPlan",
    "DistillReport",
    "DistillResult",
    "DistillRun",
    "DistillSettings",
    "FeatureScores",
    "ImageStream",
    "build_backbone",
    "distill",
    "image_extractor",
    "plan",
    "save_distilled",
    "score_features",
]
