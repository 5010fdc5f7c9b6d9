"""EM-Dirichlet and its hard variant: EM on class probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_choice, check_non_negative, check_positive
from fewshot.em import EMResult, run_em
from fewshot.likelihoods.dirichlet import DirichletLikelihood, dirichlet_likelihood, simplex_log_features
from fewshot.prototypes import class_means, l2_normalize

__all__ = ["INPUTS", "PROPORTION_FLOOR", "EMDirichlet", "episode_cosines", "simplex_likelihood"]

INPUTS = ("embeddings", "cosines")
# Added to class proportions before their logarithm, as in the authors' code.
PROPORTION_FLOOR = 1e-15


def episode_cosines(episode: Episode, inputs: str) -> Episode:
    """Return the episode with features replaced by their cosines with the ways, (..., n_items, n_way).

    Parameters
    ----------
    episode : Episode
    inputs : {"embeddings", "cosines"}
        ``cosines``: the features are image-text cosines already, one column per class of the pool, and the ways'
        columns are taken by ``class_ids``. ``embeddings``: cosines of the features with the class means of
        the support, after subtracting the support's mean. Ours, so that Dirichlet methods can run on
        features without a text tower.

    Raises
    ------
    ValueError
        If a class id has no column.
    """
    if inputs == "cosines":
        return replace(
            episode,
            support=_class_columns(episode.support, episode.class_ids),
            query=_class_columns(episode.query, episode.class_ids),
        )
    prototypes = class_means(episode.support, episode.support_labels, episode.n_way)
    center = prototypes.mean(-2, keepdim=True)
    if episode.is_ragged:
        is_real = episode.way_mask[..., None]
        center = (prototypes * is_real).sum(-2, keepdim=True) / is_real.sum(-2, keepdim=True)
    directions = l2_normalize(prototypes - center).mT
    return replace(
        episode,
        support=l2_normalize(episode.support - center) @ directions,
        query=l2_normalize(episode.query - center) @ directions,
    )


def simplex_likelihood(cosines: Episode, softmax_scale: Tensor | float) -> DirichletLikelihood:
    """Put an episode of cosines on the simplex and prepare it for EM; absent ways have no share of the simplex."""
    way_mask = cosines.way_mask if cosines.is_ragged else None
    return dirichlet_likelihood(
        simplex_log_features(cosines.support, softmax_scale, way_mask=way_mask),
        cosines.support_labels,
        simplex_log_features(cosines.query, softmax_scale, way_mask=way_mask),
        query_mask=cosines.query_mask,
        way_mask=way_mask,
        proportion_floor=PROPORTION_FLOOR,
    )


@dataclass(frozen=True, slots=True)
class EMDirichlet:
    """EM with Dirichlet classes on the probabilities softmax(τ · cosine).

    Parameters
    ----------
    inputs : {"embeddings", "cosines"}
        What the features are, see `episode_cosines`.
    softmax_scale : float
        τ. Default 30, the authors' value for CLIP.
    class_balance : float, optional
        λ/|Q|. Default: 1, ordinary EM. The authors set floor(n_way / n_effective_way) from the **true** number of
        effective ways, which a user does not know.
    temperature : float
        T. Default 1.
    n_layers : int
        EM iterations. Default 20, as in the authors' configuration.
    is_hard : bool
        Replace assignments by their one-hot arg max before each M-step: hard EM-Dirichlet, which the authors run for 10
        iterations.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Source
    ------
    [EMD] EM-Dirichlet; default values of the released code.
    """

    is_transductive: ClassVar[bool] = True
    inputs: str = "embeddings"
    softmax_scale: float = 30.0
    class_balance: float = 1.0
    temperature: float = 1.0
    n_layers: int = 20
    is_hard: bool = False

    def __post_init__(self) -> None:
        check_choice("inputs", self.inputs, INPUTS)
        check_positive("softmax_scale", self.softmax_scale)
        check_positive("temperature", self.temperature)
        check_positive("n_layers", self.n_layers)
        check_non_negative("class_balance", self.class_balance)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        return self.solve(episode).log_responsibilities

    def solve(self, episode: Episode) -> EMResult:
        """Return responsibilities, last state and warning flags."""
        likelihood = simplex_likelihood(episode_cosines(episode, self.inputs), self.softmax_scale)
        layers = episode.query.new_ones(self.n_layers)
        return run_em(
            likelihood,
            self.class_balance * layers,
            self.temperature * layers,
            proportion_floor=PROPORTION_FLOOR,
            is_hard=self.is_hard,
        )

    def describe(self) -> str:
        """Describe the settings in one line."""
        hard = "hard assignments, " if self.is_hard else ""
        return (
            f"{hard}probabilities from {self.inputs} with softmax scale {self.softmax_scale:g}, "
            f"class balance {self.class_balance:g}, temperature {self.temperature:g}, {self.n_layers} layers"
        )


def _class_columns(cosines: Tensor, class_ids: Tensor) -> Tensor:
    if not class_ids.is_meta and int(class_ids.max()) >= cosines.shape[-1]:
        raise ValueError(
            f"features given as cosines need a column per class: class id {int(class_ids.max())} came with "
            f"{cosines.shape[-1]} columns; use inputs='embeddings' for other features"
        )
    columns = class_ids.clamp(min=0)[..., None, :].expand(*cosines.shape[:-1], -1)
    return cosines.gather(-1, columns)
