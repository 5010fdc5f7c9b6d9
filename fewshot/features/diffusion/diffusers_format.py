"""Folders in the format of diffusers: a `UNet2DModel`, run no further than it has to, and its noise schedule.

diffusers is imported when a folder is opened, never before.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.diffusion.checkpoints import read_weights
from fewshot.features.diffusion.schedule import Schedule, cosine_betas, linear_betas

__all__ = ["HookedUNet", "block_modules", "read_folder_weights", "read_schedule", "read_unet_config"]

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
BLOCK_TYPES = (
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# What the network is fed is fixed: 8-bit RGB in [-1, 1], an integer time, no label.
REQUIRED = {
    "in_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "class_embed_type": None,
    "num_class_embeds": None,
}
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class _ReachedError(Exception):
    """The last wanted block has run."""


class HookedUNet(nn.Module):
    """A `UNet2DModel` whose blocks are numbered as ADM's: b = 1 ... ``n_blocks`` in the order in which they run.

    Parameters
    ----------
    config
        The contents of its ``config.json``.

    Raises
    ------
    ImportError
        If diffusers is not installed.
    ValueError
        If it is another kind of network, or is fed something else than RGB images and a time.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        _check_config(config)
        self.unet: nn.Module = _import_diffusers().UNet2DModel.from_config(dict(config))
        self._blocks = block_modules(self.unet)

    @property
    def n_blocks(self) -> int:
        """The number of blocks of the whole architecture."""
        return len(self._blocks)

    def truncate(self, last: int) -> None:
        """Remove, in place, all weights that the blocks up to ``last`` do not use."""
        for name in (*(name for names in self._blocks[last:] for name in names), "conv_norm_out", "conv_out"):
            self.unet.set_submodule(name, nn.Identity())

    def forward_to(self, x: Tensor, t: float | Tensor, blocks: Collection[int]) -> dict[int, Tensor]:
        """Run up to the last wanted block and no further; as `UNet.forward_to`."""
        found: dict[int, Tensor] = {}

        def keep(b: int, output: Tensor) -> None:
            found[b] = output
            if b == max(blocks):
                raise _ReachedError

        hooks = [self._module(b).register_forward_hook(lambda *call, b=b: keep(b, call[-1])) for b in set(blocks)]
        try:
            self.unet(x, torch.as_tensor(t, device=x.device))
        except _ReachedError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _module(self, b: int) -> nn.Module:
        return self.unet.get_submodule(self._blocks[b - 1][-1])


def block_modules(unet: nn.Module) -> list[tuple[str, ...]]:
    """Return the module names of each block; the output of the last is that of the block.

    An attention belongs to the residual block before it, and an upsampler to the block that it ends.
    """
    blocks: list[tuple[str, ...]] = [("conv_in",)]
    for name in _children(unet, "down_blocks"):
        blocks += [*_stages(unet, name), *((resampler,) for resampler in _children(unet, f"{name}.downsamplers"))]
    blocks.append(("mid_block",))
    for name in _children(unet, "up_blocks"):
        *stages, last = _stages(unet, name)
        blocks += [*stages, (*last, *_children(unet, f"{name}.upsamplers"))]
    return blocks


def read_unet_config(folder: str | os.PathLike[str]) -> dict[str, object]:
    """Return the ``config.json`` of the network in a folder, or in its ``unet``.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    config = _read_json(_unet_folder(folder) / "config.json")
    return {name: value for name, value in config.items() if name == "_class_name" or not name.startswith("_")}


def read_folder_weights(folder: str | os.PathLike[str]) -> tuple[Path, dict[str, Tensor]]:
    """Return the file of a folder's weights and its tensors; safetensors come first.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it holds anything but tensors.
    """
    path = next((path for file in WEIGHT_FILES if (path := _unet_folder(folder) / file).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"no weights in {_unet_folder(folder)}: expected {' or '.join(WEIGHT_FILES)}")
    return path, {_new_name(name): tensor for name, tensor in read_weights(path).items()}


def read_schedule(folder: str | os.PathLike[str]) -> Schedule:
    """Return the noise schedule of a folder: its ``scheduler_config.json``, or the one in ``scheduler``.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If its betas follow no known rule.
    """
    folder = Path(folder)
    paths = [folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"]
    config: dict[str, Any] = _read_json(next((path for path in paths if path.is_file()), paths[0]))
    if config.get("rescale_betas_zero_snr"):
        raise ValueError("no noise schedule for rescale_betas_zero_snr: its last timestep has no signal")
    n_timesteps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if config.get("trained_betas") is not None:
        return Schedule(torch.tensor(config["trained_betas"], dtype=torch.float64))
    rule = check_choice("beta_schedule", config.get("beta_schedule", "linear"), BETA_SCHEDULES)
    if rule == "squaredcos_cap_v2":
        return Schedule(cosine_betas(n_timesteps))
    if rule == "scaled_linear":
        return Schedule(linear_betas(n_timesteps, beta_start=start**0.5, beta_end=end**0.5).square())
    return Schedule(linear_betas(n_timesteps, beta_start=start, beta_end=end))


def _check_config(config: Mapping[str, object]) -> None:
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(f"expected the config of a UNet2DModel, got {config.get('_class_name')!r}")
    types = [*_names(config, "down_block_types"), *_names(config, "up_block_types")]
    for block_type in types:
        check_choice("block type", block_type, BLOCK_TYPES)
    for name, value in REQUIRED.items():
        if config.get(name, value) != value:
            raise ValueError(f"features are read from networks with {name} {value}, got {config[name]!r}")


def _names(config: Mapping[str, object], key: str) -> list[str]:
    names = config.get(key)
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"the config of a UNet2DModel must list its {key}, got {names!r}")
    return [str(name) for name in names]


def _stages(unet: nn.Module, name: str) -> Iterator[tuple[str, ...]]:
    """Yield each residual block's name, with that of its attention if it has one."""
    attentions = list(_children(unet, f"{name}.attentions"))
    for i, residual in enumerate(_children(unet, f"{name}.resnets")):
        yield (residual, attentions[i]) if attentions else (residual,)


def _children(unet: nn.Module, name: str) -> Iterator[str]:
    """Yield the names of the members of a list of modules, none if there is no such list."""
    parent, _, last = name.rpartition(".")
    members = getattr(unet.get_submodule(parent), last, None)
    yield from (f"{name}.{i}" for i in range(len(members) if members is not None else 0))


def _new_name(name: str) -> str:
    """Return the name that diffusers gives today to a tensor of an attention."""
    return re.sub(r"\.(query|key|value|proj_attn)\.(?=\w+$)", lambda found: f".{_OLD_NAMES[found[1]]}.", name)


def _unet_folder(folder: str | os.PathLike[str]) -> Path:
    nested = Path(folder) / "unet"
    return nested if (nested / "config.json").is_file() else Path(folder)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}: expected a folder saved by diffusers")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _import_diffusers() -> Any:
    ensure_torchvision()  # which diffusers imports if it is there
    try:
        return importlib.import_module("diffusers")
    except ModuleNotFoundError as error:
        raise ImportError("diffusers reads this folder and is not installed: pip install diffusers") from error
