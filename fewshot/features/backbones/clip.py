"""CLIP and its like by open_clip: image embeddings, and cosines of images with the names of classes.

The cosines are what EM-Dirichlet and UNEM's Dirichlet variant take (``inputs="cosines"``): one column per class.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.checks import check_choice, check_positive
from fewshot.features.backbones.clip_sources import (
    ClipSource,
    clip_model,
    clip_preprocess,
    find_source,
    import_open_clip,
)
from fewshot.features.frozen import Built

__all__ = [
    "TEMPLATES",
    "ImageTextNetwork",
    "ImageTower",
    "build_clip",
    "image_text_cosines",
    "text_embeddings",
]

TEMPLATES = ("a photo of a {}.",)
OUTPUTS = ("auto", "embedding", "cosines", "probabilities")
# Texts that are encoded at once.
_CHUNK = 256


# Images and texts


def image_text_cosines(image_features: Tensor, text: Tensor) -> Tensor:
    """Return the cosine of every image with every class.

    Parameters
    ----------
    image_features
        (..., n, n_features), of any length; projected, that is in the space that the texts are in.
    text
        (n_classes, n_features), as `text_embeddings` returns them, of any length.

    Returns
    -------
    Tensor
        (..., n, n_classes) in [-1, 1]; 0 where a vector is zero.

    Raises
    ------
    ValueError
        If images and texts have not the same number of features.

    Examples
    --------
    >>> image_text_cosines(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, -4.0]]))
    tensor([[ 0.6000,  0.8000, -1.0000]])
    """
    if text.ndim != 2 or image_features.shape[-1:] != text.shape[1:]:
        raise ValueError(
            f"images and texts must lie in one space, got image features {tuple(image_features.shape)} and text "
            f"embeddings {tuple(text.shape)}: take both from one model, the images projected"
        )
    return normalize(image_features, dim=-1) @ normalize(text, dim=-1).mT


def text_embeddings(
    name: str | None,
    weights: str | os.PathLike[str] | None,
    class_names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    *,
    tag: str = "",
    seed: int = 0,
) -> Tensor:
    """Embed the names of classes: the mean over templates of unit vectors, scaled to unit length again.

    Parameters
    ----------
    name, weights, tag, seed
        See `build_clip`.
    class_names
        (n_classes,) distinct names, such as ``"golden retriever"``.
    templates
        Sentences in which ``{}`` stands for the name.

    Returns
    -------
    Tensor
        (n_classes, n_features) float32 of unit length.

    Raises
    ------
    ValueError
        If a template has no ``{}``, class names are missing or repeated, or as in `build_clip`.

    Source
    ------
    [CLIP] Section 3.1.4, ensembling over prompts in embedding space.
    """
    class_names, templates = _checked_texts(class_names, templates)
    source = find_source(name, weights, tag)
    return _embed(clip_model(source, seed).eval(), source, class_names, templates)


@torch.no_grad()
def _embed(model: Any, source: ClipSource, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    tokens: Tensor = _tokenizer(source)(texts)
    embedded = torch.cat([model.encode_text(chunk, normalize=True) for chunk in torch.split(tokens, _CHUNK)])
    return normalize(embedded.reshape(len(class_names), len(templates), -1).mean(1), dim=-1)


def _tokenizer(source: ClipSource) -> Any:
    try:
        return import_open_clip().get_tokenizer(source.name)
    except ModuleNotFoundError as error:
        raise ImportError(f"the tokenizer of {source.name} needs {error.name}: pip install {error.name}") from None


def _checked_texts(class_names: Sequence[str], templates: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(class_names, str) or isinstance(templates, str):
        raise TypeError("class_names and templates must be sequences of texts, got one text: write (text,)")
    if not class_names or not templates or len(set(class_names)) < len(class_names):
        raise ValueError(
            f"class_names must be distinct, and at least one with at least one template, got {len(class_names)} names "
            f"({len(set(class_names))} distinct) and {len(templates)} templates"
        )
    without = next((template for template in templates if "{}" not in template), None)
    if without is not None:
        raise ValueError(f"a template must have {{}} where the class name goes, got {without!r}")
    return tuple(class_names), tuple(templates)


# The extractor


class ImageTower(nn.Module):
    """The image side of an open_clip network."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """Return (b, n_features) of normalised images (b, 3, height, width)."""
        output = self.visual(images)
        pooled: Tensor = output[0] if isinstance(output, tuple) else output  # CoCa's tower adds its tokens
        return pooled


class ImageTextNetwork(nn.Module):
    """An image tower followed by the cosines with fixed texts, and by their softmax if a scale is given."""

    text: Tensor

    def __init__(self, tower: nn.Module, text: Tensor, softmax_scale: float | None = None) -> None:
        super().__init__()
        self.tower = tower
        self.softmax_scale = softmax_scale
        self.register_buffer("text", text)

    def forward(self, images: Tensor) -> Tensor:
        """Return (b, n_classes) of normalised images, computed from the embeddings in float32."""
        embeddings = self.tower(images)
        with torch.autocast(images.device.type, enabled=False):
            cosines = image_text_cosines(embeddings.float(), self.text)
        return cosines if self.softmax_scale is None else (self.softmax_scale * cosines).softmax(-1)


def build_clip(
    name: str | None,
    weights: str | os.PathLike[str] | None = None,
    *,
    projected: bool = True,
    output: str = "auto",
    class_names: tuple[str, ...] = (),
    templates: tuple[str, ...] = TEMPLATES,
    softmax_scale: float = 30.0,
    tag: str = "",
    seed: int = 0,
) -> Built:
    """Build an image tower that was trained with text.

    Parameters
    ----------
    name
        A name of open_clip's, such as ``ViT-B-32-quickgelu``; or ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``, which
        have their weights with them.
    weights
        - A folder with an ``open_clip_config.json`` and weights, without a name.
        - A file for a name.
        - A tag of the name's published weights, from this machine if they are here, else from the network.
        - ``"random"``: drawn under ``seed``.
    projected
        Whether features are in the space joint with text (512 columns for ViT-B), as open_clip's ``encode_image`` has
        them; without, they are the pooled vectors before the projection (768), as timm has them. Neither is scaled to
        unit length.
    output
        ``embedding``; ``cosines`` with the class names, as Dirichlet methods take them; ``probabilities``, their
        softmax. ``auto`` is cosines if there are class names, else embedding.
    class_names, templates
        See `text_embeddings`.
    softmax_scale
        Multiplies the cosines before the softmax of ``probabilities``. Default 30, as in [EMD]; CLIP's own is 100.
    tag
        Which of a name's published weights a file is, or comes from, where they differ in preprocessing or activation.
    seed
        Of random weights.

    Returns
    -------
    Built

    Raises
    ------
    ValueError
        If a name, tag or option is unknown, the weights do not fit, or something would have to be guessed.
    FileNotFoundError
        If a folder has no configuration or no weights.
    ConnectionError
        If published weights are neither on this machine nor can be fetched.
    ImportError
        If open_clip or torchvision is missing.

    Source
    ------
    [CLIP]; open_clip.
    """
    output = _checked_output(output, class_names, projected)
    check_positive("softmax_scale", softmax_scale)
    if class_names:
        class_names, templates = _checked_texts(class_names, templates)
    source = find_source(name, weights, tag)
    model = clip_model(source, seed).eval()
    preprocess = clip_preprocess(source, model.visual.image_size)
    network: nn.Module = ImageTower(model.visual if projected else _unprojected(model.visual, source.name))
    scale = softmax_scale if output == "probabilities" else None
    if class_names:
        network = ImageTextNetwork(network, _embed(model, source, class_names, templates), scale)
    return Built(network, preprocess, _spec(source, output, projected, class_names, templates, scale), _about(source))


def _spec(
    source: ClipSource,
    output: str,
    projected: bool,
    class_names: Sequence[str],
    templates: Sequence[str],
    scale: float | None,
) -> dict[str, object]:
    """Describe all that decides the numbers beside the weights; a folder's location does not."""
    is_folder = source.name.startswith("local-dir:")
    texts = {"class_names": list(class_names), "templates": list(templates), "softmax_scale": scale}
    return {
        "family": "open_clip",
        "name": "open_clip" if is_folder else f"open_clip:{source.name}",
        "vision": source.model["vision_cfg"],
        "quick_gelu": source.has_quick_gelu,
        "projected": projected,
        "output": output,
        **(texts if class_names else {}),
    }


def _about(source: ClipSource) -> dict[str, object]:
    weights = "random" if source.weights is None else f"{source.weights}"
    return {"source": source.name, "weights": weights, "open_clip": import_open_clip().__version__}


def _checked_output(output: str, class_names: Sequence[str], projected: bool) -> str:
    check_choice("output", output, OUTPUTS)
    if output == "auto":
        output = "cosines" if class_names else "embedding"
    if (output == "embedding") == bool(class_names):
        remedy = "leave class_names out" if class_names else "give class_names"
        raise ValueError(f"output {output!r} got {len(class_names)} class names: {remedy}")
    if class_names and not projected:
        raise ValueError(f"output {output!r} needs projected=True: texts lie in the joint space only")
    return output


def _unprojected(visual: Any, name: str) -> nn.Module:
    """Take the projection off a tower that ends with one."""
    if isinstance(getattr(visual, "proj", None), nn.Parameter):
        visual.proj = None
    elif isinstance(getattr(getattr(visual, "head", None), "proj", None), nn.Linear):
        visual.head.proj = nn.Identity()
    else:
        raise ValueError(f"{name} does not end with a projection that can be taken off: use projected=True")
    tower: nn.Module = visual
    return tower
