"""Category discovery as an experiment.

`run_discovery` does a `DiscoveryExperiment` on a pool; `evaluate_discovery` scores classes that were found in any other
way. The parts of an experiment are public too: `cut_pool`, `find_classes`, `class_profiles`, `choose_examples` and
`lay_out`.
"""

from __future__ import annotations

from fewshot.evaluation.discovery.experiment import DiscoveryProgress, DiscoveryResult, run_discovery
from fewshot.evaluation.discovery.found import FoundClasses, find_classes
from fewshot.evaluation.discovery.layout import PoolMap, lay_out
from fewshot.evaluation.discovery.named_scores import TrueClass, named_confusion, true_classes
from fewshot.evaluation.discovery.pool import DiscoveryPool, check_class_names, cut_pool, without_classes
from fewshot.evaluation.discovery.profiles import ClassProfile, Examples, choose_examples, class_profiles
from fewshot.evaluation.discovery.scores import DiscoveryScores, evaluate_discovery
from fewshot.evaluation.discovery.settings import DiscoveryExperiment

__all__ = [
    "ClassProfile",
    "DiscoveryExperiment",
    "DiscoveryPool",
    "DiscoveryProgress",
    "DiscoveryResult",
    "DiscoveryScores",
    "Examples",
    "FoundClasses",
    "PoolMap",
    "TrueClass",
    "check_class_names",
    "choose_examples",
    "class_profiles",
    "cut_pool",
    "evaluate_discovery",
    "find_classes",
    "lay_out",
    "named_confusion",
    "run_discovery",
    "true_classes",
    "without_classes",
]
