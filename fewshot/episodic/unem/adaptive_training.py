"""How the numbers of adaptive UNEM are learned: its schedules, each on its regimes, then the gate on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from fewshot_episodes import Episode
from torch import Tensor
from torch.special import entr

from fewshot.checks import check_positive
from fewshot.episodic.unem.adaptive import AdaptiveEpisode, UNEMAdaptive
from fewshot.prototypes import one_hot

__all__ = ["REGIMES", "GateExample", "fit_gate", "fit_schedules", "gate_example", "present_share"]

# Which batches each schedule learns from: the share of the ways that the queries come from, from and below.
REGIMES = ((0.7, 1.01), (0.35, 0.8), (0.12, 0.45), (0.0, 0.21))
# The loss is the expected error plus a tenth of the negative log-likelihood, capped, so that no query rules it.
_LIKELIHOOD_WEIGHT = 0.1
_LIKELIHOOD_CAP = 8.0
# What the gate pays for each point of accuracy that it expects below plain prototypes.
_SHORTFALL_WEIGHT = 2.0

Item = TypeVar("Item")
Progress = Callable[[str, int, float], None]


class GateExample(NamedTuple):
    """Training data of the gate from a batch of episodes.

    Attributes
    ----------
    statistics : Tensor (..., n_statistics)
    log_right : Tensor (n_answers, ..., n_queries)
        Log-probability of each query's own class in each answer.
    accuracy : Tensor (n_answers, ...)
        Of each answer, in [0, 1].
    """

    statistics: Tensor
    log_right: Tensor
    accuracy: Tensor


def present_share(query_labels: Tensor, n_way: int) -> float:
    """Return the perplexity of the queries' true classes as a share of the ways, averaged over episodes.

    Examples
    --------
    >>> present_share(torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]]), 4)
    0.75
    """
    share = one_hot(query_labels, n_way, torch.float64).mean(-2)
    return float((entr(share).sum(-1).exp() / n_way).mean())


def fit_schedules(
    model: UNEMAdaptive,
    batches: Sequence[AdaptiveEpisode],
    *,
    generator: torch.Generator,
    n_steps: int = 600,
    n_at_once: int = 4,
    learning_rate: float = 0.01,
    progress: Progress | None = None,
) -> Tensor:
    """Learn the schedules, each on the batches of its regime.

    Parameters
    ----------
    model : UNEMAdaptive
        With as many schedules as `REGIMES`; trained in place.
    batches : sequence of AdaptiveEpisode
        Of ``model.prepare_view``, with query labels, of square episodes: each batch of one regime, and of all regimes,
        shots, ways and feature families that the model is to know.
    generator : torch.Generator
        Decides which batches a step takes.
    n_steps : int
        Steps of Adam for each schedule. The rate falls along a cosine to 2 %.
    n_at_once : int
        Batches per step.
    learning_rate : float
    progress : callable, optional
        Called after each step with what is trained, the step's number and its loss.

    Returns
    -------
    Tensor (n_schedules, n_steps)
        Loss before each step.

    Raises
    ------
    ValueError
        If batches have no query labels, a regime has no batch, or a setting is out of range.
    """
    if not batches:
        raise ValueError("training needs at least one batch of episodes with query_labels")
    if model.n_schedules != len(REGIMES):
        raise ValueError(f"training needs a schedule for each of {len(REGIMES)} regimes, got {model.n_schedules}")
    parameters = [model.hidden_weight, model.hidden_bias, model.output_weight, model.output_bias]
    losses = []
    for number, own in enumerate([_in_regime(batches, low, high) for low, high in REGIMES]):

        def loss(batch: AdaptiveEpisode, number: int = number) -> Tensor:
            return _error(_of_right(model.run(number, batch), batch))

        optimizer = torch.optim.Adam(parameters, check_positive("learning_rate", learning_rate))
        report = _telling(progress, f"schedule {number + 1} of {len(REGIMES)}")
        losses.append(_descend(optimizer, loss, own, n_steps, n_at_once, generator, report))
    model.origin = f"trained on {sum(batch.trace.numel() for batch in batches)} episodes"
    return torch.stack(losses)


@torch.no_grad()
def gate_example(model: UNEMAdaptive, episode: Episode) -> GateExample:
    """Return the gate's inputs for a batch of episodes, and the quality of each answer; nothing else is kept."""
    views = model.prepare(episode)
    solutions = model.solutions(views)
    is_right = solutions.log_probs.argmax(-1) == _labels(views[0])
    accuracy = is_right.to(solutions.statistics.dtype).mean(-1)
    return GateExample(solutions.statistics, _of_right(solutions.log_probs, views[0]), accuracy)


def fit_gate(
    model: UNEMAdaptive,
    examples: Sequence[GateExample],
    *,
    generator: torch.Generator,
    n_steps: int = 16_000,
    n_at_once: int = 4,
    learning_rate: float = 0.01,
    weight_decay: float = 0.01,
    progress: Progress | None = None,
) -> Tensor:
    """Learn the gate: to be right and sure, to expect much, and never less than from plain prototypes.

    Parameters
    ----------
    model : UNEMAdaptive
        Its gate is trained in place.
    examples : sequence of GateExample
        Best of other batches than the schedules learned from.
    generator : torch.Generator
        Decides which examples a step takes.
    n_steps, n_at_once, learning_rate
        As for `fit_schedules`.
    weight_decay : float
        Of AdamW.
    progress : callable, optional
        Called after each step with what is trained, the step's number and its loss.

    Returns
    -------
    Tensor (n_steps,)
        Loss before each step.

    Raises
    ------
    ValueError
        If there is no example, or a setting is out of range.
    """
    if not examples:
        raise ValueError("the gate needs at least one example to learn from")

    def loss(example: GateExample) -> Tensor:
        log_weights = model.log_weights(example.statistics).movedim(-1, 0)
        error = _error((log_weights[..., None] + example.log_right).logsumexp(0))
        expected = (log_weights.exp() * example.accuracy).sum(0).mean()
        shortfall = (example.accuracy[0].mean() - expected).relu()
        return error - expected + _SHORTFALL_WEIGHT * shortfall

    parameters = [*model.gate_hidden.parameters(), *model.gate_output.parameters()]
    rate = check_positive("learning_rate", learning_rate)
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=weight_decay)
    return _descend(optimizer, loss, examples, n_steps, n_at_once, generator, _telling(progress, "gate"))


def _in_regime(batches: Sequence[AdaptiveEpisode], low: float, high: float) -> list[AdaptiveEpisode]:
    shares = [present_share(_labels(batch), batch.gaussian.counts.shape[-1]) for batch in batches]
    found = [batch for batch, share in zip(batches, shares, strict=True) if low <= share < high]
    if not found:
        raise ValueError(f"no batch has queries of {low:.0%} to {min(high, 1):.0%} of its ways: add batches that do")
    return found


def _labels(batch: AdaptiveEpisode) -> Tensor:
    if batch.query_labels is None:
        raise ValueError("training needs episodes with query_labels")
    return batch.query_labels


def _of_right(log_probs: Tensor, batch: AdaptiveEpisode) -> Tensor:
    """Return the log-probability of each query's own class, shape (..., n_queries)."""
    labels = _labels(batch)[..., None].expand(*log_probs.shape[:-1], 1)
    return log_probs.gather(-1, labels).squeeze(-1)


def _error(log_right: Tensor) -> Tensor:
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
    report: Callable[[int, float], None],
) -> Tensor:
    """Take steps down the loss of drawn items; return the loss before each."""
    check_positive("n_steps", n_steps)
    check_positive("n_at_once", n_at_once)
    rate, parameters = optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["params"]
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps, 0.02 * rate)
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
        report(step + 1, float(value))
    return torch.stack(seen)
