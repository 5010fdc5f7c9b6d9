"""How the numbers of adaptive UNEM are learned: its schedules, each on its regimes, then the gate on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.special import entr

from fewshot.checks import check_positive
from fewshot.episodic.unem_adaptive import AdaptiveEpisode, Solutions, UNEMAdaptive
from fewshot.prototypes import one_hot

__all__ = ["REGIMES", "AdaptiveTrace", "fit_unem_adaptive", "present_share"]

# Which batches each schedule learns from: the share of the ways that the queries come from, from and below.
REGIMES = ((0.7, 1.01), (0.35, 0.8), (0.12, 0.45), (0.0, 0.21))
# The loss is the expected error plus a tenth of the negative log-likelihood, capped, so that no query rules it.
_LIKELIHOOD_WEIGHT = 0.1
_LIKELIHOOD_CAP = 8.0

Item = TypeVar("Item")
Progress = Callable[[str, int, float], None]


class AdaptiveTrace(NamedTuple):
    """What training saw.

    Attributes
    ----------
    schedules : Tensor (n_schedules, n_steps)
        Loss before each step of each schedule.
    gate : Tensor (n_gate_steps,)
        Loss before each step of the gate.
    """

    schedules: Tensor
    gate: Tensor


def present_share(query_labels: Tensor, n_way: int) -> float:
    """Return the perplexity of the queries' true classes as a share of the ways, averaged over episodes.

    Examples
    --------
    >>> present_share(torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]]), 4)
    0.75
    """
    share = one_hot(query_labels, n_way, torch.float64).mean(-2)
    return float((entr(share).sum(-1).exp() / n_way).mean())


def fit_unem_adaptive(
    model: UNEMAdaptive,
    batches: Sequence[AdaptiveEpisode],
    *,
    generator: torch.Generator,
    n_steps: int = 600,
    n_gate_steps: int = 6000,
    n_batches_per_step: int = 4,
    learning_rate: float = 0.01,
    gate_weight_decay: float = 0.01,
    progress: Progress | None = None,
) -> AdaptiveTrace:
    """Learn the schedules, each on the batches of its regime, then the gate on all batches.

    Parameters
    ----------
    model : UNEMAdaptive
        With as many schedules as `REGIMES`; trained in place.
    batches : sequence of AdaptiveEpisode
        Of ``model.prepare``, with query labels, of square episodes: each batch of one regime, and of all regimes,
        shots, ways and feature families that the model is to know.
    generator : torch.Generator
        Decides which batches a step takes.
    n_steps, n_gate_steps : int
        Steps of Adam for each schedule, and for the gate. The rate falls along a cosine to 2 %.
    n_batches_per_step : int
    learning_rate : float
    gate_weight_decay : float
        Of AdamW, for the gate.
    progress : callable, optional
        Called after each step with what is trained, the step's number and its loss.

    Returns
    -------
    AdaptiveTrace

    Raises
    ------
    ValueError
        If batches have no query labels, a regime has no batch, or a setting is out of range.
    """
    if not batches:
        raise ValueError("training needs at least one batch of episodes with query_labels")
    if model.n_schedules != len(REGIMES):
        raise ValueError(f"training needs a schedule for each of {len(REGIMES)} regimes, got {model.n_schedules}")
    for name, value in (("n_steps", n_steps), ("n_gate_steps", n_gate_steps), ("n_batches", n_batches_per_step)):
        check_positive(name, value)
    own = [_in_regime(batches, low, high) for low, high in REGIMES]
    losses = []
    for number, part in enumerate(own):

        def schedule_loss(batch: AdaptiveEpisode, number: int = number) -> Tensor:
            return _loss(_of_right(model.run(number, batch), batch))

        optimizer = torch.optim.Adam(_schedule_parameters(model), check_positive("learning_rate", learning_rate))
        told = _telling(progress, f"schedule {number + 1} of {len(own)}")
        losses.append(_descend(optimizer, schedule_loss, part, n_steps, n_batches_per_step, generator, told))
    answers = [_answers(model, batch) for batch in batches]

    def gate_loss(answer: _Answers) -> Tensor:
        log_weights = model.log_weights(answer.statistics).movedim(-1, 0)[..., None]
        return _loss((log_weights + answer.log_right).logsumexp(0))

    optimizer = torch.optim.AdamW(
        [*model.gate_hidden.parameters(), *model.gate_output.parameters()],
        learning_rate,
        weight_decay=gate_weight_decay,
    )
    told = _telling(progress, "gate")
    gate = _descend(optimizer, gate_loss, answers, n_gate_steps, n_batches_per_step, generator, told)
    model.origin = f"trained on {sum(batch.trace.numel() for batch in batches)} episodes"
    return AdaptiveTrace(torch.stack(losses), gate)


class _Answers(NamedTuple):
    """What the gate sees of a batch, and the log-probability of the right class in each answer."""

    statistics: Tensor
    log_right: Tensor


def _in_regime(batches: Sequence[AdaptiveEpisode], low: float, high: float) -> list[AdaptiveEpisode]:
    shares = [present_share(_labels(batch), batch.gaussian.counts.shape[-1]) for batch in batches]
    found = [batch for batch, share in zip(batches, shares, strict=True) if low <= share < high]
    if not found:
        raise ValueError(f"no batch has queries of {low:.0%} to {min(high, 1):.0%} of its ways: add batches that do")
    return found


def _schedule_parameters(model: UNEMAdaptive) -> list[Tensor]:
    return [model.hidden_weight, model.hidden_bias, model.output_weight, model.output_bias]


@torch.no_grad()
def _answers(model: UNEMAdaptive, batch: AdaptiveEpisode) -> _Answers:
    solutions: Solutions = model.solutions(batch)
    return _Answers(solutions.statistics, _of_right(solutions.log_probs, batch))


def _labels(batch: AdaptiveEpisode) -> Tensor:
    if batch.query_labels is None:
        raise ValueError("training needs episodes with query_labels")
    return batch.query_labels


def _of_right(log_probs: Tensor, batch: AdaptiveEpisode) -> Tensor:
    """Return the log-probability of each query's own class, shape (..., n_queries)."""
    labels = _labels(batch)[..., None].expand(*log_probs.shape[:-1], 1)
    return log_probs.gather(-1, labels).squeeze(-1)


def _loss(log_right: Tensor) -> Tensor:
    """Return the expected error plus a tenth of the capped negative log-likelihood."""
    return (1 - log_right.exp() - _LIKELIHOOD_WEIGHT * log_right.clamp(min=-_LIKELIHOOD_CAP)).mean()


def _telling(progress: Progress | None, what: str) -> Callable[[int, float], None]:
    return (lambda step, loss: None) if progress is None else (lambda step, loss: progress(what, step, loss))


def _descend(
    optimizer: torch.optim.Optimizer,
    compute_loss: Callable[[Item], Tensor],
    items: Sequence[Item],
    n_steps: int,
    n_at_once: int,
    generator: torch.Generator,
    told: Callable[[int, float], None],
) -> Tensor:
    """Take steps down the loss of drawn items; return the loss before each."""
    rate = optimizer.param_groups[0]["lr"]
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps, 0.02 * rate)
    parameters = optimizer.param_groups[0]["params"]
    seen = []
    for step in range(n_steps):
        optimizer.zero_grad()
        value = torch.zeros(())
        for position in torch.randint(len(items), (n_at_once,), generator=generator).tolist():
            part = compute_loss(items[position]) / n_at_once
            part.backward()  # type: ignore[no-untyped-call]
            value = value + part.detach()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        fall.step()
        seen.append(value)
        told(step + 1, float(value))
    return torch.stack(seen)
