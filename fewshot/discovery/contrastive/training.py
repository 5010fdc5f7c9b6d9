r"""Contrastive training of a projection head, alternating with category discovery.

E-step: any discoverer finds the classes of the projected rows. M-step: the head is trained by

    L = L_prototypical + (1 - λ) L_instance + λ L_supervised,

with the prototypes of these classes held constant, see `fewshot.discovery.contrastive.losses`.

Source: [GPC] §3 and the released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.discovery.centers import nearest_centers
from fewshot.discovery.contrastive.head import ProjectionHead
from fewshot.discovery.contrastive.losses import (
    class_spread,
    dropout_view,
    info_nce,
    noisy_view,
    prototype_concentrations,
    prototypical_contrast,
    supervised_contrast,
)
from fewshot.discovery.statistics import cluster_sums
from fewshot.prototypes import l2_normalize

__all__ = [
    "ContrastRound",
    "Discover",
    "discovery_step",
    "draw_batch",
    "fit_projection",
]

# Projected rows (n, n_dims) and labels (n,), -1 = unlabelled → the class of each row (n,).
Discover: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class ContrastRound(NamedTuple):
    """One E-step and one M-step.

    Attributes
    ----------
    n_classes : int
        Found in the E-step.
    prototypical, supervised, instance : Tensor (n_steps,)
        The three losses before each step, not weighted.
    held_out_accuracy : float or None
        Of the held-out rows by the nearest mean of a known class, after the M-step; None where none is held out.
    """

    n_classes: int
    prototypical: Tensor
    supervised: Tensor
    instance: Tensor
    held_out_accuracy: float | None


def discovery_step(*, is_power_kept: bool = True, **settings: Any) -> Discover:
    """Return an E-step by `CategoryDiscovery`.

    Parameters
    ----------
    is_power_kept : bool
        Whether later calls search the last space only, with the power that the first call found there: several times as
        fast. Default True.
    **settings
        Of `CategoryDiscovery`.
    """

    def discover(projected: Tensor, labels: Tensor) -> Tensor:
        from fewshot.discovery.category_discovery import CategoryDiscovery  # loads scikit-learn

        found = CategoryDiscovery(**settings).fit(projected, labels)
        if is_power_kept:
            settings.update(power=found.power_, n_dims=found.subspace_runs_[-1][0])
        classes: Tensor = found.labels_
        return classes

    return discover


def fit_projection(
    head: ProjectionHead,
    features: Tensor,
    labels: Tensor,
    *,
    discover: Discover | None = None,
    n_rounds: int = 2,
    n_steps: int = 100,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    supervised_weight: float = 0.35,
    temperature: float = 1.0,
    noise: float = 1.0,
    dropout: float = 0.0,
    is_held_out: Tensor | None = None,
    generator: torch.Generator,
    progress: Callable[[int, ContrastRound], None] | None = None,
) -> list[ContrastRound]:
    """Train a projection head, alternating with the search for classes.

    Parameters
    ----------
    head : ProjectionHead
        Trained in place; on the device of the features.
    features : Tensor (n, n_features)
        Half precision is widened to float32.
    labels : Tensor (n,), int64
        Known classes, not negative; -1 for a row without a label.
    discover : callable, optional
        The E-step: projected rows (n, n_dims) and labels to the class (n,) of each row, an integer. Default:
        `discovery_step`.
    n_rounds, n_steps : int
        Turns, and steps of Adam in each.
    batch_size : int
        Rows a step, half of them labelled where there are as many, as the authors' sampler weighs them.
    learning_rate : float
        Of Adam, started anew each round. (The authors: SGD with 0.1, on the backbone.)
    supervised_weight : float
        λ in [0, 1]. Default 0.35, as in [GCD].
    temperature : float
        The mean of the prototypes' concentrations, and the temperature of the loss of instances. Default 1, as in
        [GPC]: very soft.
    noise : float
        Of the two views of each row, see `noisy_view`. Default 1; at 0 there is none.
    dropout : float
        Share of entries that a view leaves out, in [0, 1), see `dropout_view`. Default 0.
    is_held_out : Tensor (n,), bool, optional
        Labelled rows whose label is used for the accuracy in the trace alone.
    generator : torch.Generator
        Draws batches and views.
    progress : callable, optional
        Called after each round with its number and its `ContrastRound`.

    Returns
    -------
    list of ContrastRound

    Raises
    ------
    ValueError
        If shapes do not match, a setting is out of range, every row of a class is held out, or the E-step does not
        answer with one class per row.

    Notes
    -----
    Do not count on it: on the two sets of ``python -m tests.benchmarks.contrast`` categories are found no better
    afterwards. Labelled rows draw together more than the others, new classes least of all, so that a discoverer which
    takes the spread within classes from the labels then finds too many. Find their number on the frozen features and
    hand it on, ``discovery_step(n_classes=...)``; watch rows that are held out.

    The authors' losses of instances stand on a projector of their own and their views are of images; here all losses
    share the head's output, and views are noise within the labelled classes' spread. Prototypes are found anew each
    round; the authors' code has an average over rounds whose coefficient is a flag by mistake, and it is off. Rounds
    hand on the head and the state of the generator alone: two calls of one round with one E-step are a call of two.

    Source
    ------
    [GPC] §3 and the released code.

    Examples
    --------
    >>> from fewshot.discovery.category_discovery import CategoryDiscovery
    >>> from fewshot.discovery.contrastive.head import ProjectionHead
    >>> generator = torch.Generator().manual_seed(0)
    >>> rows = 4 * torch.eye(6)[torch.arange(240) % 6] + torch.randn((240, 6), generator=generator)
    >>> labels = torch.tensor([i % 6 if i % 6 < 3 and i < 120 else -1 for i in range(240)])
    >>> head = ProjectionHead(torch.eye(6))
    >>> trace = fit_projection(head, rows, labels, n_rounds=1, n_steps=20, generator=generator)
    >>> CategoryDiscovery().fit(head.project(rows), labels).n_classes_
    6
    """
    _check_rows(features, labels, is_held_out)
    positive = {"n_rounds": n_rounds, "n_steps": n_steps, "learning_rate": learning_rate, "temperature": temperature}
    _check_settings(supervised_weight, dropout, batch_size, **positive)
    check_non_negative("noise", noise)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    shown = labels if is_held_out is None else labels.masked_fill(is_held_out, -1)
    discover = discovery_step() if discover is None else discover
    view = _make_view(features, shown, noise, dropout, generator)
    weights = features.new_tensor([1, supervised_weight, 1 - supervised_weight])
    trace = []
    for i in range(n_rounds):
        task = _Task(features, shown, *_find_prototypes(head, features, shown, discover, temperature), temperature)
        optimizer = torch.optim.Adam(head.parameters(), lr=learning_rate)
        batches = (draw_batch(shown, batch_size, generator=generator) for _ in range(n_steps))
        losses = torch.stack([_train_step(head, task, view, optimizer, weights, rows) for rows in batches])
        accuracy = None if is_held_out is None else _accuracy(head, features, labels, is_held_out)
        trace.append(ContrastRound(len(task.prototypes), losses[:, 0], losses[:, 1], losses[:, 2], accuracy))
        if progress is not None:
            progress(i + 1, trace[-1])
    return trace


def draw_batch(labels: Tensor, batch_size: int, *, generator: torch.Generator) -> Tensor:
    """Draw rows (n_rows,) without replacement, half of them labelled.

    Where there are too few of either kind all of them are taken and the other kind fills up.

    Examples
    --------
    >>> labels = torch.tensor([-1, 3, -1, -1, -1, 5])
    >>> draw_batch(labels, 5, generator=torch.Generator().manual_seed(0)).sort().values[-1].item()
    5
    """
    drawn = torch.randperm(len(labels), generator=generator, device=generator.device).to(labels.device)
    is_labelled = labels[drawn] >= 0
    labelled, others = drawn[is_labelled], drawn[~is_labelled]
    n_labelled = min(len(labelled), max(batch_size // 2, batch_size - len(others)))
    return torch.cat([labelled[:n_labelled], others[: batch_size - n_labelled]])


class _Task(NamedTuple):
    """The constants of the steps of a round."""

    features: Tensor
    labels: Tensor
    prototypes: Tensor
    owners: Tensor
    concentrations: Tensor
    temperature: float


def _find_prototypes(
    head: ProjectionHead, features: Tensor, labels: Tensor, discover: Discover, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the unit means of the classes that an E-step finds, the class of each row, and concentrations."""
    projected = head.project(features)
    found = torch.as_tensor(discover(projected, labels)).to(labels.device)
    if found.shape != labels.shape or found.is_floating_point():
        raise ValueError(
            f"the E-step must answer with one integer per row, ({len(labels)},), got {found.dtype} of shape "
            f"{tuple(found.shape)}: return the class of each row"
        )
    ids, owners = torch.unique(found, return_inverse=True)
    prototypes = _unit_means(projected, owners, len(ids))
    return prototypes, owners, prototype_concentrations(projected, prototypes, owners, temperature=temperature)


def _unit_means(projected: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    return l2_normalize(cluster_sums(projected, labels, n_classes, dtype=torch.float64)[1]).to(projected.dtype)


def _make_view(
    features: Tensor, labels: Tensor, noise: float, dropout: float, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """Build the function that makes a view of unit rows."""
    spread = class_spread(l2_normalize(features), *_numbered(labels)) if noise > 0 else None

    def view(rows: Tensor) -> Tensor:
        if spread is not None:
            rows = noisy_view(rows, spread, noise, generator=generator)
        return dropout_view(rows, dropout, generator=generator) if dropout > 0 else rows

    return view


def _numbered(labels: Tensor) -> tuple[Tensor, int]:
    """Return labels as 0, 1, ... in ascending order, -1 as it is, and their number."""
    class_ids = torch.unique(labels[labels >= 0])
    return torch.where(labels >= 0, torch.searchsorted(class_ids, labels), -1), len(class_ids)


def _train_step(
    head: ProjectionHead,
    task: _Task,
    view: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    weights: Tensor,
    rows: Tensor,
) -> Tensor:
    """Step on two views of some rows; return the three losses before."""
    frozen = l2_normalize(task.features[rows])
    first, second = head(view(frozen)), head(view(frozen))
    both = torch.cat([first, second])
    losses = torch.stack(
        [
            prototypical_contrast(both, task.prototypes, task.owners[rows].repeat(2), task.concentrations),
            supervised_contrast(both, task.labels[rows].repeat(2)),
            info_nce(first, second, task.temperature),
        ]
    )
    optimizer.zero_grad()
    (weights @ losses).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return losses.detach()


def _accuracy(head: ProjectionHead, features: Tensor, labels: Tensor, is_held_out: Tensor) -> float:
    """Return the share of held-out rows that lie nearest to the mean of their class's other labelled rows."""
    projected, (numbers, n_known) = head.project(features), _numbered(labels)
    means = _unit_means(projected, numbers.masked_fill(is_held_out, -1), n_known)
    answers = nearest_centers(projected[is_held_out], means)[1]
    return float((answers == numbers[is_held_out]).double().mean())


def _check_rows(features: Tensor, labels: Tensor, is_held_out: Tensor | None) -> None:
    if labels.shape != features.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"expected one label per row of the features (n, n_features), n > 0, got {tuple(labels.shape)} for "
            f"{tuple(features.shape)}: give -1 for a row without a label"
        )
    if is_held_out is None:
        return
    if is_held_out.shape != labels.shape or not bool((is_held_out & (labels >= 0)).any()):
        raise ValueError(
            f"is_held_out must mark at least one labelled row, one entry per row, got shape {tuple(is_held_out.shape)} "
            f"with {int(is_held_out.sum())} marked: mark rows whose label is not -1, or leave it out"
        )
    if bool((is_held_out & (labels < 0)).any()):
        raise ValueError("is_held_out marks rows without a label: mark labelled rows only")
    bare = set(labels[is_held_out].tolist()) - set(labels[~is_held_out].tolist())
    if bare:
        raise ValueError(f"every labelled row of class {min(bare)} is held out: leave at least one")


def _check_settings(supervised_weight: float, dropout: float, batch_size: int, **positive: float) -> None:
    for what, value in positive.items():
        check_positive(what, value)
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, got {batch_size}: a row alone has no negatives")
    if not 0 <= supervised_weight <= 1:
        raise ValueError(f"supervised_weight must lie in [0, 1], got {supervised_weight}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
