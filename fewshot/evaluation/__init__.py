"""Experiments as library calls: episodes, UNEM's training, incremental sessions, probes, category discovery.

Each takes a frozen settings object, which holds the defaults of the command of that name, and returns typed results.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.evaluation.discovery import DiscoveryExperiment, DiscoveryResult, evaluate_discovery, run_discovery
    from fewshot.evaluation.episode_experiment import EpisodeExperiment
    from fewshot.evaluation.episode_runs import EpisodeResults, run_episodes
    from fewshot.evaluation.episodes import evaluate_episodes
    from fewshot.evaluation.fitted_methods import FittedMethod, trained_unem
    from fewshot.evaluation.probes import ProbeExperiment, run_probes
    from fewshot.evaluation.sessions import SessionExperiment, evaluate_sessions, run_sessions
    from fewshot.evaluation.training import TrainingExperiment, TrainingResult, run_training

__all__ = [
    "DiscoveryExperiment",
    "DiscoveryResult",
    "EpisodeExperiment",
    "EpisodeResults",
    "FittedMethod",
    "ProbeExperiment",
    "SessionExperiment",
    "TrainingExperiment",
    "TrainingResult",
    "evaluate_discovery",
    "evaluate_episodes",
    "evaluate_sessions",
    "run_discovery",
    "run_episodes",
    "run_probes",
    "run_sessions",
    "run_training",
    "trained_unem",
]

_LAZY = {
    "DiscoveryExperiment": "fewshot.evaluation.discovery",
    "DiscoveryResult": "fewshot.evaluation.discovery",
    "EpisodeExperiment": "fewshot.evaluation.episode_experiment",
    "EpisodeResults": "fewshot.evaluation.episode_runs",
    "FittedMethod": "fewshot.evaluation.fitted_methods",
    "ProbeExperiment": "fewshot.evaluation.probes",
    "SessionExperiment": "fewshot.evaluation.sessions",
    "TrainingExperiment": "fewshot.evaluation.training",
    "TrainingResult": "fewshot.evaluation.training",
    "evaluate_discovery": "fewshot.evaluation.discovery",
    "evaluate_episodes": "fewshot.evaluation.episodes",
    "run_discovery": "fewshot.evaluation.discovery",
    "run_episodes": "fewshot.evaluation.episode_runs",
    "evaluate_sessions": "fewshot.evaluation.sessions",
    "run_probes": "fewshot.evaluation.probes",
    "run_sessions": "fewshot.evaluation.sessions",
    "run_training": "fewshot.evaluation.training",
    "trained_unem": "fewshot.evaluation.fitted_methods",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
