"""What a distillation leaves behind is an extractor like any other, with the features that were trained."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fewshot.cli.main import cli
from torch import nn

from fewshot.distillation.backbone import TokenBackbone
from fewshot.distillation.training.state import TrainingState
from fewshot.features import extractor, load_features
from fewshot.features.backbones.distilled import read_distilled
from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.images.preprocess import Preprocess
from fewshot.image_distillation.backbones import build_backbone, image_extractor, save_distilled, save_training
from fewshot.storage import load_tensors, save_tensors
from tests.kits.extraction import write_images

if ensure_torchvision() == "absent":
    pytest.skip("torchvision is not installed", allow_module_level=True)
pytest.importorskip("timm", reason="the networks are timm's")

# Name, options, size, the embedding of images.
NETWORKS = {
    "vit, class token": (
        "vit_small_patch16_224", {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}, 24, "token",
    ),
    "vit, mean": (
        "vit_small_patch16_224", {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}, 24, "mean",
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}, 32, "mean",
    ),
    "cnn": ("test_resnet", {}, 64, "mean"),
}  # fmt: skip
TRAINING = {"method": "cmd", "n_steps": 12}
PREPROCESS = {"resize": "squash", "crop_fraction": 1.0, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def trained(kind):
    """A backbone that has moved away from its initialisation, norms and running means too."""
    name, options, size, image = NETWORKS[kind]
    built = build_backbone(name, size=size, options=options, image=image)
    generator = torch.Generator().manual_seed(5)
    for tensor in built.backbone.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return built.backbone.eval(), built.description


def written(folder, kind, recipe=None):
    backbone, description = trained(kind)
    size = NETWORKS[kind][2]
    path = folder / "student.safetensors"
    preprocess = Preprocess((size, size), **PREPROCESS)
    save_distilled(
        path, backbone, description, recipe=recipe or backbone.image, preprocess=preprocess, training=TRAINING
    )
    return path, backbone


def pictures(size, n=3):
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def normalised(images):
    mean, std = torch.tensor(PREPROCESS["mean"]), torch.tensor(PREPROCESS["std"])
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


def test_a_backbone_in_training_may_be_looked_at_and_goes_on(tmp_path):
    path, backbone = written(tmp_path, "cnn")
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images = pictures(64)
    found = image_extractor(backbone, Preprocess((64, 64), **PREPROCESS))
    torch.testing.assert_close(found(images), extractor("distilled", weights=path)(images))
    assert all(module.training for module in backbone.modules())
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_features_are_the_backbones_embedding_of_images(kind, tmp_path):
    path, backbone = written(tmp_path, kind)
    images = pictures(NETWORKS[kind][2])
    made = extractor("distilled", weights=path)
    with torch.inference_mode():
        expected = backbone(normalised(images)).image
    torch.testing.assert_close(made(images), expected, rtol=1e-6, atol=1e-6)
    assert made.n_features == backbone.width
    assert made.about["training"] == TRAINING
    assert extractor(f"distilled:{NETWORKS[kind][0]}", weights=path).key == made.key


def test_the_recipe_is_the_files_and_may_differ_from_what_was_trained(tmp_path):
    images = pictures(24)
    path, backbone = written(tmp_path, "vit, class token", recipe="mean")
    with torch.inference_mode():
        tokens = backbone(normalised(images))
    torch.testing.assert_close(extractor("distilled", weights=path)(images), tokens.instances.mean(1))
    for readout, expected in (
        ("cls", tokens.image),
        ("mean_patch", tokens.instances.mean(1)),
        ("max", tokens.instances.amax(1)),
        ("cls+mean_patch", torch.cat([tokens.image, tokens.instances.mean(1)], dim=1)),
    ):
        made = extractor("distilled", weights=path, readout=readout)
        torch.testing.assert_close(made(images), expected, rtol=1e-6, atol=1e-6)
    keys = {extractor("distilled", weights=path, readout=kind).key for kind in ("default", "cls", "max")}
    assert len(keys) == 3


def test_the_file_says_all_that_there_is_to_say(tmp_path):
    path, _ = written(tmp_path, "swin")
    file = read_distilled(path)
    name, options, size, recipe = NETWORKS["swin"]
    assert (file.name, file.options, file.size, file.recipe) == (name, options, size, recipe)
    assert file.preprocess == Preprocess((size, size), **PREPROCESS)
    assert file.training == TRAINING
    assert "norm.weight" in file.tensors
    assert not any("network" in tensor for tensor in file.tensors)
    before = path.read_bytes()
    written(tmp_path, "swin")
    assert path.read_bytes() == before


def test_the_command_extracts_what_the_backbone_gives(tmp_path):
    path, backbone = written(tmp_path, "vit, class token")
    folder = write_images(tmp_path / "images", {"ant": 3, "bee": 2})
    words = ("extract", "--images", folder, "--extractor", "distilled", "--weights", path, "--out", tmp_path / "store")
    words = [str(word) for word in (*words, "--dtype", "float32", "--json", "--quiet", "--workers", 0)]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["extractor"]["spec"]["name"] == "distilled:vit_small_patch16_224"
    from PIL import Image

    files = sorted(folder.rglob("*.png"))
    squashed = [np.array(Image.open(file).convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)) for file in files]
    with torch.inference_mode():
        expected = backbone(normalised(torch.from_numpy(np.stack(squashed)))).image
    found = torch.as_tensor(np.asarray(load_features(tmp_path / "store").features))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# What is refused


def changed(path, change):
    tensors, metadata = load_tensors(path, kind="distilled")
    tensors, metadata = change(dict(tensors), dict(metadata))
    save_tensors(path, tensors, kind="distilled", metadata=metadata)


def without(name):
    return lambda mapping: {key: value for key, value in mapping.items() if key != name}


FAULTS = {
    "no recipe": (lambda t, m: (t, without("recipe")(m)), "FILE is not a whole distilled network ('recipe'): write it"),
    "an unknown recipe": (
        lambda t, m: (t, {**m, "recipe": "cls"}),
        "FILE is not a whole distilled network (unknown recipe 'cls'. Known: mean, token): write it again",
    ),
    "a norm is missing": (
        lambda t, m: (without("norm.weight")(t), m),
        "FILE: expected the network's 30 tensors, got 1 missing: norm.weight",
    ),
    "a tensor too many": (
        lambda t, m: ({**t, "head.bias": torch.zeros(2)}, m),
        "FILE: expected the network's 30 tensors, got 1 left over: head.bias",
    ),
    "an unknown network": (
        lambda t, m: (t, {**m, "name": "vit_smal_patch16_224"}),
        "unknown timm model 'vit_smal_patch16_224': did you mean ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_whole_is_refused(fault, tmp_path):
    change, message = FAULTS[fault]
    path, _ = written(tmp_path, "vit, class token")
    changed(path, change)
    with pytest.raises(ValueError, match=f"^{re.escape(message.replace('FILE', str(path)))}"):
        extractor("distilled", weights=path)


def test_other_files_are_told_in_one_line(tmp_path):
    state = tmp_path / "run.safetensors"
    save_training(state, TrainingState(3, {"a": torch.zeros(2)}, {}))
    foreign = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(2)}, foreign)
    path, _ = written(tmp_path, "vit, class token")
    for name, weights, message in (
        ("distilled", None, "distilled needs weights: give a file that fewshot distill wrote"),
        ("distilled", state, f"{state}: expected 'distilled', got 'distillation-state': pass a file saved as"),
        ("distilled", foreign, f"{foreign}: expected a safetensors file, got something else or a part of one"),
        ("distilled:resnet50", path, f"{path}: expected resnet50, got vit_small_patch16_224: leave the name out, or"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
            extractor(name, weights=weights)
        assert "\n" not in str(error.value)


def test_what_cannot_be_written_is_told(tmp_path):
    backbone, description = trained("cnn")
    settings = {"preprocess": Preprocess(), "training": {}}
    with pytest.raises(
        ValueError, match=r"^recipe 'token' needs a class token, and this backbone has none: use 'mean'"
    ):
        save_distilled(tmp_path / "a.safetensors", backbone, description, recipe="token", **settings)
    other = TokenBackbone(nn.Identity(), nn.Identity(), width=3, n_prefix=1)
    with pytest.raises(TypeError, match=r"^a backbone of build_backbone can be saved, got a trunk of type Identity$"):
        save_distilled(tmp_path / "a.safetensors", other, description, recipe="mean", **settings)
