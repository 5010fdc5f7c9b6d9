"""Images made of tokens, of which few tell: ten classes, views that share two of twelve tokens; no files needed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fewshot.distillation.backbone import TokenBackbone
from fewshot.distillation.relation import RelationBlock
from fewshot.distillation.stream import ViewBatch

N_CLASSES, N_DIMS, N_TOKENS, N_KEYS = 10, 16, 12, 2
WIDTH, DEPTH, N_HEADS = 32, 2, 4


class TokenBags(NamedTuple):
    """What an image's key tokens are around: its class's prototype and an offset of its own."""

    centers: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def make(cls, n_images=5000, seed=0):
        generator = torch.Generator().manual_seed(seed)
        prototypes = torch.randn((N_CLASSES, N_DIMS), generator=generator)
        labels = torch.randint(N_CLASSES, (n_images,), generator=generator)
        return cls(prototypes[labels] + 0.3 * torch.randn((n_images, N_DIMS), generator=generator), labels)

    def view(self, index, generator):
        """Return (b, tokens, dims): key tokens in random places, background drawn anew."""
        n = len(index)
        tokens = 1.2 * torch.randn((n, N_TOKENS, N_DIMS), generator=generator)
        keys = self.centers[index][:, None] + 0.2 * torch.randn((n, N_KEYS, N_DIMS), generator=generator)
        places = torch.rand((n, N_TOKENS), generator=generator).argsort(1)[:, :N_KEYS]
        return tokens.scatter(1, places[..., None].expand(-1, -1, N_DIMS), keys)


class BagStream:
    """Batches of views; with several processes, each gets its part of them.

    With ``is_shared`` the teacher's views are the student's, as for CMD.
    """

    def __init__(self, bags, *, n_train=4000, batch_size=64, n_views=2, seed=0, is_shared=False, rank=0, world_size=1):
        self.bags, self.n_train, self.batch_size, self.n_views = bags, n_train, batch_size, n_views
        self.seed, self.is_shared = seed, is_shared
        self.part = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __call__(self, step):
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step):
        state = np.random.SeedSequence((self.seed, step)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> 1))
        index = torch.randint(self.n_train, (self.batch_size,), generator=generator)
        views = torch.stack([self.bags.view(index, generator) for _ in range(2 * self.n_views)])[:, self.part]
        teacher, student = views[: self.n_views], views[self.n_views :]
        is_weak = torch.rand(self.batch_size, generator=generator)[self.part] < 0.5
        return ViewBatch(teacher, teacher if self.is_shared else student, None, is_weak)


class BagTrunk(nn.Module):
    """A small transformer with a class token and no positions: permuted tokens, permuted outputs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(N_DIMS, WIDTH)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.blocks = nn.Sequential(*(RelationBlock(WIDTH, N_HEADS) for _ in range(DEPTH)))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def forward(self, bags):
        tokens = torch.cat([self.token.expand(len(bags), -1, -1), self.embed(bags)], dim=1)
        return self.blocks(tokens)


def bag_backbone(seed=0, image="token"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = BagTrunk()
    return TokenBackbone(trunk, nn.LayerNorm(WIDTH, eps=1e-6), width=WIDTH, n_prefix=1, n_heads=N_HEADS, image=image)


@torch.no_grad()
def knn_accuracy(backbone, bags, n_train=4000, k=20, temperature=0.07, seed=1):
    """Weighted nearest neighbours among the training images, of one view each."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(len(bags.labels))
    features = nn.functional.normalize(backbone(bags.view(index, generator)).image, dim=-1)
    similarities, neighbours = (features[n_train:] @ features[:n_train].T).topk(k, dim=-1)
    votes = torch.zeros(len(similarities), N_CLASSES)
    votes.scatter_add_(1, bags.labels[:n_train][neighbours], (similarities / temperature).exp())
    return 100 * (votes.argmax(1) == bags.labels[n_train:]).double().mean().item()
