"""DISCOVERY_METHODS: name → category discoverer."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from fewshot.checks import check_choice

if TYPE_CHECKING:
    from fewshot.discovery import CategoryDiscoverer

__all__ = ["DISCOVERY_METHODS", "DiscoveryEntry", "build_discoverer", "discoverer_options"]


class DiscoveryEntry(NamedTuple):
    """A category discoverer that has a name.

    Attributes
    ----------
    class_name : str
        In `fewshot.discovery`.
    summary : str
    reference : str
        A key of the reference list.
    """

    class_name: str
    summary: str
    reference: str


DISCOVERY_METHODS: dict[str, DiscoveryEntry] = {
    "discovery": DiscoveryEntry("CategoryDiscovery", "split and merge; finds the number of classes as it goes", "GPC"),
    "kmeans": DiscoveryEntry("SemiSupervisedKMeans", "k-means that keeps labelled rows in their class", "GCD"),
    "pim": DiscoveryEntry("PIM", "parametric information maximisation", "PIM"),
    "ward": DiscoveryEntry(
        "WardDiscovery", "Ward's hierarchical clustering, cut where it agrees with the labels", "CMS"
    ),
}


def discoverer_options(name: str) -> dict[str, object]:
    """Return the settings of a method, with their defaults.

    Examples
    --------
    >>> discoverer_options("ward")
    {'n_classes': 'auto', 'random_state': 0}
    """
    return {option: parameter.default for option, parameter in inspect.signature(_class(name)).parameters.items()}


def build_discoverer(name: str, **settings: object) -> CategoryDiscoverer:
    """Build a category discoverer by name.

    Parameters
    ----------
    name : str
        Of `DISCOVERY_METHODS`.
    **settings
        Of its class.

    Raises
    ------
    ValueError
        If the name or a setting is not known; the message names the known ones and the nearest.

    Examples
    --------
    >>> build_discoverer("kmeans", n_classes=12)
    SemiSupervisedKMeans(n_classes=12)
    """
    estimator = _class(name)
    known = discoverer_options(name)
    for setting in settings:
        check_choice(f"setting of {name}", setting, known)
    return estimator(**settings)


def _class(name: str) -> type[CategoryDiscoverer]:
    check_choice("method", name, DISCOVERY_METHODS)
    estimator: type[CategoryDiscoverer] = getattr(
        import_module("fewshot.discovery"), DISCOVERY_METHODS[name].class_name
    )
    return estimator
