"""The forward pass that runtimes compile: uint8 images in, features out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fewshot.features.images.preprocess import Preprocess

__all__ = ["CHUNK_SIZE", "ForwardPass", "Run", "in_chunks"]

# Images at once on a CPU: more of them leave its caches without any gain. Compiled networks have this batch size.
CHUNK_SIZE = 16
# From uint8 images (b, height, width, 3) to the outputs of each layer, (b, n_features of it), float32.
Run: TypeAlias = Callable[[Tensor], Sequence[Tensor]]


class ForwardPass(nn.Module):
    """Normalisation and network as one module.

    Parameters
    ----------
    network
        From normalised images to one tensor, or to a mapping from layer to tensor.
    preprocess
        Its normalisation; resizing is done before.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs (b, n_features) of each layer, float32, of uint8 images (b, height, width, 3)."""
        outputs = self.network(self.preprocess.normalise(images))
        layers = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs.values())
        return tuple(output.float() for output in layers)


def in_chunks(run: Run, images: Tensor, *, is_padded: bool) -> list[Tensor]:
    """Run on at most `CHUNK_SIZE` images at a time; pad the last chunk for a runtime of one batch size.

    Examples
    --------
    >>> [sums] = in_chunks(lambda images: [images.sum(1, keepdim=True)], torch.ones(35, 2), is_padded=True)
    >>> sums.shape
    torch.Size([35, 1])
    """
    outputs = []
    for chunk in torch.split(images, CHUNK_SIZE):
        n_missing = CHUNK_SIZE - len(chunk) if is_padded else 0
        padded = torch.cat([chunk, chunk.new_zeros((n_missing, *chunk.shape[1:]))]) if n_missing else chunk
        outputs.append([output[: len(chunk)] for output in run(padded)])
    return [torch.cat(parts) for parts in zip(*outputs, strict=True)]
