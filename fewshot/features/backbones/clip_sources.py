"""Where an open_clip network comes from: its architecture, its preprocessing and its weights, none of them guessed.

A folder with an ``open_clip_config.json`` says all three. A name of open_clip's says the architecture; preprocessing
and activation come from the entry of its published weights (``tag``), so a file under a name whose entries differ must
say which of them it is, or comes from.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewshot.checks import check_choice, did_you_mean
from fewshot.features.backbones.checkpoints import load_state_dict_file, load_strictly, strip_prefixes, unwrap
from fewshot.features.backbones.downloads import fetch_from_hub, fetch_from_url
from fewshot.features.backbones.layers import N_NEAREST
from fewshot.features.backbones.torchvision_gate import require_torchvision
from fewshot.features.images.preprocess import Preprocess

__all__ = ["ClipSource", "clip_model", "clip_preprocess", "find_source", "import_open_clip", "model_config"]

_LOCAL, _HUB = "local-dir:", "hf-hub:"
_CONFIG = "open_clip_config.json"
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
_RESIZES = {"shortest": "short", "squash": "squash"}
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
# Numbers among the tensors of OpenAI's own files; those networks were trained with QuickGELU.
_OPENAI_NUMBERS = frozenset({"input_resolution", "context_length", "vocab_size"})


class ClipSource(NamedTuple):
    """An open_clip network, not yet built.

    Attributes
    ----------
    name : str
        As open_clip's tokenizers take it: a name, ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``.
    model : mapping
        open_clip's ``model_cfg``.
    preprocess : mapping
        open_clip's ``preprocess_cfg``.
    weights : Path or None
        The file; None leaves the network random.
    """

    name: str
    model: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    weights: Path | None

    @property
    def has_quick_gelu(self) -> bool:
        """Whether the network's activation is x σ(1.702 x)."""
        return bool(self.model.get("quick_gelu", False))


def import_open_clip() -> Any:
    """Import open_clip, by way of the torchvision that it needs.

    Raises
    ------
    ImportError
        If either is missing.
    """
    require_torchvision("open_clip")
    try:
        return import_module("open_clip")
    except ModuleNotFoundError as error:
        if error.name != "open_clip":
            raise
        raise ImportError('open_clip is missing: install it with `pip install "fewshot[clip]"`') from None


# Finding


def find_source(name: str | None, weights: str | os.PathLike[str] | None, tag: str = "") -> ClipSource:
    """Resolve a name and weights; `build_clip` lists their forms.

    Raises
    ------
    ValueError
        If the name or the tag is unknown, or preprocessing, activation or weights would have to be guessed.
    FileNotFoundError
        If a folder has no configuration or no weights.
    ConnectionError
        If published weights are neither on this machine nor can be fetched.
    """
    is_random = weights == "random"
    where = "" if weights is None or is_random else f"{weights}"
    place = name or ""
    if where and (where.startswith((_LOCAL, _HUB)) or Path(where).is_dir()):
        if name:
            raise ValueError(f"{where} says itself what it holds: leave out the name {name!r}")
        place, where = (where if where.startswith((_LOCAL, _HUB)) else f"{_LOCAL}{where}"), ""
    if place.startswith((_LOCAL, _HUB)):
        if where or tag:
            raise ValueError(f"{place} says itself what it holds: leave out {where or f'the tag {tag!r}'}")
        return _from_folder(place, is_random) if place.startswith(_LOCAL) else _from_hub(place, is_random)
    if not name:
        raise ValueError(f"open_clip needs a name such as open_clip:ViT-B-32, or a folder with an {_CONFIG}")
    return _from_name(name.replace("/", "-"), where, tag, is_random)


def _from_folder(place: str, is_random: bool) -> ClipSource:
    folder = Path(place.removeprefix(_LOCAL))
    config = _read_config(folder / _CONFIG)
    weights = None if is_random else _weights_in(folder)
    return ClipSource(place, config["model_cfg"], config["preprocess_cfg"], weights)


def _weights_in(folder: Path) -> Path:
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no weights in {folder}: expected {', '.join(_WEIGHTS[:-1])} or {_WEIGHTS[-1]}")
    return found


def _from_hub(place: str, is_random: bool) -> ClipSource:
    repository = place.removeprefix(_HUB)
    config = _read_config(_fetch_from_hub(repository, (_CONFIG,)))
    weights = None if is_random else _fetch_from_hub(repository, _WEIGHTS)
    return ClipSource(place, config["model_cfg"], config["preprocess_cfg"], weights)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}: it must say what the folder's weights are")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got something else ({error})") from None
    absent = [key for key in ("model_cfg", "preprocess_cfg") if not isinstance(config, dict) or key not in config]
    if absent:
        raise ValueError(f"{path}: expected model_cfg and preprocess_cfg, got no {' and no '.join(absent)}")
    return dict(config)


def _from_name(name: str, where: str, tag: str, is_random: bool) -> ClipSource:
    open_clip = import_open_clip()
    model = model_config(name)
    published = {one: open_clip.get_pretrained_cfg(name, one) for one in open_clip.list_pretrained_tags_by_model(name)}
    if where and not Path(where).is_file():
        tag, where = check_choice(f"file or published weights of {name}", where, published), ""
    if tag:
        check_choice(f"published weights of {name}", tag, published)
    elif not where and not is_random:
        raise ValueError(f"which weights of {name}? Give a file or one of {', '.join(published) or 'none published'}")
    entry = published[tag] if tag else _agreed(name, published, is_random)
    if entry.get("quick_gelu") and not model.get("quick_gelu") and not is_random:
        raise ValueError(_gelu_message(f"{tag or where}", name))
    weights = None if is_random else Path(where) if where else _published_weights(name, tag, entry)
    return ClipSource(name, model, entry, weights)


def model_config(name: str) -> Any:
    """Return open_clip's ``model_cfg`` of a name.

    Raises
    ------
    ValueError
        If open_clip does not know the name.
    """
    open_clip = import_open_clip()
    config = open_clip.get_model_config(name)
    if config is None:
        near = did_you_mean(name, open_clip.list_models(), n_nearest=N_NEAREST)
        raise ValueError(f"open_clip has no model {name!r}{near} open_clip.list_models() has all")
    return config


def _agreed(name: str, published: Mapping[str, Mapping[str, Any]], is_random: bool) -> Mapping[str, Any]:
    """Return the properties that all published weights of a name share, if these are all that matter."""
    if not published:
        raise ValueError(
            f"open_clip does not say how images are preprocessed for {name}: "
            f"give a folder with weights and an {_CONFIG} instead"
        )
    for key in (*_PREPROCESS_KEYS, *(() if is_random else ("quick_gelu",))):
        if len({f"{entry.get(key)}" for entry in published.values()}) > 1:
            raise ValueError(
                f"the published weights of {name} differ in {key}: say by tag=... which of them these are, "
                f"or come from: {', '.join(published)}"
            )
    return next(iter(published.values()))


def _published_weights(name: str, tag: str, entry: Mapping[str, Any]) -> Path:
    if not entry.get("hf_hub"):
        return fetch_from_url(entry["url"], f"{name} ({tag})")
    repository, file = os.path.split(entry["hf_hub"])
    return _fetch_from_hub(repository, (f"{Path(file).stem}.safetensors", file) if file else _WEIGHTS)


def _fetch_from_hub(repository: str, files: Sequence[str]) -> Path:
    message = (
        f"{repository} is not on this machine and the Hugging Face hub does not answer: "
        "download it elsewhere and give its folder (weights=FOLDER), or weights='random'"
    )
    return fetch_from_hub(repository, message, files)


def _gelu_message(what: str, name: str) -> str:
    return (
        f"{what}: trained with QuickGELU, which {name} does not have, and would lose accuracy unseen: "
        f"use {name}-quickgelu, or quick_gelu: true in a folder's {_CONFIG}"
    )


# Building


def clip_model(source: ClipSource, seed: int) -> Any:
    """Build the two towers with their weights, or random ones under a seed that touches no other draw.

    Raises
    ------
    ValueError
        If a weight is missing, left over or mis-shaped, or was trained with another activation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(source.model)
    if source.weights is not None:
        load_strictly(model, _state(source, model), f"{source.weights}")
    return model


def _new_model(config: Mapping[str, Any]) -> nn.Module:
    """Build open_clip's class for a configuration, without fetching weights for either tower."""
    open_clip = import_open_clip()
    options: dict[str, Any] = copy.deepcopy(dict(config))
    is_custom = options.pop("custom_text", False) or "hf_model_name" in options["text_cfg"]
    if "timm_model_name" in options["vision_cfg"]:
        options["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in options["text_cfg"]:
        options["text_cfg"]["hf_model_pretrained"] = False
    kind = "CLIP" if not is_custom else "CoCa" if "multimodal_cfg" in options else "CustomTextCLIP"
    model: nn.Module = getattr(open_clip, kind)(**options)
    return model


def _state(source: ClipSource, model: nn.Module) -> dict[str, Tensor]:
    """Read a file's weights under the model's names."""
    assert source.weights is not None
    checkpoint = load_state_dict_file(source.weights)
    try:
        state = strip_prefixes(unwrap(checkpoint, "state_dict"), ("module.",))
    except ValueError as error:
        raise ValueError(f"{source.weights}: {error}") from None
    if _OPENAI_NUMBERS & set(state) and not source.has_quick_gelu:
        raise ValueError(_gelu_message(f"{source.weights}", source.name))
    state = {name: tensor for name, tensor in state.items() if name not in _OPENAI_NUMBERS}
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = import_module("open_clip.model").convert_to_custom_text_state_dict(state)
    state = import_module("open_clip.convert").convert_state_dict(model, state)
    scales = {"logit_scale", "logit_bias"} & set(state) & set(dict(model.named_parameters()))
    return {**state, **{name: state[name].reshape(getattr(model, name).shape) for name in scales}}


def clip_preprocess(source: ClipSource, image_size: int | tuple[int, int]) -> Preprocess:
    """Return a source's own preprocessing for its network's size.

    Raises
    ------
    ValueError
        If mean or std is not said, or images are to be resized in a way that is not offered here.
    """
    absent = [key for key in ("mean", "std") if not source.preprocess.get(key)]
    if absent:
        raise ValueError(f"{source.name}: expected mean and std in preprocess_cfg, got no {' and no '.join(absent)}")
    resize = source.preprocess.get("resize_mode") or "shortest"
    return Preprocess(
        size=(image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1]),
        resize=_RESIZES[check_choice("resize_mode of open_clip", resize, _RESIZES)],
        crop_fraction=1.0,
        interpolation=source.preprocess.get("interpolation") or "bicubic",
        mean=tuple(source.preprocess["mean"]),
        std=tuple(source.preprocess["std"]),
    )
