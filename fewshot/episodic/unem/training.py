"""How UNEM's numbers are learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from fewshot_episodes import Episode
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewshot.checks import check_choice, check_positive
from fewshot.episodic.unem.model import UNEM, PreparedEpisode
from fewshot.metrics.classification import episode_accuracy

__all__ = ["LOSSES", "Progress", "UNEMTrace", "double_softmax_loss", "fit_unem", "nll_loss"]

# Called after each step with its number, the loss and the training accuracy.
Progress = Callable[[int, float, float], None]


class UNEMTrace(NamedTuple):
    """Loss and accuracy at each step of the training.

    Attributes
    ----------
    loss : Tensor (n_steps,)
        Before each step.
    accuracy : Tensor (n_steps,)
        Mean accuracy on the training episodes, in [0, 1].
    """

    loss: Tensor
    accuracy: Tensor


def nll_loss(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the right answers.

    Parameters
    ----------
    log_probs : Tensor (..., n_queries, n_way)
    labels : Tensor (..., n_queries), int64
        -1 marks padding.
    """
    return cross_entropy(log_probs.flatten(0, -2), labels.flatten(), ignore_index=-1)


def double_softmax_loss(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return the paper's loss: the cross-entropy of softmax(u), though u is a softmax already.

    Up to a nearly constant term it is 1 - u of the right answer, the expected error. It lies in
    [log(e + n_way - 1) - 1, log(e + n_way - 1)] and is log n_way where u is uniform; n_way counts padding ways too.

    Parameters
    ----------
    log_probs : Tensor (..., n_queries, n_way)
    labels : Tensor (..., n_queries), int64
        -1 marks padding.

    Source
    ------
    [UNEM] released code.
    """
    return cross_entropy(log_probs.exp().flatten(0, -2), labels.flatten(), ignore_index=-1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"nll": nll_loss, "double-softmax": double_softmax_loss}


def fit_unem(
    model: UNEM,
    episodes: Episode | Sequence[Episode],
    *,
    n_steps: int = 100,
    learning_rate: float | None = None,
    decay_every: int = 50,
    loss: str = "nll",
    progress: Progress | None = None,
) -> UNEMTrace:
    """Learn λ, T and the scale of a model on labelled episodes, by Adam on all of them at each step.

    Parameters
    ----------
    model : UNEM
        Trained in place.
    episodes : Episode or sequence of Episode
        Batches of episodes with query labels. Batches of different numbers of effective ways make the model good at all
        of them; trained at one number it loses to nearest prototypes at others. Each batch counts the same.
    n_steps : int
        Default 100, as in the paper.
    learning_rate : float, optional
        Default 0.1 with Gaussian, 0.5 with Dirichlet classes, as in the released code.
    decay_every : int
        Steps after which the learning rate is halved. Default 50, as in the released Gaussian code.
    loss : {"nll", "double-softmax"}
        Default: the negative log-likelihood. The paper's own loss is the other one.
    progress : callable, optional
        Called after each step with its number, the loss and the accuracy.

    Returns
    -------
    UNEMTrace

    Raises
    ------
    ValueError
        If episodes have no query labels, or a setting is out of range.

    Source
    ------
    [UNEM] training of the released code: full batch, the same tasks at every step, no early stop.
    """
    batches = _labelled_batches(episodes)
    check_positive("n_steps", n_steps)
    compute_loss = LOSSES[check_choice("loss", loss, LOSSES)]
    if learning_rate is None:
        learning_rate = 0.5 if model.likelihood == "dirichlet" else 0.1
    with torch.no_grad():
        prepared = [model.prepare(episode) for episode in batches]
    optimizer = torch.optim.Adam(model.parameters(), lr=check_positive("learning_rate", learning_rate))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, decay_every, 0.5)
    seen = []
    for step in range(n_steps):
        optimizer.zero_grad()
        parts = [_backward(model, batch, compute_loss, 1 / len(prepared)) for batch in prepared]
        optimizer.step()
        schedule.step()
        seen.append(torch.stack(parts).mean(0))
        if progress is not None:
            progress(step + 1, float(seen[-1][0]), float(seen[-1][1]))
    model.origin = f"trained for {n_steps} steps on {sum(_n_episodes(episode) for episode in batches)} episodes"
    return UNEMTrace(*torch.stack(seen).unbind(-1))


def _labelled_batches(episodes: Episode | Sequence[Episode]) -> list[Episode]:
    batches = [episodes] if isinstance(episodes, Episode) else list(episodes)
    if not batches or any(episode.query_labels is None for episode in batches):
        raise ValueError("training needs at least one batch of episodes, all with query_labels")
    return batches


def _backward(
    model: UNEM, prepared: PreparedEpisode, compute_loss: Callable[[Tensor, Tensor], Tensor], weight: float
) -> Tensor:
    """Add one batch's gradient; the graphs of other batches are not kept meanwhile. Returns loss and accuracy."""
    labels = prepared.query_labels
    assert labels is not None
    log_probs = model.run(prepared).log_responsibilities
    value = compute_loss(log_probs, labels)
    (weight * value).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return torch.stack([value, episode_accuracy(log_probs, labels).mean()])


def _n_episodes(episode: Episode) -> int:
    return episode.batch_shape.numel()
