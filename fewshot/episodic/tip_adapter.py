"""Tip-Adapter: image–text cosines plus a cache of the support items, without training.

With unit vectors f_n of queries and F_m of support items, one-hot support labels L_m and texts t_k,

    logits_nk = s f_n·t_k + α Σ_m exp( -β (1 - f_n·F_m) ) L_mk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.episodic.image_text import ImageText, check_cosine_columns, image_text
from fewshot.prototypes import log_softmax_over_ways, one_hot, way_logits

__all__ = ["TipAdapter", "cache_logits"]


def cache_logits(parts: ImageText, support_labels: Tensor, *, sharpness: float = 5.5) -> Tensor:
    """Let each support item vote for its class, the more the nearer: Σ_m exp( -β (1 - f_n·F_m) ) L_mk.

    Parameters
    ----------
    parts : ImageText
    support_labels : Tensor (..., n_support), int64
        -1 has no vote.
    sharpness : float
        β, see `TipAdapter`.

    Returns
    -------
    Tensor (..., n_way, n_queries)
        In [0, items of the class].

    Source
    ------
    [TIP] Section 3.1.
    """
    support, query = parts.support, parts.query
    cosines = query.dot(support.features).mul(support.scale.mT)
    votes = cosines.sub(1).mul(sharpness).exp()
    return one_hot(support_labels, parts.text_logits.shape[-2], votes.dtype).mT @ votes


@dataclass(frozen=True, slots=True)
class TipAdapter:
    """Classify by image–text cosines and a cache of the support items, without training.

    Parameters
    ----------
    n_cosines : int
        How many of the first columns of the features are image–text cosines, one for each class of the pool; the
        other columns are the image embedding. Default 0: no text at hand, and class means stand in for it, see
        `fewshot.episodic.image_text.image_text`.
    cache_weight : float
        α, the weight of the cache. Default 1, the paper's for ImageNet (the released code starts its search
        at 1.17).
    sharpness : float
        β: how fast an item's vote falls with its distance. Default 5.5, the paper's for
        ImageNet (the released code starts at 1).
    softmax_scale : float
        s: multiplies the image–text cosines. Default 100, that of CLIP itself. Stand-ins take a tenth of it.

    Raises
    ------
    ValueError
        If a setting is out of range; when called, if the columns cannot be what ``n_cosines`` says.

    Notes
    -----
    A class with more support items has more votes, as published. The answer to a query does not depend on the others.

    What differs from the authors' code, and why. It searches α and β by the accuracy on the very images it reports:
    here they stay as they are set. Its keys are means over ten random crops of each image, which is a matter of
    extraction. Tip-Adapter-F, which goes on to train the keys, is not here.

    Source
    ------
    [TIP], from its equations: neither paper nor code was at hand. α = 1 and β = 5.5 are as they are usually quoted.

    Examples
    --------
    >>> import torch
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2], [0.3, 0.8]]), class_ids=torch.tensor([0, 1]))
    >>> TipAdapter()(episode).argmax(-1).tolist()
    [0, 1]
    """

    is_transductive: ClassVar[bool] = False
    n_cosines: int = 0
    cache_weight: float = 1.0
    sharpness: float = 5.5
    softmax_scale: float = 100.0

    def __post_init__(self) -> None:
        check_cosine_columns(self.n_cosines)
        check_non_negative("cache_weight", self.cache_weight)
        check_positive("sharpness", self.sharpness)
        check_positive("softmax_scale", self.softmax_scale)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        parts = image_text(episode, self.n_cosines, self.softmax_scale)
        votes = cache_logits(parts, episode.support_labels, sharpness=self.sharpness)
        logits = parts.text_logits.add(votes, alpha=self.cache_weight).mT
        return log_softmax_over_ways(way_logits(logits, episode.way_mask if episode.is_ragged else None))

    def describe(self) -> str:
        """Describe the settings in one line."""
        text = f"texts from {self.n_cosines} columns of cosines" if self.n_cosines else "class means for texts"
        return f"{text}, scale {self.softmax_scale:g}, cache weight {self.cache_weight:g}, sharpness {self.sharpness:g}"
