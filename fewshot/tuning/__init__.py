"""Choice of a method's options on validation classes: the experiment, its search, grids of values, and files.

`run_tuning` does the whole of it from a `TuningExperiment`; `tuned_method` reads what `save_tuned` wrote as a method
that `fewshot.evaluation.run_episodes` takes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.tuning.experiment import TuningExperiment, TuningResult, run_tuning
    from fewshot.tuning.files import load_tuned, save_tuned, tuned_method
    from fewshot.tuning.grids import default_grid, tuning_candidates
    from fewshot.tuning.search import tune

__all__ = [
    "TuningExperiment",
    "TuningResult",
    "default_grid",
    "load_tuned",
    "run_tuning",
    "save_tuned",
    "tune",
    "tuned_method",
    "tuning_candidates",
]

_LAZY = {
    "TuningExperiment": "experiment",
    "TuningResult": "experiment",
    "default_grid": "grids",
    "load_tuned": "files",
    "run_tuning": "experiment",
    "save_tuned": "files",
    "tune": "search",
    "tuned_method": "files",
    "tuning_candidates": "grids",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
