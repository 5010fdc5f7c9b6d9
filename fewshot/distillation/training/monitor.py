"""Collapse detection: the losses of collapsed networks in closed form, and a monitor that stops a collapsed run.

A network has collapsed when it maps all images to one output; its losses may look good then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fewshot.checks import check_positive
from fewshot.distillation.training.health import Health

__all__ = [
    "CollapseError",
    "CollapseLosses",
    "CollapseMonitor",
    "ContrastLosses",
    "collapse_losses",
    "contrast_losses",
]

# A loss this close to that of a collapsed network counts as one, in nats.
_LOSS_TOLERANCE = 1e-3
# A figure of the features is too low under a quarter of its first value, but not over the second number here, which a
# trained network passes by far, and in any case under the first.
_SHARE_OF_FIRST = 0.25
_SPREAD_LIMITS = (1e-3, 0.05)
_DIVERGENCE_LIMITS = (1e-6, 1e-3)
_RANK_LIMITS = (0.0, math.inf)
_CLUSTERING_LOSSES = ("group", "image")


class CollapseError(RuntimeError):
    """Collapse of a run: the message gives the observation and the setting to change."""


class CollapseLosses(NamedTuple):
    """Clustering losses of collapsed networks, in nats.

    Attributes
    ----------
    uniform : float
        Every image belongs to all prototypes alike.
    one_hot : float
        Every image belongs to one and the same prototype.
    one_hot_centered : float
        The same of the student, when the center has followed, so that the teacher is uniform.
    """

    uniform: float
    one_hot: float
    one_hot_centered: float


class ContrastLosses(NamedTuple):
    """InfoNCE with a queue, in nats.

    Attributes
    ----------
    collapsed : float
        All rows are the same.
    floor : float
        What is to be expected at best: both views the same, the negatives in no special direction.
    """

    collapsed: float
    floor: float


def collapse_losses(n_prototypes: int, student_temperature: float = 0.1) -> CollapseLosses:
    """Return the clustering losses of collapsed networks.

    With K prototypes and s = 1/τ: ln K; ln(1 + (K - 1) e^-s); ln(e^s + K - 1) - s/K. One-hot: the student's rows are at
    one prototype and orthogonal to the others.

    Examples
    --------
    >>> [round(loss, 4) for loss in collapse_losses(512)]
    [6.2383, 0.0229, 10.0034]
    """
    scale = 1 / check_positive("student_temperature", student_temperature)
    one_hot = math.log1p((check_positive("n_prototypes", n_prototypes) - 1) * math.exp(-scale))
    return CollapseLosses(math.log(n_prototypes), one_hot, scale + one_hot - scale / n_prototypes)


def contrast_losses(n_negatives: int, temperature: float = 0.2, n_dims: int | None = None) -> ContrastLosses:
    """Return InfoNCE of a collapsed network, and its expected minimum.

    ln(1 + Q), and ln(1 + Q e^(-1/τ)) where the negatives are orthogonal to the rows; where they are spread evenly over
    the directions of ``n_dims`` dimensions, 1/(2 d τ²) is added to the exponent.

    Examples
    --------
    >>> [round(loss, 4) for loss in contrast_losses(4096)]
    [8.318, 3.3534]
    """
    exponent = -1 / check_positive("temperature", temperature)
    if n_dims is not None:
        exponent += 1 / (2 * n_dims * temperature**2)
    return ContrastLosses(math.log1p(n_negatives), math.log1p(n_negatives * math.exp(exponent)))


class _Sign(NamedTuple):
    """A sign of collapse: its name, whether it shows, its description, and the setting to change."""

    name: str
    is_there: bool
    seen: str
    advice: str


class CollapseMonitor:
    """Stop a run in which a sign of collapse has shown for long enough.

    Signs are a loss within 0.001 of a collapsed network's, and feature spread, effective rank or the teacher's
    divergence under a quarter of what they were when first seen.

    Parameters
    ----------
    n_prototypes : int
        Of the losses ``group`` and ``image``; other names are not judged.
    n_negatives : int
        Of the loss ``instance``, when the queue is full; 0 where there is none.
    student_temperature : float
        Of the clustering losses. Default 0.1.
    patience : int
        Steps for which a sign must show without a break. Default 50.

    Notes
    -----
    All is judged by the start, because a network at random is almost collapsed: a ViT's embeddings of different images
    have a spread of 0.02 to 0.07 and an effective rank of 3 there, and use one prototype. A spread under 0.001 or a
    divergence under 1e-6 is a sign even so; over 0.05 or 1e-3 nothing is. An effective rank is at least 1: one that
    starts under 4 gives no sign. A small clustering loss is a sign only if the teacher's divergence, if it was
    measured, agrees: distinct clusters have one, too. Figures need not be measured at every step.

    Examples
    --------
    >>> monitor = CollapseMonitor(n_prototypes=1024, patience=2)
    >>> monitor.observe(0, {"group": 6.9315})
    >>> monitor.observe(1, {"group": 6.9316})
    Traceback (most recent call last):
    ...
    fewshot.distillation.training.monitor.CollapseError: collapsed, seen in steps 0 to 1: the loss 'group' stays at
    6.9316, that of a student without any preference among 1024 prototypes: lower the teacher's temperature or the
    learning rate, or take larger batches or fewer prototypes
    """

    def __init__(
        self, *, n_prototypes: int, n_negatives: int = 0, student_temperature: float = 0.1, patience: int = 50
    ) -> None:
        self.n_prototypes, self.n_negatives = n_prototypes, n_negatives
        self.patience = check_positive("patience", patience)
        self._clustering = collapse_losses(n_prototypes, student_temperature)
        self._state: dict[str, float] = {}

    def observe(self, step: int, losses: Mapping[str, float], health: Health | None = None) -> None:
        """Take in a step's losses, and its figures if they were measured.

        Raises
        ------
        CollapseError
            If a sign has shown in each observation for ``patience`` steps.
        """
        signs = [] if health is None else list(self._signs_of_health(health))
        for sign in [*self._signs_of_losses(losses), *signs]:
            self._count(step, sign)

    def state(self) -> dict[str, float]:
        """Return the state for the next observation."""
        return dict(self._state)

    def restore(self, state: Mapping[str, float]) -> None:
        """Restore the state that `state` returned."""
        self._state = dict(state)

    def _count(self, step: int, sign: _Sign) -> None:
        key = f"since.{sign.name}"
        if not sign.is_there:
            self._state.pop(key, None)
            return
        since = int(self._state.setdefault(key, step))
        if step - since + 1 >= self.patience:
            raise CollapseError(f"collapsed, seen in steps {since} to {step}: {sign.seen}: {sign.advice}")

    def _signs_of_losses(self, losses: Mapping[str, float]) -> Iterator[_Sign]:
        for name in _CLUSTERING_LOSSES:
            if name in losses:
                yield from self._signs_of_clustering(name, losses[name])
        if self.n_negatives and "instance" in losses:
            loss = losses["instance"]
            is_there = _is_close(loss, contrast_losses(self.n_negatives).collapsed)
            seen = f"the loss 'instance' stays at {loss:.4f}, that of rows which are all the same"
            yield _Sign("instance", is_there, f"{seen} as their {self.n_negatives} negatives", _ADVICE["instance"])

    def _signs_of_clustering(self, name: str, loss: float) -> Iterator[_Sign]:
        seen = f"the loss {name!r} stays at {loss:.4f}, that of a student"
        is_alike = self._state.get("is_divergent", 0.0) == 0.0
        of_all, of_one = f"among {self.n_prototypes} prototypes", "that gives all images one prototype"
        kinds = {
            "uniform": (self._clustering.uniform, True, f"{seen} without any preference {of_all}"),
            "one_hot": (self._clustering.one_hot, is_alike, f"{seen} {of_one}, as the teacher does"),
            "one_hot_centered": (self._clustering.one_hot_centered, is_alike, f"{seen} {of_one} and a uniform teacher"),
        }
        for kind, (collapsed, is_possible, said) in kinds.items():
            yield _Sign(f"{kind}.{name}", is_possible and _is_close(loss, collapsed), said, _ADVICE[kind])

    def _signs_of_health(self, health: Health) -> Iterator[_Sign]:
        spread, rank, divergence = health.feature_spread, health.effective_rank, health.teacher_divergence
        limits = self._limit("spread", spread, _SPREAD_LIMITS), self._limit("rank", rank, _RANK_LIMITS)
        least = self._limit("divergence", divergence, _DIVERGENCE_LIMITS)
        self._state["is_divergent"] = float(divergence >= least)
        seen = f"the spread of features is {spread:.2g}, under {limits[0]:.2g}"
        yield _Sign("spread", spread < limits[0], seen, _ADVICE["features"])
        seen = f"the effective rank of features is {rank:.2g}, under {limits[1]:.2g}, a quarter of what it was at first"
        yield _Sign("rank", rank < limits[1], seen, _ADVICE["features"])
        seen = f"the teacher's assignments of images differ by {divergence:.2g} nats, under {least:.2g}"
        yield _Sign("divergence", divergence < least, seen, _ADVICE["one_hot"])

    def _limit(self, name: str, value: float, limits: tuple[float, float]) -> float:
        """Return the threshold of a figure, relative to its initial value."""
        if math.isnan(value):
            return limits[0]
        first = self._state.setdefault(f"first.{name}", value)
        return max(limits[0], min(limits[1], _SHARE_OF_FIRST * first))


def _is_close(loss: float, collapsed: float) -> bool:
    return abs(loss - collapsed) < _LOSS_TOLERANCE


_ADVICE = {
    "uniform": "lower the teacher's temperature or the learning rate, or take larger batches or fewer prototypes",
    "one_hot": "raise the teacher's temperature, see that the center is updated, or lower the learning rate",
    "one_hot_centered": "lower the learning rate, raise the teacher's momentum, or take larger batches",
    "instance": "lower the learning rate, raise the teacher's momentum, or take larger batches",
    "features": "lower the learning rate, warm it up for longer, raise the teacher's momentum, or take larger batches",
}
