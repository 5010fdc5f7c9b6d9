"""Tables of methods by name, and building a method from ``name:option=value,option=value``.

- ``METHODS``, ``build_method``: methods of an episode.
- ``INCREMENTAL_METHODS``, ``build_classifier``: classifiers that gain classes.
- ``Entry``: a row of these tables. A method's code is imported when the method is built.
"""

from fewshot.registry.entry import Entry
from fewshot.registry.episodic import METHODS, build_method
from fewshot.registry.incremental import INCREMENTAL_METHODS, build_classifier

__all__ = ["INCREMENTAL_METHODS", "METHODS", "Entry", "build_classifier", "build_method"]
