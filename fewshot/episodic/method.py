"""What a method of an episode is."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from episodes import Episode
from fewshot.em import EMResult

__all__ = ["EMMethod", "Method"]


class Method(Protocol):
    """A callable from an `Episode` to log-probabilities of its queries.

    Any batch shape; one answer per episode, independent of its companions; query labels are never read. Rows of padding
    queries hold nothing of meaning; absent ways get minus infinity.
    """

    is_transductive: ClassVar[bool]

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""

    def describe(self) -> str:
        """Say in one line which settings are used."""


@runtime_checkable
class EMMethod(Protocol):
    """A method that can show the whole outcome of its EM."""

    def solve(self, episode: Episode) -> EMResult:
        """Return responsibilities, last state and warning flags."""
