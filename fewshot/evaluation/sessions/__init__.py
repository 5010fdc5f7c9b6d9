"""Class-incremental sessions as an experiment.

- `run_sessions`: methods on the same draws of sessions of a pool; settings `SessionExperiment`, result
  `SessionComparison`.
- `evaluate_sessions`: one classifier on given draws; result `SessionResults`.
- `draw_sessions`: a picture of a comparison.
- `read_index_files`: published lists of the rows of each session.
"""

from fewshot.evaluation.sessions.draws import SessionSizes, read_index_files
from fewshot.evaluation.sessions.experiment import SessionComparison, SessionExperiment, SessionRun, run_sessions
from fewshot.evaluation.sessions.loop import SessionEstimator, SessionProgress, evaluate_sessions
from fewshot.evaluation.sessions.plot import draw_sessions
from fewshot.evaluation.sessions.results import SessionResults

__all__ = [
    "SessionComparison",
    "SessionEstimator",
    "SessionExperiment",
    "SessionProgress",
    "SessionResults",
    "SessionRun",
    "SessionSizes",
    "draw_sessions",
    "evaluate_sessions",
    "read_index_files",
    "run_sessions",
]
