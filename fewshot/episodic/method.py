"""Protocol of a method of an episode."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from fewshot_episodes import Episode
from torch import Tensor

from fewshot.em import EMResult

__all__ = ["EMMethod", "Method", "check_class_columns", "n_class_columns"]


class Method(Protocol):
    """A callable from an `Episode` to log-probabilities of its queries.

    Any batch shape; one answer per episode, independent of its companions; query labels are never read. Rows of padding
    queries hold nothing of meaning; absent ways get minus infinity.
    """

    is_transductive: ClassVar[bool]

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""

    def describe(self) -> str:
        """Describe the settings in one line."""


@runtime_checkable
class EMMethod(Protocol):
    """A method that can show the whole outcome of its EM."""

    def solve(self, episode: Episode) -> EMResult:
        """Return responsibilities, last state and warning flags."""


def n_class_columns(method: Method, n_features: int) -> int:
    """Return how many of the first of ``n_features`` columns are a class's each, found by its number; mostly none."""
    if getattr(method, "inputs", "embeddings") == "cosines":
        return n_features
    n_cosines: int = getattr(method, "n_cosines", 0)
    return n_cosines


def check_class_columns(method: Method, n_features: int, n_classes: int) -> None:
    """Check that a method that finds a class's column by its number has one for each class, and no other.

    Parameters
    ----------
    method : Method
    n_features : int
        Columns of the features.
    n_classes : int
        Classes of the pool.

    Raises
    ------
    ValueError
        If the numbers differ: the columns may then be those of other classes.

    Examples
    --------
    >>> from fewshot.episodic.em_dirichlet import EMDirichlet
    >>> check_class_columns(EMDirichlet(), 640, 5), check_class_columns(EMDirichlet("cosines"), 5, 5)
    (None, None)
    """
    n_columns = n_class_columns(method, n_features)
    if n_columns not in (0, n_classes):
        raise ValueError(
            f"the method takes {n_columns:,} columns as image-text cosines, one for each class in order, and there are "
            f"{n_classes:,} classes: give features whose rows and columns are of the same classes"
        )
