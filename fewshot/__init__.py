"""Learning from few labels on top of frozen features.

A few labelled items per class, many queries, answered together:

>>> import torch, fewshot
>>> support, query = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.1, 0.8], [0.9, 0.2], [0.2, 1.1]])
>>> episode = fewshot.Episode(support=support, support_labels=torch.tensor([0, 1]), query=query,
...                           class_ids=torch.tensor([0, 1]))
>>> fewshot.UNEM.from_preset()(episode).argmax(-1).tolist()
[0, 1, 0]

A new class of two items beside well-known ones:

>>> base, new = torch.tensor([[4.0, 0.0, 1.0], [0.0, 3.0, 1.0]]), torch.tensor([[1.0, 1.5, 3.0]])
>>> from fewshot.incremental import calibrate_prototypes
>>> calibrate_prototypes(base, new, softmax_scale=16.0, shift_weight=0.5).shape
torch.Size([1, 3])

A pool of which some rows are labelled, and the rest are of these classes and of others:

>>> rows = 9 * torch.eye(6)[torch.arange(240) % 6] + torch.randn((240, 6), generator=torch.Generator().manual_seed(0))
>>> labels = [["ant", "bee", "wasp"][i % 6] if i % 6 < 3 and i < 120 else -1 for i in range(240)]
>>> fewshot.CategoryDiscovery().fit(rows, labels).classes_.tolist()
['ant', 'bee', 'wasp', 'new-01', 'new-02', 'new-03']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot_episodes import (
        DiscoverySplit as DiscoverySplit,
        Episode,
        EpisodeIndex as EpisodeIndex,
        EpisodeSampler,
        MetaDatasetSampler,
        Session as Session,
        discovery_split as discovery_split,
        incremental_sessions as incremental_sessions,
    )
    from fewshot.episodic.em_dirichlet import EMDirichlet as EMDirichlet
    from fewshot.episodic.em_gaussian import EMGaussian as EMGaussian
    from fewshot.episodic.nearest_prototype import NearestPrototype as NearestPrototype
    from fewshot.episodic.paddle import Paddle as Paddle
    from fewshot.episodic.simple_shot import SimpleShot as SimpleShot
    from fewshot.episodic.unem.adaptive import UNEMAdaptive
    from fewshot.episodic.unem.model import UNEM
    from fewshot.episodic.unem.training import fit_unem
    from fewshot.evaluation.episodes import evaluate_episodes
    from fewshot.registry.episodic import METHODS, build_method
    from fewshot.registry.incremental import INCREMENTAL_METHODS, build_classifier

    from fewshot.discovery import (
        PIM as PIM,
        CategoryDiscovery,
        SemiSupervisedGaussianMixture,
        SemiSupervisedKMeans as SemiSupervisedKMeans,
        WardDiscovery as WardDiscovery,
    )
    from fewshot.discovery.n_classes import estimate_n_classes
    from fewshot.distillation import CMD, Mugs, fit_distillation
    from fewshot.evaluation.discovery import evaluate_discovery
    from fewshot.evaluation.sessions import evaluate_sessions
    from fewshot.features import FeatureSet, load_features
    from fewshot.few_shot_classifier import FewShotClassifier
    from fewshot.incremental import (
        TEEN,
        DistributionCalibration as DistributionCalibration,
        FeCAM as FeCAM,
        NearestClassMean,
        RanPAC as RanPAC,
        RecursiveRidge as RecursiveRidge,
        StreamingLDA as StreamingLDA,
    )
    from fewshot.models import (
        load_classifier,
        load_discoverer,
        load_unem,
        save_classifier,
        save_discoverer,
        save_unem,
    )
    from fewshot.shipped import adaptive_unem
    from fewshot.tuning.files import load_tuned, save_tuned
    from fewshot.tuning.grids import tuning_candidates
    from fewshot.tuning.search import tune

__version__ = "0.2.0"

# The doors. Other methods and estimators are here under their names too, and listed in their packages.
__all__ = [
    "CMD",
    "INCREMENTAL_METHODS",
    "METHODS",
    "TEEN",
    "UNEM",
    "CategoryDiscovery",
    "Episode",
    "EpisodeSampler",
    "FeatureSet",
    "FewShotClassifier",
    "MetaDatasetSampler",
    "Mugs",
    "NearestClassMean",
    "SemiSupervisedGaussianMixture",
    "UNEMAdaptive",
    "adaptive_unem",
    "build_classifier",
    "build_method",
    "estimate_n_classes",
    "evaluate_discovery",
    "evaluate_episodes",
    "evaluate_sessions",
    "fit_distillation",
    "fit_unem",
    "load_classifier",
    "load_discoverer",
    "load_features",
    "load_tuned",
    "load_unem",
    "save_classifier",
    "save_discoverer",
    "save_tuned",
    "save_unem",
    "tune",
    "tuning_candidates",
]

# Each name loads on first use: `import fewshot` takes milliseconds, and a command imports no more than it needs.
_LAZY = {
    "DiscoverySplit": "fewshot_episodes",
    "EMDirichlet": "fewshot.episodic.em_dirichlet",
    "EMGaussian": "fewshot.episodic.em_gaussian",
    "Episode": "fewshot_episodes",
    "EpisodeIndex": "fewshot_episodes",
    "EpisodeSampler": "fewshot_episodes",
    "INCREMENTAL_METHODS": "fewshot.registry.incremental",
    "METHODS": "fewshot.registry.episodic",
    "MetaDatasetSampler": "fewshot_episodes",
    "NearestPrototype": "fewshot.episodic.nearest_prototype",
    "Paddle": "fewshot.episodic.paddle",
    "Session": "fewshot_episodes",
    "SimpleShot": "fewshot.episodic.simple_shot",
    "UNEM": "fewshot.episodic.unem.model",
    "UNEMAdaptive": "fewshot.episodic.unem.adaptive",
    "build_classifier": "fewshot.registry.incremental",
    "build_method": "fewshot.registry.episodic",
    "discovery_split": "fewshot_episodes",
    "evaluate_episodes": "fewshot.evaluation.episodes",
    "fit_unem": "fewshot.episodic.unem.training",
    "incremental_sessions": "fewshot_episodes",
    "adaptive_unem": "fewshot.shipped",
    "CMD": "fewshot.distillation",
    "CategoryDiscovery": "fewshot.discovery",
    "DistributionCalibration": "fewshot.incremental",
    "FeCAM": "fewshot.incremental",
    "FeatureSet": "fewshot.features",
    "FewShotClassifier": "fewshot.few_shot_classifier",
    "Mugs": "fewshot.distillation",
    "NearestClassMean": "fewshot.incremental",
    "PIM": "fewshot.discovery",
    "RanPAC": "fewshot.incremental",
    "RecursiveRidge": "fewshot.incremental",
    "SemiSupervisedGaussianMixture": "fewshot.discovery",
    "SemiSupervisedKMeans": "fewshot.discovery",
    "StreamingLDA": "fewshot.incremental",
    "TEEN": "fewshot.incremental",
    "WardDiscovery": "fewshot.discovery",
    "estimate_n_classes": "fewshot.discovery.n_classes",
    "evaluate_discovery": "fewshot.evaluation.discovery",
    "evaluate_sessions": "fewshot.evaluation.sessions",
    "fit_distillation": "fewshot.distillation",
    "load_classifier": "fewshot.models",
    "load_discoverer": "fewshot.models",
    "load_features": "fewshot.features",
    "load_tuned": "fewshot.tuning.files",
    "load_unem": "fewshot.models",
    "save_classifier": "fewshot.models",
    "save_discoverer": "fewshot.models",
    "save_tuned": "fewshot.tuning.files",
    "save_unem": "fewshot.models",
    "tune": "fewshot.tuning.search",
    "tuning_candidates": "fewshot.tuning.grids",
}


# The modules of names that have left `fewshot` itself; `fewshot.NAME` goes on working for one version, with a warning.
_MOVED = {
    "EMResult": "fewshot.em",
    "calibrate_prototypes": "fewshot.incremental",
    "e_step": "fewshot.em",
    "effective_variance": "fewshot.likelihoods",
    "fit_base_prior": "fewshot.incremental",
    "fit_dirichlet": "fewshot.likelihoods",
    "gaussian_likelihood": "fewshot.likelihoods",
    "objective": "fewshot.em",
    "posterior_prototypes": "fewshot.incremental",
    "proportions": "fewshot.em",
    "run_em": "fewshot.em",
}


if not TYPE_CHECKING:  # type checkers see the imports above; with this, any name at all would pass them

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        if name in _MOVED:
            from fewshot.checks import warn_deprecated

            warn_deprecated(f"fewshot.{name}", f"{_MOVED[name]}.{name}")
            return getattr(import_module(_MOVED[name]), name)
        raise AttributeError(f"module 'fewshot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
