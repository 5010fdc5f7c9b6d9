"""The settings of a discovery experiment."""

from __future__ import annotations

from dataclasses import dataclass

from fewshot.checks import SettingError, check_choice
from fewshot.registry.discovery import DISCOVERY_METHODS, discoverer_options

__all__ = ["AUTO", "RANDOM", "DiscoveryExperiment"]

AUTO = "auto"
RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryExperiment:
    """The settings of `run_discovery`.

    Parameters
    ----------
    method : str
        A name of `fewshot.registry.discovery.DISCOVERY_METHODS`.
    n_classes : int or str
        Classes in all, the known ones included; "auto": found from the rows, never from labels that were held out.
    power : float or str
        Weight of one row in the evidence of method "discovery", in (0, 1]; larger values find more classes. "auto": the
        value at which held-out known classes are each found exactly once.
    unlabelled : tuple of str
        Classes whose rows count as unlabelled, such as the folder of unsorted images.
    n_known : int, optional
        To test on a labelled pool: only its first ``n_known`` classes are known, or as many drawn at random. Default:
        the labels are used as they are.
    known_classes : tuple of str, or "random", optional
        To test: the names of the known classes; "random": ``n_known`` of them are drawn.
    labelled_fraction : float
        To test: the share of the known classes' rows that keep their labels, in (0, 1]. Default 0.5, the protocol's.
    n_examples : int
        Typical rows to choose of each class; fewer of many classes.
    n_map_rows : int
        Rows that t-SNE places on the map, the others are placed beside these; 0: no map.
    seed : int
        Decides every draw.

    Raises
    ------
    SettingError
        If a setting is out of range, or two contradict each other.
    """

    method: str = "discovery"
    n_classes: int | str = AUTO
    power: float | str = AUTO
    unlabelled: tuple[str, ...] = ()
    n_known: int | None = None
    known_classes: tuple[str, ...] | str | None = None
    labelled_fraction: float = 0.5
    n_examples: int = 8
    n_map_rows: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, DISCOVERY_METHODS)
        self._check_method_settings()
        self._check_test_settings()
        if self.n_examples < 1 or self.n_map_rows < 0:
            counts = (self.n_examples, self.n_map_rows)
            raise SettingError("{n_examples} must be positive and {n_map_rows} not negative, got {0} and {1}", *counts)

    def _check_method_settings(self) -> None:
        if not isinstance(self.n_classes, str) and self.n_classes < 1:
            raise SettingError("{n_classes} must be at least 1, or auto, got {0}", self.n_classes)
        if self.power == AUTO:
            return
        if isinstance(self.power, str) or not 0 < self.power <= 1:
            raise SettingError("{power} must lie in (0, 1], or be auto, got {0!r}", self.power)
        if "power" not in discoverer_options(self.method):
            raise SettingError("{power} is no setting of the method {0}", self.method)

    def _check_test_settings(self) -> None:
        if isinstance(self.known_classes, str) and self.known_classes != RANDOM:
            raise SettingError("{known_classes} must be a tuple of names or random, got {0!r}", self.known_classes)
        if self.known_classes == RANDOM and self.n_known is None:
            raise SettingError("{known_classes} random needs {n_known}, how many to draw")
        if self.known_classes not in (None, RANDOM) and self.n_known is not None:
            raise SettingError("give {n_known} or the {known_classes} themselves, not both")
        if not 0 < self.labelled_fraction <= 1:
            raise SettingError("{labelled_fraction} must lie in (0, 1], got {0}", self.labelled_fraction)
