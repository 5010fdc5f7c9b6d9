"""Adaptive UNEM: schedules for many and for few classes among the queries, mixed by a gate on label-free statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from fewshot_episodes import Episode
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from fewshot.checks import check_positive
from fewshot.em import run_em
from fewshot.episodic.unem.model import nearest_shots
from fewshot.episodic.unem.presets import DEFAULT_PRESET, PRESETS
from fewshot.episodic.unem.regime_statistics import (
    N_EPISODE_STATISTICS,
    N_SOLUTION_STATISTICS,
    episode_statistics,
    solution_statistics,
)
from fewshot.likelihoods.gaussian import GaussianDirect, GaussianGram, gaussian_likelihood, with_precision
from fewshot.likelihoods.scatter import residual_scatter
from fewshot.prototypes import l2_normalize, log_softmax_over_ways, way_logits

__all__ = ["AdaptiveEpisode", "Solutions", "UNEMAdaptive"]

# Softmax over distances in units of the scatter at this precision is the answer of plain prototypes.
_PROTOTYPE_PRECISION = 0.5
_N_VIEWS = 2
# At unit length too little is left of fewer features, in the plane a direction: both views are then as they are.
_LEAST_FOR_UNIT = 5
_LOG_PRECISION_RANGE = (-6.0, 4.0)


class AdaptiveEpisode(NamedTuple):
    """Statistics of one view of an episode that no learned number changes, computed once; the features are not kept.

    Attributes
    ----------
    gaussian : GaussianDirect or GaussianGram
        With precision 1 / unit.
    trace : Tensor (...)
        Mean squared distance of items to their class means, in units.
    statistics : Tensor (..., 6)
        See `fewshot.episodic.unem.regime_statistics.episode_statistics`.
    shots : Tensor (...), int64
        Which of the preset's shot counts is nearest.
    query_labels : Tensor (..., n_queries) or None
        For training alone.
    """

    gaussian: GaussianDirect | GaussianGram
    trace: Tensor
    statistics: Tensor
    shots: Tensor
    query_labels: Tensor | None


class Solutions(NamedTuple):
    """The answers that the gate chooses among.

    Attributes
    ----------
    log_probs : Tensor (n_answers, ..., n_queries, n_way)
        Of plain prototypes, then of each schedule; on the features as they are, then on those of unit length.
    statistics : Tensor (..., n_statistics)
        Of the episode and of each answer, view by view.
    """

    log_probs: Tensor
    statistics: Tensor


class UNEMAdaptive(nn.Module):
    r"""Unrolled EM under several schedules, and a gate that weighs their answers by label-free statistics.

    With s the statistics of the episode and c_m its row for the number of shots, schedule m runs ten layers of
    generalized EM with

        T_l = exp(-b_l),  λ_l/(|Q| T_l) = softplus(a_l),  (b_l, a_l) = c_ml + V_m tanh(W_m s + h_ml),

    on features in units of the episode's scatter, once as they are and once L2-normalised. The answer is Σ w_m u_m over
    the schedules and plain prototypes (m = 0) of both views, with w = softmax(gate(s, t_0, …, t_M; of both views)) and
    t_m what can be seen of solution m: how many classes it uses, how sure it is, how well it fits.

    Parameters
    ----------
    n_schedules : int
        Default 4: learned where all, about half, few and hardly any of the classes have queries.
    n_hidden : int
        Hidden units of each schedule's network.
    n_gate_hidden : int
        Hidden units of the gate.

    Raises
    ------
    ValueError
        If a number is not positive.

    Notes
    -----
    Ours, not in the paper, whose schedule is trained for one number of shots and one number of classes among the
    queries, and falls below prototypes at others. Query labels are never read; no answer depends on the other
    episodes of a batch. Ignores rotation and scale of the features.
    It learned from features of 64 dimensions and more. With fewer than five, both views are the features as they are.
    An untrained model has the schedules of the ``frozen-features`` preset and a gate of random weights: use
    `fewshot.shipped.adaptive_unem`, or ``fewshot.build_method("unem-adaptive")``, for the learned one.

    Source
    ------
    [UNEM] for the layers; schedules as functions of statistics and the gate are this library's.

    Examples
    --------
    >>> import fewshot
    >>> model = fewshot.build_method("unem-adaptive")
    >>> support, query = torch.tensor([[0.0, 0.0], [4.0, 4.0]]), torch.tensor([[0.5, 0.1], [3.0, 4.0], [4.0, 3.0]])
    >>> episode = Episode(support=support, support_labels=torch.tensor([0, 1]), query=query, class_ids=torch.arange(2))
    >>> model(episode).argmax(-1).tolist()
    [0, 1, 1]
    """

    is_transductive: ClassVar[bool] = True

    def __init__(self, n_schedules: int = 4, *, n_hidden: int = 24, n_gate_hidden: int = 64) -> None:
        super().__init__()
        for name, value in (("n_schedules", n_schedules), ("n_hidden", n_hidden), ("n_gate_hidden", n_gate_hidden)):
            check_positive(name, value)
        initial = _initial_schedule()
        self.origin = "untrained"
        self.hidden_weight = nn.Parameter(_spread(n_schedules, N_EPISODE_STATISTICS, n_hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(n_schedules, initial.shape[1], n_hidden))
        self.output_weight = nn.Parameter(torch.zeros(n_schedules, n_hidden, 2))
        self.output_bias = nn.Parameter(initial.expand(n_schedules, -1, -1, -1).clone())
        n_statistics = N_EPISODE_STATISTICS + (n_schedules + 1) * N_SOLUTION_STATISTICS
        self.gate_hidden = nn.Linear(_N_VIEWS * n_statistics, n_gate_hidden)
        self.gate_output = nn.Linear(n_gate_hidden, _N_VIEWS * (n_schedules + 1))

    @property
    def n_schedules(self) -> int:
        """Number of schedules."""
        return self.output_bias.shape[0]

    @property
    def n_layers(self) -> int:
        """Number of layers of each schedule."""
        return self.output_bias.shape[2]

    def forward(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        solutions = self.solutions(self.prepare(episode))
        return self.mix(solutions)

    def regime_weights(self, episode: Episode) -> Tensor:
        """Return the gate's weights, shape (..., 2, n_schedules + 1).

        Of the features as they are and of unit length; in each of plain prototypes, then of each schedule.
        """
        weights = self.log_weights(self.solutions(self.prepare(episode)).statistics).exp()
        return torch.stack(weights.chunk(_N_VIEWS, -1), -2)

    def prepare(self, episode: Episode) -> tuple[AdaptiveEpisode, ...]:
        """Compute the fixed statistics of both views: the features as they are, and of unit length."""
        raw = self.prepare_view(episode)
        if episode.n_features < _LEAST_FOR_UNIT:
            return raw, raw
        unit = replace(episode, support=l2_normalize(episode.support), query=l2_normalize(episode.query))
        return raw, self.prepare_view(unit)

    def prepare_view(self, episode: Episode) -> AdaptiveEpisode:
        """Compute the fixed statistics of the features as they come."""
        gaussian = gaussian_likelihood(episode, n_layers=self.n_layers * self.n_schedules)
        scatter = residual_scatter(gaussian, episode.n_features)
        gaussian = with_precision(gaussian, 1 / scatter.variance)
        trace = scatter.trace / scatter.variance
        shots = nearest_shots(episode, PRESETS[DEFAULT_PRESET].shots)
        return AdaptiveEpisode(gaussian, trace, episode_statistics(gaussian, trace), shots, episode.query_labels)

    def schedule(self, number: int, prepared: AdaptiveEpisode) -> tuple[Tensor, Tensor]:
        """Return λ/|Q| and T of each layer, shape (..., n_layers) each, of one schedule."""
        statistics, to = prepared.statistics, prepared.statistics.dtype
        hidden = (statistics @ self.hidden_weight[number].to(to))[..., None, :] + self.hidden_bias[number].to(to)
        bias = self.output_bias[number].to(to)[prepared.shots[None]][0]
        output = hidden.tanh() @ self.output_weight[number].to(to) + bias
        temperature = (-output[..., 0].clamp(*_LOG_PRECISION_RANGE)).exp()
        return softplus(output[..., 1]) * temperature, temperature

    def run(self, number: int, prepared: AdaptiveEpisode) -> Tensor:
        """Run one schedule: log-probabilities (..., n_queries, n_way); differentiable in its numbers."""
        class_balance, temperature = self.schedule(number, prepared)
        return run_em(prepared.gaussian, class_balance, temperature).log_responsibilities

    def solutions(self, views: Sequence[AdaptiveEpisode]) -> Solutions:
        """Run all schedules on all views and describe their answers."""
        found = [self._view_solutions(view) for view in views]
        return Solutions(
            torch.cat([part.log_probs for part in found]), torch.cat([part.statistics for part in found], -1)
        )

    def _view_solutions(self, prepared: AdaptiveEpisode) -> Solutions:
        gaussian, trace = prepared.gaussian, prepared.trace
        logits = _PROTOTYPE_PRECISION * gaussian.class_logits(gaussian.initial_state().parameters)
        first = log_softmax_over_ways(way_logits(logits, gaussian.way_mask))
        answers = [first, *(self.run(number, prepared) for number in range(self.n_schedules))]
        seen = [solution_statistics(gaussian, trace, answer, first) for answer in answers]
        return Solutions(torch.stack(answers), torch.cat([prepared.statistics, *seen], -1))

    def log_weights(self, statistics: Tensor) -> Tensor:
        """Return the gate's log-weights, shape (..., n_answers)."""
        hidden = _linear(statistics, self.gate_hidden).tanh()
        return _linear(hidden, self.gate_output).log_softmax(-1)

    def mix(self, solutions: Solutions) -> Tensor:
        """Return ln Σ_m w_m u_m, shape (..., n_queries, n_way)."""
        log_weights = self.log_weights(solutions.statistics).movedim(-1, 0)[..., None, None]
        return log_softmax_over_ways((log_weights + solutions.log_probs).logsumexp(0))  # a sum of 1, to the last bit

    def describe(self) -> str:
        """Describe the settings in one line."""
        answers = f"{self.n_schedules} schedules of {self.n_layers} layers and plain prototypes"
        return f"{self.origin}; {answers} on two views, gated"

    def settings(self) -> dict[str, int]:
        """Return the settings that, with the parameters, rebuild the model."""
        return {
            "n_schedules": self.n_schedules,
            "n_hidden": self.hidden_bias.shape[-1],
            "n_gate_hidden": self.gate_hidden.out_features,
        }


def _linear(values: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a layer in the dtype of the values."""
    return linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))


def _initial_schedule() -> Tensor:
    """Return (b_l, a_l) of the preset's schedules, shape (n_shots, n_layers, 2)."""
    preset = PRESETS[DEFAULT_PRESET]
    temperature, scale = torch.tensor(preset.temperature), torch.tensor(preset.scale)
    balance = torch.tensor(preset.class_balance) / temperature
    temperature = temperature / scale.square()[:, None]
    return torch.stack([-temperature.log(), balance + torch.log(-torch.expm1(-balance))], -1)


def _spread(n_schedules: int, n_inputs: int, n_outputs: int) -> Tensor:
    """Return first weights that differ from unit to unit, the same at each call; the last ones start at zero."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_schedules, n_inputs, n_outputs, generator=generator) / math.sqrt(n_inputs)
