"""Episodes of image embeddings with their image–text cosines, for methods of image–text models."""

from __future__ import annotations

from typing import NamedTuple

from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_non_negative
from fewshot.episodic.bd_cspn import UnitItems, class_averages, unit_items

__all__ = ["ImageText", "check_cosine_columns", "image_text"]

# Rounding of half precision, in which caches of cosines are often kept.
_MOST_COSINE = 1.01
# Cosines between images of different classes differ by tenths, those with texts by hundredths.
_STAND_IN = 0.1


class ImageText(NamedTuple):
    """The two halves of image–text features.

    Attributes
    ----------
    support, query : UnitItems
        Image embeddings, of unit length.
    text_logits : Tensor (..., n_way, n_queries)
        Scaled cosine of each query with the text of each way.
    """

    support: UnitItems
    query: UnitItems
    text_logits: Tensor


def check_cosine_columns(n_cosines: int) -> int:
    """Return ``n_cosines`` if it is not negative.

    Raises
    ------
    ValueError
        Otherwise.
    """
    return int(check_non_negative("n_cosines", n_cosines))


def image_text(episode: Episode, n_cosines: int, softmax_scale: float = 100.0) -> ImageText:
    """Part an episode's features into image embeddings and cosines with texts.

    Parameters
    ----------
    episode : Episode
    n_cosines : int
        How many of the first columns are image–text cosines, one for each class of the pool, of which ``class_ids``
        picks the ways'. The other columns are the image embedding. 0: all columns are, and the mean of each
        class's support items of unit length stands in for its text; ours, so that these methods can run and be
        compared on features without a text tower.
    softmax_scale : float
        Multiplies the cosines with texts; those with stand-ins, which spread about ten times as wide, are multiplied
        by a tenth of it.

    Returns
    -------
    ImageText

    Raises
    ------
    ValueError
        If no column is left for the embedding, a class id has no column, or what should be cosines are none.

    Examples
    --------
    >>> import torch
    >>> cosines, embedding = torch.tensor([[0.3, 0.1]]), torch.tensor([[2.0, 0.0]])
    >>> item = torch.cat([cosines, embedding], dim=-1)
    >>> episode = Episode(support=item, support_labels=torch.tensor([0]), query=item, class_ids=torch.tensor([1]))
    >>> image_text(episode, 2, softmax_scale=100.0).text_logits.tolist()
    [[10.0]]
    """
    if n_cosines == 0:
        support, query = unit_items(episode.support), unit_items(episode.query)
        cosines = query.cosines(class_averages(support, episode))
        return ImageText(support, query, _STAND_IN * softmax_scale * cosines)
    _check_columns(episode, n_cosines)
    support, query = (unit_items(items[..., n_cosines:]) for items in (episode.support, episode.query))
    return ImageText(support, query, softmax_scale * _text_cosines(episode, n_cosines))


def _text_cosines(episode: Episode, n_cosines: int) -> Tensor:
    """Return the ways' columns, shape (..., n_way, n_queries), checked to be cosines."""
    columns = episode.class_ids.clamp(min=0)[..., None, :].expand(*episode.query.shape[:-1], -1)
    cosines = episode.query[..., :n_cosines].gather(-1, columns).mT.contiguous()
    real = cosines if episode.query_mask is None else cosines * episode.query_mask[..., None, :]
    if not cosines.is_meta and float(real.abs().max()) > _MOST_COSINE:
        raise ValueError(
            f"the first n_cosines={n_cosines} columns must be image-text cosines in [-1, 1], got "
            f"{float(real.abs().max()):.4g}: put the cosines first, or set n_cosines=0 for embeddings alone"
        )
    return cosines


def _check_columns(episode: Episode, n_cosines: int) -> None:
    if n_cosines >= episode.n_features:
        raise ValueError(
            f"features must have columns of an image embedding after n_cosines={n_cosines} cosines, got "
            f"{episode.n_features} columns in all: join cosines and embeddings (fewshot import --cosines)"
        )
    if not episode.class_ids.is_meta and int(episode.class_ids.max()) >= n_cosines:
        raise ValueError(
            f"n_cosines must count a column for each class of the pool, got {n_cosines} and class id "
            f"{int(episode.class_ids.max())}: set it to the number of classes that the cosines were made for"
        )
