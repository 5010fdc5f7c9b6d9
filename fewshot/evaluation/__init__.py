"""Experiments as library calls: episodes, incremental sessions, category discovery.

Each takes a frozen settings object, which holds the defaults of the command of that name, and returns typed results.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.evaluation.discovery import DiscoveryExperiment, DiscoveryResult, evaluate_discovery, run_discovery

__all__ = ["DiscoveryExperiment", "DiscoveryResult", "evaluate_discovery", "run_discovery"]

_LAZY = {
    "DiscoveryExperiment": "fewshot.evaluation.discovery",
    "DiscoveryResult": "fewshot.evaluation.discovery",
    "evaluate_discovery": "fewshot.evaluation.discovery",
    "run_discovery": "fewshot.evaluation.discovery",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
