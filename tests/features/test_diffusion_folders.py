"""A folder of diffusers gives the features of the checkpoint that it was made of, and its schedule."""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot.features.backbones.torchvision_gate import ensure_torchvision
from fewshot.features.diffusion.diffusers_format import read_schedule
from fewshot.features.diffusion.diffusers_map import adm_to_diffusers, diffusers_config
from fewshot.features.diffusion.network import build_diffusers
from tests.kits.diffusion import TINY, features, images, tiny, write_tiny

WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def diffusers_folder(folder, tmp_path):
    pytest.importorskip("diffusers", reason="folders of diffusers are read by it")
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({**diffusers_config(TINY), "_diffusers_version": "0.1"}))
    weights = adm_to_diffusers(load_file(folder / "tiny.safetensors"), TINY)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "unet" / WEIGHTS)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return tmp_path


@pytest.mark.parametrize("layers", [("1",), ("5",), ("7", "2")])
def test_a_folder_of_diffusers_gives_the_features_of_the_checkpoint(folder, diffusers_folder, layers):
    x = images()
    ours, theirs = tiny(folder, layers=layers), build_diffusers(None, diffusers_folder, layers=layers)
    torch.testing.assert_close(features(theirs, x), features(ours, x), rtol=1e-5, atol=1e-5)
    assert n_weights(theirs) == n_weights(ours)
    assert theirs.preprocess == ours.preprocess
    assert theirs.spec["config"] == diffusers_config(TINY)
    assert without(theirs.spec) == without(ours.spec)
    assert not any(module._forward_hooks for module in theirs.network.modules())


def test_folders_lie_flat_too_and_have_old_names_or_pickles_of_tensors(folder, diffusers_folder):
    expected = features(tiny(folder), images())
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(diffusers_folder / "unet" / WEIGHTS)
    renamed = {re.sub("|".join(map(re.escape, old)), lambda m: old[m[0]], n): w for n, w in weights.items()}
    assert renamed.keys() != weights.keys()
    (diffusers_folder / "unet" / WEIGHTS).unlink()
    (diffusers_folder / "unet" / "config.json").rename(diffusers_folder / "config.json")
    (diffusers_folder / "scheduler" / "scheduler_config.json").rename(diffusers_folder / "scheduler_config.json")
    torch.save(renamed, diffusers_folder / "diffusion_pytorch_model.bin")
    built = build_diffusers(None, diffusers_folder, layers=("7",))
    torch.testing.assert_close(features(built, images()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        {},
        {"num_train_timesteps": 200, "beta_start": 0.001, "beta_end": 0.03},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500},
        {"trained_betas": [0.1, 0.2, 0.4]},
    ],
    ids=str,
)
def test_the_schedule_of_a_folder_is_the_one_that_diffusers_makes(tmp_path, scheduler):
    diffusers = pytest.importorskip("diffusers", reason="the other implementation of the schedules")
    ensure_torchvision()
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
    expected = diffusers.DDPMScheduler(**scheduler).alphas_cumprod
    torch.testing.assert_close(read_schedule(tmp_path).alphas_cumprod.float(), expected, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            {"rescale_betas_zero_snr": True},
            "no noise schedule for rescale_betas_zero_snr: its last timestep has no signal",
        ),
        (
            {"beta_schedule": "sigmoid"},
            "unknown beta_schedule 'sigmoid'. Known: linear, scaled_linear, squaredcos_cap_v2",
        ),
    ],
    ids=["zero snr", "sigmoid"],
)
def test_a_schedule_by_another_rule_is_refused(tmp_path, scheduler, message):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_schedule(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "expected the config of a UNet2DModel, got 'UNet2DConditionModel'"),
        ({"in_channels": 1}, "features are read from networks with in_channels 3, got 1"),
        ({"num_class_embeds": 10}, "features are read from networks with num_class_embeds None, got 10"),
        ({"sample_size": None}, "the config of a UNet2DModel must give its sample_size, got None"),
        ({"down_block_types": None}, "the config of a UNet2DModel must list its down_block_types, got None"),
        (
            {"up_block_types": ["SkipUpBlock2D"]},
            "unknown block type 'SkipUpBlock2D': did you mean 'UpBlock2D'? Known: ",
        ),
    ],
    ids=str,
)
def test_a_folder_of_another_network_is_refused(diffusers_folder, changes, message):
    path = diffusers_folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build_diffusers(None, diffusers_folder, layers=("1",))


def test_weights_of_another_config_are_refused(diffusers_folder):
    path = diffusers_folder / "unet" / WEIGHTS
    weights = load_file(path)
    del weights["conv_out.bias"]
    save_file(weights, path)
    message = f"{path}: expected the network's {len(weights) + 1} tensors, got 1 missing: conv_out.bias"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_diffusers(None, diffusers_folder, layers=("1",))


@pytest.mark.parametrize("missing", ["unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"])
def test_a_missing_part_of_a_folder_is_named(diffusers_folder, missing):
    (diffusers_folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(diffusers_folder))):
        build_diffusers(None, diffusers_folder, layers=("1",))


def test_random_weights_of_a_folder_take_its_name(diffusers_folder):
    (diffusers_folder / "unet" / WEIGHTS).unlink()
    deep, shallow = (
        features(build_diffusers(str(diffusers_folder), "random", layers=layers), images())
        for layers in (("5", "9"), ("5",))
    )
    assert torch.equal(deep["5"], shallow)


def test_without_diffusers_the_command_that_installs_it_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(diffusers_config(TINY)))
    (tmp_path / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"^diffusers reads this folder and is not installed: pip install diffusers$"):
        build_diffusers(None, tmp_path, layers=("1",))


def without(spec):
    return {name: value for name, value in spec.items() if name not in ("family", "name", "config")}


def n_weights(built):
    return sum(parameter.numel() for parameter in built.network.parameters())
