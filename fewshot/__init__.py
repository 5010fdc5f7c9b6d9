"""Learning from few labels on top of frozen features.

A few labelled items per class, many queries, answered together:

>>> import torch, fewshot
>>> support, query = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.1, 0.8], [0.9, 0.2], [0.2, 1.1]])
>>> episode = fewshot.Episode(support=support, support_labels=torch.tensor([0, 1]), query=query,
...                           class_ids=torch.tensor([0, 1]))
>>> fewshot.UNEM.from_preset()(episode).argmax(-1).tolist()
[0, 1, 0]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from episodes import Episode, EpisodeIndex, EpisodeSampler, MetaDatasetSampler
from fewshot.dirichlet import fit_dirichlet
from fewshot.em import EMResult, e_step, objective, proportions, run_em
from fewshot.episodic.em_dirichlet import EMDirichlet
from fewshot.episodic.em_gaussian import EMGaussian
from fewshot.episodic.nearest_prototype import NearestPrototype
from fewshot.episodic.paddle import Paddle
from fewshot.episodic.simple_shot import SimpleShot
from fewshot.episodic.unem import UNEM
from fewshot.episodic.unem_training import fit_unem
from fewshot.evaluation import evaluate_episodes
from fewshot.gaussian import effective_variance, gaussian_likelihood
from fewshot.registry import METHODS, build_method

if TYPE_CHECKING:
    from fewshot.features import FeatureSet, load_features
    from fewshot.models import load_unem, save_unem

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "UNEM",
    "EMDirichlet",
    "EMGaussian",
    "EMResult",
    "Episode",
    "EpisodeIndex",
    "EpisodeSampler",
    "FeatureSet",
    "MetaDatasetSampler",
    "NearestPrototype",
    "Paddle",
    "SimpleShot",
    "build_method",
    "e_step",
    "effective_variance",
    "evaluate_episodes",
    "fit_dirichlet",
    "fit_unem",
    "gaussian_likelihood",
    "load_features",
    "load_unem",
    "objective",
    "proportions",
    "run_em",
    "save_unem",
]

# What touches files loads on first use.
_LAZY = {
    "FeatureSet": "fewshot.features",
    "load_features": "fewshot.features",
    "load_unem": "fewshot.models",
    "save_unem": "fewshot.models",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fewshot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
