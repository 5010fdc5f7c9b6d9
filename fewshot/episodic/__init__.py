"""Methods of one episode: callables from an `Episode` to the log-probabilities of its queries.

One name a method, all of them in `fewshot.registry.METHODS` under the names of the command line:

- on prototypes: `NearestPrototype`, `SimpleShot`, `BDCSPN`, `LaplacianShot`, `PTMAP`;
- trained heads: `LogisticHead`, `CosineHead`, `TransductiveFineTuning`, `TimADM`, `TimGD`, `AlphaTim`;
- generalized EM: `Paddle`, `EMGaussian`, `EMDirichlet`, `UNEM` and `UNEMAdaptive`, whose schedules `fit_unem`,
  `fit_schedules` and `fit_gate` learn;
- image-text cosines: `TipAdapter`, `TransClip`;
- `Method`: the protocol that all of them follow. `answer_queries`: one call for queries of any number.

Their engines are in `fewshot.episodic.solvers`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.episodic.alpha_tim import AlphaTim
    from fewshot.episodic.bd_cspn import BDCSPN
    from fewshot.episodic.em_dirichlet import EMDirichlet
    from fewshot.episodic.em_gaussian import EMGaussian
    from fewshot.episodic.laplacian_shot import LaplacianShot
    from fewshot.episodic.linear_head import CosineHead, LogisticHead
    from fewshot.episodic.method import Method
    from fewshot.episodic.nearest_prototype import NearestPrototype
    from fewshot.episodic.paddle import Paddle
    from fewshot.episodic.pt_map import PTMAP
    from fewshot.episodic.query_set import answer_queries
    from fewshot.episodic.simple_shot import SimpleShot
    from fewshot.episodic.tim import TimADM, TimGD
    from fewshot.episodic.tip_adapter import TipAdapter
    from fewshot.episodic.transclip import TransClip
    from fewshot.episodic.transductive_fine_tuning import TransductiveFineTuning
    from fewshot.episodic.unem.adaptive import UNEMAdaptive
    from fewshot.episodic.unem.adaptive_training import fit_gate, fit_schedules
    from fewshot.episodic.unem.model import UNEM
    from fewshot.episodic.unem.training import fit_unem

__all__ = [
    "BDCSPN",
    "PTMAP",
    "UNEM",
    "AlphaTim",
    "CosineHead",
    "EMDirichlet",
    "EMGaussian",
    "LaplacianShot",
    "LogisticHead",
    "Method",
    "NearestPrototype",
    "Paddle",
    "SimpleShot",
    "TimADM",
    "TimGD",
    "TipAdapter",
    "TransClip",
    "TransductiveFineTuning",
    "UNEMAdaptive",
    "answer_queries",
    "fit_gate",
    "fit_schedules",
    "fit_unem",
]

_LAZY = {
    "AlphaTim": "alpha_tim",
    "BDCSPN": "bd_cspn",
    "CosineHead": "linear_head",
    "EMDirichlet": "em_dirichlet",
    "EMGaussian": "em_gaussian",
    "LaplacianShot": "laplacian_shot",
    "LogisticHead": "linear_head",
    "Method": "method",
    "NearestPrototype": "nearest_prototype",
    "PTMAP": "pt_map",
    "Paddle": "paddle",
    "SimpleShot": "simple_shot",
    "TimADM": "tim",
    "TimGD": "tim",
    "TipAdapter": "tip_adapter",
    "TransClip": "transclip",
    "TransductiveFineTuning": "transductive_fine_tuning",
    "UNEM": "unem.model",
    "UNEMAdaptive": "unem.adaptive",
    "answer_queries": "query_set",
    "fit_gate": "unem.adaptive_training",
    "fit_schedules": "unem.adaptive_training",
    "fit_unem": "unem.training",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"fewshot.episodic.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'fewshot.episodic' has no attribute {name!r}")
