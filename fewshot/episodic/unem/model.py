"""UNEM: generalized EM unrolled into layers whose λ and T are learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from fewshot_episodes import Episode
from torch import Tensor, nn
from torch.nn.functional import softplus

from fewshot.checks import check_choice, check_positive
from fewshot.em import EMResult, run_em
from fewshot.episodic.em_dirichlet import INPUTS, PROPORTION_FLOOR, episode_cosines, simplex_likelihood
from fewshot.episodic.unem.presets import DEFAULT_PRESET, PRESETS
from fewshot.likelihoods.gaussian import GaussianDirect, GaussianGram, gaussian_likelihood, with_precision
from fewshot.likelihoods.scatter import effective_variance

__all__ = ["LIKELIHOODS", "UNEM", "PreparedEpisode", "nearest_shots"]

LIKELIHOODS = ("gaussian", "dirichlet")


class PreparedEpisode(NamedTuple):
    """Statistics that no learned number changes, computed once per training run; the features are not kept.

    Attributes
    ----------
    problem : GaussianDirect or GaussianGram or Episode
        Gaussian classes: the likelihood, with precision 1 / unit. Dirichlet classes: the episode of cosines.
    schedule : Tensor (...), int64
        Which of the model's schedules each episode takes.
    query_labels : Tensor (..., n_queries) or None
    """

    problem: GaussianDirect | GaussianGram | Episode
    schedule: Tensor
    query_labels: Tensor | None


class UNEM(nn.Module):
    """Unrolled generalized EM: λ_l and T_l for each layer, and a scale, learned on other classes' episodes.

    λ_l/|Q| = softplus(a_l), T_l = 1 + softplus(b_l) >= 1, and the scale softplus(c): 2·n_layers + 1 numbers, shared
    by all episodes. With Gaussian classes the scale multiplies the features, with Dirichlet classes the
    cosines. λ_1 of Gaussian classes has no effect and no gradient: there is no prior before the first
    assignment.

    Parameters
    ----------
    n_layers : int
        Default 10, as in the paper.
    shots : sequence of int
        One schedule for each of these shot counts; an episode takes that of the nearest one, on a log scale, to its own
        mean number of support items per class. By default one schedule serves all. The paper trains one model per shot
        count, which this keeps in one.
    likelihood : {"gaussian", "dirichlet"}
    inputs : {"embeddings", "cosines"}
        For Dirichlet classes: what the features are, see `fewshot.episodic.em_dirichlet.episode_cosines`.
    is_relative : bool
        For Gaussian classes: measure the features of each episode in its own unit, so that one set of numbers fits any
        features (`fewshot.likelihoods.scatter.effective_variance`). False takes raw features, as the paper does.

    Raises
    ------
    ValueError
        If a setting is unknown or out of range.

    Notes
    -----
    Starts at the paper's initial values (raw 1: λ/|Q| 1.313, T 2.313), the scale at 1.313 for raw features and 30 for
    cosines; relative features start at 0.65, in the middle of the values learned on five feature sets.
    Differs from the authors' code: λ is divided by |Q| by definition, the scale is measured in each episode's own
    unit by default, results never depend on the other episodes of a batch, and the Dirichlet scale passes
    through a softplus.

    Source
    ------
    [UNEM] Section on unrolling; parametrisation and initial values of the released code.

    Examples
    --------
    >>> model = UNEM.from_preset()
    >>> support, query = torch.tensor([[0.0, 0.0], [4.0, 4.0]]), torch.tensor([[0.5, 0.1], [3.0, 4.0], [4.0, 3.0]])
    >>> episode = Episode(support=support, support_labels=torch.tensor([0, 1]), query=query, class_ids=torch.arange(2))
    >>> model(episode).argmax(-1).tolist()
    [0, 1, 1]
    """

    is_transductive: ClassVar[bool] = True

    def __init__(
        self,
        n_layers: int = 10,
        *,
        shots: Sequence[int] = (5,),
        likelihood: str = "gaussian",
        inputs: str = "embeddings",
        is_relative: bool = True,
    ) -> None:
        super().__init__()
        check_positive("n_layers", n_layers)
        if not shots:
            raise ValueError("shots must name at least one number of support items per class, got none")
        for shot in shots:
            check_positive("shots", shot)
        self.shots = tuple(shots)
        self.likelihood = check_choice("likelihood", likelihood, LIKELIHOODS)
        self.inputs = check_choice("inputs", inputs, INPUTS)
        self.is_relative = is_relative
        self.origin = "untrained"
        initial_scale = 30.0 if likelihood == "dirichlet" else 0.65 if is_relative else 1.3132616875182228
        self.raw_class_balance = nn.Parameter(torch.ones(len(shots), n_layers))
        self.raw_temperature = nn.Parameter(torch.ones(len(shots), n_layers))
        self.raw_scale = nn.Parameter(_inverse_softplus(torch.full((len(shots),), initial_scale)))

    @classmethod
    def from_preset(cls, preset: str = DEFAULT_PRESET) -> UNEM:
        """Return a model with learned numbers that ship with the library: good without any training.

        Parameters
        ----------
        preset : str
            One of `fewshot.episodic.unem.presets.PRESETS`.

        Raises
        ------
        ValueError
            If there is no such preset.
        """
        learned = PRESETS[check_choice("preset", preset, PRESETS)]
        model = cls(len(learned.temperature[0]), shots=learned.shots, likelihood=learned.likelihood)
        with torch.no_grad():
            model.raw_class_balance.copy_(_inverse_softplus(torch.tensor(learned.class_balance)))
            model.raw_temperature.copy_(_inverse_softplus(torch.tensor(learned.temperature) - 1))
            model.raw_scale.copy_(_inverse_softplus(torch.tensor(learned.scale)))
        model.origin = f"preset {preset!r}, {learned.origin}"
        return model

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.raw_temperature.shape[-1]

    @property
    def class_balance(self) -> Tensor:
        """λ/|Q|, shape (n_schedules, n_layers)."""
        return softplus(self.raw_class_balance)

    @property
    def temperature(self) -> Tensor:
        """T, shape (n_schedules, n_layers), at least 1."""
        return 1 + softplus(self.raw_temperature)

    @property
    def scale(self) -> Tensor:
        """Factor of features or cosines, shape (n_schedules,), positive."""
        return softplus(self.raw_scale)

    def forward(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        return self.solve(episode).log_responsibilities

    def solve(self, episode: Episode) -> EMResult:
        """Return responsibilities, last state and warning flags."""
        return self.run(self.prepare(episode))

    def prepare(self, episode: Episode) -> PreparedEpisode:
        """Compute the statistics that no learned number changes."""
        schedule = nearest_shots(episode, self.shots)
        if self.likelihood == "dirichlet":
            return PreparedEpisode(episode_cosines(episode, self.inputs), schedule, episode.query_labels)
        gaussian = gaussian_likelihood(episode, n_layers=self.n_layers)
        if self.is_relative:
            gaussian = with_precision(gaussian, 1 / effective_variance(gaussian, episode.n_features))
        return PreparedEpisode(gaussian, schedule, episode.query_labels)

    def run(self, prepared: PreparedEpisode, *, with_objective: bool = False) -> EMResult:
        """Run the layers on a prepared episode; differentiable in the model's parameters."""
        problem = prepared.problem
        dtype = problem.query.dtype if isinstance(problem, Episode) else problem.precision.dtype
        balance, temperature, scale = (
            numbers.to(dtype)[prepared.schedule[None]][0]
            for numbers in (self.class_balance, self.temperature, self.scale)
        )
        if isinstance(problem, Episode):
            likelihood = simplex_likelihood(problem, scale[..., None, None])
            floor = PROPORTION_FLOOR
            return run_em(likelihood, balance, temperature, proportion_floor=floor, with_objective=with_objective)
        gaussian = with_precision(problem, scale.square() * problem.precision)
        return run_em(gaussian, balance, temperature, with_objective=with_objective)

    def describe(self) -> str:
        """Describe the settings in one line."""
        unit = "" if self.likelihood == "dirichlet" or not self.is_relative else " in units of the episode's scatter"
        scales = ", ".join(f"{scale:.3g}" for scale in self.scale.tolist())
        shots = f" at {', '.join(map(str, self.shots))} shots" if len(self.shots) > 1 else ""
        return f"{self.origin}; {self.n_layers} {self.likelihood} layers, scale {scales}{unit}{shots}"

    def settings(self) -> dict[str, object]:
        """Return the settings that, with the parameters, rebuild the model."""
        return {
            "n_layers": self.n_layers,
            "shots": list(self.shots),
            "likelihood": self.likelihood,
            "inputs": self.inputs,
            "is_relative": self.is_relative,
        }


def nearest_shots(episode: Episode, shots: Sequence[int]) -> Tensor:
    """Return the position among ``shots`` of the one nearest, on a log scale, to the support items per class.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(4), support_labels=torch.tensor([0, 0, 0, 1]), query=torch.eye(4),
    ...                   class_ids=torch.arange(2))
    >>> int(nearest_shots(episode, (1, 2, 5)))
    1
    """
    n_support = (episode.support_labels >= 0).sum(-1)
    log_shots = (n_support / episode.way_mask.sum(-1)).log()
    log_known = log_shots.new_tensor(shots).log()
    return (log_shots[..., None] - log_known).abs().argmin(-1)


def _inverse_softplus(value: Tensor) -> Tensor:
    """Return x with softplus(x) = value, for positive values."""
    return value + torch.log(-torch.expm1(-value))
