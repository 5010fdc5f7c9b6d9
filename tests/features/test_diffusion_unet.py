"""The U-Net is the published one: in its sizes, in its arithmetic, and under diffusers' names."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fewshot.features.diffusion.config import PRESETS, UNetConfig
from fewshot.features.diffusion.diffusers_map import (
    adm_to_diffusers,
    diffusers_config,
    diffusers_to_adm,
    join_qkv,
    split_qkv,
)
from fewshot.features.diffusion.schedule import cosine_betas, linear_betas
from fewshot.features.diffusion.unet import Attention, GroupNorm32, UNet, timestep_embedding

ADM = PRESETS["adm_256_uncond"]
SMALL = UNetConfig(
    image_size=16,
    num_channels=32,
    channel_mult=(1, 2, 3),
    num_res_blocks=2,
    attention_resolutions=(8, 4),
    num_head_channels=16,
)
VARIANTS = {
    "adm": SMALL,
    "new attention order": replace(SMALL, use_new_attention_order=True),
    "improved": replace(SMALL, resblock_updown=False, learn_sigma=False, num_res_blocks=1, attention_resolutions=(8,)),
    "additive": replace(SMALL, use_scale_shift_norm=False, channel_mult=(1, 2), attention_resolutions=()),
}

# b: channels, side of the map, millions of parameters up to and including the block
BLOCKS = """
1: 256 256 0.0    2: 256 256 1.7    3: 256 256 3.4    4: 256 128 5.1    5: 256 128 6.8    6: 256 128 8.5
7: 256 64 10.2    8: 512 64 15.0    9: 512 64 20.7    10: 512 32 26.5   11: 512 32 33.3   12: 512 32 40.2
13: 512 16 45.9   14: 1024 16 66.9  15: 1024 16 92.1  16: 1024 8 113.1  17: 1024 8 138.3  18: 1024 8 163.4
19: 1024 8 209.6  20: 1024 8 246.3  21: 1024 8 283.0  22: 1024 16 340.7 23: 1024 16 377.4 24: 1024 16 414.2
25: 1024 32 466.6 26: 512 32 478.9  27: 512 32 488.7  28: 512 64 504.1  29: 512 64 512.8  30: 512 64 521.4
31: 512 128 534.6 32: 256 128 537.6 33: 256 128 540.1 34: 256 256 544.2 35: 256 256 546.6 36: 256 256 549.1
37: 256 256 551.5
"""
TABLE = [tuple(map(float, row)) for row in re.findall(r"(\d+): (\d+) (\d+) ([\d.]+)", BLOCKS)]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(config):
    with torch.device("meta"):
        return UNet(config)


def small_unet(config=SMALL, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(config).eval()


def inputs(n=2, side=16, seed=0):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def adm_maps():
    """Outputs of all blocks of the 256 x 256 model, as shapes without contents."""
    return on_meta(ADM).forward_to(torch.empty(2, 3, 256, 256, device="meta"), 90.0, range(1, 38))


# Sizes


def test_adm_has_the_published_blocks(adm_maps):
    network = on_meta(ADM)
    cumulative = np.cumsum([n_parameters(block) for block in network.blocks()]) / 1e6
    shapes = [(b, maps.shape[1], *maps.shape[2:]) for b, maps in adm_maps.items()]
    assert shapes == [(b, channels, side, side) for b, channels, side, _ in TABLE]
    assert [round(n, 1) for n in cumulative] == [row[3] for row in TABLE]


@pytest.mark.parametrize(
    ("config", "n_weights", "n_tensors", "n_blocks"),
    [
        (ADM, 552_814_086, 566, 37),
        (PRESETS["improved_cifar10"], 52_546_438, 446, 33),
        (PRESETS["improved_imagenet64"], 121_063_942, 450, 33),
    ],
)
def test_published_networks_have_their_size(config, n_weights, n_tensors, n_blocks):
    network = on_meta(config)
    assert n_parameters(network) == n_weights
    assert len(network.state_dict()) == n_tensors
    assert len(list(network.blocks())) == config.n_blocks == network.n_blocks == n_blocks


def test_the_class_conditional_64_pixel_network_has_its_size():
    config = UNetConfig(
        image_size=64,
        num_channels=192,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        use_new_attention_order=True,
        num_classes=1000,
    )
    network = on_meta(config)
    assert round(n_parameters(network) / 1e6) == 296
    assert network.state_dict()["label_emb.weight"].shape == (1000, 768)


def test_adm_names_its_tensors_as_published():
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta(ADM).state_dict().items()}
    expected = {
        "time_embed.0.weight": (1024, 256),
        "time_embed.2.weight": (1024, 1024),
        "input_blocks.0.0.weight": (256, 3, 3, 3),
        "input_blocks.3.0.in_layers.2.weight": (256, 256, 3, 3),
        "input_blocks.7.0.emb_layers.1.weight": (1024, 1024),
        "input_blocks.7.0.skip_connection.weight": (512, 256, 1, 1),
        "input_blocks.10.1.qkv.weight": (1536, 512, 1),
        "middle_block.1.proj_out.weight": (1024, 1024, 1),
        "output_blocks.2.2.out_layers.3.weight": (1024, 1024, 3, 3),
        "output_blocks.11.1.out_layers.0.bias": (512,),
        "output_blocks.8.1.norm.weight": (512,),
        "out.0.weight": (256,),
        "out.2.weight": (6, 256, 3, 3),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    attended = {name.split(".")[1] for name in shapes if name.startswith("input_blocks") and ".1.qkv" in name}
    skipping = {name.split(".")[1] for name in shapes if name.startswith("input_blocks") and "skip_connection" in name}
    assert attended == {"10", "11", "13", "14", "16", "17"}
    assert skipping == {"7", "13"}
    assert "output_blocks.9.1.norm.weight" not in shapes


def test_improved_networks_resample_by_convolution():
    names = set(on_meta(PRESETS["improved_cifar10"]).state_dict())
    assert {"input_blocks.4.0.op.weight", "output_blocks.3.1.conv.weight", "output_blocks.7.2.conv.bias"} <= names


def test_decoder_mirrors_encoder_but_where_it_resamples(adm_maps):
    shapes = {b: tuple(maps.shape[1:]) for b, maps in adm_maps.items()}
    for b in range(1, 19):
        (channels, side, _), (opposite_channels, opposite_side, _) = shapes[b], shapes[38 - b]
        resamples = b in (4, 7, 10, 13, 16)
        assert opposite_side == side * (2 if resamples else 1)
        assert opposite_channels == channels * (2 if b in (7, 13) else 1)


def test_cutting_after_block_24_leaves_the_published_share():
    network = on_meta(ADM)
    network.truncate(24)
    assert round(sum(n_parameters(block) for block in network.blocks()) / 1e6, 1) == 414.2
    assert n_parameters(network) - sum(n_parameters(block) for block in network.blocks()) == n_parameters(
        network.time_embed
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 48}, "channels must be multiples of 32, got 48 at level 0"),
        ({"num_head_channels": 24}, "num_head_channels must divide the channels of a level, got 24 and 32"),
        ({"num_head_channels": 0, "num_heads": 5}, "num_heads must divide the channels of a level, got 5 and 32"),
        ({"image_size": 18}, "image_size must be a multiple of 4, as 3 levels halve it, got 18"),
        ({"noise_schedule": "cosin"}, "unknown noise_schedule 'cosin': did you mean 'cosine'? Known: cosine, linear"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(SMALL, **changes)


def test_a_config_is_read_from_json(tmp_path):
    path = tmp_path / "unet.json"
    path.write_text(json.dumps(SMALL.spec()))
    assert UNetConfig.from_json(path) == SMALL
    path.write_text('{"num_chanels": 32}')
    with pytest.raises(ValueError, match=r"^unknown field of a U-Net 'num_chanels': did you mean 'num_channels'"):
        UNetConfig.from_json(path)
    path.write_text("[1]")
    message = f"{path}: expected a JSON object with the fields of UNetConfig, got list"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        UNetConfig.from_json(path)
    with pytest.raises(FileNotFoundError, match=f"^no such file: {re.escape(str(tmp_path / 'none'))}$"):
        UNetConfig.from_json(tmp_path / "none")


@pytest.mark.parametrize("name", ["improved_cifar10", "improved_imagenet64"])
def test_improved_networks_have_4000_cosine_steps_and_are_told_a_rescaled_time(name):
    config = PRESETS[name]
    assert config.model_time(2000) == 500.0
    assert torch.equal(config.schedule().betas, cosine_betas(4000))


def test_adm_has_1000_linear_steps_and_is_told_them():
    assert ADM.model_time(90) == 90.0
    assert torch.equal(ADM.schedule().betas, linear_betas(1000))


# Arithmetic


def test_the_time_embedding_is_cosines_then_sines_divided_by_half():
    expected = [
        [math.cos(t * 10000 ** (-k / 3)) for k in range(3)] + [math.sin(t * 10000 ** (-k / 3)) for k in range(3)]
        for t in (0, 1, 90, 999)
    ]
    found = timestep_embedding(torch.tensor([0, 1, 90, 999]), 6)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("is_new_order", [False, True])
def test_attention_is_the_loop_over_heads(is_new_order):
    n_channels, n_heads, head = 32, 4, 8
    config = replace(SMALL, num_head_channels=head, use_new_attention_order=is_new_order)
    attention = Attention(config, n_channels).double()
    x = torch.randn(1, n_channels, 2, 3, dtype=torch.float64)
    places = x[0].flatten(1).numpy()
    qkv = attention.qkv(attention.norm(x.flatten(2)))[0].detach().numpy()
    mixed = []
    for h in range(n_heads):
        if is_new_order:
            q, k, v = (qkv[part * n_channels + h * head :][:head] for part in range(3))
        else:
            q, k, v = (qkv[(3 * h + part) * head :][:head] for part in range(3))
        logits = q.T @ k / math.sqrt(head)
        weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        mixed.append(v @ weights.T)
    projection = attention.proj_out.weight[:, :, 0].detach().numpy()
    expected = places + projection @ np.concatenate(mixed) + attention.proj_out.bias.detach().numpy()[:, None]
    np.testing.assert_allclose(attention(x)[0].flatten(1).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_norm_is_computed_in_float32():
    norm = GroupNorm32(64).half()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (300 + torch.randn(2, 64, 5)).half()
    reference = nn.functional.group_norm(x.float(), 32, norm.weight.float(), norm.bias.float())
    assert torch.equal(norm(x), reference.half())
    assert not torch.equal(nn.functional.group_norm(x, 32, norm.weight, norm.bias), reference.half())


def test_fresh_networks_see_their_input_at_depth():
    network = small_unet()
    with torch.no_grad():
        one, other = (network.forward_to(inputs(seed=seed), 90.0, [15])[15] for seed in (0, 1))
    assert (one - other).abs().mean() > 0.05 * one.abs().mean()


# Early exit


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_an_early_exit_gives_what_the_whole_network_has_at_that_block(config):
    network, x = small_unet(config), inputs()
    hooked, ran = {}, []

    def watch(b):
        def hook(module, args, output):
            hooked[b] = output
            ran.append(b)

        return hook

    for b, block in enumerate(network.blocks(), 1):
        block.register_forward_hook(watch(b))
    with torch.no_grad():
        network(x, 90.0)
        whole = dict(hooked)
        assert sorted(whole) == list(range(1, config.n_blocks + 1))
        for b in range(1, config.n_blocks + 1):
            ran.clear()
            found = network.forward_to(x, 90.0, [b])
            assert list(found) == [b]
            assert torch.equal(found[b], whole[b])
            assert ran == list(range(1, b + 1))


@pytest.mark.parametrize("last", [1, 4, 8, 9, 10, 13, 17])
def test_a_cut_network_gives_the_same_and_has_no_later_weights(last):
    network, cut, x = small_unet(), small_unet(), inputs()
    cut.truncate(last)
    with torch.no_grad():
        assert torch.equal(cut.forward_to(x, 7.0, [last])[last], network.forward_to(x, 7.0, [last])[last])
    kept = sum(n_parameters(block) for block in list(network.blocks())[:last])
    assert n_parameters(cut) == kept + n_parameters(network.time_embed)
    assert cut.state_dict().keys() <= network.state_dict().keys()


def test_a_time_for_each_image_is_a_batch_of_one_each():
    network, x = small_unet(), inputs(3)
    with torch.no_grad():
        together = network(x, torch.tensor([5.0, 700.0, 90.0]))
        for i, t in enumerate((5.0, 700.0, 90.0)):
            torch.testing.assert_close(together[i], network(x[i : i + 1], t)[0], rtol=1e-4, atol=1e-4)


# diffusers' names


@pytest.mark.parametrize("is_new_order", [False, True])
def test_splitting_and_joining_qkv_undo_each_other(is_new_order):
    config = replace(SMALL, num_head_channels=8, use_new_attention_order=is_new_order)
    weight, bias = torch.randn(96, 32, 1), torch.randn(96)
    assert [part.shape for part in split_qkv(weight, config)] == [(32, 32)] * 3
    assert torch.equal(join_qkv(list(split_qkv(weight, config)), config), weight)
    assert torch.equal(join_qkv(list(split_qkv(bias, config)), config), bias)


def test_the_published_order_of_qkv_is_head_first():
    config = replace(SMALL, num_head_channels=16)
    q, k, v = split_qkv(torch.arange(96), config)
    assert q.tolist() == [*range(16), *range(48, 64)]
    assert k.tolist() == [*range(16, 32), *range(64, 80)]
    assert v.tolist() == [*range(32, 48), *range(80, 96)]


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_names_go_to_diffusers_and_back(config):
    weights = small_unet(config).state_dict()
    renamed = adm_to_diffusers(weights, config)
    back = diffusers_to_adm(renamed, config)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    n_attentions = sum("qkv.weight" in name for name in weights)
    assert len(renamed) == len(weights) + 4 * n_attentions


def test_adm_has_630_tensors_in_diffusers():
    assert len(adm_to_diffusers(on_meta(ADM).state_dict(), ADM)) == 630


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_all_blocks_agree_with_diffusers(config):
    pytest.importorskip("diffusers", reason="the other implementation of this network")
    from fewshot.features.diffusion.diffusers_format import HookedUNet

    ours, theirs, x = small_unet(config), HookedUNet(diffusers_config(config)), inputs()
    theirs.unet.load_state_dict(adm_to_diffusers(ours.state_dict(), config))
    assert theirs.n_blocks == ours.n_blocks
    blocks = range(1, config.n_blocks + 1)
    with torch.no_grad():
        expected, found = theirs.forward_to(x, 90.0, blocks), ours.forward_to(x, 90.0, blocks)
        for b in blocks:
            assert (found[b] - expected[b]).abs().max() < 1e-5 * expected[b].abs().max()
        whole = theirs.unet(x, 90.0).sample
        assert (ours(x, 90.0) - whole).abs().max() < 1e-5 * whole.abs().max()


def test_a_plain_split_of_qkv_disagrees_with_diffusers():
    pytest.importorskip("diffusers", reason="the other implementation of this network")
    from fewshot.features.diffusion.diffusers_format import HookedUNet

    ours, theirs, x = small_unet(), HookedUNet(diffusers_config(SMALL)), inputs()
    theirs.unet.load_state_dict(adm_to_diffusers(ours.state_dict(), VARIANTS["new attention order"]))
    with torch.no_grad():
        assert (ours(x, 90.0) - theirs.unet(x, 90.0).sample).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SMALL, num_classes=7), "only networks without labels go to and from diffusers, got num_classes 7"),
        (
            replace(SMALL, num_head_channels=0, num_heads=4),
            "diffusers gives all attention heads one width, and these have [16, 24]",
        ),
        (
            replace(SMALL, channel_mult=(2, 1)),
            "diffusers embeds time as wide as the first level, so channel_mult must begin with 1, got (2, 1)",
        ),
        (
            replace(SMALL, rescale_timesteps=True),
            "diffusers has no flag for rescale_timesteps, which changes the network's time input",
        ),
    ],
)
def test_what_diffusers_cannot_say_is_refused(config, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        diffusers_config(config)
