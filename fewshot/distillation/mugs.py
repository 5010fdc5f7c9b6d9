r"""Mugs: distillation at three granularities, instance, neighbours and group.

Each loss is the mean of two: over pairs (teacher view u, student view v), u ≠ v, of global views, and over pairs of a
global and a local view. Then

    L = Σ_i w_i L_i / Σ_i w_i,   i ∈ {instance, local group, group}.

Source: [MUGS] §3 and released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from fewshot.checks import check_choice, check_positive
from fewshot.distillation.backbone import TokenBackbone
from fewshot.distillation.distiller import Comparison, Distiller, seeded_draws, view_groups
from fewshot.distillation.heads import ContrastHead, PrototypeHead
from fewshot.distillation.losses import cluster_cross_entropy, pair_weights, queue_contrast
from fewshot.distillation.memory import FifoMemory
from fewshot.distillation.relation import RelationBlock
from fewshot.distillation.stream import ViewBatch
from fewshot.distillation.teacher import Center

__all__ = ["LOCAL_QUERIES", "Mugs", "MugsNetwork", "MugsOutputs", "MugsSettings"]

LOCAL_QUERIES = ("tokens", "patches")


@dataclass(frozen=True, slots=True)
class MugsSettings:
    """The numbers of Mugs, for small data; the authors' are for ImageNet.

    Parameters
    ----------
    n_prototypes : int
        Groups. Default 1024; the authors: 65,536.
    capacity : int
        Of both queues of negatives and both memories of neighbours. Default 1024; keep it to a quarter of the images,
        or an image meets its own past as a negative and as its neighbour. The authors: 65,536.
    n_neighbours : int
        Default 8, as the authors.
    loss_weights : tuple of three floats
        w of the instance, local-group and group losses. Default 1 each, as the authors.
    temperature : float
        Of the instance and local-group losses. Default 0.2, as the authors.
    student_temperature : float
        Of the group loss. Default 0.1, as the authors.
    hidden, n_out, predictor_hidden : int
        Widths of the heads: of hidden layers, of the output, of the predictors' hidden layer. Default 512, 256, 1024;
        the authors: 2048, 256, 4096.
    is_norm_frozen : bool
        Whether prototypes keep unit length. Default True, the steadier; the authors: False but for ViT-L.
    local_query : str
        What looks for neighbours in the memory of mean patch tokens: ``tokens``, the mean of all tokens before the
        final norm, as the released code has it (default); ``patches``, a mean of the very kind that is remembered, as
        the paper's figure has it.

    Raises
    ------
    ValueError
        If a number is out of range or a word unknown.
    """

    n_prototypes: int = 1024
    capacity: int = 1024
    n_neighbours: int = 8
    loss_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    temperature: float = 0.2
    student_temperature: float = 0.1
    hidden: int = 512
    n_out: int = 256
    predictor_hidden: int = 1024
    is_norm_frozen: bool = True
    local_query: str = "tokens"

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            check_positive(name, getattr(self, name))
        check_choice("query of the memory", self.local_query, LOCAL_QUERIES)
        if self.n_neighbours > self.capacity:
            raise ValueError(
                f"n_neighbours must be at most the memory's capacity, got {self.n_neighbours} for {self.capacity}"
            )
        is_valid = len(self.loss_weights) == 3 and all(weight >= 0 for weight in self.loss_weights)
        if not is_valid or sum(self.loss_weights) == 0:
            raise ValueError(
                f"loss_weights must be three numbers from 0 (instance, local group, group), not all 0, "
                f"got {self.loss_weights}"
            )


_POSITIVE = (
    "n_prototypes",
    "capacity",
    "n_neighbours",
    "temperature",
    "student_temperature",
    "hidden",
    "n_out",
    "predictor_hidden",
)


class MugsOutputs(NamedTuple):
    """Outputs of a network for v views of b images.

    Attributes
    ----------
    instance : Tensor (v, b, n_out)
        Unit rows of the instance head.
    local_group : Tensor (v, b, n_out) or None
        Unit rows of the local-group head; None without a memory.
    group : Tensor (v, b, n_prototypes)
        Cosines with the prototypes.
    image, patch_means : Tensor (v, b, d)
        Embeddings of the views, and the means of their patch tokens after the final norm.
    """

    instance: Tensor
    local_group: Tensor | None
    group: Tensor
    image: Tensor
    patch_means: Tensor


class MugsNetwork(nn.Module):
    """Backbone, relation block and three heads; only a student's heads have predictors.

    Parameters
    ----------
    backbone : TokenBackbone
    settings : MugsSettings
    is_student : bool
    """

    def __init__(self, backbone: TokenBackbone, settings: MugsSettings, *, is_student: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.relation = RelationBlock(backbone.width, backbone.n_heads)
        self.instance_head = _contrast_head(backbone.width, settings, is_student=is_student)
        self.local_group_head = _contrast_head(backbone.width, settings, is_student=is_student)
        self.group_head = PrototypeHead(
            backbone.width,
            settings.n_prototypes,
            hidden=settings.hidden,
            bottleneck=settings.n_out,
            is_norm_frozen=settings.is_norm_frozen,
        )
        self.n_neighbours, self.local_query = settings.n_neighbours, settings.local_query

    def forward(self, groups: Sequence[Tensor], memory: FifoMemory | None) -> MugsOutputs:
        """Return the outputs for groups of views (v, b, ...), one size a group, in their order."""
        embedded = [self._embed(views) for views in groups]
        image, patch_means, queries = (torch.cat(parts) for parts in zip(*embedded, strict=True))
        local_group = None if memory is None else self.local_group_head(self._relate(queries, memory))
        return MugsOutputs(self.instance_head(image), local_group, self.group_head(image), image, patch_means)

    def _embed(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings, patch means and the memory's queries (v, b, d)."""
        tokens = self.backbone(views.flatten(0, 1))
        patch_means = tokens.instances.mean(1)
        queries = tokens.raw.mean(1) if self.local_query == "tokens" else patch_means
        v_b = views.shape[:2]
        return tokens.image.unflatten(0, v_b), patch_means.unflatten(0, v_b), queries.unflatten(0, v_b)

    def _relate(self, queries: Tensor, memory: FifoMemory) -> Tensor:
        """Return queries (v, b, d) after a look at their neighbours."""
        neighbours = memory.nearest(queries, self.n_neighbours).to(queries.dtype)
        sequence = torch.cat([queries.unsqueeze(-2), neighbours], dim=-2).flatten(0, 1)
        related: Tensor = self.backbone.norm(self.relation(sequence)[:, 0])
        return related.reshape(queries.shape)


def _contrast_head(width: int, settings: MugsSettings, *, is_student: bool) -> ContrastHead:
    predictor_hidden = settings.predictor_hidden if is_student else None
    return ContrastHead(width, hidden=settings.hidden, n_out=settings.n_out, predictor_hidden=predictor_hidden)


class _Embedded(NamedTuple):
    """A batch as both networks see it."""

    teacher: MugsOutputs
    student: MugsOutputs
    n_global: int
    is_weak: Tensor


class Mugs(Distiller):
    """Multi-granular self-supervision.

    Parameters
    ----------
    backbone : TokenBackbone
        The student's; the teacher's is a copy.
    settings : MugsSettings
    seed : int
        Of the initialisation of heads and relation block.

    Notes
    -----
    Unlike in the released code a memory has one pointer, so that all of it is used, and is kept once, not three times;
    queues and memories begin empty, not with noise, and the local-group loss begins once both memories are full;
    ``loss_weights`` weigh; and without local views the pairs of global views count alone.

    Source
    ------
    [MUGS] §3 and released code.
    """

    part_names = ("instance", "local_group", "group")
    has_idle_weights = True  # the relation block's, until the memories are full

    def __init__(self, backbone: TokenBackbone, settings: MugsSettings | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.settings = MugsSettings() if settings is None else settings
        n_prototypes, capacity = self.settings.n_prototypes, self.settings.capacity
        with seeded_draws(seed):
            self.student = MugsNetwork(backbone, self.settings, is_student=True)
            self.teacher = MugsNetwork(deepcopy(backbone), self.settings, is_student=False)
        self.start_teacher()
        self.instance_queue = FifoMemory(capacity, self.settings.n_out)
        self.local_group_queue = FifoMemory(capacity, self.settings.n_out)
        self.student_memory = FifoMemory(capacity, backbone.width)
        self.teacher_memory = FifoMemory(capacity, backbone.width)
        self.center = Center(n_prototypes)
        self.n_prototypes, self.n_negatives = n_prototypes, capacity
        self.student_temperature = self.settings.student_temperature

    def embed(self, batch: ViewBatch, student: nn.Module) -> _Embedded:
        """Run both networks, each with its own memory once both are full."""
        is_ready = self.student_memory.is_full and self.teacher_memory.is_full
        with torch.no_grad():
            targets = self.teacher([batch.teacher], self.teacher_memory if is_ready else None)
        outputs = student(view_groups(batch), self.student_memory if is_ready else None)
        return _Embedded(targets, outputs, len(batch.student), batch.is_weak)

    def compare(self, outputs: _Embedded, teacher_temperature: float) -> Comparison:
        """Return the losses; that of local groups is absent until the memories are full."""
        teacher, student, n_global, _ = outputs
        n_local = len(student.group) - n_global
        pairs = pair_weights(len(teacher.group), n_global, n_local, "halves", like=student.group)
        log_teacher = log_softmax((teacher.group.float() - self.center.center) / teacher_temperature, dim=-1)
        log_student = log_softmax(student.group.float() / self.student_temperature, dim=-1)
        parts = {
            "instance": self._contrast(pairs, student.instance, teacher.instance, self.instance_queue),
            "group": (pairs * cluster_cross_entropy(log_teacher, log_student)).sum(),
        }
        if student.local_group is not None and teacher.local_group is not None:
            parts["local_group"] = self._contrast(
                pairs, student.local_group, teacher.local_group, self.local_group_queue
            )
        return Comparison(self._weigh(parts), parts, log_teacher.flatten(0, 1))

    def remember(self, outputs: _Embedded) -> None:
        """Queue the teacher's targets, view by view; remember the first view of the student's weak images and of all.

        Source
        ------
        [MUGS] Released code.
        """
        teacher, student, _, is_weak = outputs
        for view in teacher.instance:
            self.instance_queue.push(view)
        for view in () if teacher.local_group is None else teacher.local_group:
            self.local_group_queue.push(view)
        self.student_memory.push(student.patch_means[0][is_weak])
        self.teacher_memory.push(teacher.patch_means[0])
        self.center.update(teacher.group)

    def teacher_features(self, outputs: _Embedded) -> Tensor:
        """Return the first view's."""
        return outputs.teacher.image[0]

    def _contrast(self, pairs: Tensor, predictions: Tensor, targets: Tensor, queue: FifoMemory) -> Tensor:
        losses = queue_contrast(predictions, targets, queue.entries(), self.settings.temperature)
        return (pairs * losses).sum()

    def _weigh(self, parts: dict[str, Tensor]) -> Tensor:
        """Return Σ w L / Σ w; a loss that is absent counts as 0."""
        weights = dict(zip(self.part_names, self.settings.loss_weights, strict=True))
        weighed = torch.stack([weights[name] * part for name, part in parts.items()])
        return weighed.sum() / sum(self.settings.loss_weights)
