r"""CMD: bags of instances. An image is a bag of regions; both levels are distilled, across networks and across levels.

With the pairs (u, v) of teacher views u and student views v, u ≠ v, and H(p, q) = -Σ_k p_k log q_k,

    L_I = mean_uv H(P_t(u), p_s(v))            image with image
    L_R = mean_uv mean_i H(Q_t(u, j*(i)), q_s(v, i))    region with the most similar region, j* by cosine of tokens
    L_S = mean_v KL(sg p_s(v) || b_s(v))       within the student: image with the bag of its regions
    L_T = mean_uv H(b_t(u), p_s(v))            across: the teacher's bag with the student's image
    L   = (L_I + L_R) / 2 + λ (L_T + L_S),

where b = Σ_i a_i q(i) is a bag's distribution, its instances' mixture.

Source: L_I, L_R: [ESVIT], as released with [CMD]. L_S and L_T are our reading of [CMD], see `CMD`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from fewshot.checks import check_choice, check_non_negative, check_positive
from fewshot.distillation.backbone import TokenBackbone
from fewshot.distillation.distiller import Comparison, Distiller, seeded_draws, view_groups
from fewshot.distillation.heads import POOLINGS, InstancePooling, PrototypeHead
from fewshot.distillation.instance_losses import bag_log_probabilities, instance_cross_entropy, match_instances
from fewshot.distillation.losses import cluster_cross_entropy, kl_divergence, pair_weights
from fewshot.distillation.stream import ViewBatch
from fewshot.distillation.teacher import Center

__all__ = ["CMD", "STUDENT_DIRECTIONS", "TEACHER_BAGS", "CMDNetwork", "CMDOutputs", "CMDSettings", "InstanceGroup"]

STUDENT_DIRECTIONS = ("bag", "both")
TEACHER_BAGS = ("cross", "off")


@dataclass(frozen=True, slots=True)
class CMDSettings:
    """The numbers of CMD, for small data; the authors' are for ImageNet's weights and fine-grained sets.

    Parameters
    ----------
    n_prototypes : int
        Default 1024; the authors: 65,536.
    inter_weight : float
        λ. Default 0.1, at which the authors evaluate; their training script has 1.
    pool : str
        a_i: ``mean`` (default), ``attention`` (gated) or ``max``; see `InstancePooling`.
    is_head_shared : bool
        Whether regions share the image's prototypes. Default False, as released.
    student_direction : str
        ``bag``: KL(sg p || b) trains the bag only (default); ``both`` adds KL(sg b || p), which trains the image's.
    teacher_bag : str
        ``cross`` (default): L_T as above; ``off``: it is reported and not minimised.
    student_temperature : float
        Default 0.1, as the authors.
    hidden, bottleneck : int
        Widths of the heads. Default 512 and 256; the authors: 2048 and 256.
    is_norm_frozen : bool
        Whether prototypes keep unit length. Default True, the steadier; the authors: False.

    Raises
    ------
    ValueError
        If a number is out of range or a word unknown.
    """

    n_prototypes: int = 1024
    inter_weight: float = 0.1
    pool: str = "mean"
    is_head_shared: bool = False
    student_direction: str = "bag"
    teacher_bag: str = "cross"
    student_temperature: float = 0.1
    hidden: int = 512
    bottleneck: int = 256
    is_norm_frozen: bool = True

    def __post_init__(self) -> None:
        for name in ("n_prototypes", "student_temperature", "hidden", "bottleneck"):
            check_positive(name, getattr(self, name))
        check_non_negative("inter_weight", self.inter_weight)
        check_choice("pooling", self.pool, POOLINGS)
        check_choice("direction within the student", self.student_direction, STUDENT_DIRECTIONS)
        check_choice("use of the teacher's bag", self.teacher_bag, TEACHER_BAGS)


class InstanceGroup(NamedTuple):
    """The instances of v views of one size.

    Attributes
    ----------
    tokens : Tensor (v, b, n, d)
    logits : Tensor (v, b, n, n_prototypes)
        Cosines with the prototypes.
    log_weights : Tensor (v, b, n)
        log a.
    """

    tokens: Tensor
    logits: Tensor
    log_weights: Tensor


class CMDOutputs(NamedTuple):
    """Outputs of a network for views of b images.

    Attributes
    ----------
    image : Tensor (v, b, d)
        Embeddings.
    logits : Tensor (v, b, n_prototypes)
        Their cosines with the prototypes.
    groups : tuple of InstanceGroup
        Views of one size each, in the same order.
    """

    image: Tensor
    logits: Tensor
    groups: tuple[InstanceGroup, ...]


class CMDNetwork(nn.Module):
    """Backbone, a head for images, one for instances, and the weights of instances.

    Parameters
    ----------
    backbone : TokenBackbone
    settings : CMDSettings
    """

    def __init__(self, backbone: TokenBackbone, settings: CMDSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_head = _head(backbone.width, settings)
        self.instance_head = self.image_head if settings.is_head_shared else _head(backbone.width, settings)
        self.pooling = InstancePooling(settings.pool, backbone.width)

    def forward(self, groups: Sequence[Tensor]) -> CMDOutputs:
        """Return the outputs for groups of views (v, b, ...), one size a group, in their order."""
        images, instances = zip(*(self._embed(views) for views in groups), strict=True)
        image = torch.cat(images)
        return CMDOutputs(image, self.image_head(image), instances)

    def _embed(self, views: Tensor) -> tuple[Tensor, InstanceGroup]:
        embedded = self.backbone(views.flatten(0, 1))
        tokens = embedded.instances.unflatten(0, views.shape[:2])
        logits = self.instance_head(tokens)
        group = InstanceGroup(tokens, logits, self.pooling(tokens, logits))
        return embedded.image.unflatten(0, views.shape[:2]), group


def _head(width: int, settings: CMDSettings) -> PrototypeHead:
    return PrototypeHead(
        width,
        settings.n_prototypes,
        hidden=settings.hidden,
        bottleneck=settings.bottleneck,
        is_norm_frozen=settings.is_norm_frozen,
    )


class _Embedded(NamedTuple):
    """A batch as both networks see it."""

    teacher: CMDOutputs
    student: CMDOutputs
    n_global: int


class CMD(Distiller):
    """Cross-level multi-instance distillation.

    Parameters
    ----------
    backbone : TokenBackbone
        The student's; the teacher's is a copy.
    settings : CMDSettings
    seed : int
        Of the heads' initialisation.

    Notes
    -----
    The authors' are: bags of regions, the four losses with one weight λ, instances as the tokens of the last stage,
    L_I and L_R, centering and temperatures. Ours are L_S and L_T: the released code takes a pointwise KL "divergence"
    of raw logits, which is no divergence, is NaN where a logit is negative, and has no gradient within the teacher
    (see `literal_inter_level`). Here both are between true distributions: a bag is the weighted mean of its instances'
    distributions (the released sum, normalised), L_S a KL divergence, and L_T goes to the student, since the teacher
    learns nothing from a loss. Weights of instances that are learned (``attention``) need not find the parts that tell
    classes apart.

    Source
    ------
    [CMD] Figure and released code; [ESVIT] §3.
    """

    part_names = ("image", "region", "teacher_bag", "student_bag")

    def __init__(self, backbone: TokenBackbone, settings: CMDSettings | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.settings = CMDSettings() if settings is None else settings
        with seeded_draws(seed):
            self.student = CMDNetwork(backbone, self.settings)
            self.teacher = CMDNetwork(deepcopy(backbone), self.settings)
        self.start_teacher()
        self.n_prototypes, self.student_temperature = self.settings.n_prototypes, self.settings.student_temperature
        self.center, self.instance_center = Center(self.n_prototypes), Center(self.n_prototypes)

    def embed(self, batch: ViewBatch, student: nn.Module) -> _Embedded:
        """Run both networks."""
        with torch.no_grad():
            targets = self.teacher([batch.teacher])
        return _Embedded(targets, student(view_groups(batch)), len(batch.student))

    def compare(self, outputs: _Embedded, teacher_temperature: float) -> Comparison:
        """Return the four losses."""
        teacher, student, n_global = outputs
        pairs = pair_weights(len(teacher.logits), n_global, len(student.logits) - n_global, like=student.logits)
        log_images = _log_assignments(teacher.logits - self.center.center, teacher_temperature)
        log_instances = _log_assignments(teacher.groups[0].logits - self.instance_center.center, teacher_temperature)
        log_bags = bag_log_probabilities(log_instances, teacher.groups[0].log_weights)
        log_student = _log_assignments(student.logits, self.student_temperature)
        log_regions = [_log_assignments(group.logits, self.student_temperature) for group in student.groups]
        matches = [match_instances(group.tokens, teacher.groups[0].tokens) for group in student.groups]
        regions = [
            instance_cross_entropy(log_instances, log_group, index)
            for log_group, index in zip(log_regions, matches, strict=True)
        ]
        parts = {
            "image": (pairs * cluster_cross_entropy(log_images, log_student)).sum(),
            "region": (pairs * torch.cat(regions, dim=1)).sum(),
            "teacher_bag": (pairs * cluster_cross_entropy(log_bags, log_student)).sum(),
            "student_bag": self._within(log_student, log_regions, student.groups),
        }
        return Comparison(self._weigh(parts), parts, log_images.flatten(0, 1))

    def remember(self, outputs: _Embedded) -> None:
        """Move the centers of images and of regions."""
        self.center.update(outputs.teacher.logits)
        self.instance_center.update(outputs.teacher.groups[0].logits)

    def teacher_features(self, outputs: _Embedded) -> Tensor:
        """Return the first view's."""
        return outputs.teacher.image[0]

    def _within(self, log_images: Tensor, log_regions: Sequence[Tensor], groups: Sequence[InstanceGroup]) -> Tensor:
        """Return L_S."""
        log_bags = torch.cat(
            [bag_log_probabilities(log_q, group.log_weights) for log_q, group in zip(log_regions, groups, strict=True)]
        )
        loss = kl_divergence(log_images.detach(), log_bags).mean()
        if self.settings.student_direction == "both":
            loss = loss + kl_divergence(log_bags.detach(), log_images).mean()
        return loss

    def _weigh(self, parts: dict[str, Tensor]) -> Tensor:
        inter = parts["student_bag"]
        if self.settings.teacher_bag == "cross":
            inter = inter + parts["teacher_bag"]
        return (parts["image"] + parts["region"]) / 2 + self.settings.inter_weight * inter


def _log_assignments(logits: Tensor, temperature: float) -> Tensor:
    """Return log softmax(logits / temperature), float32 at least."""
    return log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=-1)
