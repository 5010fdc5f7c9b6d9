"""Classifiers on cached maps of diffusion features, and the plain recipe that trains them.

To cache whole maps, build the features with ``pool`` at the size of the map: a row is then the flattened
(channels, size, size), as the heads expect it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.checks import check_positive

__all__ = ["AttentionHead", "HeadTrace", "LinearHead", "MLPHead", "fit_head"]


class LinearHead(nn.Linear):
    """Logits linear in the features: (b, n_features) to (b, n_classes).

    Examples
    --------
    >>> sum(parameter.numel() for parameter in LinearHead(1024 * 2 * 2, 1000).parameters())
    4097000
    """

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__(n_features, n_classes)


class MLPHead(nn.Sequential):
    """Linear layers with ReLU between them, without normalisation or dropout.

    Parameters
    ----------
    n_features, n_classes
        Sizes of input and output.
    hidden
        Sizes between them.
    """

    def __init__(self, n_features: int, n_classes: int, hidden: Sequence[int] = (2048,)) -> None:
        sizes = [n_features, *hidden]
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        super().__init__(*layers, nn.Linear(sizes[-1], n_classes))


class AttentionHead(nn.Module):
    """A small transformer over the places of a map: normalise, project, prepend a class token, attend, classify.

    Parameters
    ----------
    n_channels, size
        Of the maps: rows of n_channels · size · size features.
    n_classes
        Size of the output.
    width, n_blocks, n_heads
        Of the transformer: 1024, 2 and 8 as published.

    Notes
    -----
    The first norm is over the whole (n_channels, size, size), with a scale and a shift for every entry, which ties the
    head to one size. There is no positional embedding and no last norm.

    Source
    ------
    [DIFFSSL] released code, "attention".

    Examples
    --------
    >>> with torch.device("meta"):
    ...     head = AttentionHead(1024, 16, 1000)
    >>> sum(parameter.numel() for parameter in head.parameters())
    27786216
    """

    def __init__(
        self, n_channels: int, size: int, n_classes: int, *, width: int = 1024, n_blocks: int = 2, n_heads: int = 8
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"n_heads must divide width, got {n_heads} and {width}")
        self.shape = (n_channels, size, size)
        self.norm = nn.LayerNorm(self.shape)
        self.project = nn.Conv2d(n_channels, width, 1)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, n_heads) for _ in range(n_blocks)))
        self.classify = nn.Linear(width, n_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (b, n_classes) of flattened maps (b, n_channels · size · size)."""
        tokens = self.project(self.norm(features.view(-1, *self.shape))).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        logits: Tensor = self.classify(self.blocks(tokens)[:, 0])
        return logits


class TransformerBlock(nn.Module):
    """Pre-norm attention, then a pre-norm MLP four times as wide; no bias on q, k and v."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (b, n_tokens, width)."""
        b, n_tokens, width = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).view(b, n_tokens, 3, self.n_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n_tokens, width)
        tokens = tokens + self.proj(attended)
        mixed: Tensor = self.mlp(self.norm2(tokens))
        return tokens + mixed


class HeadTrace(NamedTuple):
    """Trace of `fit_head`.

    Attributes
    ----------
    loss : Tensor (n_epochs,)
        Mean cross-entropy over each epoch, in nats.
    accuracy : Tensor (n_epochs,)
        Share of training items that were right when their batch came, in [0, 1].
    """

    loss: Tensor
    accuracy: Tensor


def fit_head(
    head: nn.Module,
    features: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    n_epochs: int = 28,
    learning_rate: float = 1e-2,
    decay_every: int = 7,
    batch_size: int = 128,
    progress: Callable[[int, float, float], None] | None = None,
) -> HeadTrace:
    """Train a head on cached features by stochastic gradient descent, without momentum or weight decay.

    Parameters
    ----------
    head
        (b, n_features) to logits (b, n_classes). Trained in place.
    features
        (n, n_features); moved to the head's device batch by batch.
    labels
        (n,) int64 in [0, n_classes), on the device of the features.
    generator
        Draws the order of the items.
    n_epochs, decay_every
        28 epochs, the learning rate divided by 10 after every 7.
    learning_rate
        0.01 as published for the linear head; 0.05 for the attention head.
    batch_size
        128, as published: four processes of 32.
    progress
        Called after each epoch with its number, the loss and the accuracy.

    Returns
    -------
    HeadTrace

    Raises
    ------
    ValueError
        If there is not one label per row, or a setting is not positive.

    Notes
    -----
    The published training also crops and flips the images at random; on cached features there is no such augmentation.
    The last batch of an epoch may be smaller; no item is left out. The rate suits features of the published network:
    features of another scale want another one, or to be standardised first.

    Source
    ------
    [DIFFSSL] released scripts.
    """
    if labels.shape != features.shape[:1]:
        raise ValueError(f"expected one label per row, got {tuple(labels.shape)} for {tuple(features.shape)}")
    for what, value in {"n_epochs": n_epochs, "decay_every": decay_every, "batch_size": batch_size}.items():
        check_positive(what, value)
    optimizer = torch.optim.SGD(head.parameters(), check_positive("learning_rate", learning_rate))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, decay_every, 0.1)
    seen = []
    for epoch in range(n_epochs):
        order = torch.randperm(len(labels), generator=generator, device=generator.device).to(labels.device)
        batches = torch.split(order, batch_size)
        parts = [_train_step(head, optimizer, features[rows], labels[rows]) for rows in batches]
        schedule.step()
        seen.append(torch.stack(parts).sum(0) / len(labels))
        if progress is not None:
            progress(epoch + 1, float(seen[-1][0]), float(seen[-1][1]))
    return HeadTrace(*torch.stack(seen).unbind(1))


def _train_step(head: nn.Module, optimizer: torch.optim.Optimizer, features: Tensor, labels: Tensor) -> Tensor:
    """Step on one batch; return the sums of its losses and of its right answers."""
    device = next(head.parameters()).device
    features, labels = features.to(device), labels.to(device)
    logits = head(features)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    optimizer.zero_grad()
    losses.mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    is_right = logits.detach().argmax(-1) == labels
    return torch.stack([losses.detach().sum(), is_right.sum()])
