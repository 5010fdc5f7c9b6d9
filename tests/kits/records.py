"""Records of results."""

from __future__ import annotations

from typing import Any

from fewshot.evaluation.reports import Record
from fewshot.metrics.comparison import Standing


def make_record(name: str, method: str, n_shot: int, accuracy: float, **settings: Any) -> Record:
    """Return a record as it comes out of `joined`."""
    facts: dict[str, Any] = {
        "features": name, "feature_set": name, "label": method, "method": method, "settings": "",
        "is_transductive": False, "n_way": 5, "n_shot": n_shot, "query_distribution": "balanced", "n_effective_way": 5,
        "n_query": 15, "n_query_total": None, "dirichlet_concentration": None, "is_disjoint": True,
        "protocol": f"{n_shot}-shot", "accuracy": accuracy, "half_width": 0.004, "n_episodes": 100, "n_queries": 7500,
        "n_leaked": 0, "n_leaking_episodes": 0, "episode_hash": "0", "seconds": 1.0, "command_line": "", "versions": {},
        "file": "f", "n_rows": 9, "n_features": 2, "n_classes": 5, "class_digest": "0",
        "behind_best": Standing(0.0, 0.0, is_paired=True),
    }  # fmt: skip
    return Record(**facts | settings)
